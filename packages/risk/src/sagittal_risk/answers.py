"""A model's answers on disk, found by the content of the question; a kill loses one batch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError


class AnswerStore:
    """A file that grows by one line a batch: hashes of prompts and two log-probabilities each.

    A line is written and synchronised in one step, so a process that dies leaves whole lines, or a
    last one without its end, which the next opening cuts off. One process may have it open.

    Args:
        file: JSON lines; made with its folder.

    Attributes:
        damaged: Lines that could not be read: their prompts are asked again.

    Raises:
        ConfigError: Another process has it open.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.damaged = file, 0
        self._found: dict[str, tuple[float, float]] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=0)

    def __enter__(self) -> AnswerStore:
        """Read what is there."""
        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(f"another process is writing {self.file}") from None
        try:
            if self.file.is_file():
                self._read()
            self._opened = self.file.open("ab")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._opened.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> tuple[float, float] | None:
        """Log-probabilities of the negative and the positive answer, or None."""
        return self._found.get(key)

    def add(self, keys: Sequence[str], logprobs: NDArray[np.floating]) -> None:
        """Keep one batch.

        Args:
            keys: N hashes.
            logprobs: (N, 2); what is read again is the same to the bit.
        """
        pairs = {key: (float(n), float(p)) for key, (n, p) in zip(keys, logprobs, strict=True)}
        self._opened.write((json.dumps(pairs) + "\n").encode())
        self._opened.flush()
        os.fsync(self._opened.fileno())
        self._found.update(pairs)

    def _read(self) -> None:
        data = self.file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.file, whole)
        for line in data[:whole].splitlines():
            try:
                pairs = {str(k): (float(n), float(p)) for k, (n, p) in json.loads(line).items()}
            except (ValueError, TypeError, AttributeError):
                self.damaged += 1
                continue
            self._found.update(pairs)
