"""Sparse codes of a whole embedding store on disk, in the CSR format.

A folder of codes has one file for each shard of its store::

    codes.json               number of rows of each shard, number of features, what made the codes
    codes-00000.safetensors  indptr (n + 1,) int64; indices (nnz,) uint16, or int32 above 65,536
                             features; values (nnz,) float16; scale () float32

An entry's value is ``values * scale``. The scale is 1 unless the shard's largest value exceeds what
float16 can hold, then a power of two; a value too small for float16 is raised to the smallest
one above 0, so that no active feature is lost. A file counts once it is renamed into place: a
killed writer goes on with the missing ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix, vstack

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import write_atomically
from sagittal_core.store import EmbeddingStore
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.runs import autoencoder_hash

VERSION = 1
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.finfo(np.float16).smallest_subnormal


def store_hash(store: EmbeddingStore) -> str:
    """SHA-256 of a store's description and of its shards' sizes: what its rows are."""
    known = json.dumps([store.description, store.shard_sizes], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


def write_codes(
    network: SparseAutoencoder,
    store: EmbeddingStore,
    folder: str | Path,
    *,
    device: str = "cpu",
    batch_size: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> CodeStore:
    """Encode every row of a store that is not encoded yet, shard by shard.

    Args:
        network: In evaluation mode.
        store: Rows to encode; their width is the autoencoder's.
        folder: Of the codes; made if it does not exist.
        device: Where to encode.
        batch_size: Rows at a time; it does not change the codes.
        progress: Called with (shards done, shards) after each shard.

    Raises:
        ConfigError: The folder holds codes of another autoencoder or store, or something else.
        DataError: The widths differ, or a code is not finite.
    """
    target, width = Path(folder), network.W_d.shape[1]
    if width != store.dim:
        raise DataError(
            store.folder, key="dim", expected=f"{width} as the autoencoder", found=str(store.dim)
        )
    _begin(target, network, store)
    network = network.to(device).eval()
    sizes, start = store.shard_sizes, 0
    for number, size in enumerate(sizes):
        file = _shard(target, number)
        if not file.is_file():
            matrix = _encode(network, store, range(start, start + size), device, batch_size)
            _save(file, matrix, store.folder)
        start += size
        if progress is not None:
            progress(number + 1, len(sizes))
    return CodeStore(target)


class CodeStore:
    """The codes of a store, complete.

    Args:
        folder: What :func:`write_codes` wrote.

    Raises:
        DataError: It is no folder of codes, or incomplete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = _described(self.folder)
        self.n_features = int(self.description["n_features"])
        self.sizes: list[int] = self.description["rows"]
        absent = [n for n in range(len(self.sizes)) if not _shard(self.folder, n).is_file()]
        if absent:
            raise DataError(
                self.folder,
                key=_shard(self.folder, absent[0]).name,
                expected=f"{len(self.sizes)} shards",
                found=str(len(self.sizes) - len(absent)),
                hint="run the command that wrote it again: it goes on with the missing ones",
            )

    def __len__(self) -> int:
        """Number of rows."""
        return sum(self.sizes)

    def csr(self, rows: NDArray[np.int64] | None = None) -> csr_matrix:
        """Codes as a (rows, F) float32 matrix.

        Args:
            rows: Numbers of the rows wanted, ascending; None: all, in the order of the store.

        Raises:
            DataError: A shard is damaged.
        """
        parts, start = [], 0
        for number, size in enumerate(self.sizes):
            if rows is None:
                parts.append(self._read(number))
            else:
                first, last = np.searchsorted(rows, [start, start + size])
                if last > first:
                    parts.append(self._read(number)[rows[first:last] - start])
            start += size
        if not parts:
            return csr_matrix((0, self.n_features), dtype=np.float32)
        return vstack(parts, format="csr")

    def _read(self, number: int) -> csr_matrix:
        file, size = _shard(self.folder, number), self.sizes[number]
        try:
            with safe_open(file, "numpy") as opened:
                indptr, indices, values, scale = (
                    opened.get_tensor(name) for name in ("indptr", "indices", "values", "scale")
                )
            if len(indptr) != size + 1 or not indptr[-1] == len(indices) == len(values):
                raise ValueError(
                    f"{len(indptr) - 1} rows, {len(indices)} and {len(values)} entries"
                )
            if len(indices) and not 0 <= indices.min() <= indices.max() < self.n_features:
                raise ValueError(f"a feature outside 0..{self.n_features - 1}")
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(
                file,
                key="(file)",
                expected=f"codes of {size} rows",
                found=str(error),
                hint="remove this file and run the command that wrote it again",
            ) from None
        data = values.astype(np.float32) * np.float32(scale)
        shape = (size, self.n_features)
        return csr_matrix((data, indices.astype(np.int32), indptr), shape=shape)


def _begin(folder: Path, network: SparseAutoencoder, store: EmbeddingStore) -> None:
    wanted: dict[str, Any] = {
        "version": VERSION,
        "rows": store.shard_sizes,
        "n_features": len(network.b_e),
        "autoencoder": autoencoder_hash(network),
        "store": store_hash(store),
    }
    if (folder / "codes.json").is_file():
        found = _described(folder)
        for key in ("autoencoder", "store", "n_features", "rows"):
            if found[key] != wanted[key]:
                raise ConfigError(
                    f"{folder} holds codes with another {key}: found {found[key]}, expected"
                    f" {wanted[key]}; choose another folder or remove this one"
                )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no codes; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "codes.json", json.dumps(wanted, indent=1))


def _encode(
    network: SparseAutoencoder,
    store: EmbeddingStore,
    numbers: range,
    device: str,
    batch_size: int,
) -> csr_matrix:
    parts = [csr_matrix((0, len(network.b_e)), dtype=np.float32)]
    for first in range(numbers.start, numbers.stop, batch_size):
        wanted = np.arange(first, min(first + batch_size, numbers.stop))
        codes = network.encode(store.rows(wanted).to(device)).to_csr()
        assert codes.offsets is not None
        arrays = (codes.indices, codes.values, codes.offsets)
        indices, values, offsets = (array.cpu().numpy() for array in arrays)
        shape = (len(wanted), len(network.b_e))
        part = csr_matrix((values.astype(np.float32), indices, offsets), shape=shape)
        part.eliminate_zeros()
        part.sort_indices()
        parts.append(part)
    return vstack(parts, format="csr")


def _save(file: Path, matrix: csr_matrix, store: Path) -> None:
    """Write one shard and rename it into place."""
    if not np.isfinite(matrix.data).all():
        row = int(
            np.searchsorted(matrix.indptr, np.flatnonzero(~np.isfinite(matrix.data))[0], "right")
        )
        raise DataError(
            store,
            key=f"{file.name}, row {row - 1}",
            expected="finite codes",
            found="NaN or infinity",
        )
    largest = float(np.abs(matrix.data).max(initial=0))
    scale = 1.0 if largest <= _LARGEST else 2.0 ** math.ceil(math.log2(largest / _LARGEST))
    values = (matrix.data / np.float32(scale)).astype(np.float16)
    lost = (values == 0) & (matrix.data != 0)
    values[lost] = np.copysign(_SMALLEST, matrix.data[lost])
    kind = np.uint16 if matrix.shape[1] <= 1 << 16 else np.int32
    tensors = {
        "indptr": matrix.indptr.astype(np.int64),
        "indices": matrix.indices.astype(kind),
        "values": values,
        "scale": np.array(scale, dtype=np.float32),
    }
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    save_file(tensors, temporary)
    with temporary.open("rb") as opened:
        os.fsync(opened.fileno())
    temporary.replace(file)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"codes-{number:05d}.safetensors"


def _described(folder: Path) -> dict[str, Any]:
    file = folder / "codes.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise DataError(file, key="version", expected=str(VERSION), found=str(found["version"]))
        complete = {key: found[key] for key in ("rows", "n_features", "autoencoder", "store")}
    except FileNotFoundError:
        raise DataError(folder, key="codes.json", expected="codes", found="none") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            file, key="codes.json", expected="a description of codes", found=repr(error)
        ) from None
    return complete
