"""A verb that needs no torch."""

from __future__ import annotations

from pathlib import Path

from sagittal_core.errors import ConfigError


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


class Limit:
    """A number that a verb takes as a class of its own."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ConfigError(f"limit: most must be at least 1, found {most}")
        self.most = most


def keep_most(limit: Limit | None = None) -> None:
    """Print a limit.

    Args:
        limit: What to print.
    """
    print(limit.most if limit else "none")


def keep(file: Path) -> None:
    """Write a file.

    Args:
        file: Where to.
    """
    file.write_text("kept")
