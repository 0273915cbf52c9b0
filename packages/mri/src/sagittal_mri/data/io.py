"""Reading any supported k-space file."""

from __future__ import annotations

from pathlib import Path

import h5py

from sagittal_core.errors import DataError
from sagittal_mri.data.fastmri import read_fastmri
from sagittal_mri.data.hdf5 import open_hdf5
from sagittal_mri.data.ismrmrd_raw import read_ismrmrd
from sagittal_mri.data.record import KspaceRecord


def read_kspace(path: str | Path) -> KspaceRecord:
    """Read a fastMRI or an ISMRMRD raw file; its content decides which, not its name.

    Use :func:`read_fastmri` or :func:`read_ismrmrd` to choose slices, contrasts or units.

    Raises:
        DataError: if it is no HDF5 file, has neither layout, or holds values that cannot be used.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        held = sorted(file.keys())
        raw = [key for key in held if isinstance(file[key], h5py.Group) and "xml" in file[key]]
        fastmri = "kspace" in file
    if fastmri:
        return read_fastmri(path)
    if raw:
        return read_ismrmrd(path)
    raise DataError(
        path,
        key="kspace or dataset/xml",
        expected="the fastMRI layout (/kspace, /ismrmrd_header) or ISMRMRD (/dataset/xml, /data)",
        found="holds: " + (", ".join(held) or "nothing"),
    )
