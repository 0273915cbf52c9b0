"""The folder of a job that a kill may interrupt: it says which job it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import write_atomically


def begin_job(folder: Path, identity: Mapping[str, Any], holds: str) -> None:
    """Make the folder of a job, or go on in it.

    Args:
        folder: Gets ``job.json``.
        identity: Plain values that decide what the job makes.
        holds: What that is, for messages, such as ``scores``.

    Raises:
        ConfigError: The folder holds another job, or something else.
    """
    described = folder / "job.json"
    wanted = json.loads(json.dumps(dict(identity)))
    if described.is_file():
        found = json.loads(described.read_text(encoding="utf-8"))
        changed = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if changed:
            raise ConfigError(
                f"{folder} holds {holds} with another {', '.join(changed)}; choose another folder"
                " or remove this one"
            )
        return
    # What begins with a dot is left of a process that was killed before it wrote job.json.
    if folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no {holds}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(described, json.dumps(wanted, indent=1))
