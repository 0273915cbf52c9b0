"""A patient's row as text: groups of named features, what is missing left out (AdaCVD)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagittal_core.errors import ConfigError, DataError


@dataclass
class Feature:
    """One column as it is told.

    Attributes:
        column: Of the table.
        name: As a physician writes it.
        unit: After a number.
        decimals: To which a number is rounded; trailing zeros are not written.
        values: Text of each code, such as {1: Male, 2: Female}; a code with an empty text, such as
            "prefer not to answer", counts as missing. None: numbers, texts or lists.
        yes_no: 1 and 0, or true and false, are told as Yes and No.
    """

    column: str
    name: str
    unit: str = ""
    decimals: int = 1
    values: dict[str, str] | None = None
    yes_no: bool = False

    def told(self, value: Any) -> str | None:
        """The value as text, or None if it is missing.

        Raises:
            DataError: A code has no text, or a yes-or-no value is neither.
        """
        if isinstance(value, (list, tuple, set)) or (hasattr(value, "tolist") and _length(value)):
            parts = [self.told(one) for one in value]
            return ", ".join(part for part in parts if part) or None
        if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
            return None
        if self.values is not None:
            code = _code(value)
            if code not in self.values:
                raise DataError(
                    self.column, key="values", expected=", ".join(self.values), found=repr(value)
                )
            return self.values[code] or None
        if self.yes_no:
            if _code(value) not in ("0", "1"):
                raise DataError(self.column, key="yes_no", expected="0 or 1", found=repr(value))
            return "Yes" if _code(value) == "1" else "No"
        if isinstance(value, str):
            return value.strip()
        number = f"{float(value):.{self.decimals}f}"
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{number} {self.unit}".strip()


@dataclass
class Group:
    """Features that are known together or not at all, such as those of one blood test.

    Attributes:
        name: Of the group.
        features: In the order of telling.
        base: Whether nearly every patient has it: sampling keeps these as a rule.
    """

    name: str
    features: list[Feature] = field(default_factory=list)
    base: bool = False


def check_groups(groups: Sequence[Group], columns: Iterable[str]) -> None:
    """Refuse groups that do not fit a table.

    Raises:
        ConfigError: A column is missing or in two groups, or a group is empty.
    """
    there, seen = set(columns), set[str]()
    for group in groups:
        if not group.features:
            raise ConfigError(f"group {group.name!r} has no feature")
        for feature in group.features:
            if feature.column in seen:
                raise ConfigError(f"column {feature.column!r} stands in two places")
            if feature.column not in there:
                raise ConfigError(
                    f"group {group.name!r}: the table has no column {feature.column!r}; it has"
                    f" {', '.join(sorted(there)[:40])}"
                )
            seen.add(feature.column)


def describe(
    row: Mapping[str, Any], groups: Sequence[Group], columns: Collection[str] | None = None
) -> str:
    r"""Name, value and unit of what is known, a line a feature.

    Args:
        row: Values by column.
        groups: In the order of telling.
        columns: Only these are told; None: all.

    Returns:
        ``Name: value unit`` joined by ``";\n"`` with a full stop, as in AdaCVD's prompts; empty if
        nothing is known.
    """
    parts = []
    for group in groups:
        for feature in group.features:
            if columns is None or feature.column in columns:
                text = feature.told(row[feature.column])
                if text is not None:
                    parts.append(f"{feature.name}: {text}")
    return ";\n".join(parts) + "." if parts else ""


def known(row: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, list[str]]:
    """Columns with a value, by group, in order; groups without any are left out."""
    found = {
        group.name: [f.column for f in group.features if f.told(row[f.column]) is not None]
        for group in groups
    }
    return {name: columns for name, columns in found.items() if columns}


def _code(value: Any) -> str:
    """1, 1.0, "1" and True are the same code."""
    if isinstance(value, str):
        return value.strip()
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)


def _length(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 1
