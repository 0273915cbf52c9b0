"""Rows of a table as prompts, with what could not be told of each patient."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_core.errors import ConfigError, DataError
from sagittal_risk.prompts import QUESTION, prompt
from sagittal_risk.records.description import Feature, Group, describe
from sagittal_risk.records.schema import MISSING, YES_NO
from sagittal_risk.records.table import column_names, whole_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Told:
    """One patient.

    Attributes:
        prompt: What the model is asked; None if nothing is known, or something cannot be told.
        missing: Names of the features that are not told.
        untold: Names of features whose value the groups have no text for.
    """

    prompt: str | None
    missing: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Telling:
    """How patients are told to a model.

    Attributes:
        groups: Features in the order of telling.
        question: What is asked.
        text_column: Column of free text that follows the features.
        gone: Names of features that the model was tuned with and that no column tells.
    """

    groups: Sequence[Group]
    question: str = QUESTION
    text_column: str | None = None
    gone: tuple[str, ...] = ()

    @property
    def features(self) -> list[Feature]:
        """Of all groups, in order."""
        return [feature for group in self.groups for feature in group.features]

    def tell(self, record: Mapping[str, Any]) -> Told:
        """The prompt of one patient, the same that tuning and ``test`` make of it.

        Args:
            record: Values by column; a column that is not there is missing.
        """
        row = {feature.column: record.get(feature.column) for feature in self.features}
        told, missing, untold = set(), [], []
        for feature in self.features:
            text = text_of(feature, row[feature.column])
            if text is None:
                untold.append(feature.name)
            elif text:
                told.add(feature.column)
            else:
                missing.append(feature.name)
        parts = [describe(row, self.groups, told)]
        if self.text_column is not None:
            free = record.get(self.text_column)
            parts.append(free.strip() if isinstance(free, str) else "")
            if not parts[-1]:
                missing.append(self.text_column)
        text = "\n\n".join(part for part in parts if part)
        asked = prompt(text, self.question) if text and not untold else None
        return Told(asked, (*missing, *self.gone), tuple(untold))


def text_of(feature: Feature, value: Any) -> str | None:
    """A value as it is told, empty where it is missing, None where it cannot be told."""
    if feature.unit and feature.values is None and isinstance(value, str) and value.strip():
        return None  # a number was expected
    if isinstance(value, float) and math.isinf(value):
        return None
    try:
        return feature.told(value) or ""
    except (DataError, TypeError, ValueError):
        return None


class ToldTable:
    """A table as it is told to a model.

    The table is read whole: whether a column holds numbers is decided by all of its rows, as in
    tuning. As with units, a column that does not fit is refused, and single rows are flagged.

    Args:
        file: The table.
        telling: How it is told.
        missing: Texts that stand for a missing value.

    Attributes:
        absent: Features whose column the table lacks: missing for everyone.

    Raises:
        ConfigError: The table has none of the columns.
        DataError: The table cannot be read; or at least half of a column's known values cannot be
            told, with the number of rows and the first of them.
    """

    def __init__(self, file: Path, telling: Telling, missing: Collection[str] = MISSING) -> None:
        self.telling = telling
        there = column_names(file)
        wanted = [feature.column for feature in telling.features]
        wanted += [telling.text_column] if telling.text_column else []
        if not set(wanted) & set(there):
            raise ConfigError(
                f"{file}: it has none of the columns that are told, {', '.join(wanted)}; it has"
                f" {', '.join(there[:40])}; --groups FILE.yaml says how this table is told"
            )
        table = whole_table(file, wanted, missing)
        self.absent = [f for f in telling.features if f.column not in table]
        self._count = len(table)
        self._columns: dict[str, list[Any]] = {}
        for feature in telling.features:
            if feature.column in table:
                cells = _cells(table[feature.column], missing)
                values = [_value(feature, cell) for cell in cells]
                _expect_told(file, feature, values)
                self._columns[feature.column] = values
        if telling.text_column is not None and telling.text_column in table:
            self._columns[telling.text_column] = _cells(table[telling.text_column], missing)

    def __len__(self) -> int:
        return self._count

    def tell(self, start: int, stop: int) -> list[Told]:
        """Patients of rows ``start`` to ``stop``, counted from 0, the last left out."""
        return [
            self.telling.tell({name: values[row] for name, values in self._columns.items()})
            for row in range(start, min(stop, self._count))
        ]


def _cells(column: pandas.Series, missing: Collection[str]) -> list[Any]:
    """Values, None where one is missing; texts without blanks around them."""
    texts = set(missing)
    numbers = {number for text in missing if (number := _number(text)) is not None}

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            value = value.strip()
            return None if not value or value in texts else value
        return None if isinstance(value, (int, float)) and value in numbers else value

    known = column.astype(object).where(column.notna(), None)
    return [cell(value) for value in known.tolist()]


def _value(feature: Feature, value: Any) -> Any:
    """A text as the number or flag that it stands for; what has no meaning stays as it is."""
    if not isinstance(value, str):
        return value
    if feature.values is not None:
        number = None if value in feature.values else _number(value)
        return value if number is None else number
    if feature.yes_no:
        said = YES_NO.get(value.lower())
        number = _number(value) if said is None else said
        return value if number is None else number
    if feature.unit:
        number = _number(value)
        return value if number is None else number
    return value


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", "x"))  # Python reads 1_000, a table does not
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _expect_told(file: Path, feature: Feature, values: Sequence[Any]) -> None:
    """A column in another coding than stated has most of its values without a text."""
    wrong = [row for row, value in enumerate(values) if text_of(feature, value) is None]
    known = sum(text_of(feature, value) != "" for value in values)
    if wrong and 2 * len(wrong) >= known:
        expected = "0 or 1, yes or no" if feature.yes_no else f"numbers {feature.unit}".strip()
        raise DataError(
            file,
            key=feature.column,
            expected=", ".join(feature.values) if feature.values else expected,
            found=f"{len(wrong)} of {known} rows with something else, the first is row"
            f" {wrong[0] + 1}",
            hint="--groups FILE.yaml says how this table is told",
        )
