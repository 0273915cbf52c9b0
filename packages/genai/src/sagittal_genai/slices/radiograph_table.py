"""Radiographs listed in a table: one row a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sagittal_core.errors import DataError
from sagittal_core.privacy import pseudonym
from sagittal_genai.slices.scans import (
    SPLITS,
    Found,
    RadiographInput,
    Refusal,
    Scan,
    ScanSource,
)


class RadiographTable(ScanSource):
    """A CSV table with the file name, subject and labels of every radiograph.

    Subjects and scans get pseudonyms: file names and numbers of patients stay in ``sources.csv``.

    Args:
        table: CSV file.
        images: folder that file names in the table start from; None: that of the table.
        image: column of the file name (PNG, JPEG, TIFF or DICOM).
        subject: column of the patient.
        findings: column of the findings, or None.
        split: column that holds train, val or test, or None.
        metadata: further columns, as name in the index to name in the table (``view``, ``sex``,
            ``age``, ...).
        separator: between findings.
        none: what the findings column says where there is none; an empty cell means unknown.
        modality: of all pictures.
        salt: of the pseudonyms; None: a secret of this machine, so that splits differ on another.
            Give one for public data.
        limit: only the first so many rows; None: all.
    """

    def __init__(
        self,
        table: str,
        images: str | None = None,
        image: str = "image",
        subject: str = "subject",
        findings: str | None = None,
        split: str | None = None,
        metadata: dict[str, str] | None = None,
        separator: str = "|",
        none: str = "No Finding",
        modality: str = "CR",
        salt: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.table = Path(table)
        self.images = Path(images) if images else self.table.parent
        self.image, self.subject, self.findings, self.split = image, subject, findings, split
        self.metadata, self.separator, self.none = dict(metadata or {}), separator, none
        self.modality, self.salt, self.limit = modality, salt, limit

    def find(self) -> Found:
        """Every row, in the table's order.

        Raises:
            DataError: if the table cannot be read, lacks a column, names a file twice, or has
                another split than train, val and test.
        """
        scans, refused, count = [], [], Counter[str]()
        for number, row in enumerate(self._rows()[: self.limit], 1):
            file, identifier = _text(row[self.image]), _text(row[self.subject])
            path = self.images / (file or "")
            if file is None or identifier is None:
                missing = self.image if file is None else self.subject
                refused.append(Refusal(f"row {number}", str(path), f"no {missing}"))
                continue
            subject = pseudonym(identifier, self.salt)
            name = f"{subject}-{count[subject]:03d}"
            count[subject] += 1
            if not path.is_file():
                refused.append(Refusal(name, str(path), "no such file"))
                continue
            scans.append(
                Scan(
                    name=name,
                    subject=subject,
                    modality=self.modality,
                    input=RadiographInput(path),
                    split=_text(row[self.split]) if self.split else None,
                    metadata={new: _value(row[old]) for new, old in self.metadata.items()},
                    findings=self._listed(row[self.findings]) if self.findings else None,
                )
            )
        return Found(scans, refused)

    def _listed(self, cell: Any) -> tuple[str, ...] | None:
        text = _text(cell)
        if text is None:
            return None
        names = [part.strip() for part in text.split(self.separator) if part.strip()]
        return tuple(dict.fromkeys(name for name in names if name != self.none))

    def _rows(self) -> list[dict[str, Any]]:
        import pandas

        wanted = [self.image, self.subject, *self.metadata.values()]
        wanted += [name for name in (self.findings, self.split) if name]
        text = [name for name in (self.image, self.subject, self.findings, self.split) if name]
        try:
            table = pandas.read_csv(self.table, dtype=dict.fromkeys(text, str))
        except (OSError, ValueError) as error:
            raise DataError(
                self.table, key="table", expected="a CSV table", found=repr(error)[:200]
            ) from error
        for name in wanted:
            if name not in table:
                held = ", ".join(str(c) for c in table.columns)
                hint = "columns must be separated by commas" if len(table.columns) == 1 else ""
                raise DataError(self.table, key=name, expected="a column", found=held, hint=hint)
        if self.split and (unknown := sorted(set(table[self.split].dropna()) - {*SPLITS, ""})):
            raise DataError(
                self.table,
                key=self.split,
                expected=f"{', '.join(SPLITS)} or nothing",
                found=", ".join(unknown[:5]),
            )
        if (twice := table[self.image].dropna().duplicated()).any():
            raise DataError(
                self.table,
                key=self.image,
                expected="each file once",
                found=f"{int(twice.sum())} of {len(table)} rows repeat one",
            )
        return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _text(cell: Any) -> str | None:
    value = _value(cell)
    return None if value is None or not str(value).strip() else str(value).strip()


def _value(cell: Any) -> Any:
    import pandas

    return None if pandas.isna(cell) else cell
