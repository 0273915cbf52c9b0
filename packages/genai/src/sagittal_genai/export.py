"""``sagittal-genai export``: a trained autoencoder as safetensors and JSON."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sagittal_core.errors import ConfigError
from sagittal_genai.checkpoints import save_autoencoder, save_saelens
from sagittal_genai.runs import load_autoencoder


def export(run: Path, out: Path, format: Literal["sagittal", "saelens"] = "sagittal") -> None:
    """Write a trained autoencoder as safetensors and JSON.

    Args:
        run: Run folder, or its prefix without the hash, or an exported or foreign checkpoint.
        out: Folder to write; it may not exist yet.
        format: sagittal, which `load_autoencoder` reads back whole, or saelens, for inference with
            the package sae-lens: thresholds become those of a JumpReLU, units go into the weights.

    Raises:
        ConfigError: There is no such run, or `out` exists.
        DataError: The checkpoint is damaged.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: name a folder that does not")
    network = load_autoencoder(run)
    write = save_autoencoder if format == "sagittal" else save_saelens
    write(network, out)
    print(f"wrote {out}")
