"""PadChest (Bustos et al., 2020): 160,861 pictures with Spanish reports and 174 findings."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    clean_text,
    need_table,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Record

_COLUMNS = ["ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels"]
_OPTIONAL = ["Report", "PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM"]


class PadChest:
    """Pictures (16-bit PNG) in ``<ImageDir>/<ImageID>``.

    Args:
        folders: whether pictures lie in folders named by ImageDir, as published; otherwise all in
            the root.
        reports: take the report as findings. As published it is Spanish, its words cut to stems;
            without it, pseudo-reports are made from labels.
        absent: findings that count as absent in a picture whose labels do not name them. PadChest
            names what is there only.
        excluded: labels whose pictures are refused.
    """

    def __init__(
        self,
        folders: bool = True,
        reports: bool = False,
        absent: Sequence[str] = (),
        excluded: Sequence[str] = ("exclude",),
    ) -> None:
        self.folders, self.has_reports = folders, reports
        self.absent, self.excluded = tuple(absent), set(excluded)

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the table's order.

        Raises:
            DataError: if the table is missing or damaged, or labels are no list.
        """
        file = need_table(root, "PADCHEST_chest_x_ray_images_labels_160K*.csv")
        table = read_table(file, _COLUMNS, optional=_OPTIONAL)
        rows = zip(*(table[c] for c in (*_COLUMNS, *_OPTIONAL)), strict=True)
        for number, row in enumerate(rows):
            name, folder, study, patient, view, cell, report, sex, birth, date = row
            if not name or not patient:
                yield Refused(name or f"row {number}", "no name: ImageID or PatientID is empty")
                continue
            labels = _labels(cell, file)
            if cut := self.excluded & set(labels or ()):
                yield Refused(name, f"excluded: labelled {', '.join(sorted(cut))}")
                continue
            yield Record(
                image=f"{folder}/{name}" if self.folders and folder else name,
                patient=patient,
                study=study,
                view=view_name(view),
                findings=clean_text(report) if self.has_reports else None,
                labels=self._judged(labels),
                sex=sex_name(sex),
                age=_age(birth, date),
            )

    def _judged(self, present: list[str] | None) -> dict[str, int]:
        if present is None:  # a picture without labels was not judged
            return {}
        return {**dict.fromkeys(self.absent, 0), **dict.fromkeys(present, 1)}


def _labels(cell: str, file: Path) -> list[str] | None:
    """Names in a cell such as ``['normal', ' kyphosis', '']``; None if there are none."""
    if cell.strip() in ("", "nan"):
        return None
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise DataError(
            file, key="Labels", expected="a list such as ['normal']", found=repr(cell)[:80]
        )
    names = [" ".join(name.split()) for name in listed]
    return list(dict.fromkeys(name for name in names if name)) or None


def _age(birth: str, date: str) -> float | None:
    """The difference of years: PadChest gives no more."""
    try:
        return age_number(str(int(date[:4]) - int(float(birth))))
    except ValueError:
        return None
