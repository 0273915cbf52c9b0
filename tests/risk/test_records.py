"""Schemas and tables: units, codings, missing texts, and errors that name the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

from sagittal_core.errors import DataError
from sagittal_risk.records.schema import read_schema
from sagittal_risk.records.table import frames_of, read_rows

FIELDS = {
    "age": "AGE",
    "sex": {"column": "SEX", "values": {1: "male", 2: "female"}},
    "total_cholesterol": {"column": "CHOL", "unit": "mmol/L"},
    "smoker": {"column": "SMK", "values": {"current": True, "never": False, "former": False}},
    "diabetes": "DM",
    "statin": {"constant": False},
    "race": {"constant": "white"},
}


def schema(folder: Path, **changes: object) -> Path:
    file = folder / "schema.yaml"
    fields = {k: v for k, v in (FIELDS | changes.pop("fields", {})).items() if v is not None}
    file.write_text(yaml.safe_dump({"id": "ID", "fields": fields} | changes, sort_keys=False))
    return file


def table(folder: Path, text: str, name: str = "patients.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


GOOD = "ID,AGE,SEX,CHOL,SMK,DM,note\na,50,1,5.2,current,yes,x\nb,,2.0,NA,never,0,\nc,61,,6.1,,No,\n"


def test_values_arrive_in_the_fields_units(tmp_path: Path) -> None:
    rows = read_rows(table(tmp_path, GOOD), read_schema(schema(tmp_path)))
    assert rows.ids == ["a", "b", "c"]
    columns = rows.patients.columns
    nan = np.nan
    np.testing.assert_array_equal(columns["age"], [50, nan, 61])
    np.testing.assert_array_equal(columns["sex"], [1, 0, nan])
    np.testing.assert_array_equal(columns["smoker"], [1, 0, nan])
    np.testing.assert_array_equal(columns["diabetes"], [1, 0, 0])
    np.testing.assert_array_equal(columns["race"], [0, 0, 0])
    np.testing.assert_allclose(columns["total_cholesterol"], np.array([5.2, nan, 6.1]) / 0.02586)


def test_parquet_and_parts_give_the_same(tmp_path: Path) -> None:
    read = read_schema(schema(tmp_path))
    csv = table(tmp_path, GOOD)
    frame = pandas.read_csv(csv)
    frame.to_parquet(tmp_path / "patients.parquet")
    one, other = (read_rows(f, read) for f in (csv, tmp_path / "patients.parquet"))
    for name, column in one.patients.columns.items():
        np.testing.assert_array_equal(column, other.patients.columns[name])
    for file in (csv, tmp_path / "patients.parquet"):
        assert [start for start, _ in frames_of(file, read, 2)] == [0, 2]


def test_without_an_id_the_row_is_the_name(tmp_path: Path) -> None:
    read = read_schema(schema(tmp_path, id=None))
    assert read_rows(table(tmp_path, GOOD), read).ids == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fields": {"total_cholesterol": "CHOL"}}, r"total_cholesterol\.unit[\s\S]*mmol/L"),
        ({"fields": {"total_cholesterol": {"column": "CHOL", "unit": "g/L"}}}, "'g/L'"),
        ({"fields": {"weight": "KG"}}, "no field"),
        ({"fields": {"age": {"column": "AGE", "constant": 3}}}, "either column or constant"),
        ({"fields": {"age": {"colum": "AGE"}}}, r"fields\.age\.colum"),
        ({"fields": {"sex": {"column": "SEX", "values": {1: "man"}}}}, "female, male"),
        ({"fields": {"statin": {"constant": 3}}}, "0 or 1"),
        ({"fields": {"age": 7}}, "column and unit"),
        ({"identifier": "ID"}, "identifier"),
        ({"fields": {"diabetes": {"column": "DM", "values": {True: 1}}}}, "in quotes"),
    ],
)
def test_a_mistake_in_a_schema_is_named(change: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_schema(schema(tmp_path, **change))


@pytest.mark.parametrize("text", ["[1, 2]", "id: x", "{", "fields: {}"])
def test_what_is_no_schema_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fields|YAML"):
        read_schema(table(tmp_path, text, "schema.yaml"))
    with pytest.raises(DataError, match="YAML"):
        read_schema(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("50,1", "fifty,1"), r"AGE[\s\S]*1 rows with[\s\S]*row 1"),
        (GOOD.replace("never", "sometimes"), r"SMK[\s\S]*current, never, former[\s\S]*row 2"),
        (GOOD.replace("No", "maybe"), r"DM[\s\S]*row 3"),
        (GOOD.replace("AGE", "AGES"), r"expected: AGE"),
        (GOOD.splitlines()[0] + "\n", "at least one row"),
        ("", "an empty file"),
        ("ID,AGE,SEX,CHOL,SMK,DM\na,50,1,201,,\nb,50,1,190,,\n", "look like mg/dL"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_table_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_rows(table(tmp_path, text), read_schema(schema(tmp_path)))


def test_other_files_are_refused(tmp_path: Path) -> None:
    read = read_schema(schema(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.csv", read)
    with pytest.raises(DataError, match=r"\.csv, \.tsv or \.parquet"):
        read_rows(table(tmp_path, "x", "patients.xlsx"), read)
    with pytest.raises(DataError, match="Parquet"):
        read_rows(table(tmp_path, "no parquet", "p.parquet"), read)


def test_own_texts_of_missing_values(tmp_path: Path) -> None:
    read = read_schema(schema(tmp_path, missing=["", -9, "unknown"]))
    text = GOOD.replace("50,1", "-9,1").replace("NA", "unknown")
    column = read_rows(table(tmp_path, text), read).patients.columns["age"]
    assert np.isnan(column).tolist() == [True, True, False]
