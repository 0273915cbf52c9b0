"""Run folders: one a run name and configuration, resumed if unfinished, never overwritten.

``<runs_dir>/<run_name>-<hash>`` holds config.yaml, metrics.csv, checkpoints/{last,best}.ckpt,
pictures/, report.html and state.json. The hash covers model, data, trainer (without what
only shows progress or logs) and seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sagittal_core.errors import ConfigError

_HASHED = ("model", "data", "trainer", "optimizer", "lr_scheduler", "seed_everything")
# What these change is what is shown or written, not what is computed.
_SHOWN_ONLY = (
    "logger",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
    "default_root_dir",
    "profiler",
)
_EVALUATED = ("model", "data", "seed_everything")


class RunFinished(ConfigError):
    """The same command has already run to its end; exit status 3."""


@dataclass
class RunFolder:
    """The files of one run.

    Attributes:
        path: The folder.
        lock: Held while a fit runs in it; None for evaluation and on ranks other than 0.
    """

    path: Path
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        """The folder of ``last.ckpt`` and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from; it may not exist yet."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best monitored metric; there is none without ``--monitor``."""
        return self.checkpoints / "best.ckpt"

    def status(self) -> str | None:
        """Return ``"unfinished"``, ``"finished"``, or None if no fit was started here."""
        state = _read_state(self.path)
        return None if state is None else state["status"]

    def mark(self, status: str, config: Mapping[str, Any]) -> None:
        """Write ``state.json`` atomically."""
        state = {
            "status": status,
            "evaluation_hash": config_hash(config, _EVALUATED),
            "config": hashed_part(config),
        }
        write_atomically(self.path / "state.json", json.dumps(state, indent=1))


def hashed_part(config: Mapping[str, Any], sections: tuple[str, ...] = _HASHED) -> dict[str, Any]:
    """Return the part of a configuration that decides what a run computes."""
    part = {key: config[key] for key in sections if config.get(key) is not None}
    if "trainer" in part:
        part["trainer"] = {k: v for k, v in part["trainer"].items() if k not in _SHOWN_ONLY}
    return part


def config_hash(config: Mapping[str, Any], sections: tuple[str, ...] = _HASHED) -> str:
    """Return ten hexadecimal digits; the order of mappings does not matter, that of lists does."""
    text = json.dumps(hashed_part(config, sections), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def folder_of(runs_dir: Path, run_name: str, config: Mapping[str, Any]) -> RunFolder:
    """Return the folder a configuration belongs to, whether it exists or not.

    Raises:
        ConfigError: If the run name is not a plain file name.
    """
    if not re.fullmatch(r"[\w.+-]+", run_name):
        raise ConfigError(f"run_name {run_name!r}: letters, digits and . _ + - only")
    return RunFolder(runs_dir / f"{run_name}-{config_hash(config)}")


def folders_named(runs_dir: Path, run_name: str) -> list[Path]:
    """Folders of runs of exactly this name, ``<run_name>-<hash>``, sorted; none moved away."""
    name = re.compile(re.escape(run_name) + "-[0-9a-f]{10}")
    return sorted(folder for folder in runs_dir.glob("*") if name.fullmatch(folder.name))


def open_run(
    runs_dir: Path, run_name: str, config: Mapping[str, Any], *, fresh: bool = False
) -> RunFolder:
    """Create or reopen the folder of a fit. Call on rank 0 only; others use :func:`folder_of`.

    Args:
        runs_dir: Parent of all run folders.
        run_name: First part of the folder's name.
        config: The whole configuration, plain types.
        fresh: Move earlier folders that stand in the way to ``<folder>.old-N`` and start anew.

    Raises:
        RunFinished: If the same configuration has finished and ``fresh`` is False.
        ConfigError: If another configuration of the same name has left a checkpoint unfinished and
            ``fresh`` is False, or another process is training in the folder.
    """
    run = folder_of(runs_dir, run_name, config)
    others = [
        other
        for other in folders_named(runs_dir, run_name)
        if other != run.path
        and RunFolder(other).status() == "unfinished"
        # One that stopped before its first checkpoint, at a wrong path say, holds nothing to lose.
        and RunFolder(other).last.is_file()
    ]
    if fresh:
        for old in [run.path, *others]:
            _move_away(old)
    elif run.status() == "finished":
        raise RunFinished(
            f"{run.path} is finished; give --fresh to train again (the old folder is kept beside"
            " it), or another --run_name"
        )
    elif others and run.status() is None:
        raise ConfigError(_changed(others[-1], config))
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.lock = _locked(run.path)
    run.mark("unfinished", config)
    return run


def find_run(runs_dir: Path, run_name: str, config: Mapping[str, Any]) -> RunFolder | None:
    """Return the latest fit with the same model, data and seed, whatever its trainer; or None."""
    wanted = config_hash(config, _EVALUATED)
    exact = folder_of(runs_dir, run_name, config)
    if exact.last.is_file():
        return exact
    found = [
        folder
        for folder in folders_named(runs_dir, run_name)
        if (state := _read_state(folder)) is not None
        and state["evaluation_hash"] == wanted
        and RunFolder(folder).last.is_file()
    ]
    return RunFolder(max(found, key=lambda f: RunFolder(f).last.stat().st_mtime)) if found else None


def write_atomically(file: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, finds the old or the new one, never a part."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def write_csv(file: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a comma separated table in the same way."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    write_atomically(file, text.getvalue())


def _read_state(folder: Path) -> dict[str, Any] | None:
    file = folder / "state.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is damaged ({error}); give --fresh") from None


def _move_away(folder: Path) -> None:
    if not folder.exists():
        return
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)


def _locked(folder: Path) -> FileLock:
    # The system releases the lock when the process dies, however it dies.
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another process is training in {folder}") from None
    return lock


def _changed(other: Path, config: Mapping[str, Any]) -> str:
    state = _read_state(other)
    assert state is not None
    # Through JSON, as the stored side went: tuples and lists compare equal.
    now = json.loads(json.dumps(hashed_part(config), default=str))
    before, after = _flat(state["config"]), _flat(now)
    keys = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    lines = [f"  {k}: {before.get(k)!r} -> {after.get(k)!r}" for k in keys]
    return "\n".join(
        [
            f"{other} holds an unfinished run of the same name with another configuration:",
            *lines,
            "restore these keys to resume it, give --fresh to start anew (the old folder is kept"
            " beside it), or another --run_name",
        ]
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: value}
