"""``sagittal-cxr export``: a trained model as files that need nothing else."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

from pathlib import Path

from sagittal_core.errors import ConfigError
from sagittal_cxr.runs import load_image_text, save_image_text


def export(run: Path, out: Path) -> None:
    """Write a trained model as safetensors with its configuration, tokenizer and preprocessing.

    Args:
        run: Run folder of `fit`, or its prefix without the hash; or a folder with the released
            checkpoint.
        out: Folder to write; it may not exist yet. Every verb takes it in place of a run.

    Raises:
        ConfigError: There is no such run, or `out` exists.
        DataError: The checkpoint is damaged.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: name a folder that does not")
    save_image_text(load_image_text(run), out)
    print(f"wrote {out}")
