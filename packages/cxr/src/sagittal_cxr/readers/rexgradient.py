"""ReXGradient-160K (Zhang et al., 2025): studies of 79 sites with reports, 16-bit PNG."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    clean_text,
    find_table,
    note_file,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Record

_SPLITS = {"train": ("train",), "val": ("valid", "validation", "val"), "test": ("test",)}
_OPTIONAL = ["PatientSex", "PatientAge"]


class ReXGradient:
    """``train_metadata.csv`` (reports) and ``train_metadata_view_position.json`` (pictures).

    Files of validation and test likewise, in the root or in ``metadata``. A path in the JSON
    (``../deid_png/...``) starts from ``metadata``: here it is relative to the root.
    """

    has_reports = True

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, split by split, in the order of the JSON.

        Raises:
            DataError: if a file is missing or damaged.
        """
        for split, names in _SPLITS.items():
            places = [f"{p}{n}_metadata" for n in names for p in ("metadata/", "")]
            tables = [f"{place}.csv" for place in places]
            file = find_table(root, *tables, needed=split == "train")
            if file is None:
                continue
            pictures = find_table(root, *(f"{place}_view_position.json" for place in places))
            assert pictures is not None
            yield from _split(split, file, _read_json(pictures), pictures)


def _split(
    split: str, file: Path, studies: dict[str, Any], pictures: Path
) -> Iterator[Record | Refused]:
    columns = ["id", "Findings", "Impression"]
    table = read_table(file, columns, optional=_OPTIONAL)
    cells = (table[c] for c in (*columns, *_OPTIONAL))
    rows = {row[0]: row[1:] for row in zip(*cells, strict=True)}
    for study, about in studies.items():
        if study not in rows:
            yield Refused(study, f"no report: not in {file.name}")
            continue
        findings, impression, sex, age = rows[study]
        for path, view in _pairs(about, pictures):
            yield Record(
                image=path.removeprefix("../"),
                patient=study.split("_")[0],
                study=study,
                view=view_name(str(view)),
                findings=clean_text(findings),
                impression=clean_text(impression),
                split=split,
                sex=sex_name(sex),
                age=age_number(age),
            )


def _pairs(about: Any, file: Path) -> list[tuple[str, str]]:
    try:
        paths, views = about["ImagePath"], about["ImageViewPosition"]
        return list(zip(paths, views, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            file,
            key="ImagePath",
            expected="for each study a list ImagePath and one as long ImageViewPosition",
            found=repr(error)[:200],
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    note_file(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            file, key="(file)", expected="JSON: id to pictures", found=repr(error)[:200]
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            file, key="(file)", expected="JSON: id to pictures", found=type(found).__name__
        )
    return found
