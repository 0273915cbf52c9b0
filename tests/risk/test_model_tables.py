"""Tables as a tuned model is told them: columns, codes and texts of missing values."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run
from tiny_run import TELLING, score, scores, written

from sagittal_core.results import read_results
from sagittal_core.sampling import ItemKey
from sagittal_risk.data import RiskRecords
from sagittal_risk.records.told import Telling, ToldTable


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tiny_run.patients(), tmp_path / "patients.csv")


def test_prompts_are_those_of_tuning(table: Path) -> None:
    frame = tiny_run.patients().iloc[:9].assign(CVD=0, note=" Feels well. ")
    frame.loc[3, "note"] = None
    file = written(frame, table.with_name("tuning.csv"))
    data = RiskRecords(
        str(file), TELLING.groups, "CVD", None, (0.0, 0.0, 1.0), "note", question=tiny_run.QUESTION
    )
    data.setup()
    rows = data.sets["test"]
    expected = [rows[ItemKey(index, 0)][0] for index in range(len(rows))]
    whole = ToldTable(file, Telling(TELLING.groups, tiny_run.QUESTION, "note"))
    told = whole.tell(0, len(whole))
    assert [one.prompt for one in told] == expected
    assert told[3].missing == ("Diabetes", "note")


def test_a_column_that_is_not_there_is_missing_for_everyone(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = tiny_run.patients().drop(columns=["systolic", "sex"])
    out = tmp_path / "out"
    assert score(written(frame, table), prefix, out) == 0
    found = scores(out)
    assert found["missing"][:3].tolist() == ["Sex;Systolic blood pressure"] * 3
    assert found["missing"][3] == "Sex;Systolic blood pressure;Diabetes"
    assert found["risk"].notna().sum() == 9
    assert "no column systolic; Systolic blood pressure is missing for everyone" in (
        capsys.readouterr().out
    )
    reasons = read_results(out / "results.json")["tables"]["reasons"]["rows"]
    assert ["model:tiny", "missing", "Sex", "10"] in [list(map(str, row)) for row in reasons]
    assert score(written(frame[["person"]], table), prefix, tmp_path / "none") == 2
    said = capsys.readouterr().err
    assert "none of the columns" in said
    assert "--groups" in said
    assert not (tmp_path / "none").exists()


def test_a_code_without_a_text_is_flagged_and_a_column_of_them_refused(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = tiny_run.patients().astype({"sex": object, "systolic": object})
    frame.loc[1, "sex"], frame.loc[4, "systolic"] = "X", "high"
    out = tmp_path / "out"
    assert score(written(frame, table), prefix, out) == 0
    found = scores(out)
    assert found["out_of_range"][[1, 4]].tolist() == ["Sex", "Systolic blood pressure"]
    assert found["risk"][[1, 4]].isna().all()
    assert found["risk"].notna().sum() == 7  # the others are told as before
    assert "1 rows have a Sex that the groups have no text for" in capsys.readouterr().out
    frame["sex"] = ["F", "M"] * 5
    assert score(written(frame, table), prefix, tmp_path / "refused") == 2
    said = capsys.readouterr().err
    assert all(words in said for words in ("sex", "0, 1", "10 of 10 rows", "row 1", "--groups"))
    assert not (tmp_path / "refused").exists()


def test_other_columns_and_codes_are_told_by_a_groups_file(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(table, prefix, tmp_path / "one") == 0
    frame = tiny_run.patients().rename(columns={"age": "AGE", "systolic": "sbp"})
    frame["sex"] = frame["sex"].map({0: "F", 1: "M"})
    frame["diabetes"] = frame["diabetes"].map({0: "no", 1: "Yes"})
    text = yaml.safe_dump(tiny_run.GROUPS).replace("column: age", "column: AGE")
    text = text.replace("column: systolic", "column: sbp").replace("'0'", "F").replace("'1'", "M")
    groups = tmp_path / "groups.yaml"
    groups.write_text(text)
    other = written(frame, tmp_path / "other.csv")
    assert score(other, prefix, tmp_path / "two", "--groups", str(groups)) == 0
    frames = scores(tmp_path / "one"), scores(tmp_path / "two")
    pandas.testing.assert_frame_equal(*frames)
    groups.write_text(
        yaml.safe_dump([{"name": "a", "features": [{"column": "AGE", "name": "Old"}]}])
    )
    capsys.readouterr()
    assert score(other, prefix, tmp_path / "three", "--groups", str(groups)) == 0
    said = capsys.readouterr().out
    assert "was not tuned with Old" in said
    assert "no column is told as Age, Sex, Systolic blood pressure, Diabetes" in said
    assert scores(tmp_path / "three")["missing"][0].startswith("Age;Sex;")


def test_every_kind_of_table_and_text_for_missing_tells_the_same(tmp_path: Path) -> None:
    frame = tiny_run.patients()
    whole = ToldTable(written(frame, tmp_path / "a.csv"), TELLING)
    expected = whole.tell(0, 10)
    frame.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "c.parquet")
    coded = frame.fillna(-9)
    coded["sex"] = [f" {int(sex)} " if sex != -9 else "unknown" for sex in coded["sex"]]
    coded.to_parquet(tmp_path / "d.parquet")
    coded.to_csv(tmp_path / "e.csv", index=False)
    for name in ("b.tsv", "c.parquet", "d.parquet", "e.csv"):
        told = ToldTable(tmp_path / name, TELLING, ("-9", "unknown")).tell(0, 10)
        assert told == expected, name
    # Without a word for it, -9 is a code of nothing and a blood pressure like any other.
    told = ToldTable(tmp_path / "d.parquet", TELLING, ("unknown",)).tell(0, 10)
    assert told[3].untold == ("Diabetes",)
    assert told[9].untold == ("Diabetes",)
