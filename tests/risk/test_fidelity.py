"""Numbers of a summary against those of the description it was made from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_risk.fidelity import Fidelity, Told, fidelity, numbers_of, told_numbers
from sagittal_risk.records.description import Feature, Group, describe

GROUPS = [
    Group(
        "all",
        [
            Feature("age", "Age", "years", 0),
            Feature("weight", "Weight", "kg"),
            Feature("egfr", "eGFR", "mL/min/1.73m2"),
            Feature("sex", "Sex", values={"1": "Male", "2": "Female"}),
            Feature("dm", "Type 2 diabetes", yes_no=True),
            Feature("note", "Note"),
        ],
    )
]
ROW = {"age": 63, "weight": 63.5, "egfr": 90.0, "sex": 1, "dm": 1, "note": "stage 3"}
TOLD = [Told(63.0, "years"), Told(63.5, "kg"), Told(90.0, "mL/min/1.73m2")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aged 63, 140/90 mmHg.", [63, 140, 90]),
        ("HbA1c of 6.5%, 27 kg/m2 or kg/m^2", [6.5, 27]),
        ("1,200 mL and 1200.0 mL", [1200, 1200]),
        ("A 63-year-old; 120mmHg; -3", [63, 120, 3]),
        ("1. Age: 63\n2) Weight: 70.", [63, 70]),
        ("no numbers", []),
    ],
)
def test_numbers_of_a_text(text: str, expected: list[float]) -> None:
    assert numbers_of(text) == expected


def test_only_numbers_of_features_are_told_values() -> None:
    assert told_numbers(ROW, GROUPS) == TOLD
    assert told_numbers({**ROW, "age": None}, GROUPS) == TOLD[1:]


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (
            "Male, 63 years, 63.5 kg, eGFR 90 mL/min/1.73m2, type 2 diabetes, stage 3.",
            Fidelity(3, 3, 3, 3, 6, 0),
        ),
        # One mention of 63, none of the weight, no unit behind it, and a risk made up.
        ("A 63-year-old man with a 10-year risk of 20 %.", Fidelity(3, 1, 0, 3, 3, 2)),
        ("63 kg", Fidelity(3, 1, 0, 3, 1, 0)),
        ("A man.", Fidelity(3, 0, 0, 3, 0, 0)),
        ("63.55 kg and 163 years", Fidelity(3, 0, 0, 3, 2, 2)),
    ],
)
def test_what_is_found_and_what_is_invented(summary: str, expected: Fidelity) -> None:
    assert fidelity(summary, describe(ROW, GROUPS), TOLD) == expected


def test_two_values_that_are_alike_need_two_mentions() -> None:
    told = [Told(63.0, "years"), Told(63.0, "kg")]
    assert fidelity("63 years", "63 years; 63 kg", told).found == 1
    assert fidelity("63 years and 63 kg", "63 years; 63 kg", told).found == 2


@given(st.integers(0, 130), st.floats(1, 300), st.floats(1, 200))
def test_the_description_itself_is_a_faithful_summary(age: int, weight: float, egfr: float) -> None:
    row = {**ROW, "age": age, "weight": weight, "egfr": egfr}
    text, told = describe(row, GROUPS), told_numbers(row, GROUPS)
    found = fidelity(text, text, told)
    assert (found.told, found.found, found.found_with_unit, found.invented) == (3, 3, 3, 0)
