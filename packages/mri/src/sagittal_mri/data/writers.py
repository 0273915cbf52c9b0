"""Writing reconstructions and k-space; every file appears under its name only when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core import volumes
from sagittal_core.errors import DataError
from sagittal_mri.data.header import Space, build_header
from sagittal_mri.data.record import KspaceRecord


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked_images(images: Tensor | NDArray[np.generic], name: str, path: Path) -> Tensor:
    images = torch.as_tensor(images).detach().cpu()
    if images.ndim != 3:
        raise DataError(
            path, key=name, expected="(slices, h, w)", found=f"shape {tuple(images.shape)}"
        )
    if not bool(torch.isfinite(images).all()):
        raise DataError(path, key=name, expected="finite values", found="NaN or Inf")
    return images


def write_reconstruction_h5(
    path: str | Path,
    images: Tensor | NDArray[np.generic],
    record: KspaceRecord,
    attrs: Mapping[str, str | float] | None = None,
) -> None:
    """Write images as fastMRI's submission layout: one dataset ``/reconstruction``.

    Args:
        path: the HDF5 file; an existing one is replaced.
        images: ``(slices, h, w)``, real (stored as float32) or complex (complex64).
        record: what they were reconstructed from: gives ``voxel_size_mm`` and ``affine``. Neither
            its source nor the patient's identifier is written.
        attrs: further attributes of the file.

    Raises:
        DataError: if ``images`` do not fit ``record``, or are not finite.
    """
    path = Path(path)
    images = _checked_images(images, "reconstruction", path)
    expected = (record.kspace.shape[0], *record.image_shape)
    if tuple(images.shape) != expected:
        raise DataError(
            path,
            key="reconstruction",
            expected=f"shape {expected} of the record",
            found=str(tuple(images.shape)),
        )
    values = images.to(torch.complex64 if images.is_complex() else torch.float32).numpy()
    with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["reconstruction"] = values
        for key, value in {**record.attributes, **(attrs or {})}.items():
            file.attrs[key] = value
        if record.voxel_size_mm is not None:
            file.attrs["voxel_size_mm"] = record.voxel_size_mm
        if record.affine is not None:
            file.attrs["affine"] = record.affine.numpy()


def write_nifti(
    path: str | Path,
    volume: Tensor | NDArray[np.generic],
    *,
    affine: Tensor | NDArray[np.float64] | None = None,
    voxel_size_mm: tuple[float, float, float] | None = None,
) -> None:
    """Write a magnitude volume as NIfTI-1 with axes (h, w, slice), float32.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; an existing file is replaced.
        volume: ``(slices, h, w)`` real.
        affine: ``(4, 4)`` from indices (h, w, slice) to RAS+ mm; written as scanner coordinates.
        voxel_size_mm: (h, w, slice distance), for a volume of unknown orientation: the file then
            says that its orientation is unknown (sform and qform code 0). 1 mm if neither is given.

    Raises:
        DataError: for a wrong suffix or shape, complex or non-finite values.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(path, key="path", expected="a name in .nii or .nii.gz", found=path.name)
    images = _checked_images(volume, "volume", path)
    if images.is_complex():
        raise DataError(path, key="volume", expected="a magnitude", found=str(images.dtype))
    known = affine is not None
    matrix = np.asarray(affine, float) if known else np.diag([*(voxel_size_mm or (1, 1, 1)), 1.0])
    values = images.permute(1, 2, 0).to(torch.float32).numpy()
    volumes.write_nifti(path, values, matrix, oriented=known)


def write_kspace_h5(path: str | Path, record: KspaceRecord) -> None:
    """Write a record in the fastMRI layout, so that ``read_fastmri`` gives the same record back.

    ``/mask`` is always written; see :mod:`sagittal_mri.data.fastmri` for the keys that go beyond
    fastMRI (trajectory, noise covariance, affine, two-dimensional mask). ``notes`` is not written.
    """
    record.validate()
    with _replacing(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = record.kspace.cpu().numpy()
        mask = record.mask.cpu().numpy()
        file["mask"] = mask if record.is_cartesian and len(mask) > 1 else mask.reshape(-1)
        file["ismrmrd_header"] = _header(record).encode()
        optional = {
            "reconstruction_rss": record.reference,
            "noise_covariance": record.noise_covariance,
            "trajectory": record.trajectory,
        }
        for key, value in optional.items():
            if value is not None:
                file[key] = value.cpu().numpy()
        for name, attribute in record.attributes.items():
            file.attrs[name] = attribute
        if record.patient_id is not None:
            file.attrs["patient_id"] = record.patient_id
        if record.affine is not None:
            file.attrs["affine"] = record.affine.cpu().numpy()


def _header(record: KspaceRecord) -> str:
    height, width = record.image_shape
    # 0 is how a header says that a length is not known.
    voxel = record.voxel_size_mm or (0.0, 0.0, 0.0)
    columns = record.kspace.shape[3] if record.is_cartesian else width
    return build_header(
        Space((height, columns, 1), (voxel[0] * height, voxel[1] * columns, voxel[2])),
        Space((height, width, 1), (voxel[0] * height, voxel[1] * width, voxel[2])),
        "cartesian" if record.is_cartesian else "radial",
    )
