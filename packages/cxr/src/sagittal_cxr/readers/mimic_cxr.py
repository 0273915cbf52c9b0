"""MIMIC-CXR-JPG 2.x (Johnson et al., 2019) with the reports of MIMIC-CXR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    label_columns,
    need_table,
    official_split,
    read_table,
    view_name,
)
from sagittal_cxr.records import Record
from sagittal_cxr.reports.observations import CHEXPERT
from sagittal_cxr.reports.sections import Fallback, split_sections

_SPLITS = {"train": "train", "validate": "val", "test": "test"}


class MimicCXR:
    """Pictures in ``files/p10/p10000032/s50414267/<dicom_id>.jpg``, tables beside ``files``.

    Args:
        labels: whose table of labels, which are a study's and not a picture's; None: no labels.
        reports: folder that holds MIMIC-CXR's ``files/p10/p10000032/s50414267.txt``; "": the root;
            None: there are no reports.
        fallback: what stands in for the findings of a report with neither section.
    """

    def __init__(
        self,
        labels: Literal["chexpert", "negbio"] | None = "chexpert",
        reports: str | None = None,
        fallback: Fallback = "last paragraph",
    ) -> None:
        self.labels, self.reports, self.fallback = labels, reports, fallback
        self.has_reports = reports is not None

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order of the metadata table.

        Raises:
            DataError: if a table or the folder of reports is missing, or a table is damaged.
        """
        columns = ["dicom_id", "subject_id", "study_id", "ViewPosition"]
        metadata = read_table(need_table(root, "mimic-cxr-2.*-metadata.csv"), columns)
        file = need_table(root, "mimic-cxr-2.*-split.csv")
        table = read_table(file, ["dicom_id", "split"])
        splits = dict(zip(table["dicom_id"], table["split"], strict=True))
        labels = self._labels(root)
        texts = None if self.reports is None else _Reports(root / self.reports, self.fallback)
        for dicom, subject, study, view in zip(*(metadata[c] for c in columns), strict=True):
            image = f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
            if dicom not in splits:
                yield Refused(image, "no split: not in the split table")
                continue
            findings, impression = texts.of(subject, study) if texts else (None, None)
            yield Record(
                image=image,
                patient=subject,
                study=study,
                view=view_name(view),
                findings=findings,
                impression=impression,
                labels=labels.get(study, {}),
                split=official_split(splits[dicom], file, _SPLITS),
            )

    def _labels(self, root: Path) -> dict[str, dict[str, int]]:
        if self.labels is None:
            return {}
        file = need_table(root, f"mimic-cxr-2.*-{self.labels}.csv")
        table = read_table(file, ["study_id", *CHEXPERT])
        rows = label_columns(table, CHEXPERT, file)
        return dict(zip(table["study_id"], rows, strict=True))


class _Reports:
    """Sections of a study's report; the last one is kept, for its other pictures."""

    def __init__(self, folder: Path, fallback: Fallback) -> None:
        self.folder, self.fallback = folder, fallback
        if not (folder / "files").is_dir():
            raise DataError(
                folder,
                key="reports",
                expected="a folder that holds files/p10/p10000032/s50414267.txt",
                found="no folder files in it",
                hint="unpack mimic-cxr-reports.zip, and give its folder as option reports",
            )
        self._last: tuple[str, tuple[str | None, str | None]] = ("", (None, None))

    def of(self, subject: str, study: str) -> tuple[str | None, str | None]:
        """Findings and impression; None where there is no such section, or no file."""
        if self._last[0] != study:
            file = self.folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
            found: tuple[str | None, str | None] = (None, None)
            if file.is_file():
                text = file.read_text(encoding="utf-8", errors="replace")
                sections = split_sections(text, self.fallback)
                found = (sections.findings, sections.impression)
            self._last = (study, found)
        return self._last[1]
