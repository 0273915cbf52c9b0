"""Risks from the probabilities of Yes and No: hand-computed cases and what always holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm import ChoiceScores, LanguageModel, Message, Reply, Request
from sagittal_risk.choice import NO, YES, FirstToken, Scoring, chooser, read_choice

ASK = Request((Message("user", "risk?"),), max_tokens=1, top_logprobs=20)


def told(**chances: float) -> list[tuple[str, float]]:
    return [(token.replace("_", " "), math.log(chance)) for token, chance in chances.items()]


@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        # Both there: 0.3 / 0.9, no bounds.
        ({"Yes": 0.3, "No": 0.6, "I": 0.1}, (0.3 / 0.9, 0.9, None, None)),
        # All spellings count: Yes 0.2 + 0.1 + 0.05, No 0.1 + 0.05.
        ({"Yes": 0.2, "_Yes": 0.1, "yes": 0.05, "No": 0.1, "_NO": 0.05}, (0.7, 0.5, None, None)),
        # "Not" and "Yesterday" are other words.
        ({"Yes": 0.2, "No": 0.2, "Not": 0.3, "Yesterday": 0.3}, (0.5, 0.4, None, None)),
        # No is not told: six spellings of at most 0.01, less than the 0.29 that are left.
        ({"Yes": 0.6, "I": 0.1, "The": 0.01}, (None, 0.6, 0.6 / 0.66, 1.0)),
        # No is not told, and the candidates leave 0.05, less than six times 0.05.
        ({"Yes": 0.9, "I": 0.05}, (None, 0.9, 0.9 / 0.95, 1.0)),
        # Yes is not told: at most 6 x 0.02 = 0.12 beside No's 0.5.
        ({"No": 0.5, "I": 0.2, "The": 0.02}, (None, 0.5, 0.0, 0.12 / 0.62)),
        # A server that tells the chosen token alone.
        ({"No": 0.8}, (None, 0.8, 0.0, 0.2 / 1.0)),
    ],
)
def test_hand_computed_cases(
    chances: dict[str, float], expected: tuple[float | None, float, float | None, float | None]
) -> None:
    found = read_choice(told(**chances))
    risk, mass, low, high = expected
    assert found.mass == pytest.approx(mass)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    middle = risk if low is None or high is None else (low + high) / 2
    assert found.risk == pytest.approx(middle)


def test_marks_of_a_word_s_beginning_are_no_part_of_it() -> None:
    assert read_choice([("▁Yes", math.log(0.2)), ("ĠNo", math.log(0.6))]).risk == pytest.approx(
        0.25
    )


@pytest.mark.parametrize(
    "candidates",
    [told(I=0.9, The=0.1), [], [("Yes", math.nan), ("No", -1.0)], [("Yes", -math.inf)]],
)
def test_what_tells_neither_answer_gives_no_number(candidates: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError):
        read_choice(candidates)


@given(st.lists(st.tuples(st.sampled_from([*YES, *NO, "I", "The"]), st.floats(-30, 0)), max_size=9))
def test_a_risk_lies_between_its_bounds(candidates: list[tuple[str, float]]) -> None:
    if not {token for token, _ in candidates} & {*YES, *NO}:
        with pytest.raises(ValueError):
            read_choice(candidates)
        return
    found = read_choice(candidates)
    assert 0 <= found.risk <= 1
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.risk <= found.high <= 1


class Scores(LanguageModel):
    """Finds Yes a quarter as probable as No."""

    name = identity = "scores"
    error: DataError | None = None

    def complete(self, request: Request) -> Reply:
        raise AssertionError("nothing is generated")

    def choose(self, messages: tuple[Message, ...], options: list[str]) -> ChoiceScores:
        if self.error is not None:
            raise self.error
        chances = [{"yes": 0.1, "no": 0.4}[option.strip().lower()] for option in options]
        return ChoiceScores(np.log(chances), np.ones(len(options), dtype=np.int64))


class Talks(LanguageModel):
    """Answers with what it is given."""

    name = identity = "talks"

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def complete(self, request: Request) -> Reply:
        return self.reply


def test_a_model_that_scores_answers_generates_nothing() -> None:
    model = chooser(Scores())
    assert isinstance(model, Scoring)
    reply = model.complete(ASK)
    assert (reply.outcome, reply.text) == ("ok", "No")
    assert read_choice(reply.first_token)[:2] == (pytest.approx(0.2), pytest.approx(0.5))
    assert model.identity != Scores.identity


def test_a_prompt_that_is_too_long_is_an_outcome_and_other_errors_stay_errors() -> None:
    inner = Scores()
    inner.error = DataError("m", key="options", expected="up to 8", found="9")
    assert Scoring(inner).complete(ASK).outcome == "transport"
    inner.error = DataError("m", key="chat_template", expected="one", found="none")
    with pytest.raises(DataError, match="chat_template"):
        Scoring(inner).complete(ASK)


def test_a_server_without_log_probabilities_is_an_error_that_says_what_to_do() -> None:
    model = chooser(Talks(Reply("truncated", "Yes", "talks")))
    assert isinstance(model, FirstToken)
    with pytest.raises(ConfigError, match="mode: verbalised"):
        model.complete(ASK)
    for outcome in ("refusal", "transport"):
        assert FirstToken(Talks(Reply(outcome, "", "talks"))).complete(ASK).outcome == outcome
