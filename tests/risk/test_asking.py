"""What ask and summarise share: the table as it is told, folders of answers, counts."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm import LanguageModel, Prices, Reply, Request, Tally
from sagittal_risk.asking import (
    hit_rate,
    outcome_table,
    patients_of,
    usage_table,
    workers,
)
from sagittal_risk.job import begin_job
from sagittal_risk.prompts import read_percent
from sagittal_risk.records.description import Feature, Group
from sagittal_risk.records.table import read_frame

GROUPS = [Group("g", [Feature("age", "Age", "years", 0), Feature("sbp", "Pressure", "mmHg")])]
ROWS = "who,age,sbp,note,event\n007,63,140.5,smokes,1\n008,,120,,0\n009,,,,1\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "patients.csv"
    file.write_text(ROWS)
    return file


def test_patients_are_told_with_what_is_known(table: Path) -> None:
    people = patients_of(table, GROUPS, "note", "who", None)
    assert [one.id for one in people] == ["007", "008", "009"]
    assert [one.row for one in people] == [1, 2, 3]
    assert people[0].description == "Age: 63 years;\nPressure: 140.5 mmHg.\n\nsmokes"
    assert people[1].description == "Pressure: 120 mmHg."
    assert people[2].description == ""
    assert [one.missing for one in people] == [[], ["age"], ["age", "sbp"]]
    assert all("00" not in one.key for one in people)
    numbered = patients_of(table, GROUPS, None, None, 2)
    assert [one.id for one in numbered] == ["1", "2"]


@pytest.mark.parametrize("name", ["t.tsv", "t.parquet"])
def test_every_kind_of_table_is_read_alike(name: str, table: Path, tmp_path: Path) -> None:
    frame, other = pandas.read_csv(table, dtype={"who": str}), tmp_path / name
    if name.endswith("tsv"):
        frame.to_csv(other, sep="\t", index=False)
    else:
        frame.astype({"age": "Int64"}).to_parquet(other)
    one, two = (patients_of(file, GROUPS, "note", "who", None) for file in (table, other))
    assert [p.description for p in one] == [p.description for p in two]
    assert [p.missing for p in one] == [p.missing for p in two]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": []}, "groups of features, a text_column"),
        ({"limit": 0}, "limit"),
        ({"text_column": "text"}, "text"),
        ({"others": ["CVD"]}, "CVD"),
        ({"groups": [Group("g", [Feature("hdl", "HDL")])]}, "hdl"),
    ],
)
def test_settings_that_do_not_fit_are_named(options: dict, words: str, table: Path) -> None:
    given = {"groups": GROUPS, "text_column": None, "id_column": None, "limit": None, **options}
    with pytest.raises(ConfigError, match=words):
        patients_of(table, **given)


@pytest.mark.parametrize(("name", "text"), [("t.csv", "a,b\n"), ("t.txt", "a\n1\n"), ("u.csv", "")])
def test_tables_that_are_none_are_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_frame(tmp_path / name)


def test_a_folder_goes_on_with_its_own_job_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin_job(out, {"mode": "choice", "seed": 0}, "answers")
    begin_job(out, {"seed": 0, "mode": "choice"}, "answers")
    with pytest.raises(ConfigError, match="another seed"):
        begin_job(out, {"mode": "choice", "seed": 1}, "answers")
    with pytest.raises(ConfigError, match="another limit"):
        begin_job(out, {"mode": "choice", "seed": 0, "limit": 3}, "answers")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        begin_job(tmp_path / "full", {"seed": 0}, "answers")
    assert not (tmp_path / "full" / "job.json").exists()


class Server(LanguageModel):
    name = identity = "server"

    def complete(self, request: Request) -> Reply:
        raise AssertionError


class Local(Server):
    def choose(self, messages, options):
        raise AssertionError


def test_a_model_on_this_machine_answers_one_at_a_time() -> None:
    assert (workers(Server(), None), workers(Server(), 3), workers(Local(), None)) == (8, 3, 1)
    for model, number in ((Local(), 2), (Server(), 0)):
        with pytest.raises(ConfigError, match="concurrency"):
            workers(model, number)


def test_usage_is_that_of_all_answers_and_the_rate_that_of_the_call() -> None:
    replies = {
        "a": Reply("ok", "x", "m", 100, 10),
        "b": Reply("truncated", "x", "m", 50, 20),
        "c": Reply("ok", "x", "m"),
        "d": Reply("transport", "", "m"),
    }
    tally = Tally(earlier=2, cached=1, sent=1, prompt_tokens=50, completion_tokens=20)
    assert hit_rate(tally) == 0.75
    assert hit_rate(Tally()) == 0
    rows = dict(usage_table(tally, replies, Prices(1.0, 10.0, "EUR"))[1])
    assert rows["tokens of prompts"] == 150
    assert rows["answers whose tokens the model did not tell"] == 1
    assert rows["cost (EUR)"] == f"{(150 + 300) / 1e6:.4f}"
    assert rows["cache hit rate of this call"] == "75.0 %"
    assert "cost (EUR)" not in dict(usage_table(tally, replies, None)[1])


def test_every_outcome_is_listed() -> None:
    rows = {row[0]: row[1:] for row in outcome_table(["ok", "parse_failure", "ok", "not_asked"])[1]}
    assert rows["ok"] == [2, "50.0 %"]
    assert rows["parse failure"] == [1, "25.0 %"]
    assert rows["refusal"] == [0, "0.0 %"]
    assert len(rows) == 6


@pytest.mark.parametrize("value", ["null", "[12]", "true", "{}", "NaN"])
def test_a_risk_that_is_no_number_is_not_read(value: str) -> None:
    with pytest.raises(ValueError):
        read_percent(f'{{"risk_percent": {value}}}')
