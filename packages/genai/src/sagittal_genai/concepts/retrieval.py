"""From words to features to images, and how often that finds what was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sagittal_core.llm import LanguageModel, Message, Request, parse
from sagittal_core.seeds import counter_seed
from sagittal_genai.concepts.features import spread
from sagittal_genai.concepts.table import ConceptTable
from sagittal_genai.concepts.words import TfIdf

# A name much less like the query than the best one would add what was not asked for.
_NEAR = 0.7
_LOTS = 100  # random choices


@dataclass(frozen=True)
class Match:
    """Features that a query was understood as.

    Attributes:
        features: Numbers, best first; empty if nothing matches.
        scores: Similarity of each, in the matcher's own units; empty for a language model.
        outcome: ``ok``, ``nothing matches``, or why a language model gave none.
    """

    features: tuple[int, ...]
    scores: tuple[float, ...] = ()
    outcome: str = "ok"


class Matcher:
    """Finds the features whose names fit a query.

    Args:
        names: Of every feature that may be found.
        how: ``words`` (TF-IDF), ``sentences`` (a sentence encoder) or ``llm``.
        count: Features a query.
        encoder: Folder or sample-data name of the sentence encoder.
        llm: The language model.
        texts: More words of a feature than its name, such as its shared concepts; for ``words``.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        how: str = "words",
        count: int = 3,
        encoder: str = "minilm",
        llm: LanguageModel | None = None,
        texts: Mapping[int, str] | None = None,
    ) -> None:
        if how not in ("words", "sentences", "llm") or (how == "llm" and llm is None):
            raise ValueError(f"how must be words, sentences or llm (with a model), got {how!r}")
        self.names, self.how, self.count, self.llm = dict(names), how, count, llm
        self.numbers = sorted(self.names)
        extra = dict(texts or {})
        self._words = TfIdf([f"{self.names[n]} {extra.get(n, '')}" for n in self.numbers])
        self._encoder: Any = None
        if how == "sentences":
            from sagittal_core.encoders import SentenceEncoder

            self._encoder = SentenceEncoder(encoder)
            self._vectors = self._encoder.encode([self.names[n] for n in self.numbers])

    def match(self, query: str) -> Match:
        """Features for a query, at most ``count``, none much less similar than the best."""
        if not self.numbers:
            return Match((), outcome="nothing matches")
        if self.how == "llm":
            return self._ask(query)
        if self.how == "sentences":
            scores = np.asarray(self._encoder.encode([query])[0] @ self._vectors.T, np.float64)
        else:
            scores = self._words.scores(query)
        least = max(1e-9, _NEAR * float(scores.max()))
        best = [
            i
            for i in np.lexsort((np.array(self.numbers), -scores))[: self.count]
            if scores[i] >= least
        ]
        if not best:
            return Match((), outcome="nothing matches")
        chosen = tuple(self.numbers[i] for i in best)
        return Match(chosen, tuple(float(scores[i]) for i in best))

    def _ask(self, query: str) -> Match:
        """Ask for numbers in a list of the names, up to three times."""
        assert self.llm is not None
        wanted = min(self.count, len(self.numbers))
        listed = "\n".join(f"{i}. {self.names[n]}" for i, n in enumerate(self.numbers, 1))
        text = (
            f"Concepts:\n{listed}\n\nQuery: {query}\nWhich {wanted} concepts describe best what the"
            f' query asks for? Answer with JSON only: {{"features": [{wanted} numbers]}}'
        )
        request = Request((Message("user", text),), max_tokens=64, temperature=0.1)
        outcome = "ok"
        for attempt in range(3):
            places, reply = parse(
                self.llm.complete(replace(request, sample=attempt)),
                lambda answer: numbers_in(answer, wanted, len(self.numbers)),
            )
            if places is not None:
                return Match(tuple(self.numbers[i - 1] for i in places))
            outcome = reply.outcome
        return Match((), outcome=outcome)


def numbers_in(text: str, count: int, largest: int) -> list[int]:
    """The numbers of ``{"features": [...]}`` in an answer.

    Raises:
        ValueError: No such JSON, or not ``count`` different numbers in 1 .. ``largest``.
    """
    for found in re.findall(r"\{[^{}]*\}", text):
        try:
            numbers = json.loads(found)["features"]
            if not all(type(number) is int for number in numbers):
                continue
        except (ValueError, KeyError, TypeError):
            continue
        if len(set(numbers)) == len(numbers) == count and all(1 <= n <= largest for n in numbers):
            return list(numbers)
    raise ValueError(f'no {{"features": [...]}} of {count} numbers in 1..{largest}')


class Images:
    """Activations of images: the largest of an image's rows.

    Args:
        codes: (n, F) of the rows.
        image: (n,) image number of each row.
        rows: Those to search.
        subject: (n,) subject number of each row.

    Attributes:
        first: One row of each image, (m,), in ascending order.
    """

    def __init__(self, codes: csr_matrix, image: NDArray, rows: NDArray, subject: NDArray) -> None:
        self._columns = codes[rows].tocsc()
        self._image_of, at = np.unique(image[rows], return_index=True)
        order = np.argsort(at)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self._place = place[np.searchsorted(self._image_of, image[rows])]
        self.rows = np.asarray(rows)
        self.first = self.rows[np.sort(at)]
        self.subject = subject[self.first]

    def activations(self, features: Sequence[int]) -> tuple[NDArray, NDArray[np.int64]]:
        """(m, k) activation of each image, and the row (m, k) that has it."""
        found = np.zeros((len(self.first), len(features)))
        at = np.repeat(self.first[:, None], len(features), axis=1).astype(np.int64)
        for k, feature in enumerate(features):
            part = slice(self._columns.indptr[feature], self._columns.indptr[feature + 1])
            rows, values = self._columns.indices[part], self._columns.data[part]
            order = np.argsort(values, kind="stable")  # the largest is written last
            found[self._place[rows[order]], k] = np.maximum(values[order], 0)
            at[self._place[rows[order]], k] = self.rows[rows[order]]
        return found, at

    def scores(self, features: Sequence[int], means: Sequence[float]) -> NDArray[np.float64]:
        """How alike each image and the query are on the query's features alone, (m,).

        The cosine (SAIL's rule), and among images of equal cosine, as all are with one feature,
        the more active ones first. An image in which none is active has 0.
        """
        query = np.asarray(means, dtype=np.float64)
        active, _ = self.activations(features)
        along = active @ (query / np.linalg.norm(query))
        norms = np.linalg.norm(active, axis=1)
        cosine = np.where(norms > 0, along / np.maximum(norms, 1e-12), 0.0)
        # Rounded, so that what is equal but for rounding is told apart by its strength.
        return np.round(cosine, 9) + 1e-9 * along / max(1e-12, float(along.max(initial=0.0)))

    def best(self, scores: NDArray, count: int) -> NDArray[np.int64]:
        """Places of the images with the best scores above 0, one of a subject if there are enough.

        Those with a score of 0 are no candidates: a subject without any better one takes no turn.
        """
        found = np.flatnonzero(scores > 0)
        return found[spread(scores[found], self.subject[found], count)]


@dataclass(frozen=True)
class Query:
    """A question with known answers.

    Attributes:
        text: What is asked.
        concept: Place of the label in the table.
    """

    text: str
    concept: int


def label_queries(
    table: ConceptTable, rows: NDArray, columns: Sequence[str], least: int
) -> list[Query]:
    """One query for each label that some of the rows show, and some do not.

    Args:
        table: Of all rows.
        rows: One of each image that is searched.
        columns: Whose labels are asked for.
        least: Images that must show it, and that must not.
    """
    flags = table.flags[rows].tocsc()
    found = []
    for place, concept in enumerate(table.concepts):
        shown = int(flags.indptr[place + 1] - flags.indptr[place])
        known = int(table.known(place)[rows].sum())
        if concept.column in columns and least <= shown <= known - least:
            found.append(Query(concept.text, place))
    return found


@dataclass(frozen=True)
class Precision:
    """Precision at k of one query.

    Attributes:
        text: What was asked.
        found: By features.
        metadata: By TF-IDF over the images' own metadata, labels included.
        base: By a random choice that spreads over subjects as the other two do.
        features: What the query was understood as.
        outcome: Of the match.
    """

    text: str
    found: float
    metadata: float
    base: float
    features: tuple[int, ...]
    outcome: str


def evaluate(
    images: Images,
    table: ConceptTable,
    matcher: Matcher,
    means: Mapping[int, float],
    queries: Sequence[Query],
    k: int = 10,
) -> list[Precision]:
    """Precision at k for each query; a query that matches no feature finds nothing.

    Args:
        images: To search.
        table: Concepts of all rows.
        matcher: From words to features.
        means: Mean activation of each feature on training rows.
        queries: What to ask.
        k: Images to look at.
    """
    described = TfIdf([table.describe(int(row)) for row in images.first])
    found = []
    lots: dict[str, list[NDArray[np.int64]]] = {}
    for query in queries:
        there = np.flatnonzero(table.known(query.concept)[images.first])
        column = table.concepts[query.concept].column
        lots[column] = lots.get(column) or _at_random(images, there, k)
        shows = np.asarray(table.flags[images.first, query.concept].todense()).ravel() > 0
        match = matcher.match(query.text)
        hits = 0.0
        if match.features:
            scores = images.scores(match.features, [means[f] for f in match.features])
            hits = _precision(images, scores, shows, there, k)
        baseline = _precision(images, described.scores(query.text), shows, there, k)
        base = float(np.mean([shows[best].mean() for best in lots[column]]))
        found.append(Precision(query.text, hits, baseline, base, match.features, match.outcome))
    return found


def _at_random(images: Images, there: NDArray, k: int) -> list[NDArray[np.int64]]:
    """Choices of k images by scores that mean nothing, by the rule of the others.

    Not the share of the images that show it: who has many images is chosen from no oftener.
    """
    rng = np.random.default_rng(counter_seed(0, "random choice"))
    chosen = []
    for _ in range(_LOTS):
        scores = np.full(len(images.first), -1.0)
        scores[there] = 1 - rng.random(len(there))
        chosen.append(images.best(scores, k))
    return chosen


def _precision(images: Images, scores: NDArray, shows: NDArray, there: NDArray, k: int) -> float:
    """Share of k images that are found and show it; where it is unknown none can be found."""
    allowed = np.full(len(scores), -1.0)
    allowed[there] = scores[there]
    best = images.best(allowed, k)
    return float(shows[best].sum() / max(1, min(k, len(there))))
