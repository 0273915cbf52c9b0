"""Progress of long work on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

Item = TypeVar("Item")


def track(items: Sequence[Item], what: str, every_seconds: float = 10.0) -> Iterator[Item]:
    """Yield items while a bar runs on the error stream; it leaves no line behind.

    Where that is no terminal, a line is printed every few seconds of work instead.

    Args:
        items: Pieces of work.
        what: They are, for the bar.
        every_seconds: Least time between two lines.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        yield from rich_track(items, what, console=console, transient=True)
        return
    start = shown = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - shown >= every_seconds:
            shown = now
            left = (now - start) / number * (len(items) - number)
            sys.stderr.write(f"{what}: {number} of {len(items)} parts, {left:.0f} s left\n")
        yield item
