"""Any CSV or parquet table of a user's own pictures: which column is what, in YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import (
    age_number,
    clean_text,
    label_columns,
    official_split,
    read_table,
    sex_name,
    view_name,
)
from sagittal_cxr.records import Record
from sagittal_cxr.reports.sections import Fallback, split_sections

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "test": "test"}


class Table:
    """One row a picture.

    Args:
        table: CSV (.csv, .csv.gz, .zip) or .parquet, relative to the root.
        image: column of the picture's file name.
        patient: column of the patient, the unit of splits.
        folder: that file names start from, relative to the root.
        suffix: appended to file names, such as ``.png``.
        study: column of the examination; None: each picture is one.
        view: column of the projection.
        sex: column of M or F (male, female).
        age: column of years, or of a DICOM age such as 045Y.
        split: column of train, val (valid, validate) or test.
        findings: column of that section of the report.
        impression: as ``findings``.
        report: column of the whole report, which is then split into sections.
        labels: column of a list of findings that are present.
        separator: between them.
        none: what that column says where there is no finding; an empty cell means not judged.
        names: the findings that were looked for: those that a judged picture does not list are
            absent. Empty: nothing counts as absent.
        label_columns: column of a finding to its name: 1 present, 0 absent, -1 uncertain, empty not
            judged.
        rename: name in the table to name in the index, of findings in ``labels``.
        masks: folder of mask pictures named as the pictures are, relative to the root.
        mask_suffix: of mask pictures, in place of the picture's.
        fallback: what stands in for the findings of a whole report with neither section.
    """

    def __init__(
        self,
        table: str,
        image: str = "image",
        patient: str = "patient",
        folder: str = "",
        suffix: str = "",
        study: str | None = None,
        view: str | None = None,
        sex: str | None = None,
        age: str | None = None,
        split: str | None = None,
        findings: str | None = None,
        impression: str | None = None,
        report: str | None = None,
        labels: str | None = None,
        separator: str = "|",
        none: str = "No Finding",
        names: Sequence[str] = (),
        label_columns: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        masks: str | None = None,
        mask_suffix: str = ".png",
        fallback: Fallback = "last paragraph",
    ) -> None:
        if report is not None and (findings or impression):
            raise ConfigError("table reader: give report, or findings and impression, not both")
        if labels is not None and label_columns:
            raise ConfigError("table reader: give labels or label_columns, not both")
        self.table, self.folder, self.suffix = table, folder, suffix
        self.columns = {"image": image, "patient": patient}
        chosen = {"study": study, "view": view, "sex": sex, "age": age, "split": split}
        chosen |= {"findings": findings, "impression": impression, "report": report}
        chosen |= {"labels": labels}
        self.columns |= {key: column for key, column in chosen.items() if column is not None}
        self.separator, self.none, self.names = separator, none, tuple(names)
        self.label_columns, self.rename = dict(label_columns or {}), dict(rename or {})
        self.masks, self.mask_suffix, self.fallback = masks, mask_suffix, fallback
        self.has_reports = bool(findings or impression or report)

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every row, in the table's order.

        Raises:
            DataError: if the table is missing or damaged, or lacks a column.
        """
        file = root / self.table
        wanted = list(dict.fromkeys([*self.columns.values(), *self.label_columns]))
        frame = read_table(file, wanted)
        judged = label_columns(frame, self.label_columns, file)
        cells = {key: frame[column] for key, column in self.columns.items()}
        for number, values in enumerate(zip(*cells.values(), strict=True)):
            row = dict(zip(cells, values, strict=True))
            if not row["image"].strip() or not row["patient"].strip():
                yield Refused(row["image"] or f"row {number}", "no name: of picture or patient")
                continue
            labels = {self.label_columns[n]: v for n, v in judged[number].items()}
            listed = labels or self._listed(row.get("labels", ""), file, number)
            yield self._record(row, listed, file)

    def _record(self, row: dict[str, str], labels: dict[str, int], file: Path) -> Record:
        name = row["image"].strip() + self.suffix
        findings = clean_text(row.get("findings", ""))
        impression = clean_text(row.get("impression", ""))
        if row.get("report"):
            sections = split_sections(row["report"], self.fallback)
            findings, impression = sections.findings, sections.impression
        split = row.get("split", "").strip().lower()
        stem = name.rpartition(".")[0] or name
        return Record(
            image=f"{self.folder}/{name}" if self.folder else name,
            patient=row["patient"].strip(),
            study=row.get("study", "").strip() or stem,
            view=view_name(row.get("view", "")),
            findings=findings,
            impression=impression,
            labels=labels,
            mask=None if self.masks is None else f"file:{self.masks}/{stem}{self.mask_suffix}",
            split=official_split(split, file, _SPLITS) if split else None,
            sex=sex_name(row.get("sex", "")),
            age=age_number(row.get("age", "")),
        )

    def _listed(self, cell: str, file: Path, number: int) -> dict[str, int]:
        parts = [part.strip() for part in cell.split(self.separator) if part.strip()]
        if not parts:
            return {}
        present = [self.rename.get(name, name) for name in parts if name != self.none]
        if self.names and (unknown := set(present) - set(self.names)):
            raise DataError(
                file,
                key=self.columns["labels"],
                expected=f"{', '.join(self.names)}, or {self.none}",
                found=f"{', '.join(sorted(unknown))} in row {number}",
                hint="add it to `names`, or give it another name by `rename`",
            )
        labels = {**dict.fromkeys(self.names, 0), **dict.fromkeys(present, 1)}
        return {"No Finding": int(not present), **labels} if self.names or not present else labels
