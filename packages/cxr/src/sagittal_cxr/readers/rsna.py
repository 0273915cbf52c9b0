"""RSNA Pneumonia Detection Challenge 2018 (Shih et al., 2019): DICOM, boxes of lung opacity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    find_table,
    need_table,
    note_file,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Box, Record

_COLUMNS = ["patientId", "x", "y", "width", "height", "Target"]
_HEADERS = ["PatientID", "PatientSex", "PatientAge", "ViewPosition"]
_FINDING = "Lung Opacity"  # what stage_2_detailed_class_info calls Target 1


class RSNA:
    """Pictures in ``stage_2_train_images/<patientId>.dcm``; one row a box.

    Its ``patientId`` names a picture. The patients are those of ChestX-ray14, some with several
    pictures here: RSNA's own mapping file says which. Without it every picture counts as a patient,
    and splits by patient are not what they seem.

    Args:
        mapping: RSNA's ``pneumonia-challenge-dataset-mappings_2018.json``, relative to the root.
        folder: of the pictures.
        suffix: of the pictures.
    """

    has_reports = False

    def __init__(
        self,
        mapping: str | None = None,
        folder: str = "stage_2_train_images",
        suffix: str = ".dcm",
    ) -> None:
        self.mapping, self.folder, self.suffix = mapping, folder, suffix

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order in which the table first names it.

        Raises:
            DataError: if a table is missing or damaged, or contradicts itself.
        """
        file = need_table(root, "*stage_2_train_labels.csv")
        table = read_table(file, _COLUMNS)
        boxes: dict[str, list[Box]] = {}
        for name, *numbers, target in zip(*(table[c] for c in _COLUMNS), strict=True):
            found = boxes.setdefault(name, [])
            if target not in ("0", "1") or (target == "1") != all(numbers):
                raise DataError(
                    file,
                    key="Target",
                    expected="1 with a box, or 0 without",
                    found=f"{target!r} with {sum(map(bool, numbers))} of 4 numbers",
                )
            if target == "1":
                x, y, width, height = (float(number) for number in numbers)
                found.append(Box(_FINDING, x, y, width, height))
        normal, patients, headers = _normal(root), self._patients(root), _headers(root)
        for name, drawn in boxes.items():
            sex, age, view = headers.get(name, ("", "", ""))
            labels = {_FINDING: int(bool(drawn))}
            if normal is not None:
                labels["No Finding"] = int(name in normal)
            yield Record(
                image=f"{self.folder}/{name}{self.suffix}",
                patient=patients.get(name, name),
                study=name,
                view=view_name(view),
                labels=labels,
                boxes=tuple(drawn),
                sex=sex_name(sex),
                age=age_number(age),
            )

    def _patients(self, root: Path) -> dict[str, str]:
        if self.mapping is None:
            return {}
        file = root / self.mapping
        note_file(file)
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            return {row["subset_img_id"]: str(int(row["img_id"].split("_")[0])) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                file,
                key="mapping",
                expected="RSNA's list of subset_img_id and img_id",
                found=repr(error)[:200],
            ) from error


def _normal(root: Path) -> set[str] | None:
    """Pictures of class Normal; the others without a box have some other finding."""
    file = find_table(root, "*stage_2_detailed_class_info.csv", needed=False)
    if file is None:
        return None
    table = read_table(file, ["patientId", "class"])
    known = {"Normal", "Lung Opacity", "No Lung Opacity / Not Normal"}
    if unknown := set(table["class"]) - known:
        raise DataError(file, key="class", expected=", ".join(sorted(known)), found=str(unknown))
    return set(table["patientId"][table["class"] == "Normal"])


def _headers(root: Path) -> dict[str, tuple[str, str, str]]:
    """What torchxrayvision copied from the DICOM headers, where that table is there."""
    file = find_table(root, "*stage_2_train_images_dicom_headers.csv", needed=False)
    if file is None:
        return {}
    table = read_table(file, _HEADERS)
    names, *others = (table[c] for c in _HEADERS)
    return dict(zip(names, zip(*others, strict=True), strict=True))
