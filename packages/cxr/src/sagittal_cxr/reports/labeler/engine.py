"""The labeler: mentions of the 14 observations in a text, their status, and what they add up to."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from sagittal_core.errors import ConfigError
from sagittal_cxr.records import NEGATIVE, POSITIVE, UNCERTAIN
from sagittal_cxr.reports.labeler.cues import (
    AFTER_STOP,
    CUES,
    HEDGE_STOP,
    MARKS,
    NEGATION_STOP,
    STOP,
    Cue,
    Kind,
)
from sagittal_cxr.reports.labeler.phrases import MAY_STATE, PHRASES, STATEMENTS
from sagittal_cxr.reports.observations import CHEXPERT, NO_FINDING, SUPPORT_DEVICES

_NEAR = 1000
Likely = Literal["uncertain", "positive"]


class Mention(NamedTuple):
    """One place where a text names an observation.

    Attributes:
        observation: One of the 14.
        status: 1 positive, 0 negative, -1 uncertain.
        phrase: The words that name it.
        rule: What decided the status: the cue's words, ``statement``, or ``named`` where no cue
            reaches it.
        sentence: The sentence, in lower case.
    """

    observation: str
    status: int
    phrase: str
    rule: str
    sentence: str


class Labeler:
    """Labels texts by rules, in the manner of CheXpert's labeler.

    A text is cut into sentences; phrases that name an observation are found in each; cues around a
    phrase make it negative or uncertain, otherwise it is positive. Over a text positive beats
    uncertain, which beats negative. "No Finding" is 1 if nothing but devices is positive or
    uncertain, and None otherwise.

    Args:
        likely: What "likely", "probable", "suggestive of" and the like make of an observation:
            ``uncertain`` as for CheXpert, or ``positive``.
    """

    def __init__(self, likely: Likely = "uncertain") -> None:
        if likely not in get_args(Likely):
            raise ConfigError(f"likely: expected one of {get_args(Likely)}, found {likely!r}")
        self._status = {
            Kind.DOUBT: UNCERTAIN,
            Kind.NEGATION: NEGATIVE,
            Kind.HEDGE: UNCERTAIN,
            Kind.LIKELY: UNCERTAIN if likely == "uncertain" else POSITIVE,
        }

    def label(self, text: str) -> dict[str, int | None]:
        """Return each observation's label: 1, 0, -1, or None where it is not mentioned.

        A text without a letter has no label at all, not even "No Finding".
        """
        return self.summary(text, self.mentions(text))

    def summary(self, text: str, mentions: Iterable[Mention]) -> dict[str, int | None]:
        """Return what the mentions of a text add up to, as :meth:`label` does."""
        labels: dict[str, int | None] = dict.fromkeys(CHEXPERT)
        for mention in mentions:
            known = labels[mention.observation]
            if known is None or known == NEGATIVE or mention.status == POSITIVE:
                labels[mention.observation] = mention.status
        found = any(labels[o] in (POSITIVE, UNCERTAIN) for o in CHEXPERT if o != SUPPORT_DEVICES)
        if not found and any(character.isalpha() for character in text):
            labels[NO_FINDING] = POSITIVE
        return labels

    def label_many(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the labels of many texts.

        Returns:
            (N, 14) float32 in the order of ``CHEXPERT``; NaN: not mentioned.
        """
        rows = np.full((len(texts), len(CHEXPERT)), np.nan, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            labels = self.label(text)
            row[:] = [np.nan if (value := labels[o]) is None else value for o in CHEXPERT]
        return rows

    def mentions(self, text: str) -> list[Mention]:
        """Return every mention with what decided its status, in order of sentences."""
        found = []
        for words in _sentences(text):
            sentence = _Sentence(words)
            for place in _places(words):
                status, rule = self._decide(place, sentence)
                if place.status == UNCERTAIN and not place.final:
                    if status == NEGATIVE:  # "no heart failure" says nothing of the heart's size
                        continue
                    status = UNCERTAIN
                phrase = words[place.start : place.end]
                found.append(Mention(place.observation, status, phrase, rule, words))
        return found

    def _decide(self, place: _Place, sentence: _Sentence) -> tuple[int, str]:
        if place.final:
            return place.status, "statement"
        strongest: _Heard | None = None
        for heard in sentence.near(place):
            # A tube "likely in the stomach" is there: hedges say where a device ends, not whether.
            hedge = heard.cue.kind != Kind.NEGATION
            if hedge and place.observation == SUPPORT_DEVICES:
                continue
            weaker = strongest is not None and heard.cue.kind >= strongest.cue.kind
            if not weaker and sentence.reaches(heard, place):
                strongest = heard
        if strongest is None:
            return place.status, "named"
        words = sentence.text[strongest.start : strongest.end]
        return self._status[strongest.cue.kind], words


class _Place(NamedTuple):
    """Where a sentence names an observation; ``final``: no cue changes the status."""

    observation: str
    start: int
    end: int
    status: int
    final: bool


class _Heard(NamedTuple):
    """A cue in a sentence."""

    cue: Cue
    start: int
    end: int


class _Sentence:
    """A sentence with its cues and with the places where their reach ends."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._stops: dict[re.Pattern[str], list[int]] = {}

    @functools.cached_property
    def cues(self) -> list[_Heard]:
        """Its cues; those that only take up words are left out."""
        heard = []
        for found in _CUES.finditer(self.text):
            cue = _CUE_OF[found.lastindex or 0]
            if cue.kind != Kind.NOTHING:
                heard.append(_Heard(cue, *found.span()))
        return heard

    def near(self, place: _Place) -> list[_Heard]:
        """Its cues within a thousand characters of a mention, more than any cue's reach in words.

        A text that repeats itself without a full stop takes time in proportion to its length.
        """
        if len(self.text) <= _NEAR:
            return self.cues
        first = bisect.bisect_left(self.cues, place.start - _NEAR, key=lambda one: one.start)
        last = bisect.bisect_right(self.cues, place.end + _NEAR, key=lambda one: one.start)
        return self.cues[first:last]

    def reaches(self, heard: _Heard, place: _Place) -> bool:
        """Whether a cue acts on a mention."""
        cue, start, end = heard
        if end <= place.start and cue.side != "after":
            return self._open(end, place.start, cue.reach, _BEFORE_STOPS[cue.kind])
        if start >= place.end and cue.side != "before":
            return self._open(place.end, start, cue.reach, _FAR_STOPS if cue.far else _AFTER_STOPS)
        # "heart may be enlarged" has its hedge within.
        inside = place.start <= start and end <= place.end
        return inside and cue.kind in (Kind.HEDGE, Kind.LIKELY)

    def _open(self, start: int, end: int, reach: int, stop: re.Pattern[str]) -> bool:
        if self.text.count(" ", start, end) > reach + 1:
            return False
        if stop not in self._stops:
            self._stops[stop] = [found.start() for found in stop.finditer(self.text)]
        stops = self._stops[stop]
        following = bisect.bisect_left(stops, start)
        return following == len(stops) or stops[following] >= end


def _alternatives(patterns: Iterable[str]) -> str:
    return "|".join(f"({pattern})" for pattern in patterns)


# A full stop ends a sentence before a blank, but not after one letter, in "dr." or in "a.m.".
_END = re.compile(
    r"[.!](?=\s|$|_)(?<!\b[a-z]\.)(?<!\b(?:dr|mr|ms|vs)\.)(?<!\bapprox\.)(?<!\b[ap]\.m\.)"
    r"|(?<=\w[?])(?=\s)|;|\n(?:\s*\n|[ \t]*(?:\(?\d{1,2}[.)]|[-*•])(?=\s))"
    r"|\A\s*(?:\(?\d{1,2}[.)]|[-*•])(?=\s)"
)
_NOT = re.compile(r"\bcan(?:'t| not)\b|n't\b")
# One alternation without groups: a pattern that begins with another letter is passed over at once.
_PHRASES = re.compile(
    rf"\b(?:{'|'.join(pattern for phrase in PHRASES for pattern in phrase.patterns)})(?!\w)"
)
_EACH_PHRASE = [
    (phrase.observation, re.compile(rf"\b(?:{'|'.join(phrase.patterns)})(?!\w)"))
    for phrase in PHRASES
]
_CUES = re.compile(
    rf"(?<![\w'])(?:{_alternatives(cue.pattern for cue in CUES)})(?!\w)"
    rf"|{_alternatives(cue.pattern for cue in MARKS)}"
)
_CUE_OF = (CUES[0], *CUES, *MARKS)  # by number of the group, from 1
_MAY_STATE = re.compile(MAY_STATE)
_STATEMENTS = [(statement, re.compile(statement.pattern)) for statement in STATEMENTS]
_HEDGE_STOPS = re.compile(f"{STOP}|{HEDGE_STOP}")
_BEFORE_STOPS = {
    Kind.DOUBT: re.compile(STOP),
    Kind.NEGATION: re.compile(f"{STOP}|{NEGATION_STOP}"),
    Kind.HEDGE: _HEDGE_STOPS,
    Kind.LIKELY: _HEDGE_STOPS,
}
_AFTER_STOPS, _FAR_STOPS = re.compile(f"{STOP}|{AFTER_STOP}"), re.compile(STOP)


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences that may name an observation, as the tables of rules want them."""
    for sentence in _END.split(text.lower()):
        words = " ".join(sentence.split())
        if words:
            yield _NOT.sub(lambda found: "cannot" if found[0][0] == "c" else " not", words)


@functools.lru_cache(maxsize=4096)
def _observation(phrase: str) -> str | None:
    """Which observation the words of a match name: that of the first pattern that takes them."""
    return next(name for name, pattern in _EACH_PHRASE if pattern.fullmatch(phrase))


def _places(sentence: str) -> list[_Place]:
    places = []
    for found in _PHRASES.finditer(sentence):
        observation = _observation(found.group())
        if observation is not None:
            places.append(_Place(observation, *found.span(), POSITIVE, final=False))
    if _MAY_STATE.search(sentence):
        for statement, pattern in _STATEMENTS:
            if found_statement := pattern.search(sentence):
                span = found_statement.span()
                places.append(
                    _Place(statement.observation, *span, statement.status, statement.final)
                )
    return places
