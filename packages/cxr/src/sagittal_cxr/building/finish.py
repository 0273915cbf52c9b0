"""From checked rows to the files of an index: duplicates, identity, counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_cxr.building.settings import Duplicates, Settings

if TYPE_CHECKING:
    import pandas
    import pyarrow

ROWS = 50_000  # rows a file
_JUDGED = ("positive", "negative", "uncertain")


def with_columns(table: pyarrow.Table, columns: dict[str, Any]) -> pyarrow.Table:
    """The table with these columns in place of its own."""
    import pyarrow

    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pyarrow.array(values, field.type))
    return table


def same_rows(table: pyarrow.Table, pixels: Sequence[str], rule: Duplicates) -> list[int]:
    """For each row the number of the first row that is the same, -1 for that one and for others.

    Args:
        table: rows.
        pixels: hash of each row's grey levels.
        rule: reports: same text; pixels: same picture; pairs: both; none: nothing is the same.
    """
    if rule == "none":
        return [-1] * table.num_rows
    texts = table.column("text").to_pylist()
    keys: list[Any] = {"reports": texts, "pixels": pixels}.get(rule) or list(
        zip(pixels, texts, strict=True)
    )
    first: dict[Any, int] = {}
    found = [first.setdefault(key, row) if key else row for row, key in enumerate(keys)]
    return [-1 if other == row else other for row, other in enumerate(found)]


def identity(table: pyarrow.Table, settings: Settings) -> str:
    """Hash of the settings and of every cell."""
    digest = hashlib.sha256(settings.digest().encode())
    for start in range(0, table.num_rows, ROWS):
        part = table.slice(start, ROWS)
        for name in part.column_names:
            cells = json.dumps([name, part.column(name).to_pylist()])
            digest.update(cells.encode())
    return digest.hexdigest()


def write_rows(folder: Path, table: pyarrow.Table) -> int:
    """Write ``rows-*.parquet``, in place of earlier ones; returns how many."""
    import pyarrow.parquet

    for old in folder.glob("rows-*.parquet"):
        old.unlink()
    starts = range(0, table.num_rows, ROWS)
    for number, start in enumerate(starts):
        file = folder / f"rows-{number:05d}.parquet"
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        pyarrow.parquet.write_table(table.slice(start, ROWS), temporary)
        temporary.replace(file)
    return len(starts)


def count(table: pyarrow.Table) -> dict[str, Any]:
    """How many there are of what."""
    plain = ["dataset", "split", "patient", "view", "text_source", "mask", "duplicate_of"]
    frame = table.select(plain).to_pandas()
    splits: dict[str, dict[str, dict[str, int]]] = {}
    for (name, split), rows in frame.groupby(["dataset", "split"], sort=False):
        each = {"rows": len(rows), "patients": int(rows["patient"].nunique())}
        splits.setdefault(str(name), {})[str(split)] = each
    labels: dict[str, dict[str, int]] = {}
    for judged in _JUDGED:
        cells = table.column(judged).combine_chunks().flatten()
        for pair in cells.value_counts().to_pylist():
            mine = labels.setdefault(pair["values"], dict.fromkeys(_JUDGED, 0))
            mine[judged] = pair["counts"]
    others = frame["duplicate_of"].to_numpy()
    split = frame["split"].to_numpy()
    same = others >= 0
    return {
        "rows": len(frame),
        "patients": int(frame["patient"].nunique()),
        "splits": splits,
        "views": _counted(frame, frame["view"].fillna("not known")),
        "text_sources": _counted(frame, frame["text_source"]),
        "labels": labels,
        "boxes": len(table.column("boxes").combine_chunks().flatten()),
        "masks": int(frame["mask"].notna().sum()),
        "duplicates": int(same.sum()),
        "duplicates_across_splits": int((split[same] != split[others[same]]).sum()),
    }


def _counted(frame: pandas.DataFrame, values: pandas.Series) -> dict[str, dict[str, int]]:
    """Data set to value to number of rows, most frequent first."""
    counts = values.groupby([frame["dataset"], values], sort=False).size()
    nested: dict[str, dict[str, int]] = {}
    for (name, value), number in counts.sort_values(ascending=False, kind="stable").items():
        nested.setdefault(str(name), {})[str(value)] = int(number)
    return nested
