"""Embeddings in the parquet files that SAIL's released code writes (github.com/pwesp/sail).

One row a slice: metadata, ``embedding`` (the array's bytes), ``embedding_shape`` ("(1536,)") and
``embedding_dtype`` ("float32"). Its metadata columns become ours: image_id -> scan and subject,
slice_orientation -> orientation, gender -> sex, ...; one column of 0 and 1 for each organ becomes
the list ``organs``. Files are read a part at a time, never whole.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.errors import DataError

if TYPE_CHECKING:
    import pandas

_BLOBS = ("embedding", "embedding_shape", "embedding_dtype")
_DTYPES = ("float16", "float32", "float64")
# SAIL's name -> ours, where it differs.
NAMES = {
    "image_id": "scan",
    "image_modality": "modality",
    "slice_orientation": "orientation",
    "image_slice_orientation": "orientation",
    "slice_nr": "slice",
    "slice_idx": "slice",
    "image_slice_nr": "slice",
    "gender": "sex",
    "image_gender": "sex",
    "image_age": "age",
}
_PLANES = {"x": "sagittal", "y": "coronal", "z": "axial"}


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` of a file, and the split they belong to."""

    file: Path
    start: int
    stop: int
    split: str | None


@dataclass(frozen=True)
class SailFiles:
    """SAIL's parquet files, cut into parts.

    Attributes:
        parts: In order.
        dim: Width of a row.
        sha256: Of all files together.
    """

    parts: list[Part]
    dim: int
    sha256: str


def open_files(
    files: Sequence[Path], splits: Sequence[str | None], part_rows: int, organs: Sequence[str] = ()
) -> SailFiles:
    """Look at the files and cut them into parts.

    Args:
        files: In order.
        splits: Of each file's rows; None: the file has a column ``split``.
        part_rows: Rows in a part at most.
        organs: Columns that :func:`read_part` will be asked for.

    Raises:
        DataError: If a file is no parquet of that kind, or widths differ.
    """
    import pyarrow
    import pyarrow.parquet

    parts, dims, digest = [], {}, hashlib.sha256()
    for file, split in zip(files, splits, strict=True):
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(
                file, key="parquet", expected="a parquet file", found=str(error)[:200]
            ) from None
        names = opened.schema_arrow.names
        for column in (*_BLOBS, *(("split",) if split is None else ())):
            if column not in names:
                hint = "name it with split, one for each file" if column == "split" else ""
                raise DataError(
                    file, key=column, expected="a column", found=", ".join(names)[:400], hint=hint
                )
        rows = opened.metadata.num_rows
        if rows:
            first = next(opened.iter_batches(1)).to_pandas()
            dims[file] = len(_row(first["embedding"][0], first.iloc[0], file, 0))
            _renamed(first, Part(file, 0, 1, split), organs)  # the columns, before a store is begun
        parts += [
            Part(file, start, min(start + part_rows, rows), split)
            for start in range(0, rows, part_rows)
        ]
        with file.open("rb") as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
    if len(set(dims.values())) != 1:
        raise DataError(
            files[0],
            key="embedding_shape",
            expected="rows of one width in all files",
            found=", ".join(map(str, dims.values())) or "no rows",
        )
    return SailFiles(parts, next(iter(dims.values())), digest.hexdigest())


def read_part(part: Part, dim: int, organs: Sequence[str]) -> tuple[Tensor, pandas.DataFrame]:
    """Rows (n, dim) float32 of one part, and their index by our names.

    Args:
        part: Which.
        dim: Width.
        organs: Columns of 0 and 1 that become the list ``organs``.

    Raises:
        DataError: If a row is misshapen or a column missing.
    """
    import pandas

    frames, rows = [], np.empty((part.stop - part.start, dim), np.float32)
    done = 0
    for frame in _frames(part):
        for number, (raw, shape, dtype) in enumerate(
            zip(*(frame[column] for column in _BLOBS), strict=True)
        ):
            entry = {"embedding_shape": shape, "embedding_dtype": dtype}
            row = _row(raw, entry, part.file, part.start + done + number)
            if len(row) != dim:
                raise DataError(
                    part.file,
                    key=f"embedding_shape, row {part.start + done + number}",
                    expected=f"({dim},)",
                    found=str(shape),
                )
            rows[done + number] = row
        done += len(frame)
        frames.append(_renamed(frame.drop(columns=list(_BLOBS)), part, organs))
    return torch.from_numpy(rows), pandas.concat(frames, ignore_index=True)


def _frames(part: Part) -> Iterator[pandas.DataFrame]:
    """The part's rows, a few thousand at a time; row groups before it are skipped unread."""
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(part.file)
    groups, ends = [], 0
    skip = None
    for group in range(opened.metadata.num_row_groups):
        begin, ends = ends, ends + opened.metadata.row_group(group).num_rows
        if ends > part.start and begin < part.stop:
            groups.append(group)
            skip = part.start - begin if skip is None else skip
    wanted, before = part.stop - part.start, skip or 0
    for batch in opened.iter_batches(2048, row_groups=groups):
        frame = batch.to_pandas().iloc[before:]
        before = max(0, before - batch.num_rows)
        frame = frame.iloc[:wanted]
        wanted -= len(frame)
        if len(frame):
            yield frame.reset_index(drop=True)
        if not wanted:
            return


def _row(raw: Any, entry: Mapping[str, Any], file: Path, number: int) -> NDArray[np.float32]:
    shape, dtype = str(entry["embedding_shape"]), str(entry["embedding_dtype"])
    try:
        size = ast.literal_eval(shape)
        size = (size,) if isinstance(size, int) else tuple(size)
        if dtype not in _DTYPES or int(np.prod(size)) != max(size):
            raise ValueError
        return np.frombuffer(raw, dtype).reshape(max(size)).astype(np.float32)
    except (ValueError, TypeError, SyntaxError):
        found = f"{dtype} {shape} in {len(raw) if isinstance(raw, bytes) else 0} bytes"
        raise DataError(
            file,
            key=f"embedding, row {number}",
            expected="the bytes of one vector of float16, float32 or float64",
            found=found,
        ) from None


def _organs(frame: pandas.DataFrame, part: Part, organs: Sequence[str]) -> NDArray[np.object_]:
    """A list of names for each row; None where no column has a value.

    CT and MR are segmented into other organs: in a table of both, those that a scan was not
    searched for are empty, and count as not there.
    """
    flags = np.empty((len(frame), len(organs)))
    for place, organ in enumerate(organs):
        try:
            flags[:, place] = frame[organ].astype("Float64").fillna(np.nan).to_numpy(np.float64)
        except (TypeError, ValueError):
            flags[:, place] = -1
        known = flags[~np.isnan(flags[:, place]), place]
        if not np.isin(known, (0, 1)).all():
            found = ", ".join(map(repr, frame[organ].dropna().unique()[:5]))
            raise DataError(part.file, key=organ, expected="0, 1 or nothing", found=found)
    lists = np.empty(len(frame), dtype=object)
    lists[:] = [
        None
        if np.isnan(row).all()
        else [o for o, there in zip(organs, row, strict=True) if there == 1]
        for row in flags
    ]
    return lists


def _renamed(frame: pandas.DataFrame, part: Part, organs: Sequence[str]) -> pandas.DataFrame:
    names: dict[str, str] = {}
    for old, new in NAMES.items():  # of two columns for one of ours the first is taken
        if old in frame and new not in frame and new not in names.values():
            names[old] = new
    frame = frame.rename(columns=names)
    for column in ("scan", *organs):
        if column not in frame:
            hint = "SAIL calls it image_id" if column == "scan" else ""
            raise DataError(
                part.file,
                key=column,
                expected="a column",
                found=", ".join(map(str, frame.columns))[:400],
                hint=hint,
            )
    # A CT and an MR of one number are two scans.
    kind = frame["modality"].astype(str) + "-" if "modality" in frame else ""
    frame["scan"] = kind + frame["scan"].astype(str)
    frame["subject"] = frame["subject"].astype(str) if "subject" in frame else frame["scan"]
    if part.split is not None:
        frame["split"] = part.split
    if "orientation" in frame:
        frame["orientation"] = frame["orientation"].replace(_PLANES)
    if "image" not in frame:
        named = [frame[c].astype(str) for c in ("scan", "orientation", "slice") if c in frame]
        frame["image"] = named[0].str.cat(named[1:], sep="/") if len(named) > 1 else named[0]
    if organs:
        frame = frame.drop(columns=list(organs)).assign(organs=_organs(frame, part, organs))
    return frame.assign(token=np.int32(-1), grid_h=np.int32(1), grid_w=np.int32(1))
