"""Names of features: by a rule from metadata, or by a language model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.llm import LanguageModel, Message, Reply, Request, parse
from sagittal_genai.concepts.features import Feature
from sagittal_genai.concepts.table import LISTS, Concept, ConceptTable

_LONGEST = 12  # words of a phrase
_BEFORE = re.compile(
    r"^((sure|certainly|of course|okay|ok|yes)[,.!]\s+)?"
    r"((here('s| is)|(the |a |my |one )?(short |single |best |shared |common )*"
    r"(answer|concept|phrase|label|name|feature))\b[^:\n]{0,60}:\s+)?",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(the |this |these |all )?(one |single |shared |common |main |visual |medical |underlying )*"
    r"(concept|feature|phrase|image|images|theme|pattern|samples?|slices?)"
    r"(,? (of|in|that|which|shared by|common to)\b[^.:]{0,80}?)?"
    r" (is|are|shows?|represents?|depicts?|detects?|captures?|corresponds? to)\s+"
    r"(that |the )?",
    re.IGNORECASE,
)


class Evidence(NamedTuple):
    """A concept that is shared by a feature's top rows.

    Attributes:
        concept: Which.
        share: Of the top rows.
        base: Of all training rows.
        n: Top rows in which it is known.
    """

    concept: Concept
    share: float
    base: float
    n: int


def wilson(successes: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (1927); (0, 1) without any trial."""
    if n <= 0:
        return 0.0, 1.0
    p, square = successes / n, z * z
    middle = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def shared_concepts(
    table: ConceptTable,
    feature: Feature,
    base: NDArray[np.float64],
    share: float = 0.8,
    lift: float = 1.5,
) -> list[Evidence]:
    """Concepts that at least ``share`` of a feature's top rows show and that are enriched there.

    Enriched: ``lift`` times as common as among all training rows, and with the lower end of
    Wilson's interval above that base rate. Rows of one subject are not independent, so n of the
    interval is the number of subjects, unless images count. A top row of which a
    concept is not known counts as one without it.

    Args:
        table: Of all rows.
        feature: Whose top rows.
        base: Share of the training rows with each concept, (C,).
        share: Between 0 and 1.
        lift: At least 1.

    Returns:
        The most telling first: by ``share * log(share / base)``.
    """
    rows = feature.top.rows
    shown = np.asarray(table.flags[rows].sum(0)).ravel() / max(1, len(rows))
    _, known = table.shares(rows)
    kept = []
    for place in np.flatnonzero(shown >= share):
        p, q = float(shown[place]), float(base[place])
        n = min(int(known[place]), feature.top.units)
        if p >= lift * q and wilson(p * n, n)[0] > q:
            kept.append(Evidence(table.concepts[place], p, q, int(known[place])))
    return sorted(kept, key=lambda e: (-e.share * math.log(e.share / max(e.base, 1e-6)), e.concept))


def rule_name(evidence: Sequence[Evidence], most: int = 3) -> str | None:
    """What the most telling concepts say together: organs and findings first; None without any."""
    chosen = [e.concept for e in evidence[:most]]
    things = [c.text for c in chosen if c.column in LISTS]
    others = [c.text for c in chosen if c.column not in LISTS]
    parts = [" and ".join(things)] if things else []
    return ", ".join([*parts, *others]) or None


def at_most(
    most: int, telling: Callable[[Feature], Sequence[Evidence]]
) -> Callable[[Feature], bool]:
    """Whether to take a feature, asked of one after the other: ``most`` of each name by rule.

    Features without a name are taken, so that their share is not hidden.
    """
    taken: dict[str, int] = {}

    def take(feature: Feature) -> bool:
        name = rule_name(telling(feature))
        if name is None:
            return True
        taken[same(name)] = taken.get(same(name), 0) + 1
        return taken[same(name)] <= most

    return take


def naming_request(
    table: ConceptTable,
    feature: Feature,
    images: Callable[[int], bytes] | None,
    seed: int,
) -> Request:
    """What a model is asked to name a feature by.

    Args:
        table: Of all rows.
        feature: Whose shown rows.
        images: Gives the PNG of a row; None: metadata only.
        seed: Of the sampling.
    """
    shown = feature.shown
    lines = [
        f"{i}. activation {value / feature.largest:.2f}; {table.describe(int(row))}"
        for i, (row, value) in enumerate(zip(shown.rows, shown.values, strict=True), 1)
    ]
    text = (
        f"These {len(lines)} medical images excite one feature of a neural network most.\n"
        + "\n".join(lines)
        + "\nName the one concept that they share and other medical images do not. Answer with a"
        " single short phrase, nothing else."
    )
    pictures = () if images is None else tuple(images(int(row)) for row in shown.rows)
    system = "You name concepts in medical images precisely and briefly."
    messages = (Message("system", system), Message("user", text, pictures))
    return Request(messages, max_tokens=64, temperature=0.3, seed=seed)


def choose_name(model: LanguageModel, table: ConceptTable, feature: Feature) -> str | None:
    """The concept of the shown rows that a model finds likeliest, given these rows.

    A model too small to write a phrase can still say which of several it expects. What each one is
    worth without any row is subtracted, so that common words have no advantage, and the gain is
    taken per token: every token of a phrase that stands in the prompt gains from being repeated.

    Args:
        model: One that scores given answers, such as LocalModel.
        table: Of all rows.
        feature: Whose shown rows.

    Returns:
        None where the rows show no concept at all.
    """
    rows = [int(row) for row in feature.shown.rows]
    options = sorted({concept.text for row in rows for concept in table.of(row)})
    if not options:
        return None
    seen = model.choose(_which([table.describe(row) for row in rows]), options)
    blank = model.choose(_which([]), options)
    return options[int(np.argmax((seen.logprobs - blank.logprobs) / seen.tokens))]


def _which(descriptions: Sequence[str]) -> tuple[Message]:
    lines = "".join(f"{i}. {text}\n" for i, text in enumerate(descriptions, 1))
    text = f"Medical images that share one concept:\n{lines}Which concept do all of them share?"
    return (Message("user", text),)


def ask_name(model: LanguageModel, request: Request) -> tuple[str | None, Reply]:
    """A model's name for a feature, or None and why there is none."""
    return parse(model.complete(request), phrase)


def phrase(text: str) -> str:
    """The bare phrase of an answer: boilerplate, quotes, lists and markup removed.

    Raises:
        ValueError: Nothing is left, or more than a phrase.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    line = lines[0] if lines else ""
    line = re.sub(r"^([-*•>#]+\s+|\(?\d+[.)]\s*)", "", line)
    line = re.sub(r"[*_`]{1,3}(\S.*?\S|\S)[*_`]{1,3}", r"\1", line)
    line = _BEFORE.sub("", line)
    line = _OPENING.sub("", line)
    line = re.sub(r"\s+", " ", line).strip(" \t\"'“”‘’.,;:")
    if not re.search(r"\w", line):
        raise ValueError("no phrase in the answer")
    if len(line.split()) > _LONGEST:
        raise ValueError(f"more than {_LONGEST} words, no phrase")
    return line


def same(name: str) -> str:
    """A form in which two names that say the same are equal: words in order of the alphabet."""
    return " ".join(sorted(set(re.findall(r"\w+", name.lower())) - {"and", "the", "a", "of", "in"}))
