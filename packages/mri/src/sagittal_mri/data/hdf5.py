"""Opening users' HDF5 files and reading their datasets, with errors that can be acted on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open ``path`` for reading.

    Raises:
        DataError: if it does not exist, may not be read, is empty, is no HDF5 file, or is truncated
            or damaged. The last also while data are read inside the ``with`` block.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(path, key="file", expected="an existing file", found=found)
    size = path.stat().st_size
    if size == 0:
        raise DataError(path, key="file", expected="an HDF5 file", found="an empty file (0 bytes)")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PermissionError as error:
        expected = "a file that may be read"
        raise DataError(path, key="file", expected=expected, found="permission denied") from error
    except OSError as error:
        if h5py.is_hdf5(path) or "truncated" in str(error):
            found = f"{size} bytes that HDF5 cannot read: {error}"
            hint = "the file is truncated or damaged; copy it again"
            expected = "a complete HDF5 file"
        else:
            expected, found, hint = "an HDF5 file", "a file without the HDF5 signature", ""
        raise DataError(path, key="file", expected=expected, found=found, hint=hint) from error


def require_dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The dataset ``key`` of an open file.

    Raises:
        DataError: if there is none; the message lists what the file holds.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        folder = file.get(key.rpartition("/")[0] or "/")
        inside = folder if isinstance(folder, h5py.Group) else file
        held = ", ".join(sorted(inside.keys())) or "nothing"
        where = "" if inside.name == "/" else f"{inside.name} "
        expected = "a dataset of this name"
        raise DataError(path, key=key, expected=expected, found=f"{where}holds: {held}")
    return found


def read_text(dataset: h5py.Dataset, path: Path) -> str:
    """A scalar or one-element string dataset as text.

    Raises:
        DataError: if it holds anything else than one string.
    """
    value = dataset[()]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return value
    raise DataError(
        path, key=str(dataset.name), expected="one string", found=f"{dataset.dtype} {dataset.shape}"
    )


def as_complex64(
    values: NDArray[np.generic], key: str, path: Path
) -> tuple[NDArray[np.complex64], str | None]:
    """Complex values as complex64, and a note if that lost precision.

    Raises:
        DataError: if they are not complex.
    """
    # Either byte order: files of another machine, and of some tools, are big-endian.
    if values.dtype.newbyteorder("=") == np.complex64:
        return values.astype(np.complex64, copy=False), None
    if values.dtype.newbyteorder("=") == np.complex128:
        with np.errstate(over="ignore"):  # an infinity is found, and named, by expect_finite
            rounded = values.astype(np.complex64)
        return rounded, f"{key} was complex128 and is rounded to complex64"
    raise DataError(path, key=key, expected="complex64", found=str(values.dtype))
