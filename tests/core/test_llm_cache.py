"""Answers are found by what was asked of whom; two processes may write at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sagittal_core.llm import CachedModel, LanguageModel, Message, Reply, ReplyCache, Request

ASK = Request((Message("user", "Which organ?"),))


class Scripted(LanguageModel):
    name = "scripted"

    def __init__(self, answer: Callable[[int], Reply], identity: str = "a") -> None:
        self.answer, self.identity, self.calls = answer, identity, 0

    def complete(self, request: Request) -> Reply:
        self.calls += 1
        return self.answer(self.calls)


def test_the_second_time_it_comes_from_disk(tmp_path: Path) -> None:
    model = Scripted(lambda n: Reply("ok", f"Größe {n} ≥ 3 cm", "m", 4, 2))
    first = CachedModel(model, ReplyCache(tmp_path)).complete(ASK)
    cache = ReplyCache(tmp_path)
    second = CachedModel(model, cache).complete(ASK)
    assert second == replace(first, cached=True)
    assert model.calls == 1
    assert (cache.hits, cache.misses, cache.hit_rate) == (1, 0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, temperature=0.3),
        replace(ASK, seed=1),
        replace(ASK, sample=1),
        replace(ASK, max_tokens=7),
        replace(ASK, messages=(Message("user", "Which organ ?"),)),
        replace(ASK, messages=(Message("system", "Which organ?"),)),
        replace(ASK, messages=(Message("user", "Which organ?", images=(b"x",)),)),
    ],
)
def test_whatever_changes_the_question_is_asked_anew(tmp_path: Path, other: Request) -> None:
    model = Scripted(lambda n: Reply("ok", str(n), "m"))
    cached = CachedModel(model, ReplyCache(tmp_path))
    assert cached.complete(ASK).text != cached.complete(other).text


def test_another_model_is_asked_anew(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    for identity in "ab":
        model = Scripted(lambda n: Reply("ok", "x", "m"), identity)
        assert not CachedModel(model, cache).complete(ASK).cached


@pytest.mark.parametrize("outcome", ["refusal", "truncated", "ok"])
def test_answers_are_kept_whatever_they_are(tmp_path: Path, outcome: str) -> None:
    model = Scripted(lambda n: Reply(outcome, "x", "m", detail="why"))
    cached = CachedModel(model, ReplyCache(tmp_path))
    cached.complete(ASK)
    assert (cached.complete(ASK).outcome, model.calls) == (outcome, 1)


def test_an_answer_that_never_came_is_asked_again(tmp_path: Path) -> None:
    replies = [Reply("transport", "", "m", detail="HTTP 500"), Reply("ok", "x", "m")]
    cached = CachedModel(Scripted(lambda n: replies[n - 1]), ReplyCache(tmp_path))
    assert [cached.complete(ASK).outcome for _ in range(3)] == ["transport", "ok", "ok"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"reply": {"text": "x"}}'])
def test_a_damaged_entry_is_counted_and_replaced(tmp_path: Path, damage: str) -> None:
    cache = ReplyCache(tmp_path)
    model = Scripted(lambda n: Reply("ok", str(n), "m"))
    CachedModel(model, cache).complete(ASK)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    assert CachedModel(model, cache).complete(ASK).text == "2"
    assert cache.damaged == 1
    assert json.loads(file.read_text())["reply"]["text"] == "2"


def test_the_entry_says_what_was_asked(tmp_path: Path) -> None:
    CachedModel(Scripted(lambda n: Reply("ok", "x", "m")), ReplyCache(tmp_path)).complete(ASK)
    (file,) = tmp_path.rglob("*.json")
    assert json.loads(file.read_text())["request"]["messages"][0]["text"] == "Which organ?"


WRITER = """
import sys
from sagittal_core.llm import Message, Reply, ReplyCache, Request
cache = ReplyCache(sys.argv[1])
for number in range(200):
    ask = Request((Message("user", str(number % 10)),))
    found = cache.get(ask, "m")
    assert found is None or found.text == "long " * 2000, found
    cache.put(ask, "m", Reply("ok", "long " * 2000, "m"))
assert cache.damaged == 0
"""


def test_two_processes_never_see_half_an_entry(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 10
    assert all(file.suffix == ".json" for file in files)
