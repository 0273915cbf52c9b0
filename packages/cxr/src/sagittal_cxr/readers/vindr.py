"""VinDr-CXR (Nguyen et al., 2022): DICOM, three readers a training picture, boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sagittal_core.errors import DataError
from sagittal_cxr.readers.boxes import merge_boxes
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import find_table, need_table, read_table
from sagittal_cxr.records import Box, Record

_BOX_COLUMNS = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
_NAMES = {"No finding": "No Finding", "Other disease": "Other diseases"}  # two tables, two names


class VinDr:
    """Pictures in ``train/<image_id>.dicom`` and ``test/<image_id>.dicom``.

    The tables are those of PhysioNet (``annotations/image_labels_train.csv``, ...) or, where those
    are not there, Kaggle's ``train.csv``, whose classes are the 14 with boxes. VinDr names no
    patients: every picture counts as one.

    Args:
        agreement: a finding is present if at least so many of a training picture's readers saw it,
            and uncertain if fewer did. Test pictures have one consensus.
        boxes: "readers" keeps every reader's, "merged" fuses those that overlap.
        suffix: of the pictures.
    """

    has_reports = False

    def __init__(
        self,
        agreement: int = 2,
        boxes: Literal["readers", "merged"] = "readers",
        suffix: str = ".dicom",
    ) -> None:
        self.agreement, self.boxes, self.suffix = agreement, boxes, suffix

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order in which the tables first name it.

        Raises:
            DataError: if a table is missing or damaged.
        """
        places = ("annotations/", "")
        train = [f"{p}image_labels_train.csv" for p in places]
        if find_table(root, *train, needed=False) is None:
            kaggle = need_table(root, *train, "*train.csv")
            votes, names = _votes_of_boxes(kaggle)
            yield from self._records("train", kaggle, votes, names, _boxes(kaggle))
            return
        for split in ("train", "test"):
            labels = [f"{p}image_labels_{split}.csv" for p in places]
            file = find_table(root, *labels, needed=split == "train")
            if file is None:
                continue
            votes, names = _votes_of_labels(file)
            boxed = need_table(root, *(f"{p}annotations_{split}.csv" for p in places))
            yield from self._records(split, file, votes, names, _boxes(boxed))

    def _records(
        self,
        split: str,
        file: Path,
        votes: dict[str, dict[str, Counter[str]]],
        names: list[str],
        boxes: dict[str, list[Box]],
    ) -> Iterator[Record | Refused]:
        for image, readers in votes.items():
            seen = sum(readers.values(), Counter[str]())
            need = min(self.agreement, len(readers))
            drawn = tuple(boxes.pop(image, ()))
            yield Record(
                image=f"{split}/{image}{self.suffix}",
                patient=image,
                study=image,
                labels={n: 1 if seen[n] >= need else -1 if seen[n] else 0 for n in names},
                boxes=merge_boxes(drawn) if self.boxes == "merged" else drawn,
                split=split,
            )
        for image in boxes:
            yield Refused(f"{split}/{image}", f"box without a picture: not in {file.name}")


def _votes_of_labels(file: Path) -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    """Picture to reader to what he saw, and all names, from one column a finding."""
    import pandas

    header = list(pandas.read_csv(file, nrows=0).columns)
    findings = [name for name in header if name not in ("image_id", "rad_id", "rad_ID")]
    table = read_table(file, ["image_id", *findings], optional=["rad_id"])
    votes: dict[str, dict[str, Counter[str]]] = {}
    for image, reader, *cells in zip(
        table["image_id"], table["rad_id"], *(table[name] for name in findings), strict=True
    ):
        seen = votes.setdefault(image, {}).setdefault(reader, Counter())
        for name, cell in zip(findings, cells, strict=True):
            if cell not in ("0", "1", "0.0", "1.0", ""):
                raise DataError(file, key=name, expected="0, 1 or nothing", found=repr(cell))
            if cell in ("1", "1.0"):
                seen[_NAMES.get(name, name)] = 1
    return votes, [_NAMES.get(name, name) for name in findings]


def _votes_of_boxes(file: Path) -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    """The same from Kaggle's table of boxes, where a reader without a box says No finding."""
    table = read_table(file, ["image_id", "class_name", "rad_id"])
    votes: dict[str, dict[str, Counter[str]]] = {}
    for image, name, reader in zip(*(table[c] for c in table.columns), strict=True):
        seen = votes.setdefault(image, {}).setdefault(reader, Counter())
        seen[_NAMES.get(name, name)] = 1
    names = sorted({_NAMES.get(name, name) for name in table["class_name"].unique()})
    return votes, names


def _boxes(file: Path) -> dict[str, list[Box]]:
    table = read_table(file, _BOX_COLUMNS, optional=["rad_id"])
    boxes: dict[str, list[Box]] = {}
    rows = zip(*(table[c] for c in (*_BOX_COLUMNS, "rad_id")), strict=True)
    for image, name, *edges, reader in rows:
        if not any(edges):  # "No finding" has no box
            continue
        try:
            left, top, right, bottom = (float(edge) for edge in edges)
        except ValueError:
            raise DataError(
                file, key="x_min", expected="four numbers, or none", found=repr(edges)
            ) from None
        if right <= left or bottom <= top:
            raise DataError(
                file, key="x_max", expected="more than x_min and y_min", found=repr(edges)
            )
        box = Box(_NAMES.get(name, name), left, top, right - left, bottom - top, reader or None)
        boxes.setdefault(image, []).append(box)
    return boxes
