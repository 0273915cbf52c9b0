"""All that ``explain`` found out, and the pages and tables made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.report import Report
from sagittal_genai.concepts.explained import Named
from sagittal_genai.concepts.features import Feature
from sagittal_genai.concepts.gallery import Card, Page
from sagittal_genai.concepts.judge import Tally, tally
from sagittal_genai.concepts.names import Evidence
from sagittal_genai.concepts.table import ConceptTable

_BARS = 4


@dataclass(frozen=True)
class Findings:
    """What is known of the features.

    Attributes:
        features: By monosemanticity.
        left: How many were left out, by reason.
        table: Concepts of all rows.
        base: Share of the training rows with each concept, (C,).
        evidence: Shared concepts of each feature.
        named: Record of each feature's name.
        judged: Record of each feature's judgement; empty without a judge.
        by_chance: Features that the rule names, and features chosen, if the training rows' codes
            are shuffled.
    """

    features: Sequence[Feature]
    left: Mapping[str, int]
    table: ConceptTable
    base: NDArray[np.float64]
    evidence: Mapping[int, Sequence[Evidence]]
    named: Mapping[int, Mapping[str, Any]]
    judged: Mapping[int, Mapping[str, Any]]
    by_chance: tuple[int, int]

    def tally(self) -> Tally | None:
        """Verdicts counted; None without a judge."""
        return tally([self.judged[f.number] for f in self.features]) if self.judged else None

    def summaries(self) -> list[Named]:
        """What a search needs."""
        return [
            Named(
                number=f.number,
                name=self.named[f.number]["name"],
                words=" ".join(e.concept.text for e in self.evidence[f.number]),
                mean=f.mean,
                rank=self.judged.get(f.number, {}).get("rank"),
            )
            for f in self.features
        ]

    def cards(self) -> list[Card]:
        """One of each feature for the gallery."""
        found = []
        for feature in self.features:
            record = self.named[feature.number]
            verdict = self.judged.get(feature.number, {})
            why = verdict.get("outcome", "ok")
            found.append(
                Card(
                    feature=feature,
                    name=record["name"],
                    source=record["source"],
                    rule=record["rule"],
                    bars=self._bars(feature),
                    rank=verdict.get("rank"),
                    not_judged="" if why == "ok" else verdict["detail"] or why,
                )
            )
        return found

    def _bars(self, feature: Feature) -> list[tuple[str, float, float]]:
        """The concepts that are most over-represented among the top rows."""
        share, _ = self.table.shares(feature.top.rows)
        texts = [concept.text for concept in self.table.concepts]
        order = sorted(range(len(texts)), key=lambda i: (self.base[i] - share[i], texts[i]))
        kept = [i for i in order[:_BARS] if share[i] > self.base[i]]
        return [(texts[i], float(share[i]), float(self.base[i])) for i in kept]

    def page(self, named_by: str, held_out: str) -> Page:
        """The text of the gallery."""
        named = sum(1 for f in self.features if self.named[f.number]["name"])
        facts = [("features explained", str(len(self.features))), ("with a name", str(named))]
        lucky, dealt = self.by_chance
        facts.append(("the rule names of shuffled codes", f"{lucky} of {dealt}"))
        counted = self.tally()
        for label, share, chance, n in counted.rows() if counted and counted.ranks else ():
            facts.append((f"judge, {label} (chance {chance}, n = {n})", share))
        lead = (
            f"Sparse features of an image encoder, named by {named_by}. Above the bars: training"
            " images that named a feature, chosen among the most active ones to differ from each"
            f" other. Below: the images of the {held_out} split that excite it most. Figures on"
            " pictures are activations over the largest one in training. Bars: share of the most"
            " active training images that show a concept; a line marks its share of all of them."
        )
        return Page("What the features respond to", lead, facts, [self.left_out()])

    def cautions(self) -> list[str]:
        """What the judge's interval does not count."""
        if not self.judged:
            return []
        return [
            "The judge's intervals are over features as if each were judged on images of its own;"
            " features share images and names, so the intervals are too narrow."
        ]

    def left_out(self) -> str:
        """Why the other features are not there."""
        said = "; ".join(f"{why}: {n}" for why, n in self.left.items() if n)
        return f"Features that are not here: {said or 'none'}."

    def tables(self) -> dict[str, Any]:
        """Outcomes of naming and judging, for report and results."""
        counts: dict[str, int] = {}
        for record in self.named.values():
            counts[record["outcome"]] = counts.get(record["outcome"], 0) + 1
        names = [
            ["named" if outcome == "ok" else outcome.replace("_", " "), n]
            for outcome, n in sorted(counts.items())
        ]
        rules = sum(1 for f in self.features if self.named[f.number]["rule"])
        named = [
            ["features", rules, len(self.features)],
            ["the same, codes shuffled among training rows", *self.by_chance],
        ]
        tables: dict[str, Any] = {
            "names": (["outcome", "features"], names),
            "named-by-rule": (["of", "the rule names", "chosen"], named),
        }
        counted = self.tally()
        if counted is not None:
            columns = ["measure", "share and 95 % interval", "chance", "n"]
            tables["judge"] = (columns, counted.rows())
            reasons = {**counted.left_out, **counted.failures}
            rows = [[why.replace("_", " "), n] for why, n in reasons.items()]
            tables["not-judged"] = (["reason", "features"], rows)
        return tables


def write_report(
    file: Path, tables: Mapping[str, Any], notes: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Write the tables as a page."""
    report = Report("Names of sparse features")
    for note in notes:
        report.text(note)
    for name, (columns, rows) in tables.items():
        if rows:
            report.table(name, columns, rows)
    report.config(settings)
    report.write(file)


def said(tables: Mapping[str, Any]) -> list[str]:
    """The tables in lines for a terminal."""
    lines = ["names: " + ", ".join(f"{n} {what}" for what, n in tables["names"][1])]
    for what, count, n in tables["named-by-rule"][1]:
        lines.append(f"the rule names {count} of {n} {what}")
    for label, share, chance, n in tables.get("judge", ((), ()))[1]:
        lines.append(f"judge, {label}: {share} of {n} features (chance {chance})")
    for why, n in tables.get("not-judged", ((), ()))[1]:
        lines.append(f"  not judged, {why}: {n}")
    for method, mean, n in tables.get("search", ((), ()))[1]:
        lines.append(f"search, {method}: {mean} over {n} queries")
    return lines
