"""BRAX (Reis et al., 2022): 40,967 Brazilian pictures with labels by CheXpert's rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    label_columns,
    need_table,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Record
from sagittal_cxr.reports.observations import CHEXPERT

_OPTIONAL = ["PatientSex", "PatientAge", "AccessionNumber"]


class BRAX:
    """Pictures where the column PngPath or DicomPath of ``master_spreadsheet_update.csv`` says.

    Args:
        pictures: "png" or "dicom".
    """

    has_reports = False

    def __init__(self, pictures: Literal["png", "dicom"] = "png") -> None:
        self.column = "PngPath" if pictures == "png" else "DicomPath"

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the table's order.

        Raises:
            DataError: if the table is missing or damaged.
        """
        file = need_table(root, "master_spreadsheet_update.csv", "master_spreadsheet.csv")
        columns = [self.column, "PatientID", "ViewPosition"]
        table = read_table(file, [*columns, *CHEXPERT], optional=_OPTIONAL)
        labels = label_columns(table, CHEXPERT, file)
        cells = (table[c] for c in (*columns, *_OPTIONAL))
        for number, (image, patient, view, sex, age, study, row) in enumerate(
            zip(*cells, labels, strict=True)
        ):
            if not image or not patient:
                yield Refused(image or f"row {number}", f"no name: {self.column} or PatientID")
                continue
            yield Record(
                image=image,
                patient=patient,
                study=study or image.rpartition("/")[0],
                view=view_name(view),
                labels=row,
                sex=sex_name(sex),
                age=age_number(age.partition(" ")[0]),  # "85 or more"
            )
