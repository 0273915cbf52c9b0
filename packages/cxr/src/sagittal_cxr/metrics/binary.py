"""How well scores tell positive images from negative ones, and how far probabilities are right.

Intervals come from :class:`sagittal_core.resampling.Resamples`, which draws whole patients; its
``auroc`` and ``average_precision`` are those of this module on resampled rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples, auroc

__all__ = [
    "auroc",
    "average_precision",
    "brier",
    "calibration_bins",
    "expected_calibration_error",
    "resampled_calibration_error",
    "sensitivity_specificity",
    "youden_threshold",
]

BINS = 15


def average_precision(truth: NDArray, scores: NDArray) -> float:
    """Area under the precision-recall curve without interpolation.

    Sum over the distinct scores, from the highest, of the recall gained times the precision; rows
    of one score are taken together. Chance gives the prevalence.

    Args:
        truth: 0 or 1, (n,).
        scores: (n,).

    Raises:
        ValueError: No positive row.
    """
    positive = truth.astype(bool)
    if not positive.any():
        raise ValueError("an average precision needs a positive row")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    found = np.cumsum(positive[order])[last]
    gained = np.diff(found, prepend=0)
    return float((gained * found / (last + 1)).sum() / positive.sum())


def brier(truth: NDArray, probabilities: NDArray) -> float:
    """Mean squared difference of probability and outcome (Brier 1950); (n,) each."""
    return float(np.mean((probabilities - truth) ** 2))


def expected_calibration_error(truth: NDArray, probabilities: NDArray, bins: int = BINS) -> float:
    """Mean gap between probability and outcome, over bins of equal width (Naeini et al. 2015).

    Bin ``b`` holds probabilities in [b / bins, (b + 1) / bins), the last one also 1. The gap of a
    bin is ``|mean outcome - mean probability|``; bins count by their rows. Of the probability of
    the positive class, not of the class that is more probable.

    Args:
        truth: 0 or 1, (n,).
        probabilities: (n,) in [0, 1].
        bins: Number of them.
    """
    _, gaps = calibration_bins(truth, probabilities, bins)
    return float(np.abs(gaps).sum() / len(truth))


def calibration_bins(
    truth: NDArray, probabilities: NDArray, bins: int = BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of each bin, and the sum of outcome less probability over them.

    Returns:
        (bins,) and (bins,).
    """
    place = _bin(probabilities, bins)
    counts = np.bincount(place, minlength=bins).astype(np.int64)
    gaps = np.bincount(place, (truth - probabilities).astype(np.float64), bins)
    return counts, gaps.astype(np.float64)


def resampled_calibration_error(
    sampled: Resamples,
    truth: NDArray,
    probabilities: NDArray,
    known: NDArray,
    bins: int = BINS,
) -> NDArray[np.float64]:
    """The expected calibration error in each resample of the patients, (R,).

    Args:
        sampled: Of the patients of n rows.
        truth: 0 or 1, (n,).
        probabilities: (n,) in [0, 1].
        known: Rows that count, (n,) bool.
        bins: Number of them.
    """
    place, unit = _bin(probabilities[known], bins), sampled.unit[known]
    cell = unit * bins + place
    shape, size = (sampled.units, bins), sampled.units * bins
    gaps = np.bincount(cell, (truth - probabilities)[known], size).reshape(shape)
    rows = np.bincount(unit, minlength=sampled.units)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(sampled.counts @ gaps).sum(1) / (sampled.counts @ rows)


def youden_threshold(truth: NDArray, scores: NDArray) -> float:
    """The score at and above which rows are called positive with the largest Youden's J.

    J is sensitivity + specificity - 1 (Youden 1950); of several such scores the highest.

    Raises:
        ValueError: Only one class is there.
    """
    positive = truth.astype(bool)
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        raise ValueError("a threshold needs both classes")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    called = last + 1
    found = np.cumsum(positive[order])[last]
    youden = found * no - (called - found) * yes  # times yes * no: exact, so ties are ties
    return float(ordered[last[np.argmax(youden)]])


def sensitivity_specificity(
    truth: NDArray, scores: NDArray, threshold: float
) -> tuple[float, float]:
    """Shares of positive rows at or above a threshold, and of negative rows below it."""
    positive, called = truth.astype(bool), scores >= threshold
    return float(called[positive].mean()), float((~called)[~positive].mean())


def _bin(probabilities: NDArray, bins: int) -> NDArray[np.int64]:
    return np.minimum((probabilities * bins).astype(np.int64), bins - 1)
