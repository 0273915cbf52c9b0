"""fastMRI HDF5 files (Zbontar et al., arXiv 1811.08839; Knoll et al., Radiol. AI 2:e190007).

``/kspace`` is ``(slices, coils, readout, phase)`` or, single-coil, ``(slices, readout, phase)``;
``/ismrmrd_header`` is the XML header; train and validation files hold ``/reconstruction_rss`` (or
``_esc``), test files a ``/mask`` over the phase columns. M4Raw files have the same layout.

Three optional keys beyond fastMRI let every record make the round trip: ``/trajectory`` (for
non-Cartesian k-space), ``/noise_covariance`` and the attribute ``affine``; ``/mask`` may also be
``(readout, phase)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.errors import DataError
from sagittal_mri.data.hdf5 import as_complex64, open_hdf5, read_text, require_dataset
from sagittal_mri.data.header import EncodingHeader, parse_header
from sagittal_mri.data.readout import crop_readout_mask, remove_oversampling
from sagittal_mri.data.record import KspaceIndex, KspaceRecord, expect_finite

_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


@dataclass
class _Open:
    """An open file, where it is, which slices are wanted, and what there is to say about it."""

    file: h5py.File
    path: Path
    wanted: slice
    notes: list[str]

    def error(self, key: str, expected: str, found: str, hint: str = "") -> DataError:
        return DataError(self.path, key=key, expected=expected, found=found, hint=hint)


def read_fastmri(path: str | Path, slices: range | None = None) -> KspaceRecord:
    """Read a fastMRI file; only the wanted slices are taken from the disk.

    Values are not rescaled. Readout oversampling is removed by a crop in image space. Columns of a
    file without ``/mask`` that are exactly zero in all coils and slices read count as not acquired,
    and so do single positions if such zeros do not fill whole columns. What ``/mask`` leaves out is
    set to zero. ``record.notes`` says which of this happened.

    Args:
        path: the HDF5 file.
        slices: a range of step 1 inside the file's slices; all of them by default.

    Raises:
        DataError: for a file that is not of this layout, and for values that contradict each other.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        dataset = require_dataset(file, "kspace", path)
        wanted = _wanted_slices(path, dataset, slices)
        opened = _Open(file, path, wanted, [])
        text = read_text(require_dataset(file, "ismrmrd_header", path), path)
        header = parse_header(text, key="ismrmrd_header", path=path)
        kspace = _read_kspace(opened, dataset)
        if "trajectory" in file:
            return _radial_record(opened, header, kspace)
        return _cartesian_record(opened, header, kspace)


def index_fastmri(path: str | Path) -> KspaceIndex:
    """What a fastMRI file holds, from its header and ``/mask``; no k-space is read.

    Raises:
        DataError: for a file that is not of this layout.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        dataset = require_dataset(file, "kspace", path)
        _wanted_slices(path, dataset, None)
        text = read_text(require_dataset(file, "ismrmrd_header", path), path)
        header = parse_header(text, key="ismrmrd_header", path=path)
        grid = (dataset.shape[-2], dataset.shape[-1])
        cartesian = "trajectory" not in file
        height = _image_shape(path, file, header, grid)[0] if cartesian else grid[0]
        columns = None
        if cartesian and "mask" in file:
            mask = _stored_mask(file, path, grid)
            columns = _without_padding(mask, header) if len(mask) == 1 else None
        return KspaceIndex(
            path=path,
            slices=tuple(range(dataset.shape[0])),
            coils=dataset.shape[1] if dataset.ndim == 4 else 1,
            grid=(height, grid[1]),
            is_cartesian=cartesian,
            columns=columns,
        )


def _wanted_slices(path: Path, dataset: h5py.Dataset, slices: range | None) -> slice:
    if dataset.ndim not in (3, 4):
        raise DataError(
            path,
            key="kspace",
            expected="(slices, coils, readout, phase), or (slices, readout, phase) for one coil",
            found=f"shape {dataset.shape}",
        )
    count = dataset.shape[0]
    if slices is None:
        return slice(0, count)
    if slices.step != 1 or not 0 <= slices.start < slices.stop <= count:
        raise DataError(
            path, key="slices", expected=f"a range of step 1 within 0..{count}", found=repr(slices)
        )
    return slice(slices.start, slices.stop)


def _read_kspace(opened: _Open, dataset: h5py.Dataset) -> Tensor:
    values, note = as_complex64(dataset[opened.wanted], "kspace", opened.path)
    if note:
        opened.notes.append(note)
    kspace = torch.from_numpy(values)
    kspace = kspace[:, None] if kspace.ndim == 3 else kspace
    # Before the crop of the readout, which would spread a NaN over the whole line.
    expect_finite(opened.path, "kspace", kspace)
    return kspace


def _cartesian_record(opened: _Open, header: EncodingHeader, kspace: Tensor) -> KspaceRecord:
    rows, columns = kspace.shape[-2:]
    mask = _mask(opened, header, kspace)
    reference = _reference(opened, kspace.shape[0])
    height, width = _image_shape(opened.path, opened.file, header, (rows, columns))
    voxel = header.voxel_size_mm(rows, columns)
    if _already_cropped(header, rows):
        voxel = voxel and (header.recon.fov_mm[0] / rows, *voxel[1:])
        opened.notes.append("readout oversampling was already removed")
    if height < rows:
        cropped = crop_readout_mask(mask, height)
        if cropped is None:
            raise opened.error(
                "kspace",
                "whole readouts, or one run of samples, where oversampling is to be removed",
                f"readouts of {rows} with gaps, and an image of {height}",
            )
        kspace = remove_oversampling(kspace, height)
        opened.notes.append(f"readout oversampling removed: {rows} to {height}")
        mask = cropped
    kspace = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    return _record(opened, kspace, mask, None, (height, width), reference, voxel)


def _already_cropped(header: EncodingHeader, rows: int) -> bool:
    """Derived data sets keep the scanner's header although they removed the oversampling."""
    return rows != header.encoded.matrix[0] and rows == header.recon.matrix[0]


def _image_shape(
    path: Path, file: h5py.File, header: EncodingHeader, grid: tuple[int, int]
) -> tuple[int, int]:
    """Matrix of the image: the reference's where there is one, else what the header says."""
    height = grid[0] if _already_cropped(header, grid[0]) else header.grid_crop(grid[0], 0)
    shape = height, header.grid_crop(grid[1], 1)
    stored = [key for key in _REFERENCES if key in file]
    if stored:
        dataset = require_dataset(file, stored[0], path)
        if dataset.ndim != 3 or dataset.shape[1] > grid[0] or dataset.shape[2] > grid[1]:
            raise DataError(
                path,
                key=stored[0],
                expected=f"(slices, h, w), at most the k-space grid {grid}",
                found=str(dataset.shape[1:]),
            )
        shape = dataset.shape[1:]
    return shape


def _radial_record(opened: _Open, header: EncodingHeader, kspace: Tensor) -> KspaceRecord:
    values = np.asarray(require_dataset(opened.file, "trajectory", opened.path)[()])
    if values.dtype.kind != "f":
        raise opened.error("trajectory", "float32, radians per pixel", str(values.dtype))
    height, width = header.recon.matrix[:2]
    reference = _reference(opened, kspace.shape[0])
    mask = torch.ones(kspace.shape[2], 1, dtype=torch.bool)
    if "mask" in opened.file:
        mask = _booleans(opened.file, opened.path).reshape(-1, 1)
    voxel = header.voxel_size_mm(*header.encoded.matrix[:2])
    trajectory = torch.from_numpy(values.astype(np.float32))
    return _record(opened, kspace, mask, trajectory, (height, width), reference, voxel)


def _record(
    opened: _Open,
    kspace: Tensor,
    mask: Tensor,
    trajectory: Tensor | None,
    image_shape: tuple[int, int],
    reference: Tensor | None,
    voxel_size_mm: tuple[float, float, float] | None,
) -> KspaceRecord:
    attributes = {
        str(key): value
        for key, raw in opened.file.attrs.items()
        if key not in ("patient_id", "affine") and (value := _plain(raw)) is not None
    }
    patient = _plain(opened.file.attrs.get("patient_id"))
    return KspaceRecord(
        kspace=kspace,
        mask=mask,
        trajectory=trajectory,
        image_shape=image_shape,
        source=opened.path,
        reference=reference,
        noise_covariance=_covariance(opened),
        voxel_size_mm=voxel_size_mm,
        affine=_affine(opened),
        attributes=attributes,
        patient_id=None if patient is None else str(patient),
        notes=tuple(opened.notes),
    )


def _mask(opened: _Open, header: EncodingHeader, kspace: Tensor) -> Tensor:
    """``(1, phase)`` or ``(readout, phase)`` from ``/mask``, else from exact zeros."""
    measured = (kspace != 0).any(dim=1).any(dim=0)
    columns = measured.any(dim=0, keepdim=True)
    if "mask" not in opened.file:
        mask = columns if torch.equal(measured, columns.expand_as(measured)) else measured
        missing = int((~mask).sum())
        if missing:
            what = "columns" if mask.shape[0] == 1 else "positions"
            opened.notes.append(
                f"no /mask: {missing} of {mask.numel()} {what} are exactly zero in every coil and "
                "slice read and count as not acquired"
            )
        return mask
    mask = _stored_mask(opened.file, opened.path, (measured.shape[0], measured.shape[1]))
    padding = _padding_columns(header, columns)
    if bool((mask & padding).any()):
        mask = mask & ~padding
        opened.notes.append(f"{int(padding.sum())} zero-padded columns count as not acquired")
    discarded = int((measured & ~mask).sum())
    if discarded:
        opened.notes.append(f"{discarded} non-zero positions outside /mask are set to zero")
    return mask


def _padding_columns(header: EncodingHeader, measured: Tensor) -> Tensor:
    """Zero columns outside the header's encoding limits, ``(1, phase)`` bool."""
    limits = header.padding()
    if limits is None or measured.shape[1] != header.encoded.matrix[1]:
        return torch.zeros_like(measured)
    index = torch.arange(measured.shape[1])
    return ((index < limits[0]) | (index >= limits[1])) & ~measured


def _without_padding(mask: Tensor, header: EncodingHeader) -> Tensor:
    """The same less the zero padding, as far as the header tells it; some masks count it in."""
    limits = header.padding()
    if limits is None or mask.shape[1] != header.encoded.matrix[1]:
        return mask
    index = torch.arange(mask.shape[1])
    return mask & (index >= limits[0]) & (index < limits[1])


def _stored_mask(file: h5py.File, path: Path, grid: tuple[int, int]) -> Tensor:
    """``/mask`` as ``(1, phase)`` or ``(readout, phase)``."""
    mask = _booleans(file, path)
    if tuple(mask.shape) not in ((grid[1],), (1, grid[1]), grid):
        expected = f"shape {(grid[1],)} or {grid} to fit kspace"
        raise DataError(path, key="mask", expected=expected, found=str(tuple(mask.shape)))
    return mask.reshape(-1, grid[1])


def _booleans(file: h5py.File, path: Path) -> Tensor:
    """``/mask``, stored as booleans or as the numbers 0 and 1."""
    values: NDArray[np.generic] = np.asarray(require_dataset(file, "mask", path)[()])
    found = str(values.dtype) if values.dtype.kind not in "biuf" else "other numbers"
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError(path, key="mask", expected="booleans or numbers 0 and 1", found=found)
    return torch.from_numpy(values.astype(bool))


def _reference(opened: _Open, count: int) -> Tensor | None:
    for key in _REFERENCES:
        if key not in opened.file:
            continue
        dataset = require_dataset(opened.file, key, opened.path)
        total = require_dataset(opened.file, "kspace", opened.path).shape[0]
        if dataset.ndim != 3 or dataset.shape[0] != total:
            raise opened.error(key, f"({total} slices, h, w)", f"shape {dataset.shape}")
        if dataset.dtype.kind != "f":
            raise opened.error(key, "float32 magnitudes", str(dataset.dtype))
        values = torch.from_numpy(dataset[opened.wanted].astype(np.float32))
        assert values.shape[0] == count
        return values
    return None


def _covariance(opened: _Open) -> Tensor | None:
    if "noise_covariance" not in opened.file:
        return None
    dataset = require_dataset(opened.file, "noise_covariance", opened.path)
    values, _ = as_complex64(dataset[()], "noise_covariance", opened.path)
    return torch.from_numpy(values)


def _affine(opened: _Open) -> Tensor | None:
    """The stored affine, moved to the first slice that was read."""
    if "affine" not in opened.file.attrs:
        return None
    values = np.asarray(opened.file.attrs["affine"])
    if values.shape != (4, 4) or values.dtype.kind != "f":
        raise opened.error("affine", "(4, 4) floats", f"{values.dtype} {values.shape}")
    affine = torch.from_numpy(values.astype(np.float64))
    affine[:3, 3] += opened.wanted.start * affine[:3, 2]
    return affine


def _plain(value: object) -> str | float | None:
    """An HDF5 attribute as text or number (some files hold the numbers as text); else None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "biuf" else None
