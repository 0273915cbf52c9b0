"""Before any voxel is read: all scans, their columns, classes and splits, or a clear error."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_genai.slices.scans import Labels, Refusal, Scan, ScanSource, VolumeInput
from sagittal_genai.slices.settings import Settings
from sagittal_genai.slices.split import Split

_END = 4096  # bytes
# Columns of the index that metadata may not hide.
RESERVED = (
    "image",
    "scan",
    "subject",
    "split",
    "modality",
    "orientation",
    "slice",
    "organs",
    "findings",
)


class Plan(NamedTuple):
    """What will be cut."""

    scans: list[Scan]
    refused: list[Refusal]
    columns: dict[str, str]  # metadata column to its type
    classes: dict[int, str]
    identity: dict[str, Any]


def make_plan(sources: Sequence[ScanSource], settings: Settings, split: Split) -> Plan:
    """Ask all sources, check what they say against each other, and divide the subjects.

    Raises:
        ConfigError: if there is no scan, two have one name, metadata hides a column of the
            index, or settings or splits do not fit.
        DataError: as the sources.
    """
    scans: list[Scan] = []
    refused: list[Refusal] = []
    for source in sources:
        found = source.find()
        scans += found.scans
        refused += found.refused
    if not scans:
        why = f", the first: {refused[0].path}: {refused[0].reason}" if refused else ""
        raise ConfigError(f"slice: no scan in the sources, {len(refused)} refused{why}")
    twice = [name for name, count in Counter(s.name for s in scans).items() if count > 1]
    if twice:
        raise ConfigError(
            f"slice: {len(twice)} names stand for more than one scan: {', '.join(twice[:5])}; give"
            " name"
        )
    scans, columns = typed_metadata(scans)
    settings.check(scans)
    scans = split.assign(scans)
    names = sorted({name for scan in scans for name in _organs(scan)})
    classes = {number + 1: name for number, name in enumerate(names)}
    listed = [[s.name, s.subject, s.modality, s.split, s.findings, s.metadata] for s in scans]
    identity = {**asdict(settings), "columns": columns, "list of scans": _digest(listed)}
    scans = [replace(scan, fingerprint=_fingerprint(scan)) for scan in scans]
    return Plan(scans, refused, columns, classes, identity)


def typed_metadata(scans: Sequence[Scan]) -> tuple[list[Scan], dict[str, str]]:
    """Every scan with every column, each of one type: bool, int64, double, or else string.

    Raises:
        ConfigError: if a column has the name of one of the index's own.
    """
    names = list(dict.fromkeys(name for scan in scans for name in scan.metadata))
    if hidden := sorted(set(names) & set(RESERVED)):
        raise ConfigError(f"slice: metadata may not be called {', '.join(hidden)}")
    columns = {}
    for name in names:
        values = [v for s in scans if (v := _plain(s.metadata.get(name))) is not None]
        columns[name] = _kind(values)
    cast = {"bool": bool, "int64": int, "double": float, "string": str}
    out = []
    for scan in scans:
        row = {name: _plain(scan.metadata.get(name)) for name in names}
        filled = {n: None if v is None else cast[columns[n]](v) for n, v in row.items()}
        out.append(replace(scan, metadata=filled))
    return out, columns


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _kind(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values}
    if kinds <= {bool} and kinds:
        return "bool"
    if kinds <= {int} and kinds:
        return "int64"
    return "double" if kinds and kinds <= {int, float} else "string"


def _organs(scan: Scan) -> list[str]:
    if not isinstance(scan.input, VolumeInput):
        return []
    names: list[str] = []
    for mask in scan.input.masks:
        names += mask.classes.values() if isinstance(mask, Labels) else [mask.name]
    return names


def _fingerprint(scan: Scan) -> str:
    """Of what decides a scan's pictures, without where its files lie or when they were copied."""
    about: list[Any] = [_print(scan.input.path)]
    if isinstance(scan.input, VolumeInput):
        about += [scan.input.frame, scan.input.series, scan.input.fill_nan]
        about += [scan.input.select] if scan.input.select else []
        for mask in scan.input.masks:
            kind = sorted(mask.classes.items()) if isinstance(mask, Labels) else mask[1:]
            about += [_print(mask.path), kind]
    return _digest(about)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _print(file: Path) -> Any:
    """Size and checksum of a file, or of each file of a folder.

    An uncompressed NIfTI file, in which a mask may be edited in place, counts as a whole; of others
    the ends do, where gzip and PNG keep checksums of their own.
    """
    if file.is_dir():
        return [_print(p) for p in sorted(file.rglob("*")) if p.is_file()]
    if not file.is_file():
        return -1
    size = file.stat().st_size
    with file.open("rb") as opened:
        if file.suffix.lower() == ".nii":
            crc = 0
            while block := opened.read(1 << 20):
                crc = zlib.crc32(block, crc)
            return [size, crc]
        crc = zlib.crc32(opened.read(_END))
        opened.seek(max(0, size - _END))
        return [size, zlib.crc32(opened.read(_END), crc)]
