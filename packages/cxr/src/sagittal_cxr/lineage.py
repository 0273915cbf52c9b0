"""Which index row numbers belong to: kept beside whatever names rows by number.

A run folder of ``fit`` and a folder of decisions hold ``of_index.json`` with the identity of their
index (see :class:`.index.RadiographIndex`). An index that is built anew under the same path with
other settings or other rows has another identity, and its rows other numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically

FILE = "of_index.json"
KEY = "index"


def record(folder: Path, identity: str | None) -> None:
    """Write the identity of a folder's index; None: its rows are of no index."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps({KEY: identity}))


def recorded(folder: Path) -> str | None:
    """The identity of a folder's index; None: it has none, or it is not known.

    Raises:
        DataError: If the file is damaged.
    """
    file = folder / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[KEY]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, repr(error)[:200]) from None
    if found is not None and not isinstance(found, str):
        raise _damaged(file, repr(found)[:200])
    return found


def expect(folder: Path, identity: str | None, index: object, hint: str) -> None:
    """See to it that a folder belongs to an index.

    Args:
        folder: With ``of_index.json``.
        identity: Of the index at hand; None: there is none.
        index: Where that index lies, as the message names it.
        hint: How to put it right.

    Raises:
        DataError: If it belongs to another one, or does not say.
    """
    file = folder / FILE
    if not file.is_file():
        raise DataError(
            file,
            key=KEY,
            expected=f"the identity of the index whose rows these are, {shown(identity)}",
            found="no such file: it was written before identities were kept",
            hint=hint,
        )
    if (before := recorded(folder)) != identity:
        raise DataError(
            file,
            key=KEY,
            expected=f"the identity of {index}, {shown(identity)}",
            found=f"{shown(before)}: the index was built anew, or is another one",
            hint=hint,
        )


def shown(identity: str | None) -> str:
    """An identity in words: its first 12 digits."""
    return "none" if identity is None else identity[:12]


def _damaged(file: Path, found: str) -> DataError:
    return DataError(
        file, key=KEY, expected="the identity of an index", found=found, hint="the file is damaged"
    )
