"""The index of radiographs that ``sagittal-cxr index`` writes: one row a picture with its text.

::

    index.json            what it is: identity, settings, roots, counts; written last
    rows-00000.parquet    rows in a stable order, 50,000 a file
    refused.csv           rows of the data sets that are not in it, and why
    notes.csv             rows that someone may want to look at, and why
    report.html           counts
    checks/               what was found of pictures, so that nothing is looked at twice

It names patients as the data sets do and stays on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_core.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow

DESCRIPTION = "index.json"
VERSION = 1


class RadiographIndex:
    """A finished index.

    Args:
        folder: where.

    Attributes:
        folder: where.
        description: what ``index.json`` holds.
        identity: hash of what decides the content: settings, policy of sections, splits and rows,
            but not where files lie.

    Raises:
        DataError: if it is none, or the command that writes it has not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = _described(self.folder)
        self.identity: str = self.description["identity"]
        self._roots = {d["name"]: Path(d["root"]) for d in self.description["datasets"]}
        self._places: list[Any] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.description["counts"]["rows"])

    def frame(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Rows in the index's order, numbered from 0.

        Args:
            columns: which; None for all.

        Returns:
            One row a picture: dataset, image (relative to the data set's root), patient, study,
            view, split, sex, age (years), findings, impression, text, text_source (report, template
            or none), positive, negative and uncertain (lists of findings; one in none of them was
            not judged), boxes (list of dicts finding, x, y, width, height in pixels of the stored
            picture, reader), mask, width and height (pixels; -1: not looked at), duplicate_of (row
            number of the first that is the same; -1: none).

        Raises:
            DataError: if a file or a column is missing.
        """
        import pyarrow

        table = self._table(columns)
        frame = table.to_pandas()
        for name, kind in zip(table.column_names, table.schema.types, strict=True):
            if pyarrow.types.is_list(kind):
                frame[name] = [list(values) for values in frame[name]]
            elif pyarrow.types.is_string(kind):  # None, not NaN, where there is nothing
                frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
        return frame

    def _table(self, columns: Sequence[str] | None) -> pyarrow.Table:
        import pyarrow
        import pyarrow.parquet

        count = int(self.description["counts"]["files"])
        files = [self.folder / f"rows-{number:05d}.parquet" for number in range(count)]
        known = None
        for file in files:
            if not file.is_file():
                raise DataError(
                    file,
                    key=DESCRIPTION,
                    expected=f"{count} files of rows",
                    found="no such file",
                    hint="run the command that wrote the index again",
                )
            known = known or pyarrow.parquet.read_schema(file).names
        for column in columns or ():
            if known is not None and column not in known:
                raise DataError(
                    self.folder, key=column, expected="a column", found=", ".join(known)
                )
        wanted = None if columns is None else list(columns)
        tables = [pyarrow.parquet.read_table(file, columns=wanted) for file in files]
        return pyarrow.concat_tables(tables)

    def image_path(self, row: int) -> Path:
        """Where the picture of a row lies.

        Raises:
            IndexError: if there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of an index of {len(self)}")
        if self._places is None:  # Arrow's own arrays: loader processes share their memory
            table = self._table(["dataset", "image"])
            self._places = [column.combine_chunks() for column in table.columns]
        dataset, image = (column[row].as_py() for column in self._places)
        return self._roots[dataset] / image

    def root(self, dataset: str) -> Path:
        """Folder that a data set's pictures and masks start from.

        Raises:
            DataError: if the index has no such data set.
        """
        if dataset not in self._roots:
            raise DataError(
                self.folder, key="dataset", expected=", ".join(self._roots), found=repr(dataset)
            )
        return self._roots[dataset]

    def labels(self) -> list[str]:
        """Names of all findings that were judged in some row, sorted."""
        return sorted(self.description["counts"]["labels"])


def _described(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version = found["version"]
        _ = found["identity"], found["datasets"], found["counts"]["rows"], found["counts"]["files"]
    except FileNotFoundError:
        begun = (folder / "settings.json").is_file()
        raise DataError(
            folder,
            key=DESCRIPTION,
            expected="an index that `sagittal-cxr index` wrote",
            found="one that is not finished" if begun else "no index",
            hint="run the command that wrote it again: it goes on" if begun else "",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            file, key=DESCRIPTION, expected="an index's description", found=repr(error)[:200]
        ) from None
    if version != VERSION:
        raise DataError(file, key="version", expected=str(VERSION), found=str(version))
    return found
