"""Calibration: of people with a risk of 10 %, do 10 % have the event? Every measure takes weights.

The smooth curve is loess (Cleveland 1979): a local parabola in the risk with tricube weights over
the nearest three quarters of people, as Austin and Steyerberg (2019) draw it for ICI, E50 and E90.
More than 1000 distinct risks are first gathered into 1000 bins of equal size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BINS, _GRID, _SPAN = 1000, 60, 0.75
_LEAST, _MOST = 1e-10, 1 - 1e-10


def logit(risk: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(p / (1 - p)), of risks kept away from 0 and 1 by 1e-10."""
    inside = np.clip(risk, _LEAST, _MOST)
    return np.log(inside / (1 - inside))


def recalibration(
    event: NDArray[np.bool_], risk: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of the event on the logit of the risk.

    1 and 0 for perfect risks; a slope below 1 means risks that are too extreme. NaN where it has
    no solution (one class only, or risks that separate).
    """
    x = logit(risk)
    beta = np.array([0.0, 1.0])
    for _ in range(100):
        p = 1 / (1 + np.exp(-(beta[0] + beta[1] * x)))
        error, curve = weights * (event - p), weights * p * (1 - p)
        gradient = np.array([error.sum(), (error * x).sum()])
        cross = (curve * x).sum()
        information = np.array([[curve.sum(), cross], [cross, (curve * x * x).sum()]])
        if abs(np.linalg.det(information)) < 1e-12 * max(1.0, information[0, 0] ** 2):
            return np.nan, np.nan
        step = np.linalg.solve(information, gradient)
        step *= min(1.0, 5 / max(np.abs(step).max(), 1e-30))
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            return float(beta[1]), float(beta[0])
    return np.nan, np.nan


def intercept_in_the_large(
    event: NDArray[np.bool_], risk: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """What, added to every logit, makes as many events expected as observed; 0 is perfect."""
    x, shift = logit(risk), 0.0
    observed, total = (weights * event).sum(), weights.sum()
    if not 0 < observed < total:
        return np.nan
    for _ in range(100):
        p = 1 / (1 + np.exp(-(shift + x)))
        step = (observed - (weights * p).sum()) / max((weights * p * (1 - p)).sum(), 1e-300)
        shift += float(np.clip(step, -2, 2))
        if abs(step) < 1e-10:
            return shift
    return np.nan


def brier(
    event: NDArray[np.bool_],
    risk: NDArray[np.float64],
    weights: NDArray[np.float64],
    people: float,
) -> float:
    """Mean squared error; with censoring weights the IPCW score of Graf et al. (1999).

    Args:
        event: (n,) at the horizon.
        risk: (n,).
        weights: (n,) of :meth:`~sagittal_risk.evaluation.followup.FollowUp.weights`.
        people: How many, the censored included.
    """
    return float((weights * (event - risk) ** 2).sum() / people)


class Smooth:
    """The observed frequency as a smooth function of the risk, for any weights.

    Args:
        event: (n,).
        risk: (n,) in [0, 1].
        grid: Number of quantiles at which the local parabola is fitted, and a third as many
            steps of equal size; linear in between.
        span: Share of the people who count at each.
    """

    def __init__(
        self,
        event: NDArray[np.bool_],
        risk: NDArray[np.float64],
        grid: int = _GRID,
        span: float = _SPAN,
    ) -> None:
        order = np.argsort(risk, kind="stable")
        distinct = np.unique(risk[order], return_inverse=True)[1]
        place = distinct
        if distinct[-1] >= _BINS:
            place = np.minimum(np.arange(len(risk)) * _BINS // len(risk), _BINS - 1)
        self.bin = np.empty(len(risk), np.intp)
        self.bin[order] = place
        self.count = int(place[-1]) + 1
        size = np.bincount(self.bin, minlength=self.count)
        self.center = np.bincount(self.bin, risk, self.count) / size
        self.event, self.span = event.astype(float), span
        # Quantiles where people are, and even steps for the few with high risks.
        even = np.linspace(risk.min(), risk.max(), grid // 3)
        self.at = np.unique(np.r_[np.quantile(risk, np.linspace(0, 1, grid)), even])
        self.distance = np.abs(self.center[None] - self.at[:, None])
        self.nearest = np.argsort(self.distance, axis=1)

    def curve(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(grid,) observed frequency at :attr:`at`; NaN where nobody is near."""
        mass = np.bincount(self.bin, weights, self.count)
        hits = np.bincount(self.bin, weights * self.event, self.count)
        reached = np.cumsum(mass[self.nearest], axis=1) >= self.span * mass.sum() * (1 - 1e-12)
        last = np.argmax(reached, axis=1)
        rows = np.arange(len(self.at))
        width = self.distance[rows, self.nearest[rows, last]]
        width = np.maximum(width, 1e-12) * (1 + 1e-9)
        near = np.maximum(1 - (self.distance / width[:, None]) ** 3, 0) ** 3
        return _parabola(self.center[None] - self.at[:, None], near * mass, near * hits, width)

    def errors(
        self, weights: NDArray[np.float64], people: NDArray[np.float64]
    ) -> tuple[float, float, float]:
        """ICI, E50 and E90: mean, median and 90th percentile of |observed - predicted|.

        Args:
            weights: (n,) of the events.
            people: (n,) how often each person counts in the mean.
        """
        curve = self.curve(weights)
        known = ~np.isnan(curve)
        if not known.any():
            return np.nan, np.nan, np.nan
        gap = np.abs(np.interp(self.center, self.at[known], curve[known]) - self.center)
        mass = np.bincount(self.bin, people, self.count)
        order = np.argsort(gap)
        share = np.cumsum(mass[order]) / mass.sum()
        half, ninety = (float(gap[order][np.searchsorted(share, q)]) for q in (0.5, 0.9))
        return float((gap * mass).sum() / mass.sum()), half, ninety


def _parabola(
    x: NDArray[np.float64],
    mass: NDArray[np.float64],
    hits: NDArray[np.float64],
    width: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Value at 0 of a weighted least-squares parabola in each row, within [0, 1].

    A row in which the points are too few for a parabola takes the line, then the mean.
    """
    scaled = x / width[:, None]
    powers = [np.ones_like(scaled)]
    for _ in range(4):
        powers.append(powers[-1] * scaled)
    moments = [(mass * p).sum(1) for p in powers]
    right = np.stack([(hits * p).sum(1) for p in powers[:3]], 1)
    left = np.stack([np.stack(moments[i : i + 3], 1) for i in range(3)], 1)
    out = np.full(len(x), np.nan)
    some = moments[0] > 0
    scale = np.where(some, moments[0], 1.0)
    left, right = left / scale[:, None, None], right / scale[:, None]
    for size in (3, 2, 1):
        part = left[:, :size, :size]
        todo = np.flatnonzero(some & np.isnan(out))
        good = todo[_regular(part[todo])]
        out[good] = np.linalg.solve(part[good], right[good, :size, None])[:, 0, 0]
    return np.clip(out, 0, 1)


def _regular(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of (n, k, k) symmetric matrices have a condition number below 1e10."""
    values = np.linalg.eigvalsh(matrices)
    return values[:, 0] > 1e-10 * values[:, -1]


def grouped(
    event: NDArray[np.bool_],
    risk: NDArray[np.float64],
    weights: NDArray[np.float64],
    groups: int = 10,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean risk, observed frequency and people in groups of equal size by risk (deciles).

    A group in which everyone is censored has no frequency (NaN).
    """
    order = np.argsort(risk, kind="stable")
    parts = [part for part in np.array_split(order, groups) if len(part)]
    mean = np.array([risk[part].mean() for part in parts])
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = [(weights[p] * event[p]).sum() / np.float64(weights[p].sum()) for p in parts]
    return mean, np.array(observed), np.array([len(part) for part in parts])
