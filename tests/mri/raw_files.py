"""Small raw files for the tests: fastMRI through h5py, ISMRMRD through the ismrmrd package.

Neither uses the writers of sagittal_mri, so that readers are checked against the formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import ismrmrd
import numpy as np


def noise(shape, seed=0):
    """Complex64 values, none of them zero."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((*shape, 2)).astype(np.float32)
    return np.ascontiguousarray(values).view(np.complex64)[..., 0]


def header_xml(
    encoded,
    recon,
    *,
    encoded_fov=(0.0, 0.0, 0.0),
    recon_fov=(0.0, 0.0, 0.0),
    limits=None,
    trajectory="cartesian",
    extra="",
    system="",
):
    """An ISMRMRD header; ``limits`` is (maximum, center) of the phase encoding."""

    def space(name, matrix, fov):
        matrix_xml = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", matrix, strict=True))
        fov_xml = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", fov, strict=True))
        return (
            f"<{name}><matrixSize>{matrix_xml}</matrixSize>"
            f"<fieldOfView_mm>{fov_xml}</fieldOfView_mm></{name}>"
        )

    step = ""
    if limits is not None:
        step = (
            "<kspace_encoding_step_1><minimum>0</minimum>"
            f"<maximum>{limits[0]}</maximum><center>{limits[1]}</center></kspace_encoding_step_1>"
        )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"{system}<encoding>{space('encodedSpace', encoded, encoded_fov)}"
        f"{space('reconSpace', recon, recon_fov)}<encodingLimits>{step}</encodingLimits>"
        f"<trajectory>{trajectory}</trajectory>{extra}</encoding></ismrmrdHeader>"
    )


def write_fastmri(path: Path, kspace, *, xml=None, attrs=None, **datasets):
    """A fastMRI file; by default the header says that nothing is oversampled or padded."""
    grid = (*kspace.shape[-2:], 1)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = (xml or header_xml(grid, grid)).encode()
        for key, value in datasets.items():
            file[key] = value
        file.attrs.update(attrs or {})
    return path


@dataclass
class Line:
    """One acquisition: data ``(coils, samples)`` and what differs from the defaults."""

    data: np.ndarray
    step: int = 0
    slice: int = 0
    center_sample: int | None = None
    flags: tuple[int, ...] = ()
    traj: np.ndarray | None = None
    counters: dict[str, int] = field(default_factory=dict)
    head: dict[str, object] = field(default_factory=dict)


def write_ismrmrd(path: Path, xml: str, lines: list[Line]):
    """An ISMRMRD file with one acquisition a line, in this order."""
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    dataset.write_xml_header(xml.encode())
    for line in lines:
        data = np.ascontiguousarray(line.data, np.complex64)
        if line.traj is None:
            acquisition = ismrmrd.Acquisition.from_array(data)
        else:
            traj = np.ascontiguousarray(line.traj, np.float32)
            acquisition = ismrmrd.Acquisition.from_array(data, traj)
        middle = data.shape[1] // 2
        acquisition.center_sample = middle if line.center_sample is None else line.center_sample
        acquisition.idx.kspace_encode_step_1 = line.step
        acquisition.idx.slice = line.slice
        for name, value in line.counters.items():
            setattr(acquisition.idx, name, value)
        for name, value in line.head.items():
            if isinstance(value, tuple):
                getattr(acquisition, name)[:] = value
            else:
                setattr(acquisition, name, value)
        for flag in line.flags:
            acquisition.setFlag(flag)
        dataset.append_acquisition(acquisition)
    dataset.close()
    return path
