"""Splits by patient, duplicates and the identity of an index."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pyarrow
import pytest
from hypothesis import given

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.building.finish import identity, same_rows, with_columns
from sagittal_cxr.building.rows import schema
from sagittal_cxr.building.settings import DataSet, Settings, Split
from sagittal_cxr.building.splits import assign, draw
from sagittal_cxr.reports.sections import SectionPolicy

SET = DataSet("a", "nih", "x")


@given(
    st.lists(st.integers(0, 20).map(str), min_size=1, max_size=40),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.integers(0, 5),
)
def test_no_patient_is_ever_in_two_splits(
    patients: list[str], val: float, test: float, seed: int
) -> None:
    split = Split(val, test, seed)
    places = assign(SET, patients, [None] * len(patients), split)
    assert all(
        len({p for q, p in zip(patients, places, strict=True) if q == x}) == 1 for x in patients
    )
    # A patient's place does not depend on who else is there, nor on the order.
    assert places[0] == assign(SET, patients[:1], [None], split)[0]
    assert assign(SET, patients[::-1], [None] * len(patients), split) == places[::-1]


def test_shares_are_met() -> None:
    places = Counter(draw(f"a/{n}", 0.1, 0.2, 0) for n in range(20_000))
    assert abs(places["val"] / 20_000 - 0.1) < 0.01
    assert abs(places["test"] / 20_000 - 0.2) < 0.01
    assert draw("x", 0, 0, 0) == "train"
    assert draw("x", 0, 1, 0) == "test"


def test_an_official_split_stands_and_lends_its_training_patients_as_val() -> None:
    patients = [f"a/{n}" for n in range(400)]
    official = ["test" if n >= 300 else "train" for n in range(400)]
    places = assign(SET, patients, official, Split(0.25, 0.5))
    assert places[300:] == ["test"] * 100
    assert 50 < places[:300].count("val") < 100
    assert places[:300].count("test") == 0
    official[0] = "val"
    assert assign(SET, patients, official, Split(0.25)) == official
    with pytest.raises(ConfigError, match="says no split of 1 of 400"):
        assign(SET, patients, [None, *official[1:]], Split())
    with pytest.raises(DataError, match="1 of 1 patients in two"):
        assign(SET, ["p", "p"], ["train", "test"], Split())
    by_patient = DataSet("a", "nih", "x", split="patients")
    assert assign(by_patient, patients, official, Split(0, 1)) == ["test"] * 400


def rows(texts: list[str]) -> pyarrow.Table:
    table = schema().empty_table()
    columns = {
        name: [None] * len(texts) if name != "text" else texts for name in table.column_names
    }
    arrays = [pyarrow.array(columns[f.name], f.type) for f in table.schema]
    return pyarrow.Table.from_arrays(arrays, schema=table.schema)


def test_duplicates_by_hand() -> None:
    table = rows(["x", "y", "x", "x", ""])
    pixels = ["1", "1", "2", "1", ""]
    assert same_rows(table, pixels, "none") == [-1] * 5
    assert same_rows(table, pixels, "reports") == [-1, -1, 0, 0, -1]
    assert same_rows(table, pixels, "pixels") == [-1, 0, -1, 0, -1]
    assert same_rows(table, pixels, "pairs") == [-1, -1, -1, 0, -1]
    empty = rows(["", ""])
    assert same_rows(empty, ["", ""], "reports") == [-1, -1]
    assert same_rows(empty, ["", ""], "pixels") == [-1, -1]


def test_identity_sees_every_cell_and_setting_but_no_root() -> None:
    def settings(**changes: object) -> Settings:
        values = {
            "datasets": (SET,),
            "sections": SectionPolicy(),
            "split": Split(),
            "duplicates": "none",
            "check": "none",
            "seed": 0,
        }
        return Settings(**values | changes)  # type: ignore[arg-type]

    table = rows(["x", "y"])
    first = identity(table, settings())
    assert identity(table, settings(datasets=(DataSet("a", "nih", "elsewhere"),))) == first
    assert identity(with_columns(table, {"view": ["PA", None]}), settings()) != first
    assert identity(table.slice(0, 1), settings()) != first
    for change in ({"sections": SectionPolicy("impression")}, {"seed": 1}, {"check": "exists"}):
        assert identity(table, settings(**change)) != first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": ()}, "empty"),
        ({"datasets": (SET, SET)}, "each once; found 'a'"),
        ({"datasets": (DataSet("a/b", "nih", "x"),)}, "'a/b'"),
        ({"datasets": (DataSet("a", "nih", "x", text="both"),)}, "text of a"),  # type: ignore[arg-type]
        ({"check": "all"}, "check must be none, exists"),
        ({"split": Split(-0.1)}, "shares"),
        ({"duplicates": "pixels"}, "needs check: pixels"),
    ],
)
def test_settings_that_do_not_fit(changes: dict, said: str) -> None:
    values = {
        "datasets": (SET,),
        "sections": SectionPolicy(),
        "split": Split(),
        "duplicates": "none",
        "check": "none",
        "seed": 0,
    }
    with pytest.raises(ConfigError, match=said):
        Settings(**values | changes)
