"""The table of acquisitions of an ISMRMRD file: what each readout is for, and its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.errors import DataError
from sagittal_mri.data.header import EncodingHeader
from sagittal_mri.physics.noise import noise_covariance

COUNTERS = ("contrast", "phase", "repetition", "set")

# Flag numbers of ismrmrd.h, from 1.
_NOISE, _CALIBRATION, _REVERSE = 19, 20, 22
_EXCLUDED = {
    "noise": _NOISE,
    "navigator": 23,
    "phase correction": 24,
    "high-priority feedback": 26,
    "dummy": 27,
    "real-time feedback": 28,
    "surface coil correction": 29,
    "phase stabilization reference": 30,
    "phase stabilization": 31,
}
_BLOCK = 256
# What is used of an acquisition header, and of its encoding counters.
_HEAD = {
    "flags",
    "idx",
    "active_channels",
    "number_of_samples",
    "trajectory_dimensions",
    "center_sample",
    "discard_pre",
    "discard_post",
    "encoding_space_ref",
    "sample_time_us",
    "position",
    "read_dir",
    "phase_dir",
    "slice_dir",
}
_COUNTED = {*COUNTERS, "average", "slice", "kspace_encode_step_1", "kspace_encode_step_2"}


@dataclass
class Acquisitions:
    """An open file: header, table of acquisition headers, samples still on disk."""

    path: Path
    header: EncodingHeader
    heads: NDArray[np.void]
    table: h5py.Dataset
    notes: list[str]

    def error(self, key: str, expected: str, found: str, hint: str = "") -> DataError:
        """An error about this file, to be raised."""
        return DataError(self.path, key=key, expected=expected, found=found, hint=hint)

    def flagged(self, number: int) -> NDArray[np.bool_]:
        """Which readouts have the flag ``number`` (from 1) set."""
        return (self.heads["flags"] >> np.uint64(number - 1)) & np.uint64(1) != 0

    def samples(
        self, rows: NDArray[np.intp]
    ) -> Iterator[tuple[int, NDArray[np.complex64], NDArray[np.float32]]]:
        """Row, data ``(coils, samples)`` and trajectory ``(samples, d)``, less the discarded."""
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            # Only the wanted rows: the slices of an interleaved scan lie between one another.
            for start in range(0, len(run), _BLOCK):
                part = run[start : start + _BLOCK]
                block = self.table.fields(["data", "traj"])[int(part[0]) : int(part[-1]) + 1]
                for row, item in zip(part.tolist(), block, strict=True):
                    yield row, *self._unpack(row, item)

    def _unpack(
        self, row: int, item: NDArray[np.void]
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        head = self.heads[row]
        coils, count = int(head["active_channels"]), int(head["number_of_samples"])
        dimensions = int(head["trajectory_dimensions"])
        for key, size in (("data", 2 * coils * count), ("traj", dimensions * count)):
            if len(item[key]) != size:
                raise self.error(
                    f"data[{row}].{key}", f"{size} floats as its header says", str(len(item[key]))
                )
        keep = slice(int(head["discard_pre"]), count - int(head["discard_post"]))
        data = np.ascontiguousarray(item["data"], np.float32).view(np.complex64)
        trajectory = np.asarray(item["traj"], np.float32).reshape(count, dimensions)
        return data.reshape(coils, count)[:, keep], trajectory[keep]


def expect_fields(head: np.dtype[np.void], key: str, path: Path) -> None:
    """Raise a DataError if acquisition headers lack a field that is read later."""
    missing = sorted(_HEAD - set(head.names or ()))
    if not missing:
        missing = [f"idx.{name}" for name in sorted(_COUNTED - set(head["idx"].names or ()))]
    if missing:
        expected = "acquisition headers with the fields of ISMRMRD"
        found = f"none called {', '.join(missing)}"
        raise DataError(path, key=f"{key}/head", expected=expected, found=found)


def imaging_rows(raw: Acquisitions, select: Mapping[str, int]) -> NDArray[np.intp]:
    """Rows of the acquisition table that hold the wanted image data."""
    imaging = np.ones(len(raw.heads), dtype=bool)
    for name, number in _EXCLUDED.items():
        flagged = raw.flagged(number)
        imaging &= ~flagged
        if flagged.any():
            raw.notes.append(f"{int(flagged.sum())} {name} readouts left out")
    for name, value in select.items():
        imaging &= _counter(raw.heads, name) == value
    embedded = raw.header.calibration == "embedded" and raw.header.trajectory == "cartesian"
    calibration = imaging & raw.flagged(_CALIBRATION)
    imaging &= ~calibration
    if embedded:
        # Same sequence, so they are measurements like the others, but those others come first.
        lines = set(_lines(raw.heads[imaging]))
        extra = [
            row for row in np.flatnonzero(calibration) if _lines(raw.heads[[row]])[0] not in lines
        ]
        imaging[extra] = True
        raw.notes.append(f"{len(extra)} embedded calibration readouts used as data")
    elif calibration.any():
        raw.notes.append(f"{int(calibration.sum())} calibration readouts left out")
    rows = np.flatnonzero(imaging)
    if not len(rows):
        counts = dict(Counter(_counter(raw.heads, "contrast").tolist()))
        found = f"none of {len(raw.heads)} (contrasts: {counts}, select: {dict(select)})"
        raise raw.error("dataset/data", "imaging readouts", found)
    _expect_one_image(raw, rows)
    return rows


def _counter(heads: NDArray[np.void], name: str) -> NDArray[np.integer]:
    return heads["encoding_space_ref"] if name == "encoding" else heads["idx"][name]


def _lines(heads: NDArray[np.void]) -> list[tuple[int, int]]:
    steps = heads["idx"]["kspace_encode_step_1"].tolist()
    return list(zip(heads["idx"]["slice"].tolist(), steps, strict=True))


def _expect_one_image(raw: Acquisitions, rows: NDArray[np.intp]) -> None:
    heads = raw.heads[rows]
    for name in (*COUNTERS, "encoding"):
        values = np.unique(_counter(heads, name)).tolist()
        if len(values) > 1:
            raise raw.error(
                f"idx.{name}",
                f"one {name}; several in one record are not supported",
                str(values),
                hint=f"choose one: select={{{name!r}: {values[0]}}}",
            )
    step_2 = int(heads["idx"]["kspace_encode_step_2"].max())
    if raw.header.trajectory == "cartesian" and max(step_2, raw.header.slice_encoding_maximum) > 0:
        raise raw.error(
            "kspace_encode_step_2",
            "2-D encoding; 3-D Cartesian encoding is not supported yet",
            f"steps up to {max(step_2, raw.header.slice_encoding_maximum)}",
        )
    reverse = int(raw.flagged(_REVERSE)[rows].sum())
    if reverse:
        raise raw.error(
            "flags", "forward readouts; EPI is not supported yet", f"{reverse} reversed readouts"
        )
    coils = np.unique(heads["active_channels"]).tolist()
    if len(coils) > 1:
        raise raw.error("active_channels", "the same number of coils in all readouts", str(coils))


def slice_order(raw: Acquisitions, rows: NDArray[np.intp]) -> dict[int, int]:
    """Slice number to its first row, sorted along the slice direction where positions tell."""
    heads = raw.heads[rows]
    numbers, first = np.unique(heads["idx"]["slice"], return_index=True)
    along = (heads["position"][first] * heads["slice_dir"][first[:1]]).sum(1)
    order = np.argsort(along) if len(np.unique(along)) == len(numbers) else np.arange(len(numbers))
    if (np.diff(order) < 0).any():
        raw.notes.append(f"slices sorted by position: {numbers[order].tolist()}")
    return {int(numbers[k]): int(rows[first[k]]) for k in order}


def imaging_noise_covariance(raw: Acquisitions, rows: NDArray[np.intp]) -> Tensor | None:
    """Covariance ``(coils, coils)`` of one imaging sample from the noise readouts, None without."""
    noise = np.flatnonzero(raw.flagged(_NOISE))
    if not len(noise):
        return None
    coils = int(raw.heads[rows[0]]["active_channels"])
    found = np.unique(raw.heads[noise]["active_channels"]).tolist()
    if found != [coils]:
        raise raw.error("active_channels", f"noise readouts of {coils} coils", str(found))
    samples = np.concatenate([data for _, data, _ in raw.samples(noise)], axis=1)
    if samples.shape[1] <= coils:
        raw.notes.append(f"{samples.shape[1]} noise samples are too few for a covariance")
        return None
    covariance = noise_covariance(torch.from_numpy(samples.astype(np.complex128)))
    dwell_noise = float(raw.heads[noise[0]]["sample_time_us"])
    dwell = float(raw.heads[rows[0]]["sample_time_us"])
    ratio = raw.header.receiver_bandwidth_ratio or 1.0
    if min(dwell_noise, dwell) > 0:
        # White noise: the variance of a sample grows with the bandwidth, 1 / dwell time.
        covariance = covariance * (dwell_noise / dwell / ratio)
        raw.notes.append(
            f"noise covariance scaled by {dwell_noise / dwell / ratio:.4g} (dwell time)"
        )
    else:
        raw.notes.append("noise covariance not scaled: the dwell times are not given")
    return covariance.to(torch.complex64)
