"""Whether pictures are there and can be read, in several processes; nothing is looked at twice.

A batch of pictures is one file of results, written in one step, so a command that was killed loses
the batches it was at. A result stands as long as its picture has the same size and time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically
from sagittal_core.volumes import read_radiograph
from sagittal_core.volumes.dicom_pixels import read_dataset
from sagittal_core.volumes.radiograph import PICTURES
from sagittal_cxr.building.settings import VERSION
from sagittal_cxr.images import looks_inverted, to_grey

BATCH = {"exists": 4096, "header": 1024, "pixels": 64}
_FRONTAL = ("PA", "AP", "FRONTAL")
INVERTED = "looks inverted"
_CHEST = ("CHEST", "THORA", "LUNG", "TORAX", "RIB")


class Checked(NamedTuple):
    """What was found of one picture.

    Attributes:
        stamp: its size and time (ns); (-1, -1): not there.
        width: in pixels; -1: not looked at.
        height: as ``width``.
        pixels: hash of its grey levels; "": not looked at.
        why: why it cannot be used; "": it can.
        note: what a reader may want to know.
    """

    stamp: tuple[int, int]
    width: int = -1
    height: int = -1
    pixels: str = ""
    why: str = ""
    note: str = ""


@dataclass(frozen=True)
class Batch:
    """Pictures of one data set, checked together."""

    folder: Path
    level: str
    root: Path
    images: tuple[str, ...]
    views: tuple[str | None, ...]

    @property
    def file(self) -> Path:
        """Where the results lie."""
        about = [VERSION, self.level, str(self.root.resolve()), self.images]
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
        return self.folder / f"{self.level}-{digest}.json"


def batches(
    folder: Path, level: str, root: Path, images: Sequence[str], views: Sequence[str | None]
) -> Iterator[Batch]:
    """Cut a data set's pictures into batches, always the same ones."""
    size = BATCH[level]
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield Batch(folder, level, root, tuple(images[part]), tuple(views[part]))


def check_batch(batch: Batch) -> list[Checked]:
    """Check what is not known yet of a batch, and keep it."""
    known: list[Checked] = []
    if batch.file.is_file():
        stored = json.loads(batch.file.read_text(encoding="utf-8"))
        known = [Checked(tuple(row[0]), *row[1:]) for row in stored]
    found = []
    for number, (image, view) in enumerate(zip(batch.images, batch.views, strict=True)):
        file = batch.root / image
        stamp = _stamp(file)
        if known and known[number].stamp == stamp:
            found.append(known[number])
        else:
            found.append(_check(file, stamp, batch.level, view))
    if found != known:
        write_atomically(batch.file, json.dumps(found))
    return found


def _stamp(file: Path) -> tuple[int, int]:
    try:
        about = file.stat()
    except OSError:
        return (-1, -1)
    return (about.st_size, about.st_mtime_ns)


def _check(file: Path, stamp: tuple[int, int], level: str, view: str | None) -> Checked:
    if stamp == (-1, -1):
        return Checked(stamp, why="missing image: no such file")
    try:
        if level == "pixels":
            return _pixels(file, stamp, view)
        if level == "header":
            width, height, note = _header(file)
            return Checked(stamp, width, height, note=note)
    except DataError as error:
        return Checked(
            stamp, why=f"unreadable image: {error.key}: expected {error.expected}, {error.found}"
        )
    return Checked(stamp)


def _pixels(file: Path, stamp: tuple[int, int], view: str | None) -> Checked:
    radiograph = read_radiograph(file, window=True)
    grey = to_grey(radiograph)
    height, width = grey.shape
    if grey.min() == grey.max():
        return Checked(stamp, width, height, why="unreadable image: pixels: all of one level")
    digest = hashlib.sha256(repr(grey.shape).encode() + np.ascontiguousarray(grey).tobytes())
    note = _other_part(radiograph.metadata.get("body_part"))
    if not note and (view or "").split(" ")[0] in _FRONTAL and looks_inverted(grey):
        note = INVERTED
    return Checked(stamp, width, height, digest.hexdigest()[:32], "", note)


def _other_part(part: object) -> str:
    """A note where a DICOM file says that it shows something else than a chest."""
    named = str(part or "").strip().upper()
    return "" if not named or any(word in named for word in _CHEST) else f"body part {named}"


def _header(file: Path) -> tuple[int, int, str]:
    """Width, height and a note, from the header alone."""
    if file.suffix.lower() in PICTURES:
        try:
            with Image.open(file) as image:
                return (*image.size, "")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(
                file, key="header", expected="a picture", found=type(error).__name__
            ) from error
    dataset = read_dataset(file, pixels=False)
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns:
        raise DataError(
            file, key="Rows", expected="an image", found=f"modality {dataset.get('Modality')}"
        )
    return int(columns), int(rows), _other_part(dataset.get("BodyPartExamined"))
