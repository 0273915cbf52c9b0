"""Rows as text: what is missing is left out, what is drawn is drawn again alike."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError, DataError
from sagittal_risk.records.description import Feature, Group, check_groups, describe, known
from sagittal_risk.records.narrative import narrate
from sagittal_risk.records.sampling import GroupSampling, fields_known
from sagittal_risk.records.timeline import check_events, timeline

GROUPS = [
    Group(
        "base",
        [
            Feature("age", "Age", "years", 0),
            Feature("sex", "Sex", values={"1": "Male", "2": "Female"}),
        ],
        base=True,
    ),
    Group("pressure", [Feature("sbp", "Systolic blood pressure", "mmHg")]),
    Group("history", [Feature("dm", "Diabetes", yes_no=True), Feature("icd", "Diagnoses")]),
]
ROW: dict[str, Any] = {"age": 61.0, "sex": 2, "sbp": 124.04, "dm": 0, "icd": ["I10", "E78"]}


def test_a_row_reads_as_in_the_published_prompts() -> None:
    assert describe(ROW, GROUPS) == (
        "Age: 61 years;\nSex: Female;\nSystolic blood pressure: 124 mmHg;\nDiabetes: No;\n"
        "Diagnoses: I10, E78."
    )


@pytest.mark.parametrize("missing", [None, float("nan"), "", np.nan])
def test_what_is_missing_is_left_out(missing: Any) -> None:
    assert describe({**ROW, "sbp": missing, "icd": []}, GROUPS) == (
        "Age: 61 years;\nSex: Female;\nDiabetes: No."
    )
    assert describe(dict.fromkeys(ROW, missing), GROUPS) == ""


@pytest.mark.parametrize(("value", "text"), [(125.26, "125.3"), (125.0, "125"), (100.0, "100")])
def test_numbers_are_rounded_without_trailing_zeros(value: float, text: str) -> None:
    assert Feature("x", "X").told(value) == text


@pytest.mark.parametrize("value", [1, 1.0, "1", True, np.int64(1)])
def test_codes_are_read_whatever_their_type(value: Any) -> None:
    assert GROUPS[0].features[1].told(value) == "Male"
    assert GROUPS[2].features[0].told(value) == "Yes"


def test_an_unknown_code_is_an_error() -> None:
    with pytest.raises(DataError, match=r"(?s)sex.*1, 2.*3"):
        describe({**ROW, "sex": 3}, GROUPS)
    with pytest.raises(DataError, match="dm"):
        describe({**ROW, "dm": 2}, GROUPS)


def test_groups_have_to_fit_the_table() -> None:
    check_groups(GROUPS, ROW)
    with pytest.raises(ConfigError, match="no column 'sbp'"):
        check_groups(GROUPS, ["age", "sex", "dm", "icd"])
    with pytest.raises(ConfigError, match="two places"):
        check_groups([*GROUPS, GROUPS[0]], ROW)


COLUMNS = {"base": ["a", "b"], "one": list("cdef"), "two": list("ghij"), "three": list("kl")}


@given(st.integers(0, 10_000), st.integers(0, 50))
def test_a_draw_keeps_the_base_and_at_least_one_other_group(record: int, epoch: int) -> None:
    sampling = GroupSampling(only_base=0.0)
    drawn = sampling.draw(COLUMNS, ["base"], 0, epoch, record)
    assert drawn == sampling.draw(COLUMNS, ["base"], 0, epoch, record)
    assert {"a", "b"} <= drawn
    per_group = {name: len(drawn & set(columns)) for name, columns in COLUMNS.items()}
    others = [n for name, n in per_group.items() if name != "base" and n]
    assert others
    if len(others) == 1:
        (name,) = [n for n, count in per_group.items() if count and n != "base"]
        assert per_group[name] == len(COLUMNS[name])
    else:
        assert all(n >= 0.5 * len(COLUMNS[g]) for g, n in per_group.items() if n)


def test_shares_of_the_draw_are_those_of_the_settings() -> None:
    """2,000 draws: five standard deviations of a share are below 0.06."""
    sampling = GroupSampling(keep_base=0.8, only_base=0.25)
    draws = [sampling.draw(COLUMNS, ["base"], 0, 0, record) for record in range(2000)]
    assert np.mean([{"a", "b"} <= d for d in draws]) == pytest.approx(0.8, abs=0.06)
    assert np.mean([d == {"a", "b"} for d in draws]) == pytest.approx(0.8 * 0.25, abs=0.06)
    assert len({frozenset(d) for d in draws}) > 100


def test_without_base_and_others_something_is_told() -> None:
    sampling = GroupSampling(keep_base=0.0)
    for record in range(50):
        assert sampling.draw({"base": ["a", "b"]}, ["base"], 0, 0, record)
    assert sampling.draw({}, ["base"], 0, 0, 0) == set()


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_known_shares_are_nested(record: int, one: float, two: float) -> None:
    less, more = sorted((one, two))
    small, large = (fields_known(COLUMNS, share, 0, record) for share in (less, more))
    assert small <= large
    assert fields_known(COLUMNS, 1.0, 0, record) == set("abcdefghijkl")
    assert fields_known(COLUMNS, 0.0, 0, record) == set()


def test_a_narrative_tells_every_value_once() -> None:
    texts = {narrate(ROW, GROUPS, counters=(0, record)) for record in range(20)}
    assert len(texts) > 10
    for text in texts:
        for value in ("61 years", "Female", "124 mmHg", "I10, E78"):
            assert text.count(value) == 1
        assert "diabetes" in text.lower()
    assert narrate({**ROW, "sbp": None}, GROUPS, ["sbp"], counters=(0, 1)) == ""


def test_known_lists_columns_with_a_value() -> None:
    assert known({**ROW, "sbp": None, "icd": None}, GROUPS) == {
        "base": ["age", "sex"],
        "history": ["dm"],
    }


EVENTS = pandas.DataFrame(
    {
        "subject_id": [1] * 5,
        "time": pandas.to_datetime(
            [None, "2019-03-02 10:00", "2019-03-02 09:00", "2020-01-01 00:00", "2018-05-05 08:00"]
        ),
        "code": ["SEX//F", "SBP", "SMOKER", "STROKE", "HDL"],
        "numeric_value": [np.nan, 132.0, np.nan, np.nan, 1.25],
    }
)


def test_a_timeline_holds_nothing_of_the_future() -> None:
    text = timeline(EVENTS, datetime(2020, 1, 1), names={"SBP": "systolic blood pressure"})
    assert text == "SEX//F\n2018-05-05: HDL 1.25\n2019-03-02: SMOKER, systolic blood pressure 132"
    short = timeline(EVENTS, datetime(2021, 1, 1), most=1)
    assert short == "SEX//F\n(2 earlier days left out)\n2020-01-01: STROKE"


def test_what_is_no_event_stream_is_named() -> None:
    check_events(EVENTS, "e.parquet")
    with pytest.raises(DataError, match="numeric_value"):
        check_events(EVENTS.drop(columns="numeric_value"), "e.parquet")
    with pytest.raises(DataError, match="timestamps"):
        check_events(EVENTS.assign(time="2020"), "e.parquet")
