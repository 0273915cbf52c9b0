"""A verb that needs no torch."""

from __future__ import annotations

from pathlib import Path


def repeat(file: Path, times: int = 2) -> int:
    """Print the content of a file several times.

    Args:
        file: The file to read.
        times: How often.
    """
    print(file.read_text() * times)
    return 0


def join(files: list[Path], by: str = " ") -> None:
    """Print the content of several files in one line.

    Args:
        files: The files to read.
        by: What stands between them.
    """
    print(by.join(file.read_text() for file in files))


def keep(file: Path) -> None:
    """Write a file.

    Args:
        file: Where to.
    """
    file.write_text("kept")
