"""A page that shows what each feature responds to, and can be searched without a network.

Everything is in the one file; a content security policy forbids the browser to load anything, and
names, which may come from a language model, are text wherever they stand. Neither patients'
identifiers nor paths are on the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path

from sagittal_core.run_folder import write_atomically
from sagittal_genai.concepts.features import Feature, Top
from sagittal_genai.concepts.thumbnails import Pictures


@dataclass(frozen=True)
class Card:
    """What the page says of one feature.

    Attributes:
        feature: Its numbers and rows.
        name: None: unnamed.
        source: What named it, such as ``rule`` or a model.
        rule: What the rule says, if the name is from elsewhere.
        bars: Concept, share among the top rows, and base rate.
        rank: Of the true name among five, by the judge.
        not_judged: Why there is no rank.
    """

    feature: Feature
    name: str | None
    source: str = "rule"
    rule: str | None = None
    bars: Sequence[tuple[str, float, float]] = ()
    rank: int | None = None
    not_judged: str = ""


@dataclass(frozen=True)
class Page:
    """The text around the cards.

    Attributes:
        title: Heading.
        lead: What one looks at, in a sentence or two.
        facts: Label and figure.
        notes: Paragraphs below.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def write_gallery(
    file: Path,
    page: Page,
    cards: Sequence[Card],
    pictures: Pictures | None,
    *,
    size: int = 160,
    limit_mb: float = 20.0,
) -> int:
    """Write the page and return its size in bytes.

    Args:
        file: Where to.
        page: Text.
        cards: One of each feature, in the order of the page.
        pictures: None: no pictures.
        size: Width of a thumbnail in pixels; the first of a card is twice as wide.
        limit_mb: Of all pictures together; above it, each card has fewer.
    """
    embedded = _Embedded(pictures, size, limit_mb)
    embedded.fit(cards)
    body = "\n".join(_card(card, embedded) for card in cards)
    orders = [("monosemanticity", "monosemanticity"), ("density", "density")]
    if any(card.rank for card in cards):
        orders.append(("judge", "judge"))
    options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in orders)
    tools = (
        '<nav><form role="search"><input id="query" type="search" autocomplete="off"'
        ' placeholder="Search names and concepts" aria-label="Search names and concepts">'
        f'<label>Order <select id="order">{options}</select></label>'
        '<label><input id="named" type="checkbox"> named only</label>'
        '<span id="count" role="status"></span></form></nav>'
    )
    none = '<p class="none" hidden>No feature has such a word in its name or concepts.</p>'
    notes = [*page.notes, embedded.said()]
    return _write(file, page, f"{tools}<main>{body}{none}</main>", notes, _read("gallery.js"))


def write_sheet(
    file: Path, page: Page, results: Sequence[tuple[int, str]], pictures: Pictures | None, size: int
) -> int:
    """Write search results, best first, and return the size of the page in bytes.

    Args:
        file: Where to.
        page: Text.
        results: Row and what to say of it.
        pictures: None: no pictures.
        size: Width of a picture in pixels.
    """
    parts = []
    for place, (row, text) in enumerate(results, 1):
        image = ""
        if pictures is not None:
            uri = pictures.data_uri(row, size)
            image = f'<figure><img alt="result {place}" src="{uri}"></figure>'
        head = f'<div class="top"><h2>{place}</h2></div>'
        parts.append(f'<article>{head}{image}<p class="rule">{escape(text)}</p></article>')
    if not parts:
        parts = ['<p class="none">Nothing matches.</p>']
    return _write(file, page, f"<main>{''.join(parts)}</main>", page.notes, "")


class _Embedded:
    """Pictures as data addresses, as many as the limit allows."""

    def __init__(self, pictures: Pictures | None, size: int, limit_mb: float) -> None:
        self.pictures, self.size, self.limit = pictures, size, limit_mb * 1e6
        self.kept, self.bytes, self.count = 5, 0, 0
        self._made: dict[tuple[int, int], str] = {}

    def fit(self, cards: Sequence[Card]) -> None:
        """Lower the number of pictures a card until all of them fit."""
        for self.kept in (5, 4, 3, 2, 1, 0):
            wanted = [pair for card in cards for pair in self._wanted(card.feature)]
            self.bytes = sum(len(self._uri(*pair)) for pair in wanted)
            self.count = len(wanted)
            if self.bytes <= self.limit:
                return

    def _wanted(self, feature: Feature) -> list[tuple[int, int]]:
        if self.pictures is None:
            return []
        shown = feature.shown.rows[: self.kept].tolist()
        sizes = [self.size * (2 if i == 0 else 1) for i in range(len(shown))]
        others = feature.held_out.rows[: self.kept].tolist()
        return [*zip(shown, sizes, strict=True), *((row, self.size) for row in others)]

    def _uri(self, row: int, size: int) -> str:
        assert self.pictures is not None
        if (row, size) not in self._made:
            self._made[row, size] = self.pictures.data_uri(row, size)
        return self._made[row, size]

    def figures(self, top: Top, largest: float, first: int, kind: str) -> str:
        """Pictures of some rows; the first is ``first`` times as wide."""
        if self.pictures is None:
            return ""
        parts = []
        for i, row in enumerate(top.rows[: self.kept].tolist()):
            uri = self._uri(row, self.size * (first if i == 0 else 1))
            share = f"{top.values[i] / largest:.2f}"
            parts.append(
                f'<figure><img alt="{kind} image, activation {share}" src="{uri}">'
                f"<figcaption>{share}</figcaption></figure>"
            )
        return "".join(parts)

    def said(self) -> str:
        """What the page says of its size."""
        if self.pictures is None:
            return "No slice folder was given, so there are no pictures."
        fewer = "" if self.kept == 5 else f"; at most {self.kept} a row, to stay below the limit"
        return f"{self.count} pictures are embedded, {self.bytes / 1e6:.1f} MB{fewer}."


def _card(card: Card, embedded: _Embedded) -> str:
    feature = card.feature
    name = card.name or "unnamed"
    words = " ".join([card.name or "", card.rule or "", *(text for text, _, _ in card.bars)])
    judge = "" if card.rank is None else str(6 - card.rank)
    parts = [
        f'<article class="{"named" if card.name else "unnamed"}" data-words="{escape(words)}"'
        f' data-monosemanticity="{feature.monosemanticity:.6f}"'
        f' data-density="{feature.density:.6f}" data-judge="{judge}">'
        f'<div class="top"><h2>{escape(name)}</h2>'
        f'<span class="number">{feature.number}</span></div>'
    ]
    if card.name and card.source != "rule":
        said = escape(card.rule or "nothing shared")
        parts.append(f'<p class="rule">{escape(card.source)}; rule: {said}</p>')
    shown = embedded.figures(feature.shown, feature.largest, 2, "training")
    if shown:
        parts.append(f'<div class="pictures">{shown}</div>')
    if card.bars:
        parts.append(f'<ul class="bars">{"".join(_bar(*bar) for bar in card.bars)}</ul>')
    others = embedded.figures(feature.held_out, feature.largest, 1, "held-out")
    if others:
        parts.append(f'<h3>Held out</h3><div class="pictures row">{others}</div>')
    parts.append(f'<div class="measures">{_measures(card)}</div></article>')
    return "".join(parts)


def _bar(text: str, share: float, base: float) -> str:
    said = escape(f"{text}: {share:.0%} of the top images, {base:.0%} of all")
    style = f"--share:{100 * share:.1f}%;--base:{100 * base:.1f}%"
    return (
        f'<li title="{said}"><span>{escape(text)}</span><i style="{style}"></i>'
        f"<b>{share:.0%}</b></li>"
    )


def _measures(card: Card) -> str:
    feature = card.feature
    found = [
        f"density <b>{100 * feature.density:.2g} %</b>",
        f"monosemanticity <b>{feature.monosemanticity:.2f}</b>",
        f"subjects <b>{feature.subjects}</b>",
    ]
    if card.rank is not None:
        grade = "good" if card.rank == 1 else "fair" if card.rank == 2 else "poor"
        found.append(f'judge <b class="{grade}">rank {card.rank} of 5</b>')
    elif card.not_judged:
        found.append(f"not judged: {escape(card.not_judged)}")
    return "".join(f"<span>{one}</span>" for one in found)


def _write(file: Path, page: Page, body: str, notes: Sequence[str], script: str) -> int:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed};"
        " base-uri 'none'; form-action 'none'"
    )
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(figure)}</dd></div>"
        for label, figure in page.facts
    )
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An icon of its own, so that the browser asks no server for one.
        '<link rel="icon" href="data:,">'
        f"<title>{escape(page.title)}</title><style>{_read('gallery.css')}</style></head>\n"
        f"<body><header><h1>{escape(page.title)}</h1>"
        f'<p class="lead">{escape(page.lead)}</p><dl class="facts">{facts}</dl></header>\n'
        f"{body}\n<footer>{said}</footer>"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    return len(text.encode())


def _read(name: str) -> str:
    return (files("sagittal_genai.concepts") / name).read_text(encoding="utf-8")
