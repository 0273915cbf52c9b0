"""Measures of a corpus that are functions of sums over reports, with intervals over patients.

BLEU of a corpus is a function of summed n-gram counts, micro F1 of summed hits, a mean of a sum and
a number. So a resample of patients needs no second look at a text: their sums are weighted by how
often each patient was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.resampling import Resamples, interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One measure of N reports.

    Attributes:
        name: Of the measure.
        parts: (N, k), what is summed over reports.
        combine: Sums (..., k) to values (...,); NaN where the measure is not defined.
        each: (N,) the measure of each report alone; NaN where it is not defined.
        note: What the figure means, where its name does not say so.
    """

    name: str
    parts: Array
    combine: Callable[[Array], Array]
    each: Array
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over patients.

    Attributes:
        value: Of all reports; NaN: not defined.
        low: Lower end; None: there are too few patients, or no resample has a value.
        high: Upper end.
        patients: Independent units.
        draws: (R,) the value in each resample.
    """

    value: float
    low: float | None
    high: float | None
    patients: int
    draws: Array

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_score(name: str, values: ArrayLike, note: str = "") -> Score:
    """The mean of (N,) values; NaN among them stands for none and does not count."""
    each = np.asarray(values, dtype=np.float64)
    known = np.isfinite(each)
    parts = np.stack([np.where(known, each, 0.0), known.astype(np.float64)], axis=1)
    return Score(name, parts, share, each, note)


def share(sums: Array) -> Array:
    """First of (..., 2) sums over the second; NaN where that is 0."""
    there = sums[..., 1] > 0
    return np.where(there, sums[..., 0] / np.where(there, sums[..., 1], 1), np.nan)


class Patients:
    """Resamples of whole patients, the same for every score, so that differences are paired.

    Args:
        names: The independent unit of each report, (N,).
        resamples: Number R of resamples; fewer than five patients give none.
        seed: Of the resampling.

    Attributes:
        count: Independent units.

    Raises:
        ValueError: If ``names`` is empty.
    """

    def __init__(
        self, names: ArrayLike | Sequence[str], resamples: int = 1000, seed: int = 0
    ) -> None:
        if not len(np.asarray(names)):
            raise ValueError("no report to score")
        self._sampled = Resamples(names, resamples, seed)
        self.count = self._sampled.units

    def estimate(self, score: Score) -> Estimate:
        """The score with its percentile interval (cluster bootstrap over patients)."""
        return self._estimate(float(score.combine(score.parts.sum(0))), self._draws(score))

    def difference(self, first: Score, second: Score) -> Estimate:
        """``first - second``: the same measure of the same reports by two sources."""
        value = first.combine(first.parts.sum(0)) - second.combine(second.parts.sum(0))
        return self._estimate(float(value), self._draws(first) - self._draws(second))

    def _draws(self, score: Score) -> Array:
        sums = np.zeros((self.count, score.parts.shape[1]))
        np.add.at(sums, self._sampled.unit, score.parts)
        return score.combine(self._sampled.counts @ sums)

    def _estimate(self, value: float, draws: Array) -> Estimate:
        ends = interval(draws) if np.isfinite(value) else None
        low, high = ends or (None, None)
        return Estimate(value, low, high, self.count, draws)
