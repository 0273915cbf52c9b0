"""CSV files that pandas would read in another way than they were meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from sagittal_core.errors import DataError
from sagittal_risk.records.csv_shape import check_shape
from sagittal_risk.records.schema import Column, Schema
from sagittal_risk.records.table import frames_of, read_frame, whole_table
from sagittal_risk.scoring import Names

SCHEMA = Schema({"age": Column("age"), "systolic": Column("sbp", unit="mmHg")}, id="who")
READERS: list[Callable[[Path], object]] = [
    lambda file: list(frames_of(file, SCHEMA, 2)),
    read_frame,
    lambda file: whole_table(file, ["age", "who"]),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"who,age,sbp\na,61,120\nb,52,5,140\nc,1,2,3,4\n",
         ["2 rows with more", "row 2 with 4", "at most 3"]),
        (b"who,age,sbp\n1,a,61,120\n2,b,52,140\n", ["2 rows with more"]),
        (b"who,age,sbp,sbp\na,61,120,130\n", ["several named sbp"]),
        (b"", ["an empty file"]),
        ("who,age,sbp\nJos\u00e9,61,120\n".encode("latin-1"), ["UTF-8", "byte 16", "iconv"]),
    ],
)  # fmt: skip
def test_files_that_are_no_tables_are_named(
    content: bytes, words: list[str], read: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "patients.csv"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(file)
    for word in [*words, "patients.csv"]:
        assert word in str(caught.value)
    assert "52" not in str(caught.value)  # nothing of a patient


@pytest.mark.parametrize(
    "content",
    [
        b"who,age,sbp\na,61,120\nb,52\n",  # cells are missing at the end of a row
        b'who,age,sbp\n"a, or\nb",61,120\n\n"c""d",52,130\n',
        b"\xef\xbb\xbfwho,age,sbp\r\na,61,120\r\nb,52,140\r\n",
        "who,age,sbp,name\na,61,120,Jos\u00e9\nb,52,1,x\n".encode("latin-1"),  # not read
    ],
)
def test_what_can_be_read_is(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    file.write_bytes(content)
    check_shape(file, ",")
    (frame,) = (frame for _, frame in frames_of(file, SCHEMA, 9))
    assert frame["age"].tolist() == ["61", "52"]


def test_a_file_that_was_written_anew_is_checked_anew(tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    file.write_text("who,age,sbp\na,61,120\n")
    check_shape(file, ",")
    file.write_text("who,age,sbp\na,61,120,1\n")
    with pytest.raises(DataError, match="1 rows with more"):
        check_shape(file, ",")


def test_identifiers_that_come_again_are_counted_over_parts() -> None:
    names = Names("who")
    names.see(pandas.DataFrame({"who": ["a", "b", "a", None, " "]}))
    names.see(pandas.DataFrame({"who": ["b", "c", "c"]}))
    assert names.counts == {"ids again": 3, "ids empty": 2}
    numbered = Names(None)
    numbered.see(pandas.DataFrame({"who": ["a", "a"]}))
    assert not any(numbered.counts.values())
