"""Measures of scores for several findings: each finding, their mean, and the rare ones pooled.

A finding counts where both values occur. Findings with at least ``tail`` positive images are the
head; the others are the tail, whose own AUROCs say little. Their *pooled* AUROC is the share of all
pairs (a positive and a negative image, both for one finding of the tail) that the scores put in the
right order::

    sum over tail findings of right pairs / sum over tail findings of pairs

Scores of different findings are never compared, as their scales differ; a finding weighs as many
pairs as it has. With one finding in the tail this is its AUROC.

Resamples of a single positive patient do not vary in what is positive, so their interval would be
far too narrow. A finding gets none unless five patients have it and five do not, nor does the tail
with fewer than five patients with any of its findings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.resampling import LEAST_SUBJECTS, Resamples
from sagittal_cxr.metrics import binary
from sagittal_cxr.tasks.task import Measure, measured

TAIL = 20
"""Findings with fewer positive images are pooled."""


@dataclass
class Scored:
    """Scores of n images for C findings.

    Attributes:
        labels: C names.
        truth: (n, C) 1, 0 or NaN (does not count).
        scores: (n, C), higher is more likely present.
        patients: (n,) the independent unit of each image.
        probabilities: (n, C) in [0, 1]; None: scores that are no probabilities.
        thresholds: Finding to the threshold on its score; None: no operating point.
        criterion: How thresholds were chosen, in words.
        detail: Plain values that every measure carries (prompt family, ...).
    """

    labels: Sequence[str]
    truth: NDArray[np.float64]
    scores: NDArray[np.float64]
    patients: ArrayLike
    probabilities: NDArray[np.float64] | None = None
    thresholds: dict[str, float] | None = None
    criterion: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Finding:
    """One finding with both values."""

    name: str
    column: int
    known: NDArray[np.bool_]
    positives: int
    auroc: float
    right_draws: NDArray[np.float64]
    pair_draws: NDArray[np.float64]
    patients: set[int]  # with the finding
    few: bool  # too few patients with or without it for an interval


def label_measures(
    scored: Scored,
    *,
    tail: int = TAIL,
    resamples: int = 1000,
    seed: int = 0,
    bins: int = 15,
    only: Collection[str] | None = None,
) -> list[Measure]:
    """Measure every finding and all of them together.

    For a finding: AUROC, AUPRC; with probabilities Brier and ECE; with a threshold sensitivity and
    specificity. Without label: macro AUROC (mean over all findings), head AUROC (mean over
    findings with at least ``tail`` positives), tail AUROC (pooled, see the module), macro AUPRC,
    macro Brier, macro ECE. A resample of the patients that lacks a class of a finding leaves that
    finding out of its means.

    Args:
        scored: The scores.
        tail: Positives that a finding of the head has at least.
        resamples: Of the patients; intervals and draws come from them.
        seed: Of the resamples.
        bins: Of the calibration error.
        only: Names of the findings' measures that are wanted; None: all.

    Returns:
        The measures; ``detail["left out"]`` of macro AUROC names the findings that do not count and
        why. Empty only if no finding is given.
    """
    sampled = Resamples(scored.patients, resamples, seed)
    findings, left = _findings(scored, sampled)
    found: list[Measure] = []
    for one in findings:
        found += _of_finding(scored, one, sampled, bins, only)
    return [*_of_all(scored, findings, left, sampled, tail, found), *found]


def macro(measures: Sequence[Measure], name: str, as_name: str, n: int, **detail: Any) -> Measure:
    """The mean over findings of a measure; a draw that is NaN for a finding leaves it out.

    Args:
        measures: Of one name or several; those without label are ignored.
        name: Which.
        as_name: What to call the mean.
        n: Patients.
        **detail: Of the result.
    """
    chosen = [one for one in measures if one.name == name and one.label is not None]
    estimate = float(np.mean([one.estimate for one in chosen])) if chosen else float("nan")
    drawn = [one.draws for one in chosen if one.draws is not None]
    draws = mean_draws(drawn) if drawn and len(drawn) == len(chosen) else None
    return measured(as_name, estimate, draws, n, **detail)


def mean_draws(draws: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over C of (R,) draws where they are finite, (R,); NaN where none is."""
    stacked = np.stack(draws)
    known = np.isfinite(stacked)
    total, count = np.where(known, stacked, 0).sum(0), known.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _findings(scored: Scored, sampled: Resamples) -> tuple[list[_Finding], dict[str, str]]:
    findings, left = [], {}
    for column, name in enumerate(scored.labels):
        truth, scores = scored.truth[:, column], scored.scores[:, column]
        known = np.isfinite(truth)
        positives = int((truth[known] == 1).sum())
        negatives = int(known.sum()) - positives
        if not positives or not negatives:
            left[name] = f"{positives} positive and {negatives} negative images"
            continue
        have, lack = (set(sampled.unit[truth == value].tolist()) for value in (1, 0))
        findings.append(
            _Finding(
                name,
                column,
                known,
                positives,
                binary.auroc(truth[known], scores[known]),
                *sampled.concordance(truth, scores, known),
                patients=have,
                few=min(len(have), len(lack)) < LEAST_SUBJECTS,
            )
        )
    return findings, left


def _of_finding(
    scored: Scored, one: _Finding, sampled: Resamples, bins: int, only: Collection[str] | None
) -> list[Measure]:
    truth, scores = scored.truth[:, one.column], scored.scores[:, one.column]
    known = one.known
    seen = truth[known]
    n = len(np.unique(sampled.unit[known]))
    detail = scored.detail | {
        "positives": one.positives,
        "negatives": len(seen) - one.positives,
        "prevalence": one.positives / len(seen),
        "patients with it": len(one.patients),
    }

    def wanted(name: str) -> bool:
        return only is None or name in only

    found = []
    if wanted("AUROC"):
        draws = _ratio(one.right_draws, one.pair_draws)
        found.append(measured("AUROC", one.auroc, draws, n, one.name, **detail))
    if wanted("AUPRC"):
        value = binary.average_precision(seen, scores[known])
        draws = sampled.average_precision(truth, scores, known)
        found.append(measured("AUPRC", value, draws, n, one.name, **detail))
    if scored.probabilities is not None:
        likely = scored.probabilities[:, one.column]
        if wanted("Brier"):
            draws = sampled.mean(np.where(known, (likely - truth) ** 2, np.nan))
            value = binary.brier(seen, likely[known])
            found.append(measured("Brier", value, draws, n, one.name, **detail))
        if wanted("ECE"):
            value = binary.expected_calibration_error(seen, likely[known], bins)
            draws = binary.resampled_calibration_error(sampled, truth, likely, known, bins)
            of = detail | {"bins": f"{bins} of equal width"}
            found.append(measured("ECE", value, draws, n, one.name, **of))
    if scored.thresholds is not None and one.name in scored.thresholds and only is None:
        found += _at_threshold(scored, one, sampled, n, detail)
    return [_without_interval(m) for m in found] if one.few else found


def _at_threshold(
    scored: Scored, one: _Finding, sampled: Resamples, n: int, detail: dict[str, Any]
) -> list[Measure]:
    assert scored.thresholds is not None
    truth, scores = scored.truth[:, one.column], scored.scores[:, one.column]
    threshold = scored.thresholds[one.name]
    detail = detail | {"threshold": threshold, "criterion": scored.criterion}
    values = binary.sensitivity_specificity(truth[one.known], scores[one.known], threshold)
    called = scores >= threshold
    found = []
    for name, value, of, right in (
        ("sensitivity", values[0], truth == 1, called),
        ("specificity", values[1], truth == 0, ~called),
    ):
        draws = sampled.ratio((of & right).astype(float), of.astype(float))
        found.append(measured(name, value, draws, n, one.name, **detail))
    return found


def _of_all(
    scored: Scored,
    findings: Sequence[_Finding],
    left: dict[str, str],
    sampled: Resamples,
    tail: int,
    measures: Sequence[Measure],
) -> list[Measure]:
    detail = scored.detail
    if not findings:
        names: dict[str, Any] = {"left out": left}
        return [measured("macro AUROC", float("nan"), None, sampled.units, **names)]
    found = []
    if any(one.name == "AUROC" for one in measures):
        few = sum(one.few for one in findings)
        names = {"findings": len(findings), "left out": left}
        names["findings with too few patients"] = few
        found.append(macro(measures, "AUROC", "macro AUROC", sampled.units, **detail, **names))
        head = {one.name for one in findings if one.positives >= tail}
        rare = [one for one in findings if one.name not in head]
        if head:
            of_head = [m for m in measures if m.label in head]
            names = {"findings": len(head), "least positives": tail}
            found.append(macro(of_head, "AUROC", "head AUROC", sampled.units, **detail, **names))
        if rare:
            found.append(_pooled(scored, rare, sampled, tail))
    for name in ("AUPRC", "Brier", "ECE", "sensitivity", "specificity"):
        if any(one.name == name for one in measures):
            found.append(macro(measures, name, f"macro {name}", sampled.units, **detail))
    return found


def _pooled(scored: Scored, rare: Sequence[_Finding], sampled: Resamples, tail: int) -> Measure:
    """The pooled AUROC of rare findings: see the module."""
    right, pairs = 0.0, 0
    for one in rare:
        count = one.positives * int(one.known.sum() - one.positives)
        right, pairs = right + one.auroc * count, pairs + count
    draws = _ratio(sum(one.right_draws for one in rare), sum(one.pair_draws for one in rare))
    positives = sum(one.positives for one in rare)
    names: dict[str, Any] = {
        "findings": len(rare),
        "positives": positives,
        "fewer positives than": tail,
    }
    found = measured("tail AUROC", right / pairs, draws, sampled.units, **scored.detail, **names)
    patients = set().union(*(one.patients for one in rare))
    return _without_interval(found) if len(patients) < LEAST_SUBJECTS else found


def _without_interval(one: Measure) -> Measure:
    return replace(one, low=None, high=None)


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)
