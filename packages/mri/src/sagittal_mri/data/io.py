"""Reading any supported k-space file, whole or slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import h5py

from sagittal_core.errors import DataError
from sagittal_mri.data.fastmri import index_fastmri, read_fastmri
from sagittal_mri.data.hdf5 import open_hdf5
from sagittal_mri.data.ismrmrd_raw import index_ismrmrd, read_ismrmrd
from sagittal_mri.data.record import KspaceIndex, KspaceRecord


def read_kspace(path: str | Path) -> KspaceRecord:
    """Read a fastMRI or an ISMRMRD raw file; its content decides which, not its name.

    Use :func:`read_fastmri` or :func:`read_ismrmrd` to choose slices, contrasts or units.

    Raises:
        DataError: if it is no HDF5 file, has neither layout, or holds values that cannot be used.
    """
    return read_fastmri(path) if _layout(Path(path)) == "fastmri" else read_ismrmrd(path)


def index_kspace(path: str | Path, select: Mapping[str, int] | None = None) -> KspaceIndex:
    """Slices, coils, matrix and, where headers tell, sampled columns; no samples are read.

    Args:
        path: fastMRI HDF5 or ISMRMRD raw file.
        select: contrast, phase, ... to take of an ISMRMRD file, see :func:`read_ismrmrd`.

    Raises:
        DataError: as :func:`read_kspace`.
    """
    if _layout(Path(path)) == "fastmri":
        return index_fastmri(path)
    return index_ismrmrd(path, select=select)


def read_slice(index: KspaceIndex, position: int) -> KspaceRecord:
    """The record of one slice; only its samples are read, and the file is closed again.

    Args:
        index: of the file, from :func:`index_kspace`.
        position: 0 for the first slice in anatomical order.
    """
    number = index.slices[position]
    if index.layout == "fastmri":
        return read_fastmri(index.path, range(number, number + 1))
    return read_ismrmrd(index.path, select={**index.select, "slice": number})


def _layout(path: Path) -> Literal["fastmri", "ismrmrd"]:
    with open_hdf5(path) as file:
        held = sorted(file.keys())
        if "kspace" in file:
            return "fastmri"
        if any(isinstance(file[key], h5py.Group) and "xml" in file[key] for key in held):
            return "ismrmrd"
    raise DataError(
        path,
        key="kspace or dataset/xml",
        expected="the fastMRI layout (/kspace, /ismrmrd_header) or ISMRMRD (/dataset/xml, /data)",
        found="holds: " + (", ".join(held) or "nothing"),
    )
