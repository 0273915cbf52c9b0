"""CheXpert (Irvin et al., 2019) and CheXpert Plus, its reports (Chambon et al., 2024)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    clean_text,
    find_table,
    label_columns,
    need_table,
    note_file,
    official_split,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Record
from sagittal_cxr.reports.observations import CHEXPERT

_TABLES = {"train": "train.csv", "val": "valid.csv", "test": "test*.csv"}
# The tables write paths from the folder that the archive unpacks into: CheXpert-v1.0-small/...
_PATH = re.compile(r"(?:.*/)?((?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+)")
_OPTIONAL = ("Sex", "Age", "Frontal/Lateral", "AP/PA")


class CheXpert:
    """Pictures in ``train/patient00001/study1/view1_frontal.jpg``, tables beside ``train``.

    Args:
        tables: split (train, val or test) to the table's name under the root; None: train.csv, and
            valid.csv and test*.csv where they are there.
    """

    has_reports = False

    def __init__(self, tables: dict[str, str] | None = None) -> None:
        if tables is not None and not set(tables) <= set(_TABLES):
            raise DataError(
                "options", key="tables", expected="train, val or test", found=", ".join(tables)
            )
        self.tables = tables

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order of the tables.

        Raises:
            DataError: if a table is missing or damaged, or a path is not CheXpert's.
        """
        for split, name in (self.tables or _TABLES).items():
            needed = self.tables is not None or split == "train"
            file = find_table(root, name, needed=needed)
            if file is None:
                continue
            table = read_table(file, ["Path", *CHEXPERT], optional=_OPTIONAL)
            labels = label_columns(table, CHEXPERT, file)
            columns = (table[c] for c in ("Path", *_OPTIONAL))
            for path, sex, age, side, view, row in zip(*columns, labels, strict=True):
                image, patient, study = _parts(path, file)
                yield Record(
                    image=image,
                    patient=patient,
                    study=f"{patient}/{study}",
                    view=_view(side, view),
                    labels=row,
                    split=split,
                    sex=sex_name(sex),
                    age=age_number(age),
                )


class CheXpertPlus:
    """Reports and pictures of ``df_chexpert_plus_240401.csv``.

    Args:
        folder: that the table's paths (``train/patient00001/study1/view1_frontal.jpg``) start from,
            relative to the root; CheXpert Plus unpacks its own pictures into ``PNG``.
        suffix: of the pictures, in place of the table's ``.jpg``; None: that.
        labels: JSON lines with ``path_to_image`` and the 14 findings, such as
            ``chexbert_labels/impression_fixed.json``, relative to the root; None: no labels.
    """

    has_reports = True

    def __init__(
        self, folder: str = "PNG", suffix: str | None = ".png", labels: str | None = None
    ) -> None:
        self.folder, self.suffix, self.labels = folder, suffix, labels

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the table's order.

        Raises:
            DataError: if a table is missing or damaged, or a path is not CheXpert's.
        """
        file = need_table(root, "df_chexpert_plus_*.csv")
        columns = ["path_to_image", "section_findings", "section_impression", "split"]
        optional = ["frontal_lateral", "ap_pa", "age", "sex"]
        table = read_table(file, columns, optional=optional)
        labels = {} if self.labels is None else _json_labels(root / self.labels)
        rows = zip(*(table[c] for c in (*columns, *optional)), strict=True)
        for path, findings, impression, split, side, view, age, sex in rows:
            image, patient, study = _parts(path, file)
            stored = image if self.suffix is None else str(Path(image).with_suffix(self.suffix))
            yield Record(
                image=f"{self.folder}/{stored}" if self.folder else stored,
                patient=patient,
                study=f"{patient}/{study}",
                view=_view(side, view),
                findings=clean_text(findings),
                impression=clean_text(impression),
                labels=labels.get(image, {}),
                split=official_split(split, file, {"train": "train", "valid": "val"}),
                sex=sex_name(sex),
                age=age_number(age),
            )


def _parts(path: str, file: Path) -> tuple[str, str, str]:
    """(path from train, valid or test on, patient, study)."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise DataError(
            file,
            key="Path",
            expected=".../train/patient00001/study1/view1_frontal.jpg",
            found=f"a path of {len(path.split('/'))} parts that does not end so",
        )
    return found[1], found[2], found[3]


def _view(side: str, view: str) -> str | None:
    return "LATERAL" if side.strip().lower() == "lateral" else view_name(view) or view_name(side)


def _json_labels(file: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    note_file(file)
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                judged = {n: row[n] for n in CHEXPERT if row.get(n) is not None}
                found[_parts(row["path_to_image"], file)[0]] = {
                    name: int(value) for name, value in judged.items()
                }
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            file,
            key="labels",
            expected="JSON lines with path_to_image and the 14 findings",
            found=repr(error)[:200],
        ) from error
    return found
