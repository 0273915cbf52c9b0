"""Sections of a free-text report, and the policy that makes one text of findings and impression.

A report is cut at its headings into parts that together are the whole report again, character by
character: what no rule knows ends in :attr:`Sections.other`, nothing is dropped. A heading is a
known one (any case at the start of a line, with a colon or alone on it; in capitals with a colon
anywhere) or up to six words in capitals with a colon at the start of a line.

Of a section that only introduces (history, comparison, technique, ...) the first paragraph belongs
to its heading; paragraphs after it are text without a heading.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, get_args

from sagittal_core.errors import DataError

# Which headings mean which section, as regular expressions over one heading.
_HEADINGS: dict[str, str] = {
    "findings and impression": (
        r"findings?\s*(?:/|and|&)\s*(?:impressions?|conclusions?)"
        r"|impressions?\s*(?:/|and|&)\s*findings?"
    ),
    "findings": r"findings?(?: \(?chest\)?)?|chest findings?|report",
    "impression": r"impressions?|conclusions?|opinion|summary|final impression",
    "indication": (
        r"indications?(?: for (?:exam(?:ination)?|study))?|(?:clinical |patient )?history"
        r"|reason for (?:the )?(?:exam(?:ination)?|study|this exam(?:ination)?)"
        r"|clinical (?:indications?|information|data|details|question)|history and indication"
    ),
    "comparison": r"comparisons?(?: (?:stud(?:y|ies)|exams?))?|prior stud(?:y|ies)",
    "technique": r"techniques?|procedure|views?",
    "examination": r"exam(?:ination)?s?|type of exam(?:ination)?|study",
    "addendum": r"addend(?:um|a)(?: #?\d+)?",
    "recommendation": r"recommendations?(?:\(s\))?",
    "notification": r"notifications?",
    "preliminary": r"(?:wet|preliminary) (?:read|report)(?: version #?\d+)?",
    "title": r"final report",
}
_INTRODUCES = {"indication", "comparison", "technique", "examination"}
_KNOWN = "|".join(_HEADINGS.values())
_CAPITALS = re.sub(
    r"\\.|[a-z]", lambda one: one[0] if one[0][0] == "\\" else one[0].upper(), _KNOWN
)
_HEADING = re.compile(
    rf"^[ \t]*(?:(?i:{_KNOWN})[ \t]*:"
    rf"|(?=[A-Z])(?i:{_KNOWN})(?=[ \t\r]*$)"
    r"|[A-Z][A-Z/&(),'#-]*(?:[ \t]+[A-Z/&(),'#-]+){0,5}[ \t]*:(?=\s|$))"
    rf"|(?<=[\s.])(?:{_CAPITALS})[ \t]*:",
    re.MULTILINE,
)
_KINDS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _HEADINGS.items()]
_BLANK = re.compile(r"\n[ \t\r]*\n\s*")
_RULE = re.compile(r"[_=-]{8,}")  # a ruled line; shorter runs stand for removed words
_NUMBER = re.compile(r"(?:(?<=\s)|^)(?:\(?\d{1,2}[.)]|[-*•])(?=\s+\S)")
_COMPARES = re.compile(
    r"\b(?:(?:as )?compared (?:to|with)|in comparison (?:to|with)"
    r"|(?:since|from|than|on|to) (?:the )?(?:prior|previous|last|preceding)|unchanged"
    r"|(?:no|without) (?:significant |substantial |relevant |interval )*change"
    r"|interval (?:change|increase|decrease|improvement|worsening|development|placement|removal)"
    r"|again (?:seen|noted|demonstrated)"
    r"|stable|improved|worsened|(?:in|de)creased)\b",
    re.IGNORECASE,
)

Fallback = Literal["last paragraph", "all", "none"]
Use = Literal[
    "findings+impression",
    "findings",
    "impression",
    "findings else impression",
    "impression else findings",
]


class Part(NamedTuple):
    """A stretch of a report.

    Attributes:
        heading: As it stands, colon and surrounding blanks included; empty: none.
        kind: The section: a key such as ``findings``; ``""`` where no rule knows it.
        text: What follows, as it stands.
    """

    heading: str
    kind: str
    text: str


@dataclass(frozen=True)
class Sections:
    """A report by section; the text of a section is stripped and joined if it comes twice.

    Attributes:
        findings: That section; under one heading with the impression, both hold the same text.
        impression: As ``findings``.
        indication: History and reason for the examination.
        comparison: Earlier examinations named.
        technique: How it was taken.
        examination: Name of the examination.
        addendum: What was added later.
        preliminary: A wet read before the final report.
        fallback: Which rule filled ``findings`` of a report with neither section; None: not needed,
            or nothing found.
        other: Everything else that has words: (heading, text) in order.
        parts: All stretches; their headings and texts put together are the report.
    """

    findings: str | None
    impression: str | None
    indication: str | None
    comparison: str | None
    technique: str | None
    examination: str | None
    addendum: str | None
    preliminary: str | None
    fallback: str | None
    other: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]


def split_sections(text: str, fallback: Fallback = "last paragraph") -> Sections:
    """Cut a report into its sections.

    Args:
        text: The report.
        fallback: What becomes the findings of a report without findings and impression: the last
            paragraph that belongs to no known section (as for MIMIC-CXR's labels), all such
            paragraphs, or none. Where there are no such paragraphs, a preliminary read.
    """
    parts = list(_parts(text))
    named = {kind: _joined(parts, kind) for kind in _HEADINGS}
    both = named["findings and impression"]
    findings = _together(named["findings"], both)
    impression = _together(named["impression"], both)
    used: list[Part] = []
    if findings is None and impression is None and fallback != "none":
        free = [part for part in parts if not part.kind and _words(part.text)]
        free = free or [part for part in parts if part.kind == "preliminary"]
        used = free[-1:] if fallback == "last paragraph" else free
        findings = "\n\n".join(part.text.strip() for part in used).strip() or None
    kept = {"findings", "impression", "findings and impression", "indication", "comparison"}
    kept |= {"technique", "examination", "addendum", "preliminary"}
    other = tuple(
        (part.heading.strip(), part.text.strip())
        for part in parts
        if not (part.kind in kept or any(part is one for one in used))
        and (part.heading.strip() or part.text.strip())
    )
    return Sections(
        findings=findings,
        impression=impression,
        indication=named["indication"],
        comparison=named["comparison"],
        technique=named["technique"],
        examination=named["examination"],
        addendum=named["addendum"],
        preliminary=named["preliminary"],
        fallback=fallback if used else None,
        other=other,
        parts=tuple(parts),
    )


@dataclass(frozen=True)
class SectionPolicy:
    """What of a report is its text; part of the identity of everything made from it.

    Attributes:
        use: ``findings+impression`` (both, in this order), one of them alone, or one and, where it
            is missing, the other.
        fallback: What stands in where a free-text report has neither; see :func:`split_sections`.
        strip_numbering: Take away ``1.``, ``2)`` and bullets before statements.
    """

    use: Use = "findings+impression"
    fallback: Fallback = "last paragraph"
    strip_numbering: bool = False

    def __post_init__(self) -> None:
        for key, value, choices in (
            ("use", self.use, get_args(Use)),
            ("fallback", self.fallback, get_args(Fallback)),
        ):
            if value not in choices:
                expected = f"one of {', '.join(choices)}"
                raise DataError("section policy", key=key, expected=expected, found=repr(value))

    @property
    def identity(self) -> str:
        """Hash of all choices, 16 hexadecimal digits."""
        canonical = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def text(self, findings: str | None, impression: str | None) -> str:
        """Return the text of a report on one line; empty if the policy leaves none.

        A section that says the same as the other, under one heading, is taken once.
        """
        first, second = self._clean(findings), self._clean(impression)
        if self.use == "findings":
            return first
        if self.use == "impression":
            return second
        if self.use == "findings else impression":
            return first or second
        if self.use == "impression else findings":
            return second or first
        return first if first == second else f"{first} {second}".strip()

    def of_report(self, report: str) -> str:
        """Return the text of a free-text report."""
        return self.of_sections(split_sections(report, self.fallback))

    def of_sections(self, sections: Sections) -> str:
        """Return the text of a report that was split with this policy's ``fallback``.

        What stands in for both sections is taken whatever ``use`` says.
        """
        if sections.fallback is not None:
            return self._clean(sections.findings)
        return self.text(sections.findings, sections.impression)

    def _clean(self, text: str | None) -> str:
        kept = _NUMBER.sub("", text or "") if self.strip_numbering else text or ""
        return " ".join(kept.split())


def comparisons(text: str) -> list[str]:
    """Return the phrases that speak of an earlier image, which one image cannot show."""
    return [found.group() for found in _COMPARES.finditer(" ".join(text.split()))]


def _parts(text: str) -> Iterator[Part]:
    """Yield the stretches of a report: cut at headings, then at paragraphs without one."""
    found = list(_HEADING.finditer(text))
    yield from _paragraphs(text[: found[0].start()] if found else text)
    for number, heading in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        kind = _kind(heading.group())
        body = text[heading.end() : end]
        cut = _introduction(body) if kind in _INTRODUCES else len(body)
        cut = 0 if kind == "title" else cut
        yield Part(heading.group(), kind, body[:cut])
        yield from _paragraphs(body[cut:])


def _introduction(body: str) -> int:
    """Where the first paragraph with words ends."""
    start = len(body) - len(body.lstrip())
    blank = _BLANK.search(body, start)
    return blank.end() if blank else len(body)


def _paragraphs(text: str) -> Iterator[Part]:
    start = 0
    for blank in _BLANK.finditer(text):
        yield Part("", "", text[start : blank.end()])
        start = blank.end()
    if start < len(text):
        yield Part("", "", text[start:])


def _kind(heading: str) -> str:
    name = " ".join(heading.strip().rstrip(":").split())
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(name)), "")


def _joined(parts: list[Part], kind: str) -> str | None:
    texts = [part.text.strip() for part in parts if part.kind == kind]
    return "\n\n".join(text for text in texts if text) or None


def _together(own: str | None, both: str | None) -> str | None:
    return "\n\n".join(text for text in (own, both) if text) or None


def _words(text: str) -> bool:
    return bool(re.search(r"[A-Za-z]", _RULE.sub("", text)))
