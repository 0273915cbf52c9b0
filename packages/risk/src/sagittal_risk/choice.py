"""The risk that lies in how probable a model finds the answers Yes and No."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm import LanguageModel, LocalModel, Reply, Request

CANDIDATES = 20  # as many as servers of OpenAI's protocol tell


def spellings(word: str) -> tuple[str, ...]:
    """A word as the first token of an answer may spell it, with and without a space before it."""
    cased = (word.capitalize(), word.lower(), word.upper())
    return tuple(space + one for space in ("", " ") for one in cased)


YES, NO = spellings("yes"), spellings("no")


class Choice(NamedTuple):
    """What a model thinks of the two answers.

    Attributes:
        risk: Probability of Yes among the two; the middle of the bounds where there are any.
        mass: Probability of the two together, as far as it was told.
        low: Least risk that what was told allows, or None where both answers were told.
        high: Greatest risk, as ``low``.
    """

    risk: float
    mass: float
    low: float | None = None
    high: float | None = None


def read_choice(candidates: Sequence[tuple[str, float]]) -> Choice:
    """Read the candidates for the first token of an answer.

    Where one answer is not among them, each of its spellings has at most the least probability that
    was told, and all together at most what the candidates leave.

    Args:
        candidates: Tokens with natural log-probabilities. Other tokens than spellings of Yes and No
            only matter for those bounds.

    Raises:
        ValueError: Neither answer is among them, or a number is none.
    """
    if any(math.isnan(logprob) for _, logprob in candidates):
        raise ValueError("a log-probability is not a number")
    chances = [math.exp(min(0.0, logprob)) for _, logprob in candidates]
    words = [_word(token) for token, _ in candidates]
    yes = math.fsum(p for p, word in zip(chances, words, strict=True) if word == "yes")
    no = math.fsum(p for p, word in zip(chances, words, strict=True) if word == "no")
    mass = yes + no
    if not mass:
        raise ValueError("neither Yes nor No is among the candidates for the first token")
    if "yes" in words and "no" in words:
        return Choice(yes / mass, mass)
    unseen = min(len(YES) * min(chances), max(0.0, 1 - math.fsum(chances)))
    low = yes / (yes + unseen) if "yes" in words else 0.0
    high = 1.0 if "yes" in words else unseen / (no + unseen)
    return Choice((low + high) / 2, mass, low, high)


def _word(token: str) -> str:
    """A token without its mark of a word's beginning, which some servers leave as it is stored."""
    return token.strip().lstrip("▁Ġ").casefold()


def chooser(model: LanguageModel) -> LanguageModel:
    """A model whose replies hold candidates for the first token.

    A model that scores given answers is asked for the spellings of Yes and No, any other for its
    most probable first tokens.
    """
    return Scoring(model) if scores_answers(model) else FirstToken(model)


def scores_answers(model: LanguageModel) -> bool:
    """Whether a model gives probabilities of given text."""
    return type(model).choose is not LanguageModel.choose


class Scoring(LanguageModel):
    """A model that says how probable Yes and No are, without generating.

    Args:
        model: Scores given answers. A local model is asked for every spelling that is one token, so
            one forward pass tells all, for several prompts at a time.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.name = model, model.name
        self.identity = f"{model.identity}-scores-{'|'.join([*YES, *NO])}"
        self._options: list[str] = []
        self._batches: dict[str, list[Request]] = {}
        self._scored: dict[str, Reply] = {}

    def expect(self, requests: Sequence[Request]) -> None:
        """Say what will be asked, in order, so that several share a forward pass.

        The first of a batch that is asked is scored with all of it. Who shares a batch depends on
        the order alone, not on what was answered before a kill: the numbers are the same.

        Args:
            requests: Those of like length beside each other pad least.
        """
        size = self.model.options_per_pass if isinstance(self.model, LocalModel) else 1
        different = {request.key(self.identity): request for request in requests}
        keys = list(different)
        for start in range(0, len(keys), size):
            batch = [different[key] for key in keys[start : start + size]]
            self._batches.update(dict.fromkeys(keys[start : start + size], batch))

    def complete(self, request: Request) -> Reply:
        """The more probable answer, with the log-probabilities of all spellings."""
        key = request.key(self.identity)
        if key not in self._scored:
            batch = self._batches.get(key, [request])
            replies = self._replies(batch)
            self._scored = {
                one.key(self.identity): reply for one, reply in zip(batch, replies, strict=True)
            }
        return self._scored[key]

    def _replies(self, batch: Sequence[Request]) -> list[Reply]:
        """Of one forward pass, or of one each where a prompt of them is too long."""
        options = self._spellings()
        try:
            scores = self.model.choose_many([one.messages for one in batch], options)
        except DataError as error:
            if error.key not in ("conversations", "options"):
                raise
            if len(batch) > 1:
                return [self._replies([one])[0] for one in batch]
            detail = "the prompt exceeds the model's context"
            return [Reply("transport", "", self.name, detail=detail)]
        replies = []
        for one in scores:
            told = tuple(zip(options, one.logprobs.tolist(), strict=True))
            best = max(told, key=lambda option: option[1])[0].strip()
            replies.append(Reply("ok", best, self.name, first_token=told))
        return replies

    def _spellings(self) -> list[str]:
        if not self._options:
            found = self.model.one_token([*YES, *NO]) if isinstance(self.model, LocalModel) else []
            both = {_word(option) for option in found} == {"yes", "no"}
            self._options = found if both else [YES[0], NO[0]]
        return self._options

    def close(self) -> None:
        """Close the model."""
        self.model.close()


class FirstToken(LanguageModel):
    """A model behind a server that must tell the candidates for the first token.

    Args:
        model: Is asked as it is.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.name, self.identity = model, model.name, model.identity

    def complete(self, request: Request) -> Reply:
        """Answer one request.

        Raises:
            ConfigError: There is an answer, but no candidates.
        """
        return self._checked(self.model.complete(request))

    async def ask(self, request: Request) -> Reply:
        """As :meth:`complete`, others going on meanwhile."""
        return self._checked(await self.model.ask(request))

    def _checked(self, reply: Reply) -> Reply:
        if reply.outcome in ("ok", "truncated") and not reply.first_token:
            raise ConfigError(
                f"ask: the server of {self.name} tells no log-probabilities of its answer"
                " (top_logprobs); ask for a number in words instead: mode: verbalised"
            )
        return reply

    def close(self) -> None:
        """Close the model."""
        self.model.close()
