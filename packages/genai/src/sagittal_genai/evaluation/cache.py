"""Results of single measures on disk, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sagittal_core.run_folder import write_atomically

VERSION = 5  # of what the measures compute: raise it when a figure may change


class Cache:
    """A folder of JSON files named by what they hold and a hash of what decides it.

    Args:
        folder: Made if it does not exist.
        say: Called with a line of text for every measure that was computed.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, measure: str, what: str, identity: dict[str, Any], compute: Callable[[], dict]
    ) -> dict[str, Any]:
        """Return a result, computed now unless it is there.

        Args:
            measure: Name of the measure.
            what: What it is measured on, for the progress line.
            identity: Plain values that decide the result.
            compute: Makes it: plain values.
        """
        known = json.dumps({"version": VERSION, "measure": measure, **identity}, sort_keys=True)
        digest = hashlib.sha256(known.encode()).hexdigest()[:16]
        file = self.folder / f"{measure}-{digest}.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
        start = time.monotonic()
        found = compute()
        # Python's JSON writes and reads NaN: a resample without a positive has no AUROC.
        write_atomically(file, json.dumps(found))
        self.say(f"{what}: {measure} in {time.monotonic() - start:.1f} s")
        return json.loads(json.dumps(found))
