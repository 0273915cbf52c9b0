"""A folder of DICOM files into one volume; whatever does not add up is an error that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes.dicom_pixels import grey_values, read_dataset
from sagittal_core.volumes.dicom_tags import safe_metadata
from sagittal_core.volumes.geometry import LPS_TO_RAS, stack_affine
from sagittal_core.volumes.record import Volume, compact, need

_SAME = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "PatientID", "Modality")
# What usually tells the volumes of one series apart.
_CHOOSERS = (
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "TriggerTime",
    "ImageType",
)


@dataclass(frozen=True)
class Series:
    """The image files of one SeriesInstanceUID, sorted by name; ``metadata`` names no one."""

    uid: str
    modality: str
    files: tuple[Path, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


class Listing(NamedTuple):
    """Series of a folder, and the files in it that hold no DICOM image."""

    series: list[Series]
    skipped: list[Path]


class _Slice(NamedTuple):
    file: Path
    header: Any
    position: NDArray[np.float64]  # (3,) LPS mm of the first pixel's centre


def list_series(folder: str | Path, *, salt: str | None = None) -> Listing:
    """Find the series of a folder and of the folders in it; no pixel is read.

    Args:
        folder: where to look.
        salt: of subjects' pseudonyms, see :func:`sagittal_core.privacy.pseudonym`.

    Raises:
        DataError: if it is no folder.
    """
    if not Path(folder).is_dir():
        raise DataError(folder, key="path", expected="a folder", found="none there")
    found: dict[str, list[Path]] = {}
    first: dict[str, Any] = {}
    skipped = []
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        try:
            header = read_dataset(file, pixels=False)
        except DataError:
            skipped.append(file)
            continue
        uid = str(header.get("SeriesInstanceUID", ""))
        if not uid or "Rows" not in header:
            skipped.append(file)
            continue
        found.setdefault(uid, []).append(file)
        first.setdefault(uid, header)
    series = [
        Series(
            uid,
            str(first[uid].get("Modality", "")),
            tuple(found[uid]),
            safe_metadata(first[uid], salt),
        )
        for uid in sorted(found)
    ]
    return Listing(series, skipped)


def read_dicom_series(
    folder: str | Path,
    *,
    series: str | None = None,
    select: Mapping[str, str | float] | None = None,
    salt: str | None = None,
) -> Volume:
    """Read one series: slices sorted along their normal, rescaled to the modality's units.

    Args:
        folder: searched with what is in it.
        series: SeriesInstanceUID; needed if there are several.
        select: DICOM keywords and values that slices must have, for a series that holds several
            volumes (echoes, phases, b values).
        salt: of the subject's pseudonym.

    Returns:
        Axes (column, row, slice) of the images, no window applied; ``notes`` counts the files that
        hold no image.

    Raises:
        DataError: if there is no or more than one series, images differ in size, spacing or
            direction, positions are missing, double or unequally spaced, or pixels cannot be read.
    """
    need("pydicom", folder)
    listing = list_series(folder, salt=salt)
    chosen = _choose(Path(folder), listing, series)
    slices = [_slice(file) for file in chosen.files]
    if select:
        slices = _selected(Path(folder), slices, select)
    _expect_alike(Path(folder), slices)
    ordered, affine, tilt = _stacked(Path(folder), slices)
    stored = [grey_values(read_dataset(one.file), one.file) for one in ordered]
    array = np.stack([compact(values).T for values in stored], axis=2)
    metadata = {k: v for k, v in chosen.metadata.items() if k != "modality"}
    notes = [f"{len(listing.skipped)} files hold no DICOM image"] if listing.skipped else []
    if tilt > 0.5:
        notes.append(f"slices are sheared by {tilt:.1f} degrees (gantry tilt)")
    rescaled = ("RescaleIntercept", "ModalityLUTSequence")
    if chosen.modality == "CT" and not all(any(k in s.header for k in rescaled) for s in slices):
        notes.append("CT without a rescale: stored values taken as Hounsfield units")
    return Volume(compact(array), affine, chosen.modality or None, metadata, tuple(notes))


def _choose(folder: Path, listing: Listing, uid: str | None) -> Series:
    known = {one.uid: one for one in listing.series}
    if uid is not None and uid in known:
        return known[uid]
    if uid is None and len(known) == 1:
        return listing.series[0]
    kinds = "; ".join(f"{s.uid} ({s.modality}, {len(s.files)} images)" for s in listing.series)
    raise DataError(
        folder,
        key="SeriesInstanceUID",
        expected="one series" if uid is None else uid,
        found=kinds or f"no DICOM image in {len(listing.skipped)} files",
        hint="set series to one of these" if known else "",
    )


def _slice(file: Path) -> _Slice:
    header = read_dataset(file, pixels=False)
    for key, count in (
        ("ImagePositionPatient", 3),
        ("ImageOrientationPatient", 6),
        ("PixelSpacing", 2),
    ):
        numbers = _numbers(header.get(key))
        if len(numbers) != count or not np.isfinite(numbers).all():
            expected = f"{count} numbers"
        elif key == "PixelSpacing" and numbers.min() <= 0:
            expected = "2 numbers above 0"
        else:
            continue
        hint = "enhanced (multi-frame) objects keep it elsewhere: convert them first"
        raise DataError(
            file,
            key=key,
            expected=expected,
            found=str(header.get(key) or "none"),
            hint=hint if str(header.get("NumberOfFrames") or 1) != "1" else "",
        )
    return _Slice(file, header, _numbers(header.ImagePositionPatient))


def _numbers(value: Any) -> NDArray[np.float64]:
    """The numbers of a DICOM value; none where it is absent or is no list of numbers."""
    try:
        return np.atleast_1d(np.asarray([] if value is None else value, np.float64))
    except (TypeError, ValueError):
        return np.empty(0)


def _selected(
    folder: Path, slices: Sequence[_Slice], select: Mapping[str, str | float]
) -> list[_Slice]:
    kept = [s for s in slices if all(_text(s, key) == str(v) for key, v in select.items())]
    if not kept:
        held = {key: sorted({_text(s, key) for s in slices})[:8] for key in select}
        raise DataError(folder, key="select", expected=str(dict(select)), found=str(held))
    return kept


def _text(one: _Slice, key: str) -> str:
    return str(one.header.get(key, ""))


def _expect_alike(folder: Path, slices: Sequence[_Slice]) -> None:
    for key in _SAME:
        values = [one.header.get(key) for one in slices]
        if key in ("PixelSpacing", "ImageOrientationPatient"):
            numbers = np.asarray(values, np.float64)
            alike = np.allclose(numbers, numbers[0], atol=1e-4)
        else:
            alike = len({str(value) for value in values}) == 1
        if alike:
            continue
        groups = Counter(str(value) for value in values)
        # A patient's identifier never enters a message.
        shown = [f"{n} x {k}" for k, n in groups.most_common(4)] if key != "PatientID" else []
        raise DataError(
            folder,
            key=key,
            expected=f"one value in all {len(slices)} slices of the series",
            found=", ".join(shown) or f"{len(groups)} different ones",
            hint="a localizer or a second volume in the series? select={...} chooses",
        )


def _stacked(
    folder: Path, slices: Sequence[_Slice]
) -> tuple[list[_Slice], NDArray[np.float64], float]:
    """Slices in order along their normal, the affine to RAS mm, and the tilt in degrees."""
    head = slices[0].header
    # The first three numbers run along a row, so they belong to the column index.
    axes = np.asarray(head.ImageOrientationPatient, np.float64).reshape(2, 3).T
    normal = np.cross(axes[:, 0], axes[:, 1])
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    places = np.array([one.position @ normal for one in ordered])
    _expect_even(folder, ordered, places)
    positions = np.array([one.position for one in ordered])
    row_distance, column_distance = (float(v) for v in head.PixelSpacing)
    try:
        thickness = float(head.get("SliceThickness", 0) or 0) or 1.0
        axes = np.column_stack([axes, normal])
        stack = stack_affine(axes, (column_distance, row_distance, thickness), positions)
    except ValueError as error:
        raise DataError(
            folder,
            key="ImagePositionPatient, ImageOrientationPatient",
            expected="orthonormal directions, positions on a line",
            found=str(error),
        ) from error
    step = stack.affine[:3, 2] / stack.distance
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal, -1.0, 1.0))))
    return ordered, LPS_TO_RAS @ stack.affine, tilt


def _expect_even(folder: Path, ordered: Sequence[_Slice], places: NDArray[np.float64]) -> None:
    gaps = np.diff(places)
    if not len(gaps):
        return
    typical = float(np.median(gaps))
    tolerance = max(0.02 * typical, 0.01)
    found, hint = "", ""
    if (double := int((gaps < 1e-3).sum())) or typical <= 0:
        found = f"{len(places)} slices at {len(places) - double} positions"
        differ = [k for k in _CHOOSERS if len({_text(one, k) for one in ordered}) > 1]
        hint = "slices differ in " + ", ".join(differ) + ": select={...} chooses" if differ else ""
    elif (wide := np.flatnonzero(gaps > typical + tolerance)).size:
        ratio = gaps[wide] / typical
        lost = int(np.rint(ratio).sum() - len(ratio))
        whole = np.abs(ratio - np.rint(ratio)).max() < 0.05 and gaps.min() > typical - tolerance
        if whole and lost < len(places):
            after = ", ".join(str(int(i) + 1) for i in wide[:5])
            found = f"{lost} missing: gaps after slice {after} of {len(places)}"
    if not found and gaps.max() - gaps.min() > 2 * tolerance:
        found = f"distances from {gaps.min():.3f} to {gaps.max():.3f} mm"
    if found:
        raise DataError(
            folder,
            key="ImagePositionPatient",
            expected="equally spaced slices, one at each position",
            found=found,
            hint=hint,
        )
