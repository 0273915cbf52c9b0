"""Scores by a tuned model: the same as in tuning, flagged where they are not to be trusted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run
from tiny_run import TELLING, score, scores, written

from sagittal_core.results import read_results
from sagittal_risk.cli import run
from sagittal_risk.model_scores import Asked, scored
from sagittal_risk.records.told import Told
from sagittal_risk.tuned import TunedModel, years_of


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tiny_run.patients(), tmp_path / "patients.csv")


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
