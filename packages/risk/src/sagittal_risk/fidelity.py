"""Whether a summary says the numbers it was given, and no others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sagittal_risk.records.description import Group

# A digit inside a word or an exponent (HbA1c, m2, m^2) is no number; 1,200 is one.
_NUMBER = re.compile(r"(?<![A-Za-z\d.^])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_LISTED = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)  # the number of a line is none either


class Told(NamedTuple):
    """A number of a patient's description.

    Attributes:
        number: As it was told.
        unit: After it; may be empty.
    """

    number: float
    unit: str


class Fidelity(NamedTuple):
    """Counts over one summary.

    Attributes:
        told: Numbers of features that the model was told.
        found: Of those, how many stand in the summary; one mention counts for one.
        found_with_unit: Of those, how many stand there with their unit right behind them.
        units: Told numbers that have a unit.
        numbers: Numbers of the summary.
        invented: Of those, how many are no number of the description.
    """

    told: int
    found: int
    found_with_unit: int
    units: int
    numbers: int
    invented: int


def numbers_of(text: str) -> list[float]:
    """Numbers of a text in order; 1,200 and 1200.0 are the same."""
    return [
        float(match.group().replace(",", "")) for match in _NUMBER.finditer(_LISTED.sub("", text))
    ]


def told_numbers(record: Mapping[str, Any], groups: Sequence[Group]) -> list[Told]:
    """Numbers that :func:`~sagittal_risk.records.description.describe` tells of features.

    Texts, codes and yes or no are none.

    Args:
        record: Values by column.
        groups: Of features.
    """
    found = []
    for group in groups:
        for feature in group.features:
            value = record[feature.column]
            if feature.values is None and not feature.yes_no and not isinstance(value, str):
                text = feature.told(value) or ""
                if feature.unit:  # which may hold a number itself
                    text = text.replace(feature.unit, "")
                found += [Told(number, feature.unit) for number in numbers_of(text)]
    return found


def fidelity(summary: str, description: str, told: Sequence[Told]) -> Fidelity:
    """Compare a summary with what it was made from.

    Args:
        summary: Of a model.
        description: What the model was told, whole.
        told: Its numbers; see :func:`told_numbers`.
    """
    said = numbers_of(summary)
    known = set(numbers_of(description))
    with_unit = [one for one in told if one.unit]
    pairs = Counter[Told]()
    for unit in {one.unit for one in with_unit}:
        behind = re.compile(rf"(?:{_NUMBER.pattern})(?=\s*{re.escape(unit)}(?![A-Za-z\d]))")
        for match in behind.finditer(summary):
            pairs[Told(float(match.group().replace(",", "")), unit)] += 1
    return Fidelity(
        told=len(told),
        found=(Counter(one.number for one in told) & Counter(said)).total(),
        found_with_unit=(Counter(with_unit) & pairs).total(),
        units=len(with_unit),
        numbers=len(said),
        invented=sum(number not in known for number in said),
    )
