"""The cluster bootstrap over subjects, shared by every metric so that differences are paired."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.seeds import counter_seed

LEAST_SUBJECTS = 5
"""Fewer independent units than this give no interval: resamples of them are but a few sets."""

# Bounds the matrices of resamples by rows to ~32 MB.
_CHUNK_ELEMENTS = 4_000_000


class Resamples:
    """How often each row counts in each resample of whole subjects (Efron & Tibshirani 1993).

    The same subjects and seed give the same resamples, whatever is measured on the rows: the draws
    of two encoders can be subtracted. With fewer than ``least`` subjects nothing is resampled, and
    the methods return an empty array.

    Attributes:
        counts: (R, units) how often each subject was drawn.

    Args:
        subjects: The independent unit of each row, (n,).
        resamples: Number R of resamples.
        seed: Of the resampling.
        least: Subjects needed.
    """

    def __init__(
        self,
        subjects: ArrayLike | Sequence[str],
        resamples: int = 500,
        seed: int = 0,
        least: int = LEAST_SUBJECTS,
    ) -> None:
        names, self.unit = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
        self.units, self.rows = len(names), len(self.unit)
        self.identity = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
        count = resamples if self.units >= least else 0
        rng = np.random.default_rng(counter_seed(seed, "resampled subjects"))
        self.counts = np.empty((count, self.units), np.int32)
        for one in self.counts:  # not all at once: many people make large matrices
            one[:] = np.bincount(rng.integers(self.units, size=self.units), minlength=self.units)
        self._rng = rng

    @cached_property
    def halves(self) -> NDArray[np.bool_]:
        """(R, units) bool: half of the subjects, drawn without replacement.

        For statistics of extreme rows, which a row that counts twice would distort; a statistic
        varies over halves as over samples (delete-d jackknife, Shao & Wu 1989). Empty with fewer
        than four subjects.
        """
        count = len(self.counts) if self.units > 3 else 0
        order = np.argsort(self._rng.random((count, self.units)), axis=1)
        return order < self.units // 2

    def ratio(self, above: NDArray, below: NDArray) -> NDArray[np.float64]:
        """Sum of ``above`` over the sum of ``below`` in each resample, (R,); both are (n,).

        NaN where the sum below is 0.
        """
        sums = [np.bincount(self.unit, part, self.units) for part in (above, below)]
        over, under = (self.counts @ part for part in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(under != 0, over / under, np.nan)

    def explained(self, sums: NDArray, squares: NDArray, errors: NDArray) -> NDArray[np.float64]:
        """R2 of a reconstruction in each resample, (R,), around that resample's own mean.

        Args:
            sums: Sum of each subject's rows, (units, D).
            squares: Squared length of each row, (n,).
            errors: Squared error of each row, (n,).
        """
        rows = self.counts @ np.bincount(self.unit, minlength=self.units)
        total, error = (
            self.counts @ np.bincount(self.unit, part, self.units) for part in (squares, errors)
        )
        spread = total - ((self.counts @ sums) ** 2).sum(1) / np.maximum(rows, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(spread > 0, 1 - error / spread, np.nan)

    def mean(self, values: NDArray) -> NDArray[np.float64]:
        """Mean of (n,) values in each resample, (R,); NaN among the values stands for none."""
        known = np.isfinite(values)
        return self.ratio(np.where(known, values, 0), known.astype(float))

    def auroc(
        self, truth: NDArray, scores: NDArray, known: NDArray | None = None
    ) -> NDArray[np.float64]:
        """AUROC in each resample, (R,); NaN where one class is absent.

        A tie counts one half (Mann-Whitney).

        Args:
            truth: 0 or 1, (n,).
            scores: (n,).
            known: Rows that count, (n,) bool; None: all.
        """
        right, pairs = self.concordance(truth, scores, known)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, right / pairs, np.nan)

    def concordance(
        self, truth: NDArray, scores: NDArray, known: NDArray | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pairs of a positive and a negative row in each resample: in the right order, and all.

        Their ratio is the AUROC; sums over several targets give one that compares rows within a
        target only. A tie counts one half.

        Args:
            truth: 0 or 1, (n,).
            scores: (n,).
            known: Rows that count, (n,) bool; None: all.

        Returns:
            (R,) and (R,).
        """
        order = np.argsort(scores, kind="stable")
        if known is not None:
            order = order[known[order]]
        if not len(order):
            return np.zeros(len(self.counts)), np.zeros(len(self.counts))
        ordered, unit = scores[order], self.unit[order]
        positive = truth[order].astype(bool)
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        chunk, right, pairs = max(1, _CHUNK_ELEMENTS // len(order)), [np.empty(0)], [np.empty(0)]
        for first in range(0, len(self.counts), chunk):
            weight = self.counts[first : first + chunk, unit].astype(np.float64)
            yes = np.add.reduceat(np.where(positive, weight, 0), starts, axis=1)
            no = np.add.reduceat(np.where(positive, 0, weight), starts, axis=1)
            below = no.cumsum(1) - no / 2
            pairs.append(yes.sum(1) * no.sum(1))
            right.append((yes * below).sum(1))
        return np.concatenate(right), np.concatenate(pairs)

    def average_precision(
        self, truth: NDArray, scores: NDArray, known: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Average precision in each resample, (R,); NaN where there is no positive row.

        Rows of one score are taken together: sum of (recall gained) x precision over the distinct
        scores from the highest, without interpolation.

        Args:
            truth: 0 or 1, (n,).
            scores: (n,).
            known: Rows that count, (n,) bool; None: all.
        """
        order = np.argsort(-scores, kind="stable")
        if known is not None:
            order = order[known[order]]
        if not len(order):
            return np.full(len(self.counts), np.nan)
        ordered, unit = scores[order], self.unit[order]
        positive = truth[order].astype(bool)
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        chunk, parts = max(1, _CHUNK_ELEMENTS // len(order)), [np.empty(0)]
        for first in range(0, len(self.counts), chunk):
            weight = self.counts[first : first + chunk, unit].astype(np.float64)
            yes = np.add.reduceat(np.where(positive, weight, 0), starts, axis=1)
            taken = np.add.reduceat(weight, starts, axis=1).cumsum(1)
            precision = yes.cumsum(1) / np.maximum(taken, 1)
            total = yes.sum(1)
            with np.errstate(invalid="ignore", divide="ignore"):
                parts.append(np.where(total > 0, (yes * precision).sum(1) / total, np.nan))
        return np.concatenate(parts)


def auroc(truth: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve of (n,) truth, 0 or 1, and scores; a tie counts one half.

    Raises:
        ValueError: Only one class is there.
    """
    positive = truth.astype(bool)
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        raise ValueError("an AUROC needs both classes")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of resampled values; None without any (too few subjects)."""
    known = np.asarray(draws, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
