"""Rows of features on disk: numbered shards beside an index, written in any order, resumable.

A store is a folder::

    store.json               what the rows are: width, dtype, number of shards, where they come from
    shard-00000.safetensors  one tensor "x", (n, D)
    index-00000.parquet      one row of metadata for each row of the shard, in the same order

A shard counts once both of its files are there. The index is renamed into place first and the
shard last, so a process that is killed at any moment loses the shard it was writing and nothing
else: no row is stored twice, and none is missing unnoticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import write_atomically

if TYPE_CHECKING:
    import pandas

VERSION = 1
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class ShardWriter:
    """Writes the shards of a store, each once; several processes may share the work.

    Whoever makes the rows cuts the source into ``shards`` fixed parts beforehand and writes those
    in :meth:`missing`. A part may yield fewer rows than planned, or none (unreadable files).

    Args:
        folder: The store; made if it does not exist.
        dim: Width D of a row.
        dtype: float16, bfloat16 or float32.
        shards: Number of parts.
        identity: Plain values that decide what the rows are (encoder, hash of its weights, hash of
            the source, ...). A folder that was begun with others is refused.

    Raises:
        ConfigError: If the folder holds a store of another identity, or something else.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dim: int,
        dtype: torch.dtype,
        shards: int,
        identity: Mapping[str, Any],
    ) -> None:
        if dtype not in _NAMES:
            raise ConfigError(f"store: dtype must be float16, bfloat16 or float32, got {dtype}")
        self.folder, self.dim, self.dtype, self.shards = Path(folder), dim, dtype, shards
        wanted: dict[str, Any] = {
            "version": VERSION,
            "dim": dim,
            "dtype": _NAMES[dtype],
            "shards": shards,
            "identity": json.loads(json.dumps(dict(identity))),
        }
        described = self.folder / "store.json"
        if described.is_file():
            _expect_same(self.folder, _described(self.folder), wanted)
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is not empty and no store; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(described, json.dumps(wanted, indent=1))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not complete yet, ascending."""
        return [n for n in range(self.shards) if not all(f.is_file() for f in self._files(n))]

    def write(self, number: int, rows: Tensor, index: pandas.DataFrame) -> None:
        """Store one shard.

        Args:
            number: 0 <= number < shards.
            rows: (n, D) floating point, cast to the store's dtype; n may be 0.
            index: n rows of metadata.

        Raises:
            ValueError: If shapes do not fit, or a value is not finite in the store's dtype.
        """
        from safetensors.torch import save_file

        if not 0 <= number < self.shards:
            raise ValueError(f"shard {number} of a store of {self.shards}")
        if rows.dim() != 2 or rows.shape[1] != self.dim or len(index) != len(rows):
            raise ValueError(
                f"rows must be (n, {self.dim}) with n rows of index, got {tuple(rows.shape)} and"
                f" {len(index)}"
            )
        stored = rows.detach().cpu().to(self.dtype).contiguous()
        bad = ~torch.isfinite(stored).all(1)
        if bool(bad.any()):
            raise ValueError(f"row {int(bad.int().argmax())} is not finite as {self.dtype}")
        shard, table = self._files(number)
        # A file of that name may be of an earlier, interrupted attempt: it is replaced.
        temporary = self.folder / f".{os.getpid()}.{table.name}"
        index.to_parquet(temporary, index=False)
        temporary.replace(table)
        temporary = self.folder / f".{os.getpid()}.{shard.name}"
        save_file({"x": stored}, temporary)
        _sync(temporary)
        temporary.replace(shard)

    def _files(self, number: int) -> tuple[Path, Path]:
        return _shard(self.folder, number), _index(self.folder, number)


class EmbeddingStore:
    """The rows of a complete store, memory mapped, so that any number fits.

    It can be pickled into worker processes, which map the files anew.

    Args:
        folder: What :class:`ShardWriter` wrote.

    Raises:
        DataError: If it is no store, is incomplete, or a shard is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = _described(self.folder)
        self.dim = int(self.description["dim"])
        shards = int(self.description["shards"])
        absent = [n for n in range(shards) if not _shard(self.folder, n).is_file()]
        if absent:
            raise DataError(
                self.folder,
                key=_shard(self.folder, absent[0]).name,
                expected=f"{shards} shards",
                found=f"{shards - len(absent)}",
                hint="run the command that wrote it again: it goes on with the missing ones",
            )
        self._map()

    def _map(self) -> None:
        shards = int(self.description["shards"])
        dtype = _DTYPES[self.description["dtype"]]
        self._shards = [_mapped(_shard(self.folder, n), self.dim, dtype) for n in range(shards)]
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out."""
        return {k: v for k, v in vars(self).items() if k not in ("_shards", "_ends")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map again."""
        vars(self).update(state)
        self._map()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shard_sizes(self) -> list[int]:
        """Number of rows of each shard, in order."""
        return [len(shard) for shard in self._shards]

    @property
    def columns(self) -> list[str]:
        """Columns of the metadata, by the first shard's index; none without a shard."""
        import pyarrow.parquet

        if not self._shards:
            return []
        return list(pyarrow.parquet.read_schema(_index(self.folder, 0)).names)

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Rows by number, in the order asked for.

        Args:
            indices: n numbers in 0 .. len - 1, repeats allowed.

        Returns:
            (n, D) float32.

        Raises:
            IndexError: If a number is out of range.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows must be in 0..{len(self) - 1}")
        out = torch.empty(len(wanted), self.dim)
        which = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            first = int(self._ends[number]) - len(self._shards[number])
            picked = torch.from_numpy(wanted[places] - first)
            out[torch.from_numpy(places)] = self._shards[number][picked].float()
        return out

    def chunks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """All rows in order: the first one's number and (at most ``size``, D) float32."""
        for start in range(0, len(self), size):
            yield start, self.rows(np.arange(start, min(start + size, len(self))))

    def index(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Metadata of all rows in order.

        Args:
            columns: Which; None for all.

        Raises:
            DataError: If a column is not there, or an index does not fit its shard.
        """
        import pandas
        import pyarrow.parquet

        parts = []
        for number, shard in enumerate(self._shards):
            file = _index(self.folder, number)
            known = pyarrow.parquet.read_schema(file).names
            for column in columns or ():
                if column not in known:
                    raise DataError(
                        file, key=column, expected="a column", found=", ".join(known) or "none"
                    )
            part = pandas.read_parquet(file, columns=None if columns is None else list(columns))
            if len(part) != len(shard):
                raise DataError(
                    file, key="rows", expected=f"{len(shard)} as its shard", found=str(len(part))
                )
            parts.append(part)
        return pandas.concat(parts, ignore_index=True)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _index(folder: Path, number: int) -> Path:
    return folder / f"index-{number:05d}.parquet"


def _described(folder: Path) -> dict[str, Any]:
    file = folder / "store.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise DataError(file, key="version", expected=str(VERSION), found=str(found["version"]))
        dtype, sizes = found["dtype"], (found["dim"], found["shards"])
    except FileNotFoundError:
        raise DataError(folder, key="store.json", expected="a store", found="none") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            file, key="store.json", expected="a store's description", found=repr(error)
        ) from None
    if dtype not in _DTYPES or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise DataError(
            file, key="dtype, dim, shards", expected="F16, BF16 or F32 and counts", found=str(found)
        )
    return found


def _expect_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    flat = [{**d, **d["identity"]} for d in (found, wanted)]
    for key in sorted(set(flat[0]) | set(flat[1])):
        old, new = (one.get(key) for one in flat)
        if key != "identity" and old != new:
            raise ConfigError(
                f"{folder} holds a store with another {key}: found {old}, expected {new}; choose"
                " another folder or remove this one"
            )


def _mapped(file: Path, dim: int, dtype: torch.dtype) -> Tensor:
    """The tensor "x" of a safetensors file without reading it (8 bytes, JSON header, data)."""
    try:
        with file.open("rb") as opened:
            start = 8 + int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(start - 8))
        entry = header["x"]
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        complete = file.stat().st_size == start + end
        found = f"{entry['dtype']} {shape}" if complete else f"{file.stat().st_size} bytes"
    except (OSError, ValueError, KeyError, TypeError) as error:
        shape, begin, end, complete, found = (), 0, 0, False, repr(error)
    fits = complete and len(shape) == 2 and shape[1] == dim and entry["dtype"] == _NAMES[dtype]
    if not fits:
        raise DataError(
            file,
            key="x",
            expected=f"{_NAMES[dtype]} (n, {dim}), complete",
            found=found,
            hint="remove this file and run the command that wrote it again",
        )
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    # Copy on write: torch warns of memory that it may not write to.
    raw = np.memmap(file, np.uint8, "c", offset=start + begin, shape=(end - begin,))
    return torch.from_numpy(raw).view(dtype).view(shape)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
