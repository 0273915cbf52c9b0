"""NIH ChestX-ray14 (Wang et al., 2017): 112,120 frontal pictures, labels mined from reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    ImageFinder,
    age_number,
    find_table,
    need_table,
    note_file,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Box, Record

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural Thickening",
    "Hernia",
)
_SPELLED = {"Pleural_Thickening": "Pleural Thickening", "Infiltrate": "Infiltration"}
_BOXED_AT = 1024  # boxes are in pixels of the published pictures, which are 1024 x 1024
# "Bbox [x,y,w,h],,," heads four columns with one name: they go by their place.
_BOX_COLUMNS = {0: "image", 1: "finding", 2: "x", 3: "y", 4: "width", 5: "height"}


class NIH:
    """Pictures in ``images_001/images`` ... ``images_012/images``, or all in ``images``.

    A finding that a picture's labels do not name counts as absent, as in every work on this set.

    Args:
        size: side of the pictures in pixels, where they were resized; boxes are scaled with it.
    """

    has_reports = False

    def __init__(self, size: int = _BOXED_AT) -> None:
        self.size = size

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order of Data_Entry; the lists of the official split are optional.

        Raises:
            DataError: if a table is missing or damaged, or names a finding that is none of the 14.
        """
        # The header's last names have commas in brackets, OriginalImage[Width,Height]: names and
        # columns part there. What is read lies before it.
        file = need_table(root, "Data_Entry_2017*.csv")
        columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Age"]
        columns += ["Patient Gender", "View Position"]
        table = read_table(file, columns)
        splits = _splits(root)
        boxes = self._boxes(root)
        found = ImageFinder(root, ("images", "images_*/images", "images_*"))
        for name, cell, patient, age, sex, view in zip(*(table[c] for c in columns), strict=True):
            yield Record(
                image=found(name),
                patient=patient,
                study=name.rpartition(".")[0],
                view=view_name(view),
                labels=_labels(cell, file),
                boxes=tuple(boxes.pop(name, ())),
                split=None if splits is None else splits.get(name),
                sex=sex_name(sex),
                age=age_number(age),
            )
        for name in boxes:
            yield Refused(name, "box without a picture: Data_Entry does not list it")

    def _boxes(self, root: Path) -> dict[str, list[Box]]:
        file = find_table(root, "BBox_List_2017*.csv", needed=False)
        boxes: dict[str, list[Box]] = {}
        if file is None:
            return boxes
        names = [*_BOX_COLUMNS.values()]
        table = read_table(file, names, positions=_BOX_COLUMNS)
        scale = self.size / _BOXED_AT
        for name, finding, *numbers in zip(*(table[n] for n in names), strict=True):
            try:
                x, y, width, height = (float(number) * scale for number in numbers)
            except ValueError:
                raise DataError(
                    file, key="Bbox [x,y,w,h]", expected="four numbers", found=repr(numbers)
                ) from None
            box = Box(_finding(finding, file), x, y, width, height)
            boxes.setdefault(name, []).append(box)
        return boxes


def _labels(cell: str, file: Path) -> dict[str, int]:
    names = [part.strip() for part in cell.split("|") if part.strip()]
    if not names:
        return {}
    present = {_finding(name, file) for name in names if name != "No Finding"}
    if present and "No Finding" in names:
        raise DataError(file, key="Finding Labels", expected="No Finding alone", found=repr(cell))
    labels = {name: int(name in present) for name in FINDINGS}
    return {"No Finding": int(not present), **labels}


def _finding(name: str, file: Path) -> str:
    spelled = _SPELLED.get(name, name)
    if spelled not in FINDINGS:
        raise DataError(file, key="finding", expected=", ".join(FINDINGS), found=repr(name))
    return spelled


def _splits(root: Path) -> dict[str, str] | None:
    splits: dict[str, str] = {}
    for name, split in (("train_val_list*.txt", "train"), ("test_list*.txt", "test")):
        file = find_table(root, name, needed=False)
        if file is not None:
            note_file(file)
            lines = file.read_text(encoding="utf-8").split()
            splits.update(dict.fromkeys(lines, split))
    return splits or None
