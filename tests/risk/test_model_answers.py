"""Answers of a tuned model: once for each prompt, kills or not, and for other tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run
from tiny_run import score, scores, written

from sagittal_risk.tuned import TunedModel


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tiny_run.patients(), tmp_path / "patients.csv")


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
