"""Single volumes: NIfTI files or DICOM folders, with or without masks."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sagittal_core import sample_data
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.volumes import list_series
from sagittal_genai.slices.class_table import class_table
from sagittal_genai.slices.scans import (
    Found,
    Labels,
    Organ,
    Refusal,
    Scan,
    ScanSource,
    VolumeInput,
    safe_name,
)


@dataclass
class VolumeEntry:
    """One volume, or all that match a pattern.

    Args:
        image: NIfTI file, folder of DICOM files, glob pattern of either, name of sample data, or
            ``package:path`` of a file that an installed package ships.
        modality: CT or MR; needed for NIfTI.
        name: of the scan, for one file; default: the file's.
        subject: whom the volume shows; default: the scan's name, of DICOM the patient's pseudonym.
        subject_pattern: regular expression whose first group, in the path, is the subject.
        split: train, val or test.
        labels: mask file with class numbers; ``{stem}`` stands for the image's name without suffix.
        classes: names of the numbers, see :func:`class_table`.
        probabilities: organ to the file (or sample) with its map.
        threshold: above which a voxel of a map belongs to its organ, in the file's units.
        frame: of a NIfTI file with several volumes.
        series: SeriesInstanceUID, of a folder with several.
        select: DICOM keywords and values, of a series with several volumes (EchoNumbers: 1).
        fill_nan: value in place of NaN; without it they are refused.
        metadata: further columns of the index (study_type, sex, age, ...).
    """

    image: str
    modality: str | None = None
    name: str | None = None
    subject: str | None = None
    subject_pattern: str | None = None
    split: str | None = None
    labels: str | None = None
    classes: str | dict[int, str] | None = None
    probabilities: dict[str, str] = field(default_factory=dict)
    threshold: float = 0.5
    frame: int | None = None
    series: str | None = None
    select: dict[str, str | float] | None = None
    fill_nan: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class VolumeFiles(ScanSource):
    """A list of volumes, each with what is known of it.

    Args:
        volumes: see :class:`VolumeEntry`.
    """

    def __init__(self, volumes: list[VolumeEntry]) -> None:
        self.volumes = volumes

    def find(self) -> Found:
        """The volumes in their order; a pattern's matches in that of their paths.

        Raises:
            ConfigError: for an entry that does not fit together.
            DataError: for a path where there is nothing.
        """
        found = Found([], [])
        for entry in self.volumes:
            _check(entry)
            paths = _matches(entry.image)
            if len(paths) > 1 and (entry.name or (entry.labels and "{stem}" not in entry.labels)):
                raise ConfigError(
                    f"slice: {entry.image} matches {len(paths)} volumes: leave out name, and give"
                    " labels with {stem}"
                )
            for path in paths:
                _add(found, entry, path)
        return found


def resolve(text: str) -> Path:
    """The file of a path, of a name of sample data, or of ``package:path``.

    Raises:
        DataError: if the package is not installed.
    """
    if text in sample_data.names():
        return sample_data.path(text)
    package, colon, inside = text.partition(":")
    if colon and package.isidentifier() and len(package) > 1:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise DataError(text, key="image", expected="an installed package", found="none")
        return Path(spec.origin).parent / inside
    return Path(text).expanduser()


def _matches(text: str) -> list[Path]:
    path = resolve(text)
    if path.exists():
        return [path]
    fixed = next(p for p in path.parents if not set("*?[") & set(str(p)))
    matches = sorted(fixed.glob(str(path.relative_to(fixed))))
    if not matches:
        raise DataError(text, key="image", expected="a volume or a pattern", found="nothing there")
    return matches


def _check(entry: VolumeEntry) -> None:
    if (entry.labels is None) != (entry.classes is None):
        raise ConfigError(f"slice: {entry.image}: labels and classes go together")
    if entry.labels and entry.probabilities:
        raise ConfigError(f"slice: {entry.image}: give labels or probabilities, not both")


def _masks(entry: VolumeEntry, path: Path) -> tuple[Labels | Organ, ...]:
    if entry.labels is not None and entry.classes is not None:
        file = resolve(entry.labels.replace("{stem}", _stem(path)))
        return (Labels(file, class_table(entry.classes)),)
    maps = entry.probabilities.items()
    return tuple(Organ(resolve(file), organ, entry.threshold) for organ, file in maps)


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _add(found: Found, entry: VolumeEntry, path: Path) -> None:
    name, subject, modality, series = entry.name, entry.subject, entry.modality, entry.series
    metadata = dict(entry.metadata)
    if path.is_dir():
        listed = list_series(path).series
        chosen = [one for one in listed if series in (None, one.uid)]
        if len(chosen) != 1:
            kinds = "; ".join(f"{s.uid} ({s.modality}, {len(s.files)} images)" for s in listed)
            wanted = "one series; set series to one of them" if series is None else series
            reason = f"expected {wanted}; found {kinds or 'no DICOM image'}"
            found.refused.append(Refusal(safe_name(name or path.name), str(path), reason))
            return
        header = dict(chosen[0].metadata)
        series, modality = chosen[0].uid, modality or header.pop("modality", None)
        # A folder's name may be the patient's: the scan is called by pseudonym and series.
        patient = header.pop("subject", None)
        name = name or f"{patient or 'dicom'}-{series.rpartition('.')[2][-8:]}"
        subject = subject or patient
        header.pop("modality", None)
        metadata = header | metadata
    name = safe_name(name or _stem(path))
    if entry.subject_pattern:
        match = re.search(entry.subject_pattern, str(path))
        if match is None or not match.groups() or match.group(1) is None:
            reason = f"subject_pattern {entry.subject_pattern} finds no group in the path"
            found.refused.append(Refusal(name, str(path), reason))
            return
        subject = match.group(1)
    if modality is None:
        raise ConfigError(f"slice: {entry.image}: give its modality (CT or MR)")
    found.scans.append(
        Scan(
            name=name,
            subject=subject or name,
            modality=modality,
            input=VolumeInput(
                path, _masks(entry, path), entry.frame, series, entry.fill_nan, entry.select
            ),
            split=entry.split,
            metadata=metadata,
        )
    )
