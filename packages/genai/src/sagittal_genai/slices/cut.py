"""One scan into pictures: the work of one process at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes import Volume, read_radiograph, read_volume
from sagittal_genai.slices.folder import FolderWriter
from sagittal_genai.slices.masks import read_masks
from sagittal_genai.slices.planes import displayed, grey_picture, label_picture, raster, square
from sagittal_genai.slices.scans import PLANES, RadiographInput, Scan, VolumeInput
from sagittal_genai.slices.settings import (
    Settings,
    Window,
    chosen_planes,
    n4_corrected,
    percentile_window,
)

if TYPE_CHECKING:
    import pyarrow

_DARK = 0.05  # of the window: below is background
_SKEW = 2.0  # degrees


class Row(NamedTuple):
    """One slice: its picture, where it lies in the scan, and the organs in it."""

    image: str
    orientation: str | None
    number: int
    organs: list[str] | None


class Account(NamedTuple):
    """What happened to a scan besides its slices; kept in its index file."""

    fingerprint: str = ""  # of the scan's files, see Scan
    dropped: int = 0
    masks_resampled: int = 0
    masks_empty: bool = False
    notes: tuple[str, ...] = ()


class Job(NamedTuple):
    """What a worker process needs beside the scan."""

    writer: FolderWriter
    settings: Settings
    columns: Mapping[str, str]  # metadata column to "int64", "double", "bool" or "string"


def cut_scan(job: Job, scan: Scan) -> int:
    """Write the pictures, labels and index of one scan; returns how many slices.

    Raises:
        DataError: if its files cannot be used or nothing is left of it.
    """
    job.writer.begin(scan.name)
    if isinstance(scan.input, RadiographInput):
        rows, account = _radiograph(job, scan, scan.input)
    else:
        rows, account = _volume(job, scan, scan.input)
    job.writer.finish(scan.name, index_table(scan, rows, account, job.columns))
    return len(rows)


def _radiograph(job: Job, scan: Scan, source: RadiographInput) -> tuple[list[Row], Account]:
    how = job.settings.radiographs
    found = read_radiograph(source.path, window=how.window)
    pixels, notes = found.pixels, found.notes
    if pixels.dtype == np.uint8:
        window = Window(0.0, 255.0)
    elif found.windowed and found.full_range[1] > found.full_range[0]:
        window = Window(*found.full_range)
    else:
        window = percentile_window(pixels, how.percentiles, source.path, positive=False)
    rows, columns = found.spacing or (1.0, 1.0)
    extents = (pixels.shape[0] * rows, pixels.shape[1] * columns)
    picture = grey_picture(
        window.scale(pixels), square(extents, job.settings.size, job.settings.fit)
    )
    image = job.writer.picture("images", scan.name, "0000", picture)
    return [Row(image, None, 0, None)], Account(scan.fingerprint, notes=notes)


def _volume(job: Job, scan: Scan, source: VolumeInput) -> tuple[list[Row], Account]:
    settings = job.settings
    stored = read_volume(
        source.path,
        frame=source.frame,
        series=source.series,
        modality=scan.modality,
        fill_nan=source.fill_nan,
        select=source.select,
    )
    volume, notes = stored.canonical(), list(stored.notes)
    values: NDArray[Any] = volume.array
    if scan.modality == "CT":
        window, wanted = settings.ct.window(scan), settings.ct.planes
    else:
        values = _corrected(values, source, settings.mr.n4_shrink) if settings.mr.n4 else values
        window = percentile_window(values, settings.mr.percentiles, source.path, positive=True)
        wanted = settings.mr.planes
    numbers = {name: number for number, name in job.writer.classes.items()}
    labels, resampled, empty = None, 0, False
    if source.masks:
        labels, resampled, short = read_masks(source.masks, volume, numbers)
        if short:
            notes.append("masks do not reach over the whole scan; beyond them no organ counts")
        if empty := not labels.any():
            labels = None
    rows, dropped = [], 0
    for plane in chosen_planes(wanted, volume.spacing, volume.array.shape):
        a, b = (axis for axis in range(3) if axis != PLANES.index(plane))
        if (skew := volume.skew(a, b)) > _SKEW:
            notes.append(f"no {plane} slices: their axes miss a right angle by {skew:.0f} degrees")
            continue
        kept = _content(values, labels, plane, window, settings.foreground)
        dropped += values.shape[PLANES.index(plane)] - len(kept)
        rows += _cut_plane(job, scan, volume, values, labels, plane, window, kept)
    if not rows:
        raise DataError(
            source.path, key="content", expected="slices with something in them", found="none"
        )
    return rows, Account(scan.fingerprint, dropped, resampled, empty, tuple(notes))


def _corrected(values: NDArray[Any], source: VolumeInput, shrink: int) -> NDArray[np.float32]:
    try:
        return n4_corrected(values, shrink)
    except (ValueError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        raise DataError(
            source.path,
            key="mr.n4",
            expected="an image whose bias field can be found",
            found=str(error).strip().splitlines()[-1][:200],
            hint="n4: false leaves the correction out",
        ) from error


def _content(
    values: NDArray[Any],
    labels: NDArray[Any] | None,
    plane: str,
    window: Window,
    foreground: float,
) -> range:
    """From the first to the last slice with an organ, or with enough foreground without masks."""
    others = tuple(axis for axis in range(3) if axis != PLANES.index(plane))
    if labels is not None:
        full = (labels > 0).any(axis=others)
    else:
        bright = values > window.low + _DARK * (window.high - window.low)
        full = bright.mean(axis=others) >= max(foreground, 1e-9)
    places = np.flatnonzero(full)
    return range(int(places[0]), int(places[-1]) + 1) if len(places) else range(0)


def _cut_plane(
    job: Job,
    scan: Scan,
    volume: Volume,
    values: NDArray[Any],
    labels: NDArray[Any] | None,
    plane: str,
    window: Window,
    kept: Sequence[int],
) -> list[Row]:
    grid = raster(volume, plane, job.settings.size, job.settings.fit)
    rows = []
    for number in kept:
        picture = grey_picture(window.scale(displayed(values, plane, number)), grid)
        name, organs = f"{plane}-{number:04d}", None
        if labels is not None:
            marked = label_picture(displayed(labels, plane, number), grid)
            job.writer.picture("labels", scan.name, name, marked)
            organs = [job.writer.classes[int(n)] for n in np.unique(marked) if n]
        image = job.writer.picture("images", scan.name, name, picture)
        rows.append(Row(image, plane, number, organs))
    return rows


def index_table(
    scan: Scan, rows: Sequence[Row], account: Account, columns: Mapping[str, str]
) -> pyarrow.Table:
    """The index of one scan; every scan of a folder has the same columns and types."""
    import pyarrow as pa

    n, texts = len(rows), pa.list_(pa.string())
    data: dict[str, Any] = {
        "image": pa.array([row.image for row in rows], pa.string()),
        "scan": pa.array([scan.name] * n, pa.string()),
        "subject": pa.array([scan.subject] * n, pa.string()),
        "split": pa.array([scan.split] * n, pa.string()),
        "modality": pa.array([scan.modality] * n, pa.string()),
        "orientation": pa.array([row.orientation for row in rows], pa.string()),
        "slice": pa.array([row.number for row in rows], pa.int32()),
        "organs": pa.array([row.organs for row in rows], texts),
        "findings": pa.array([scan.findings and list(scan.findings)] * n, texts)
        if scan.findings is None or scan.findings
        else pa.array([[]] * n, texts),
    }
    for name, kind in columns.items():
        data[name] = pa.array([scan.metadata.get(name)] * n, pa.type_for_alias(kind))
    table = pa.table(data)
    return table.replace_schema_metadata({"account": json.dumps(account._asdict())})
