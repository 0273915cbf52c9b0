"""Tables of one's own, and what every reader asks of a table, an option and a cell."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import published
from published import read

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.readers import READERS, Refused, make_reader
from sagittal_cxr.readers.tables import age_number, sex_name, view_name


def test_a_missing_table_and_a_missing_column_are_named(tmp_path: Path) -> None:
    for name in published.ALL:
        with pytest.raises(DataError, match=r"expected: [\s\S]*found:    an empty folder|neither"):
            read(name, tmp_path)
    published.nih(tmp_path)
    file = tmp_path / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace("Finding Labels", "Findings"))
    with pytest.raises(DataError, match=r"key:      Finding Labels[\s\S]*'Findings'"):
        read("nih", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read("brax", tmp_path / "none")


def test_two_versions_of_a_table_are_not_guessed_at(tmp_path: Path) -> None:
    published.nih(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("x")
    with pytest.raises(
        DataError, match=r"one such file[\s\S]*Data_Entry_2017.csv, Data_Entry_2017_"
    ):
        read("nih", tmp_path)


TABLE = {
    "file": ["a.png", "b.png", "", "c.png"],
    "who": [7, 7, 8, 9],
    "report": ["FINDINGS: Clear.\nIMPRESSION: Normal.", "Heart is large.", "x", ""],
    "found": ["none", "mass; edema", "none", None],
    "fold": ["train", "Valid", "train", "test"],
    "years": [33.0, 34.5, 1, None],
}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_table_of_one_s_own(suffix: str, tmp_path: Path) -> None:
    frame, file = pandas.DataFrame(TABLE), tmp_path / f"mine{suffix}"
    frame.to_parquet(file) if suffix == ".parquet" else frame.to_csv(file, index=False)
    records, refused = read(
        "table",
        tmp_path,
        table=file.name,
        image="file",
        patient="who",
        folder="pictures",
        age="years",
        split="fold",
        report="report",
        labels="found",
        separator=";",
        none="none",
        names=["Mass", "Edema", "Effusion"],
        rename={"mass": "Mass", "edema": "Edema"},
        masks="masks",
    )
    a, b, c = records
    assert refused == [Refused("row 2", "no name: of picture or patient")]
    assert (a.image, a.patient, a.mask) == ("pictures/a.png", "7", "file:masks/a.png")
    assert (a.findings, a.impression) == ("Clear.", "Normal.")
    assert b.findings == "Heart is large."  # the fallback of a report without headings
    assert a.labels == {"No Finding": 1, "Mass": 0, "Edema": 0, "Effusion": 0}
    assert b.labels == {"No Finding": 0, "Mass": 1, "Edema": 1, "Effusion": 0}
    assert c.labels == {}
    assert [r.split for r in records] == ["train", "val", "test"]
    assert [r.age for r in records] == [33, 34.5, None]


def test_a_table_with_a_column_a_finding(tmp_path: Path) -> None:
    text = "image,patient,tb,ptx\na,1,1,\nb,2,0,-1\n"
    published.write(tmp_path / "t.csv", text)
    columns = {"tb": "Tuberculosis", "ptx": "Pneumothorax"}
    records, _ = read("table", tmp_path, table="t.csv", suffix=".png", label_columns=columns)
    assert records[0].image == "a.png"
    assert [r.labels for r in records] == [
        {"Tuberculosis": 1},
        {"Tuberculosis": 0, "Pneumothorax": -1},
    ]


def test_tables_contradicting_their_options_are_refused(tmp_path: Path) -> None:
    published.write(tmp_path / "t.csv", "image,patient,l,s\na,1,Mass,new\n")
    said = r"t\.csv[\s\S]*expected: Edema, or No Finding[\s\S]*found:    Mass in row 0"
    with pytest.raises(DataError, match=said):
        read("table", tmp_path, table="t.csv", labels="l", names=["Edema"])
    with pytest.raises(DataError, match="'Mass' in row 0"):
        read("table", tmp_path, table="t.csv", label_columns={"l": "Edema"})
    with pytest.raises(DataError, match=r"key:      split[\s\S]*'new'"):
        read("table", tmp_path, table="t.csv", split="s")
    with pytest.raises(DataError, match=r"key:      age"):
        read("table", tmp_path, table="t.csv", age="age")
    with pytest.raises(ConfigError, match="not both"):
        read("table", tmp_path, table="t.csv", report="l", findings="l")
    with pytest.raises(DataError, match="no such file"):
        read("table", tmp_path, table="u.csv")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zip"])
def test_a_text_with_bare_commas_is_not_cut_off(suffix: str, tmp_path: Path) -> None:
    text = 'image,patient,report\na,1,"FINDINGS: clear, and dry."\nb,2,FINDINGS: clear, and wet.\n'
    file = tmp_path / f"t.csv{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("t.csv", text)
    else:
        published.write(file, text)
    with pytest.raises(DataError) as caught:
        read("table", tmp_path, table=file.name, report="report")
    error = caught.value
    assert (error.key, error.file) == ("line 3", str(file))
    assert (error.expected, error.found) == ("3 cells, as in the header", "4 cells")
    published.write(tmp_path / "u.csv", "image,patient,report\na,1,FINDINGS: clear.,\n")
    with pytest.raises(DataError, match="line 2"):
        read("table", tmp_path, table="u.csv", report="report")
    for name in ("v.csv.gz", "v.csv.zip"):
        (tmp_path / name).write_bytes(b"not packed")
        with pytest.raises(DataError, match="key:      table"):
            read("table", tmp_path, table=name)


def test_options_and_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'padchest'"):
        make_reader("padchst", {})
    with pytest.raises(ConfigError, match=r"unknown option 'agrement'[\s\S]*'agreement'"):
        make_reader("vindr", {"agrement": 3})
    with pytest.raises(ConfigError, match="needs the option table"):
        make_reader("table", {})
    for name in READERS:
        assert make_reader(name, {"table": "x"} if name == "table" else {}).has_reports in (0, 1)


@pytest.mark.parametrize(
    ("function", "cells"),
    [
        (
            view_name,
            {"pa ": "PA", "LL": "LATERAL", "POSTERO_ANTERIOR": "PA", "nan": None, "": None},
        ),
        (view_name, {"AP  AXIAL": "AP AXIAL", "Frontal": "FRONTAL", "N/A": None}),
        (sex_name, {"Female": "F", "m": "M", "Unknown": None, "O": None, "": None}),
        (age_number, {"57": 57, "057Y": 57, "006M": 0.5, "57.5": 57.5, "": None, "-1": None}),
        (age_number, {"411": None, "nan": None, "x": None}),
    ],
)
def test_small_values(function: Callable, cells: dict) -> None:
    assert {cell: function(cell) for cell in cells} == cells
