"""Several prompts share a forward pass: same answers, same bits after a kill, nothing twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_lm

from sagittal_core.llm import LocalModel, Message, Request
from sagittal_risk.ask import ask
from sagittal_risk.choice import Scoring, chooser, read_choice
from sagittal_risk.records.description import Feature, Group

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
GROUPS = [Group("g", [Feature("age", "Age", "years", 0), Feature("note", "Note")])]
COUNT = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    found = tiny_lm.save_tiny(
        tmp_path_factory.mktemp("tiny") / "lm", ["Age: 12 years;\nNote: walks.\n"]
    )
    tokenizer = AutoTokenizer.from_pretrained(found)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(found)
    return found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    file = tmp_path / "t.csv"
    notes = ["walks " * int(rng.integers(1, 9)) for _ in range(COUNT)]
    ages = rng.integers(40, 80, COUNT)
    pandas.DataFrame({"age": ages, "note": notes}).to_csv(file, index=False)
    return file


def request(text: str) -> Request:
    return Request((Message("user", text),), max_tokens=1, top_logprobs=20)


class Counting(LocalModel):
    """Counts prompts and passes."""

    def __init__(self, path: Path, options_per_pass: int = 4) -> None:
        super().__init__(path, device="cpu", options_per_pass=options_per_pass)
        self.passes: list[int] = []

    def choose_many(self, conversations, options):
        self.passes.append(len(conversations))
        return super().choose_many(conversations, options)


def test_a_batch_is_one_pass_with_the_answers_of_single_ones(folder: Path) -> None:
    requests = [request("walks " * number) for number in range(1, 7)]
    batched, single = Counting(folder), Counting(folder)
    together, alone = chooser(batched), chooser(single)
    assert isinstance(together, Scoring)
    together.expect([*requests, requests[0]])  # one that is asked twice counts once
    found = [read_choice(together.complete(one).first_token) for one in requests]
    expected = [read_choice(alone.complete(one).first_token) for one in requests]
    assert batched.passes == [4, 2]
    assert single.passes == [1] * 6
    assert np.array([one[:2] for one in found]) == pytest.approx(
        np.array([one[:2] for one in expected]), rel=1e-4
    )
    assert len({round(one.risk, 6) for one in found}) > 1


def test_a_prompt_that_is_too_long_costs_its_neighbours_nothing(folder: Path) -> None:
    requests = [request("walks"), request("walks " * 2000), request("walks walks")]
    model = chooser(Counting(folder))
    assert isinstance(model, Scoring)
    model.expect(requests)
    assert [model.complete(one).outcome for one in requests] == ["ok", "transport", "ok"]


def test_many_prompts_that_are_too_long_are_no_server_that_is_down(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "long.csv"
    pandas.DataFrame({"age": [60] * 5, "note": ["walks " * (400 + n) for n in range(5)]}).to_csv(
        file, index=False
    )
    for mode in ("choice", "verbalised"):
        out = tmp_path / mode
        ask(file, GROUPS, model=Counting(folder), mode=mode, out=out, stop_after=2)
        assert pandas.read_csv(out / "risks.csv")["outcome"].tolist() == ["transport"] * 5


@pytest.mark.parametrize("kept", [0, 1, 4, 6, COUNT])
def test_after_a_kill_the_numbers_are_the_same_to_the_bit(
    kept: int, folder: Path, table: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        ask(table, GROUPS, model=Counting(folder), out=out)
    lines = (killed / "answers.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == COUNT
    # As a kill leaves it: some answers, half a line, and a cache without the others.
    (killed / "answers.jsonl").write_text("".join(lines[:kept]) + '{"key": "row')
    (killed / "risks.csv").unlink()
    for file in (killed / "replies").rglob("*.json"):
        file.unlink()
    model = Counting(folder)
    ask(table, GROUPS, model=model, out=killed)
    assert (killed / "risks.csv").read_bytes() == (whole / "risks.csv").read_bytes()
    keys = [json.loads(line)["key"] for line in (killed / "answers.jsonl").read_text().splitlines()]
    assert sorted(keys) == sorted(f"row-{row}" for row in range(1, COUNT + 1))
    # At most the batch that was under way is computed again.
    assert sum(model.passes) <= COUNT - kept + 3
    assert (kept < COUNT) == bool(model.passes)
