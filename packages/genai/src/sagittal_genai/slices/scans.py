"""What a source of images says about each of its scans, before any voxel is read."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PLANES = ("sagittal", "coronal", "axial")  # normal to the first, second and third axis in RAS+
SPLITS = ("train", "val", "test")


class Labels(NamedTuple):
    """A mask file with class numbers; those not in ``classes`` are refused."""

    path: Path
    classes: dict[int, str]


class Organ(NamedTuple):
    """A mask file of one class: voxels above ``threshold`` belong to it."""

    path: Path
    name: str
    threshold: float


class VolumeInput(NamedTuple):
    """A volume and its masks; ``masks`` is empty where there are none."""

    path: Path
    masks: tuple[Labels | Organ, ...] = ()
    frame: int | None = None
    series: str | None = None
    fill_nan: float | None = None
    select: dict[str, str | float] | None = None


class RadiographInput(NamedTuple):
    """One radiograph."""

    path: Path


@dataclass(frozen=True)
class Scan:
    """One scan.

    Attributes:
        name: a file name for its pictures; letters, digits, ``-`` and ``_``.
        subject: the independent unit: whoever it shows.
        modality: CT, MR, CR, ...
        input: its files.
        split: train, val or test where the source says so.
        metadata: plain values, one column of the index each.
        findings: of a radiograph with labels.
        fingerprint: of its files; a scan whose files changed is cut again.
    """

    name: str
    subject: str
    modality: str
    input: VolumeInput | RadiographInput
    split: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] | None = None
    fingerprint: str = ""


class Refusal(NamedTuple):
    """A scan that cannot be used, and why; for the local list only."""

    scan: str
    path: str
    reason: str


class Found(NamedTuple):
    """All scans of a source."""

    scans: list[Scan]
    refused: list[Refusal]


class ScanSource(ABC):
    """Where scans come from; a subclass is chosen by ``class_path`` in YAML."""

    @abstractmethod
    def find(self) -> Found:
        """Every scan, in a fixed order, and what cannot be one."""


def safe_name(text: str) -> str:
    """A file name of letters, digits, ``-`` and ``_``; other runs become one ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "scan"
