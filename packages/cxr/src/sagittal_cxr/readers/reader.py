"""The interface of all readers, and what one says of a row that makes no record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from sagittal_cxr.records import Record


class Refused(NamedTuple):
    """A row that makes no record.

    Attributes:
        file: picture or row, as the data set names it.
        why: kind, then, after a colon, details.
    """

    file: str
    why: str


class Reader(Protocol):
    """Reads the tables and reports of one data set; pictures are left alone.

    Attributes:
        has_reports: whether its records hold findings or impressions; where not, pseudo-reports
            can be made from the labels.
    """

    has_reports: bool

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Yield every row of the data set in a fixed order.

        Raises:
            DataError: if a table is missing or is not what it should be.
        """
        ...
