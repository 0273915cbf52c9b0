"""Scores by a tuned model: the same as in tuning, once for each prompt, kills or not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import tiny_lm
import tiny_run

from sagittal_core.errors import ConfigError
from sagittal_core.results import read_results
from sagittal_core.sampling import ItemKey
from sagittal_risk.answers import AnswerStore
from sagittal_risk.cli import run
from sagittal_risk.data import RiskRecords
from sagittal_risk.model_scores import Asked, scored
from sagittal_risk.records.groups import groups_of, read_groups
from sagittal_risk.records.told import Telling, Told, ToldTable
from sagittal_risk.tuned import TunedModel, years_of

GROUPS = groups_of(tiny_run.GROUPS, "test")
TELLING = Telling(GROUPS, tiny_run.QUESTION)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [one.prompt for one in map(TELLING.tell, tiny_run.patients().to_dict("records"))]
    return tiny_lm.save_tiny(tmp_path_factory.mktemp("lm") / "lm", [t for t in texts if t])


@pytest.fixture(scope="module")
def prefix(weights: Path) -> Path:
    return tiny_run.save_run(weights.parent / "runs", weights)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tiny_run.patients(), tmp_path / "patients.csv")


def written(frame: pandas.DataFrame, file: Path) -> Path:
    frame.to_csv(file, index=False)
    return file


def score(table: Path, prefix: Path, out: Path, *more: str) -> int:
    given = ["score", str(table), "--model", str(prefix), "--out", str(out), "--device", "cpu"]
    alone = () if "--equations" in more or "--schema" in more else ("--equations", "none")
    return run([*given, "--batch_size", "2", *alone, *more])


def scores(out: Path) -> pandas.DataFrame:
    return pandas.read_csv(out / "scores.csv", dtype={"missing": str, "out_of_range": str})


def test_risk_and_mass_are_those_of_the_model(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert score(table, prefix, out) == 0
    found = scores(out)
    assert found["row"].tolist() == list(range(1, 11))
    assert set(found["equation"]) == {"model:tiny"}
    assert set(found["outcome"]) == {"CVD"}
    assert set(found["years"]) == {10}
    network = TunedModel(prefix).network
    for row, record in enumerate(tiny_run.patients().to_dict("records")):
        prompt = TELLING.tell(record).prompt
        if prompt is None:
            assert np.isnan(found["risk"][row])
            continue
        with torch.no_grad():
            answers = network([prompt])
        assert found["risk"][row] == pytest.approx(float(answers.risk), abs=1e-5)
        assert found["answer_mass"][row] == pytest.approx(float(answers.mass), rel=1e-3)
    assert not found["applicable"].any()  # random weights hardly say either word
    said = capsys.readouterr().out
    assert "9 of 9 patients have an answer mass below 0.1" in said
    assert "nothing is known of 1 patients" in said
    # Told to one decimal, the last but one is the first.
    assert found["risk"][8] == found["risk"][0]
    assert "answers: 9, of which 1 were there (11.1 %)" in said


def test_prompts_are_those_of_tuning(table: Path) -> None:
    frame = tiny_run.patients().iloc[:9].assign(CVD=0, note=" Feels well. ")
    frame.loc[3, "note"] = None
    file = written(frame, table.with_name("tuning.csv"))
    data = RiskRecords(
        str(file), GROUPS, "CVD", None, (0.0, 0.0, 1.0), "note", question=tiny_run.QUESTION
    )
    data.setup()
    rows = data.sets["test"]
    expected = [rows[ItemKey(index, 0)][0] for index in range(len(rows))]
    whole = ToldTable(file, Telling(GROUPS, tiny_run.QUESTION, "note"))
    told = whole.tell(0, len(whole))
    assert [one.prompt for one in told] == expected
    assert told[3].missing == ("Diabetes", "note")


def test_equations_and_model_stand_side_by_side(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = tmp_path / "schema.yaml"
    fields = {"age": "age", "sex": {"column": "sex", "values": {"0": "female", "1": "male"}}}
    schema.write_text(yaml.safe_dump({"id": "person", "fields": fields}))
    out = tmp_path / "out"
    more = ("--schema", str(schema), "--equations", "[pce,prevent_hf_10y]", "--part_rows", "4")
    assert score(table, prefix, out, *more) == 0
    found = scores(out)
    assert found["equation"].tolist() == ["pce", "prevent_hf_10y", "model:tiny"] * 10
    assert found["id"][::3].tolist() == tiny_run.patients()["person"].tolist()
    model = found["equation"] == "model:tiny"
    assert found["answer_mass"][~model].isna().all()
    assert found["answer_mass"][model].notna().sum() == 9
    assert "2 equations and model:tiny (0 of 3 parts were there)" in capsys.readouterr().out
    alone = tmp_path / "alone"
    assert score(table, prefix, alone, "--schema", str(schema), "--equations", "none") == 0
    assert scores(alone)["id"].tolist() == tiny_run.patients()["person"].tolist()
    np.testing.assert_allclose(scores(alone)["risk"], found["risk"][model], rtol=1e-5)


class Killed(BaseException):
    """Ends a job between two batches."""


def test_after_a_kill_every_prompt_is_computed_once_and_all_is_the_same(
    table: Path, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = TunedModel.answer
    left = [10**6]

    def counted(self: TunedModel, prompts: list[str]) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        asked.extend(prompts)
        return answer(self, prompts)

    monkeypatch.setattr(TunedModel, "answer", counted)
    more = ("--part_rows", "7")
    assert score(table, prefix, tmp_path / "whole", *more) == 0
    once = sorted(asked)
    assert len(once) == len(set(once)) == 8
    for batches in range(1, 5):
        out = tmp_path / f"killed {batches}"
        asked.clear()
        left[0] = batches
        with pytest.raises(Killed):
            score(table, prefix, out, *more)
        assert not (out / "scores.csv").exists()
        left[0] = 10**6
        assert score(table, prefix, out, *more) == 0
        assert sorted(asked) == once
        for name in ("scores.csv", "answers.jsonl"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    asked.clear()
    assert score(table, prefix, out, *more) == 0
    assert not asked


def test_answers_serve_other_tables(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("--answers", str(tmp_path / "answers.jsonl"))
    assert score(table, prefix, tmp_path / "one", *kept) == 0
    more = written(pandas.concat([tiny_run.patients()] * 2), tmp_path / "more.csv")
    capsys.readouterr()
    assert score(more, prefix, tmp_path / "two", *kept) == 0
    assert "answers: 18, of which 18 were there (100.0 %)" in capsys.readouterr().out
    assert score(more, prefix, tmp_path / "three", *kept, "--bfloat16", "true") == 0
    assert "answers: 18, of which 10 were there" in capsys.readouterr().out
    risks = [scores(tmp_path / name)["risk"].dropna() for name in ("two", "three")]
    assert (risks[0] != risks[1]).any()
    np.testing.assert_allclose(risks[0], risks[1], atol=0.1)


def test_another_model_or_telling_is_refused(
    table: Path, prefix: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert score(table, prefix, out) == 0
    other = tiny_run.save_run(tmp_path / "runs", weights, seed=1)
    assert score(table, other, out) == 2
    assert "another model;" in capsys.readouterr().err
    fewer = tmp_path / "groups.yaml"
    fewer.write_text(yaml.safe_dump(tiny_run.GROUPS[:1]))
    assert score(table, prefix, out, "--groups", str(fewer)) == 2
    assert "another groups;" in capsys.readouterr().err
    assert score(table, prefix, out, "--bfloat16", "true") == 2
    (tmp_path / "runs" / "tiny-0000000001" / "state.json").write_text('{"status": "unfinished"}')
    assert score(table, other, tmp_path / "new") == 2
    assert "not finished" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


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


FEATURE = {"column": "a", "name": "A"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "expected a list of groups"),
        ({"groups": []}, "found a dict"),
        ([{"features": [FEATURE]}], "group 1: name is missing"),
        ([{"name": "a", "features": []}], "features is missing"),
        ([{"name": "a", "features": [{"column": "a"}]}], "group 1 (a), feature 1: name is missing"),
        ([{"name": "a", "features": [FEATURE | {"units": "mg"}]}], "'units' is unknown"),
        ([{"name": "a", "features": [FEATURE | {"decimals": 0.5}]}], "a whole number, found 0.5"),
        ([{"name": "a", "features": [FEATURE | {"decimals": True}]}], "a whole number"),
        ([{"name": "a", "features": [FEATURE | {"decimals": -1}]}], "a whole number"),
        ([{"name": "a", "features": [FEATURE | {"values": {True: "M"}}]}], "put it in quotes"),
        ([{"name": "a", "features": [FEATURE | {"values": {"1": 3}}]}], "code: text, found"),
        ([{"name": "a", "features": [FEATURE, FEATURE]}], "stands in two places"),
        ([{"name": "a", "features": ["age"]}], "expected column, name"),
    ],
)
def test_mistakes_in_groups_are_named(raw: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        read_groups(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_groups_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("[{")
    for name, words in (("none.yaml", "No such file"), ("broken.yaml", "no YAML")):
        with pytest.raises(ConfigError, match=words):
            read_groups(tmp_path / name)
    raw = [{"name": "a", "features": [FEATURE | {"values": {1: "M", 2.0: "F"}, "unit": None}]}]
    assert groups_of(raw, "x")[0].features[0].values == {"1": "M", "2": "F"}


def test_a_prompt_that_is_too_long_is_flagged_not_cut(
    table: Path, prefix: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = TunedModel(prefix).network
    prompts = [TELLING.tell(record).prompt for record in tiny_run.patients().to_dict("records")]
    lengths = [len(network.encode(prompt)[0]) if prompt else 0 for prompt in prompts]
    short = tiny_run.save_run(tmp_path / "runs", weights, longest=max(lengths) - 1)
    assert score(table, short, tmp_path / "out") == 0
    found = scores(tmp_path / "out")
    long = np.array(lengths) == max(lengths)
    assert (found["out_of_range"][long] == "prompt too long").all()
    assert found["risk"][long].isna().all()
    assert found["risk"].notna().sum() == 9 - long.sum()
    assert f"{long.sum()} prompts are longer than the model takes" in capsys.readouterr().out


def test_applicable_needs_an_answer_mass_of_a_tenth(prefix: Path) -> None:
    masses = np.array([[0.5, 0.4], [0.06, 0.03], [0.1, 0.001], [np.nan, np.nan]])
    told = [Told("a"), Told("b", missing=("Age",)), Told("c"), Told(None, untold=("Sex",))]
    found = scored(TunedModel(prefix), told, Asked(np.log(masses), np.zeros(4, bool), 3))
    assert found.applicable.tolist() == [True, False, True, False]
    np.testing.assert_allclose(found.risk[:3], [4 / 9, 1 / 3, 1 / 101], rtol=1e-9)
    assert found.counts["low mass"] == 1
    assert (found.counts["risk"], found.counts["applicable"]) == (3, 2)
    assert sum(found.counts["masses"]) == 3


def test_nothing_of_a_patient_is_in_the_report_or_the_answers(
    table: Path, prefix: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert score(table, prefix, out) == 0
    for name in ("results.json", "report.html", "answers.jsonl", "job.json"):
        text = (out / name).read_text()
        assert "secret" not in text
        assert str(tmp_path) not in text
        assert "133.3" not in text
    for line in (out / "answers.jsonl").read_text().splitlines():
        for key, pair in json.loads(line).items():
            assert re.fullmatch("[0-9a-f]{64}", key)
            assert all(value < 0 for value in pair)
    row = read_results(out / "results.json")["tables"]["answers"]["rows"][0]
    assert row[:3] == ["model:tiny", 9, 9]
    masses = scores(out)["answer_mass"].dropna()
    assert float(row[3]) == pytest.approx(masses.median(), rel=0.15)


def test_mistakes_on_the_command_line(
    table: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for options, words in (
        (["--equations", "none"], "no equation and no model"),
        (["--model", str(prefix)], "--equations none"),
        (["--bfloat16", "true"], "go with --model"),
        (["--model", str(tmp_path / "nothing"), "--equations", "none"], "expected one run folder"),
        (["--model", str(prefix), "--equations", "none", "--batch_size", "0"], "1 or more"),
    ):
        assert run(["score", str(table), "--out", out, *options]) == 2
        assert words in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_run_of_something_else_is_named(prefix: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd-0000000000"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "state.json").write_text('{"status": "finished"}')
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {}}}))
    with pytest.raises(ValueError, match="a fit of AdaCVD"):
        TunedModel(folder)
    whole = yaml.safe_load((prefix.parent / "tiny-0000000000" / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="adapters"):
        TunedModel(folder)


@pytest.mark.parametrize(
    ("question", "years"),
    [
        ("in the next 10 years?", 10),
        ("a 5-year risk", 5),
        ("event?", None),
        ("1 year, 5 years", None),
    ],
)
def test_the_horizon_is_that_of_the_question(question: str, years: int | None) -> None:
    assert years_of(question) == years


@given(st.lists(st.tuples(st.floats(-1e3, 0, width=32), st.floats(-1e3, 0, width=32)), max_size=6))
def test_answers_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]]
) -> None:
    file = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    keys = [f"key {number}" for number in range(len(pairs))]
    with AnswerStore(file) as store:
        store.add(keys, np.array(pairs, np.float32).reshape(-1, 2))
    with AnswerStore(file) as store:
        assert [store.get(key) for key in keys] == pairs
        assert store.get("another") is None


def test_a_torn_line_is_cut_off_and_a_damaged_one_counted(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with AnswerStore(file) as store:
        store.add(["a"], np.array([[-1.0, -2.0]]))
        store.add(["b"], np.array([[-3.0, -4.0]]))
    whole = file.read_bytes()
    for cut in range(1, len(whole) // 2):
        file.write_bytes(whole[:-cut])
        with AnswerStore(file) as store:
            assert (len(store), store.damaged) == (1, 0)
            store.add(["b"], np.array([[-3.0, -4.0]]))
        assert file.read_bytes() == whole
    file.write_bytes(b"[1, 2]\n{\n" + whole)
    with AnswerStore(file) as store:
        assert (len(store), store.damaged) == (2, 2)


def test_one_process_writes_answers(tmp_path: Path) -> None:
    with (
        AnswerStore(tmp_path / "answers.jsonl"),
        pytest.raises(ConfigError, match="another process"),
        AnswerStore(tmp_path / "answers.jsonl"),
    ):
        pass
