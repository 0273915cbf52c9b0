"""Results that are appended one by one, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import write_atomically


class Journal:
    """Records of features, one JSON object a line.

    A line that a kill cut short is dropped when the file is opened.

    Args:
        file: Made on the first record.

    Raises:
        DataError: A whole line is no record.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records: dict[int, dict[str, Any]] = {}
        if not file.is_file():
            return
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(file, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self.records[int(record["feature"])] = record
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    file, key=f"line {number}", expected="a record", found=repr(line[:60])
                ) from None

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep one record, on disk when this returns; ``feature`` is its key."""
        line = json.dumps(dict(record), ensure_ascii=False) + "\n"
        with self.file.open("ab") as opened:
            opened.write(line.encode())
            opened.flush()
            os.fsync(opened.fileno())
        self.records[int(record["feature"])] = dict(record)


def begin(folder: Path, identity: Mapping[str, Any], fresh: bool) -> FileLock:
    """Make or reopen a folder of results.

    Args:
        folder: Of the results.
        identity: Plain values that decide them.
        fresh: Remove the records of an earlier run of another identity.

    Returns:
        A lock held until the process ends.

    Raises:
        ConfigError: The folder holds records of other settings, or another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another process is writing into {folder}") from None
    wanted = json.loads(json.dumps(dict(identity)))
    file = folder / "identity.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        kept = any(folder.glob("*.jsonl"))  # a command that failed before leaves nothing to mix
        if changed and kept and not fresh:
            raise ConfigError(
                f"{folder} was begun with another {', '.join(changed)}; give --fresh to start anew,"
                " or another --out"
            )
        if changed or fresh:
            for records in folder.glob("*.jsonl"):
                records.unlink()
    write_atomically(file, json.dumps(wanted, indent=1))
    return lock
