"""ISMRMRD raw files (Inati et al., MRM 77:411, 2017): ``/dataset/xml`` and ``/dataset/data``.

They are read with plain h5py, not the ``ismrmrd`` package: its ``Dataset`` opens files for writing
by default and takes one HDF5 call per readout. Reading the table of acquisition headers first lets
us skip what is not wanted without touching its samples, and check the rest in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError
from sagittal_mri.data.acquisitions import (
    COUNTERS,
    Acquisitions,
    expect_fields,
    imaging_noise_covariance,
    imaging_rows,
    slice_order,
)
from sagittal_mri.data.geometry import SliceGeometry, slice_geometry
from sagittal_mri.data.hdf5 import open_hdf5, read_text, require_dataset
from sagittal_mri.data.header import parse_header
from sagittal_mri.data.readout import crop_readout_mask, remove_oversampling
from sagittal_mri.data.record import KspaceIndex, KspaceRecord, expect_finite

_SELECTABLE = (*COUNTERS, "average", "slice", "encoding")
_CYCLES_PER_PIXEL = {"cycles": "+-0.5", "index": "+-N/2", "radians": "+-pi"}


def read_ismrmrd(
    path: str | Path,
    *,
    select: Mapping[str, int] | None = None,
    trajectory_units: str | None = None,
    group: str = "dataset",
) -> KspaceRecord:
    """Read a 2-D Cartesian or a non-Cartesian (radial, golden-angle, spiral) ISMRMRD file.

    Cartesian: readouts go where ``center_sample`` and the encoding limits put them (an asymmetric
    echo is zero-filled, and ``mask`` says so per readout position), averages are averaged, readout
    oversampling is removed. Noise acquisitions give ``noise_covariance``, scaled to the dwell time
    of the imaging readouts. Navigators, phase-correction, dummy and feedback readouts are left
    out, and so are calibration readouts unless the header calls them ``embedded``; ``notes`` counts
    them. Slices are sorted along the slice direction.

    Args:
        path: the HDF5 file.
        select: which ``contrast``, ``phase``, ``repetition``, ``set``, ``average``, ``slice`` or
            ``encoding`` to take, e.g. ``{"contrast": 0}``; needed where a file holds several of the
            first four.
        trajectory_units: units of a non-Cartesian trajectory, relative to the reconstruction
            matrix of N pixels: ``cycles`` per pixel (+-0.5), ``index`` (+-N/2) or ``radians`` per
            pixel (+-pi). By default the header's string parameter ``trajectory_units``; never
            guessed from the values.
        group: name of the HDF5 group.

    Raises:
        DataError: for a file that is not of this layout, contradictory values, and acquisitions
            that are not supported (3-D Cartesian, EPI, several contrasts without ``select``).
        ConfigError: for an unknown key of ``select`` or unknown units.
    """
    if trajectory_units is not None and trajectory_units not in _CYCLES_PER_PIXEL:
        raise ConfigError(
            f"trajectory_units: {trajectory_units!r}; allowed: {tuple(_CYCLES_PER_PIXEL)}"
        )
    with _imaging(Path(path), dict(select or {}), group) as (raw, rows):
        if raw.header.trajectory == "cartesian":
            return _cartesian_record(raw, rows)
        return _radial_record(raw, rows, trajectory_units)


def index_ismrmrd(
    path: str | Path, *, select: Mapping[str, int] | None = None, group: str = "dataset"
) -> KspaceIndex:
    """What an ISMRMRD file holds, from its header and table of acquisitions; no samples are read.

    Raises:
        DataError: for a file that :func:`read_ismrmrd` cannot read slice by slice.
        ConfigError: for an unknown key of ``select``.
    """
    with _imaging(Path(path), dict(select or {}), group) as (raw, rows):
        heads = raw.heads[rows]
        order = slice_order(raw, rows)
        cartesian = raw.header.trajectory == "cartesian"
        if cartesian:
            readout, phase = raw.header.encoded.matrix[:2]
            grid = (raw.header.grid_crop(readout, 0), phase)
            column = heads["idx"]["kspace_encode_step_1"] - _phase_center(raw) + phase // 2
            mask = torch.zeros(len(order), phase, dtype=torch.bool)
            for index, number in enumerate(order):
                found = column[heads["idx"]["slice"] == number].astype(np.int64)
                # A column off the grid is an error of its own when the slice is read.
                mask[index, found[(found >= 0) & (found < phase)]] = True
        else:
            first = next(iter(order))
            spokes = int((heads["idx"]["slice"] == first).sum())
            grid = (spokes, int(heads["number_of_samples"][0]))
        return KspaceIndex(
            path=Path(path),
            slices=tuple(order),
            coils=int(heads["active_channels"][0]),
            grid=grid,
            is_cartesian=cartesian,
            columns=mask if cartesian else None,
            layout="ismrmrd",
            select=dict(select or {}),
        )


@contextmanager
def _imaging(
    path: Path, select: dict[str, int], group: str
) -> Iterator[tuple[Acquisitions, NDArray[np.intp]]]:
    """An open file and the rows of its table that hold the wanted image data."""
    unknown = sorted(set(select) - set(_SELECTABLE))
    if unknown:
        raise ConfigError(f"select: unknown {', '.join(unknown)}; allowed: {_SELECTABLE}")
    with open_hdf5(path) as file:
        key = f"{group}/xml"
        text = read_text(require_dataset(file, key, path), path)
        header = parse_header(text, key=key, path=path, encoding=select.get("encoding", 0))
        table = require_dataset(file, f"{group}/data", path)
        if table.dtype.names is None or not {"head", "traj", "data"} <= set(table.dtype.names):
            raise DataError(
                path,
                key=f"{group}/data",
                expected="fields head, traj, data",
                found=str(table.dtype),
            )
        expect_fields(table["head"].dtype, f"{group}/data", path)
        raw = Acquisitions(path, header, table["head"], table, [])
        rows = imaging_rows(raw, select)
        encoding = int(raw.heads[rows[0]]["encoding_space_ref"])
        if encoding != select.get("encoding", 0):
            hint = f"choose it: select={{'encoding': {encoding}}}"
            raise raw.error("encoding_space_ref", "encoding 0", str(encoding), hint)
        yield raw, rows


def _phase_center(raw: Acquisitions) -> int:
    """The phase-encoding step at zero frequency."""
    if raw.header.phase_center is not None:
        return raw.header.phase_center
    center = raw.header.encoded.matrix[1] // 2
    raw.notes.append(f"the header gives no phase-encoding centre: {center} is assumed")
    return center


def _cartesian_record(raw: Acquisitions, rows: NDArray[np.intp]) -> KspaceRecord:
    readout, phase = raw.header.encoded.matrix[:2]
    order = slice_order(raw, rows)
    kspace, count = _fill_grid(raw, rows, order)
    expect_finite(raw.path, "kspace", kspace)
    mask = _shared_mask(raw, count)
    averages = count[count > 0].unique()
    height, width = raw.header.grid_crop(readout, 0), raw.header.grid_crop(phase, 1)
    if height < readout:
        cropped = crop_readout_mask(mask, height)
        if cropped is None:
            raise raw.error("center_sample", "readouts without gaps", "lines with gaps inside")
        if mask.shape[0] > 1:
            raw.notes.append("asymmetric echo: the mask's edge is exact to one readout position")
        kspace, mask = remove_oversampling(kspace, height), cropped
        raw.notes.append(f"readout oversampling removed: {readout} to {height}")
    kspace = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    covariance = imaging_noise_covariance(raw, rows)
    if len(averages) == 1 and covariance is not None:
        covariance = covariance / float(averages[0])
    elif covariance is not None:
        covariance = None
        raw.notes.append("lines have different averages: no single noise covariance holds")
    geometry = slice_geometry(
        [raw.heads[first] for first in order.values()],
        (height, width),
        raw.header.voxel_size_mm(readout, phase),
    )
    return _record(raw, kspace, mask, None, (height, width), covariance, geometry)


def _fill_grid(
    raw: Acquisitions, rows: NDArray[np.intp], order: Mapping[int, int]
) -> tuple[Tensor, Tensor]:
    """Mean k-space ``(slices, coils, readout, phase)``, counts ``(slices, readout, phase)``."""
    readout, phase = raw.header.encoded.matrix[:2]
    place = {number: index for index, number in enumerate(order)}
    coils = int(raw.heads[rows[0]]["active_channels"])
    kspace = np.zeros((len(order), coils, readout, phase), np.complex64)
    count = np.zeros((len(order), readout, phase), np.int64)
    center = _phase_center(raw)
    for row, data, _ in raw.samples(rows):
        head = raw.heads[row]
        start = readout // 2 - int(head["center_sample"]) + int(head["discard_pre"])
        column = int(head["idx"]["kspace_encode_step_1"]) - center + phase // 2
        stop = start + data.shape[1]
        if start < 0 or stop > readout or not 0 <= column < phase:
            raise raw.error(
                f"data[{row}].head",
                f"a readout inside the encoded matrix {(readout, phase)}",
                f"samples {start}..{stop - 1} in phase column {column}",
                hint="check center_sample and kspace_encode_step_1 against encodingLimits",
            )
        index = place[int(head["idx"]["slice"])]
        kspace[index, :, start:stop, column] += data
        count[index, start:stop, column] += 1
    kspace /= np.maximum(count, 1)[:, None]
    return torch.from_numpy(kspace), torch.from_numpy(count)


def _shared_mask(raw: Acquisitions, count: Tensor) -> Tensor:
    acquired = count > 0
    mask = acquired[0]
    differing = [k for k in range(len(acquired)) if not torch.equal(acquired[k], mask)]
    if differing:
        raise raw.error(
            "kspace_encode_step_1",
            "the same sampling in all slices",
            f"slice {differing[0]} (and {len(differing) - 1} more) differs from slice 0",
            hint="read slice by slice: select={'slice': 0}",
        )
    lines = mask.any(dim=0, keepdim=True)
    return lines if torch.equal(mask, lines.expand_as(mask)) else mask


def _radial_record(raw: Acquisitions, rows: NDArray[np.intp], units: str | None) -> KspaceRecord:
    if raw.header.trajectory not in ("radial", "goldenangle", "spiral"):
        raise raw.error(
            "trajectory", "cartesian, radial, goldenangle or spiral", raw.header.trajectory
        )
    averages = np.unique(raw.heads[rows]["idx"]["average"]).tolist()
    if len(averages) > 1:
        hint = f"choose one: select={{'average': {averages[0]}}}"
        raise raw.error("idx.average", "one average of non-Cartesian data", str(averages), hint)
    order = slice_order(raw, rows)
    kspace, trajectory = _stack_spokes(raw, rows, order)
    height, width = raw.header.recon.matrix[:2]
    trajectory = trajectory * _radians_per_unit(raw, units, (height, width))
    mask = torch.ones(kspace.shape[2], 1, dtype=torch.bool)
    voxel = raw.header.recon.fov_mm
    pixel = (voxel[0] / height, voxel[1] / width, voxel[2])
    geometry = slice_geometry(
        [raw.heads[first] for first in order.values()],
        (height, width),
        pixel if min(pixel) > 0 else None,
    )
    covariance = imaging_noise_covariance(raw, rows)
    return _record(raw, kspace, mask, trajectory, (height, width), covariance, geometry)


def _stack_spokes(
    raw: Acquisitions, rows: NDArray[np.intp], order: Mapping[int, int]
) -> tuple[Tensor, Tensor]:
    """k-space ``(slices, coils, spokes, samples)`` and the trajectory in the file's units."""
    dimensions = np.unique(raw.heads[rows]["trajectory_dimensions"]).tolist()
    if dimensions != [2]:
        raise raw.error("trajectory_dimensions", "2 in every readout", str(dimensions))
    spokes: dict[int, list[tuple[NDArray[np.complex64], NDArray[np.float32]]]] = {
        number: [] for number in order
    }
    for row, data, trajectory in raw.samples(rows):
        spokes[int(raw.heads[row]["idx"]["slice"])].append((data, trajectory))
    shapes = Counter(item[0].shape for items in spokes.values() for item in items)
    numbers = sorted({len(items) for items in spokes.values()})
    if len(shapes) > 1 or len(numbers) > 1:
        raise raw.error(
            "number_of_samples",
            "spokes of one length, equally many in all slices",
            f"(coils, samples) {sorted(shapes)}, spokes in a slice {numbers}",
            hint="read slice by slice: select={'slice': 0}",
        )
    trajectories = np.stack([np.stack([item[1] for item in items]) for items in spokes.values()])
    if np.abs(trajectories - trajectories[:1]).max() > 0:
        hint = "read slice by slice: select={'slice': 0}"
        raise raw.error("traj", "the same trajectory in all slices", "different ones", hint)
    kspace = np.stack([np.stack([item[0] for item in items], 1) for items in spokes.values()])
    return torch.from_numpy(kspace), torch.from_numpy(trajectories[0])


def _radians_per_unit(raw: Acquisitions, units: str | None, matrix: tuple[int, int]) -> Tensor:
    units = units or raw.header.trajectory_units
    if units not in _CYCLES_PER_PIXEL:
        raise raw.error(
            "trajectory_units",
            f"one of {tuple(_CYCLES_PER_PIXEL)} as an argument, or in the header's description",
            repr(units),
            hint=f"ranges: {_CYCLES_PER_PIXEL}",
        )
    raw.notes.append(f"trajectory units: {units}")
    if units == "radians":
        return torch.ones(2)
    period = torch.ones(2) if units == "cycles" else torch.tensor(matrix, dtype=torch.float32)
    return 2 * torch.pi / period


def _record(
    raw: Acquisitions,
    kspace: Tensor,
    mask: Tensor,
    trajectory: Tensor | None,
    image_shape: tuple[int, int],
    covariance: Tensor | None,
    geometry: SliceGeometry,
) -> KspaceRecord:
    return KspaceRecord(
        kspace=kspace,
        mask=mask,
        trajectory=trajectory,
        image_shape=image_shape,
        source=raw.path,
        noise_covariance=covariance,
        voxel_size_mm=geometry.voxel_size_mm,
        affine=geometry.affine,
        notes=(*raw.notes, *geometry.notes),
    )
