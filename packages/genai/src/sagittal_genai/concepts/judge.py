"""Does a feature's name fit what it has never been named by? Held-out images against five names."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sagittal_core.llm import LanguageModel, Message, Request, parse
from sagittal_core.seeds import counter_seed
from sagittal_genai.concepts.names import same, wilson

LETTERS = "ABCDE"


@dataclass(frozen=True)
class Case:
    """What a judge sees of one feature.

    Attributes:
        descriptions: Metadata of its held-out images in words, most active first.
        images: Their PNGs, if there are any.
        names: Five names in shuffled order.
        background: Descriptions of held-out images at large.
        seed: Of this case.
    """

    descriptions: Sequence[str]
    images: tuple[bytes, ...]
    names: Sequence[str]
    background: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    Attributes:
        order: Places of the names from best to worst; empty if there is no verdict.
        outcome: ``ok``, or why there is none.
        detail: More of the why.
    """

    order: tuple[int, ...] = ()
    outcome: str = "ok"
    detail: str = ""


class Judge(ABC):
    """Ranks names by how well they fit images.

    Attributes:
        name: For people; holds no path.
        identity: All that decides its verdicts.
        sees_images: Whether a case needs images.
    """

    name: str
    identity: str
    sees_images: bool = False

    @abstractmethod
    def rank(self, case: Case) -> Verdict:
        """Rank the names of one case."""

    def close(self) -> None:  # noqa: B027 - a judge without a model holds nothing open
        """Give connections back."""


class SentenceJudge(Judge):
    """By the similarity of sentence embeddings: names against the images' metadata in words.

    What counts is how much more similar a name is to these images than to held-out images at large:
    some names are a little like everything.

    Args:
        encoder: Folder or sample-data name of a sentence encoder.
    """

    def __init__(self, encoder: str = "minilm") -> None:
        self.encoder, self.identity = encoder, f"sentence {encoder}"
        self.name = f"sentence embeddings of {Path(encoder).name}"
        self._loaded: Any = None
        self._background: tuple[tuple[str, ...], Any] = ((), None)

    def rank(self, case: Case) -> Verdict:
        """Rank by the mean cosine with these descriptions above that with the background."""
        if self._loaded is None:
            from sagittal_core.encoders import SentenceEncoder

            self._loaded = SentenceEncoder(self.encoder)
        shown = self._loaded.encode(list(case.descriptions))
        names = self._loaded.encode(list(case.names))
        scores = (names @ shown.T).mean(1)
        if case.background:
            if self._background[0] != case.background:
                self._background = case.background, self._loaded.encode(list(case.background))
            scores = scores - (names @ self._background[1].T).mean(1)
        return Verdict(_descending(scores))


class ChoiceJudge(Judge):
    """By the log-probability that a language model gives each name as its answer.

    What a name is worth without any image (its log-probability after an empty list) is subtracted,
    so that common words have no advantage.

    Args:
        llm: A model that scores given answers, such as LocalModel.
    """

    def __init__(self, llm: LanguageModel) -> None:
        self.llm, self.identity = llm, f"choice {llm.identity}"
        self.name = f"probabilities of {llm.name}"
        self.sees_images = llm.sees_images

    def close(self) -> None:
        """Close the model."""
        self.llm.close()

    def rank(self, case: Case) -> Verdict:
        """Rank by pointwise mutual information."""
        seen = self.llm.choose(_question(case, case.images), case.names).logprobs
        blank = Case([], (), case.names)
        return Verdict(
            _descending(seen - self.llm.choose(_question(blank, ()), case.names).logprobs)
        )


class RankingJudge(Judge):
    """A language model writes the ranking; an answer that is none counts as a failure.

    Args:
        llm: Any model.
    """

    def __init__(self, llm: LanguageModel) -> None:
        self.llm, self.identity = llm, f"ranking {llm.identity}"
        self.name = f"rankings written by {llm.name}"
        self.sees_images = llm.sees_images

    def close(self) -> None:
        """Close the model."""
        self.llm.close()

    def rank(self, case: Case) -> Verdict:
        """Ask once, greedily."""
        names = "\n".join(f"{x}. {name}" for x, name in zip(LETTERS, case.names, strict=False))
        asked = _question(case, case.images)[0]
        text = (
            f"{asked.text}\nCandidates:\n{names}\nRank all {len(case.names)} candidates from the"
            " best fit to the worst. Answer with the letters only, such as B, A, E, C, D."
        )
        request = Request(
            (Message("user", text, case.images),), max_tokens=64, temperature=0.0, seed=case.seed
        )
        order, reply = parse(
            self.llm.complete(request), lambda answer: ranking(answer, len(case.names))
        )
        return Verdict(order or (), reply.outcome, reply.detail)


def ranking(text: str, count: int) -> tuple[int, ...]:
    """Places of the letters of a written ranking, the last one in the text.

    Raises:
        ValueError: There is no run of all ``count`` letters, each once.
    """
    letter = f"[{LETTERS[:count]}]"
    run = rf"\b{letter}\b(?:[\s,;>.)(*]+(?:\d[.)]\s*)?{letter}\b){{{count - 1}}}"
    for found in reversed(re.findall(run, text)):
        letters = re.findall(rf"\b{letter}\b", found)
        if len(set(letters)) == count:
            return tuple(LETTERS.index(x) for x in letters)
    raise ValueError(f"no ranking of {count} letters")


def candidates(
    names: Mapping[int, str], feature: int, seed: int, count: int = 5
) -> list[tuple[str, bool]] | None:
    """The true name among those of other features, shuffled, all of them different.

    Args:
        names: Of every named feature.
        feature: Whose name is true.
        seed: Of the run.
        count: True and false ones together.

    Returns:
        Names, and whether each is the true one; None where there are too few others.
    """
    taken, others = {same(names[feature])}, []
    rng = np.random.default_rng(counter_seed(seed, "distractors", feature))
    pool = [n for n in sorted(names) if n != feature]
    for place in rng.permutation(len(pool)):
        name = names[pool[int(place)]]
        if same(name) not in taken:
            taken.add(same(name))
            others.append((name, False))
        if len(others) == count - 1:
            both = [(names[feature], True), *others]
            return [both[int(i)] for i in rng.permutation(count)]
    return None


@dataclass
class Tally:
    """Verdicts counted.

    Attributes:
        ranks: Rank of the true name, 1 to 5, of every verdict.
        failures: Features without one, by outcome.
        left_out: Features that could not be judged, by reason.
    """

    ranks: list[int] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def rows(self, choices: int = 5) -> list[list[Any]]:
        """Success (rank at most 2) and rank 1 with Wilson's intervals and chance levels."""
        table: list[list[Any]] = []
        for label, limit in (("rank <= 2", 2), ("rank 1", 1)):
            hits, n = sum(rank <= limit for rank in self.ranks), len(self.ranks)
            low, high = wilson(hits, n)
            share = f"{100 * hits / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" if n else "none"
            table.append([label, share, f"{100 * limit / choices:.0f} %", n])
        return table


def tally(records: Sequence[Mapping[str, Any]]) -> Tally:
    """Count judgements as they stand in the journal."""
    counted = Tally()
    for record in records:
        if record["outcome"] == "ok":
            counted.ranks.append(int(record["rank"]))
        else:
            where = counted.left_out if record["outcome"] == "left out" else counted.failures
            why = record["detail"] if record["outcome"] == "left out" else record["outcome"]
            where[why] = where.get(why, 0) + 1
    return counted


def judgement(
    judge: Judge,
    feature: int,
    names: Mapping[int, str],
    descriptions: Sequence[str],
    images: Callable[[], tuple[bytes, ...]],
    seed: int,
    least: int,
    background: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One record: the rank of a feature's own name, or why there is none.

    Args:
        judge: Ranks.
        feature: Which.
        names: Of all features that have one.
        descriptions: Of its held-out images.
        images: Their PNGs, asked for only if the judge sees images.
        seed: Of the run.
        least: Held-out images that a judgement needs.
        background: Descriptions of held-out images at large.
    """
    chosen = candidates(names, feature, seed) if feature in names else None
    why = ""
    if feature not in names:
        why = "unnamed"
    elif len(descriptions) < least:
        why = f"fewer than {least} held-out images"
    elif chosen is None:
        why = "fewer than 4 other names"
    if why or chosen is None:
        return {"feature": feature, "outcome": "left out", "detail": why}
    shown = images() if judge.sees_images else ()
    name_list = [name for name, _ in chosen]
    case_seed = counter_seed(seed, "judge", feature)
    case = Case(descriptions, shown, name_list, background, case_seed)
    verdict = judge.rank(case)
    record = {"feature": feature, "outcome": verdict.outcome, "detail": verdict.detail}
    record["candidates"] = list(case.names)
    if verdict.outcome == "ok":
        truth = [true for _, true in chosen].index(True)
        record["rank"] = verdict.order.index(truth) + 1
    return record


def _question(case: Case, images: tuple[bytes, ...]) -> tuple[Message]:
    lines = "\n".join(f"{i}. {text}" for i, text in enumerate(case.descriptions, 1))
    text = f"Medical images that share one concept:\n{lines}\nWhich concept do they share?"
    return (Message("user", text, images),)


def _descending(scores: Any) -> tuple[int, ...]:
    """Places by score, best first; equal scores keep the shuffled order of the names."""
    return tuple(int(i) for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable"))
