"""A schema says which column of a table is which field, in which unit and coding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sagittal_core.errors import DataError
from sagittal_risk.fields import FIELDS

MISSING = ("", "NA", "N/A", "NaN", "nan", "None", "null", ".")
"""Texts that stand for a missing value unless a schema lists its own."""

_SAID = {
    "sex": {"female": "female", "f": "female", "male": "male", "m": "male"},
    "race": {"white": "white", "black": "black", "other": "other"},
}
YES_NO = {"1": 1, "true": 1, "yes": 1, "y": 1, "0": 0, "false": 0, "no": 0, "n": 0}
"""Texts of flags, in small letters."""


@dataclass(frozen=True)
class Column:
    """Where a field's values come from.

    Attributes:
        column: Name in the table; None with ``constant``.
        constant: One value for every row.
        unit: What numbers are in; needed where a field has more units than one.
        values: Text in the table to the field's value: a category's name, or 0 and 1 of a flag.
    """

    column: str | None = None
    constant: str | float | None = None
    unit: str | None = None
    values: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Schema:
    """Columns of a table of patients, one row a patient.

    Attributes:
        fields: Field to its column.
        id: Column that names the patient; None: the number of the row, from 1.
        missing: Texts that stand for a missing value.
    """

    fields: Mapping[str, Column]
    id: str | None = None
    missing: tuple[str, ...] = MISSING

    def columns(self) -> list[str]:
        """Columns of the table that are read."""
        named = [one.column for one in self.fields.values() if one.column is not None]
        return list(dict.fromkeys([*([self.id] if self.id else []), *named]))


def read_schema(file: str | Path) -> Schema:
    """Read a schema from YAML.

    Raises:
        DataError: Names the key that is missing, unknown or of another kind.
    """
    path = Path(file)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(path, key="(file)", expected="a YAML schema", found=str(error)) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("fields"), dict) or not raw["fields"]:
        raise DataError(path, key="fields", expected="a field to column mapping", found="none")
    _known(path, "", raw, ("fields", "id", "missing"))
    fields = {name: _column(path, name, given) for name, given in raw["fields"].items()}
    missing = raw.get("missing")
    texts = MISSING if missing is None else tuple("" if m is None else str(m) for m in missing)
    return Schema(fields, None if raw.get("id") is None else str(raw["id"]), texts)


def said_values(name: str) -> Mapping[str, str | float]:
    """Texts, in small letters, that need no mapping: yes and no of flags, female, f, ..."""
    return YES_NO if FIELDS[name].flag else _SAID.get(name, {})


def _column(path: Path, name: str, given: Any) -> Column:
    if name not in FIELDS:
        raise DataError(
            path, key=f"fields.{name}", expected=f"one of {', '.join(FIELDS)}", found="no field"
        )
    given = {"column": given} if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise DataError(
            path, key=f"fields.{name}", expected="a column, or column and unit", found=str(given)
        )
    _known(path, f"fields.{name}.", given, ("column", "constant", "unit", "values"))
    if ("column" in given) == ("constant" in given):
        raise DataError(
            path, key=f"fields.{name}", expected="either column or constant", found=str(given)
        )
    units = [FIELDS[name].unit, *FIELDS[name].units]
    unit = given.get("unit")
    if (unit is None and len(units) > 1) or (unit is not None and unit not in units):
        raise DataError(
            path, key=f"fields.{name}.unit", expected=" or ".join(filter(None, units)) or "none",
            found="none" if unit is None else repr(unit),
        )  # fmt: skip
    said = given.get("values") or {}
    if any(isinstance(text, bool) for text in said):
        raise DataError(
            path, key=f"fields.{name}.values", expected="texts as the table has them",
            found="a bare yes, no, true or false", hint='put it in quotes: "yes"',
        )  # fmt: skip
    values = {str(text): _value(path, name, value) for text, value in said.items()}
    constant = given.get("constant")
    if constant is not None:
        constant = _value(path, name, constant)
    return Column(given.get("column"), constant, unit, values)


def _value(path: Path, name: str, value: Any) -> str | float:
    """A category's name or a number; YAML reads a bare yes as true."""
    one = FIELDS[name]
    if isinstance(value, bool):
        value = int(value)
    fits = value in one.codes if one.codes else isinstance(value, (int, float))
    if one.flag:
        fits = value in (0, 1)
    if not fits:
        expected = ", ".join(one.codes) or ("0 or 1" if one.flag else "a number")
        raise DataError(path, key=f"fields.{name}", expected=expected, found=repr(value))
    return value


def _known(path: Path, where: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in given:
        if key not in allowed:
            raise DataError(
                path, key=f"{where}{key}", expected=f"one of {', '.join(allowed)}", found="unknown"
            )
