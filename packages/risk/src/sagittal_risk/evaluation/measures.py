"""Every measure of one column of risks, with intervals from a bootstrap over people."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples, interval
from sagittal_risk.evaluation import calibration
from sagittal_risk.evaluation.discrimination import Concordance, Ranked
from sagittal_risk.evaluation.followup import FollowUp, censoring_survival, kaplan_meier

MEASURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "c_index": "C-index (Harrell)",
    "c_uno": "C-index (Uno)",
    "brier": "Brier score",
    "scaled_brier": "scaled Brier score",
    "slope": "calibration slope",
    "intercept": "calibration in the large",
    "oe": "observed / expected",
    "ici": "ICI",
    "e50": "E50",
    "e90": "E90",
}
"""Name of each measure in words."""

IDEAL = {"slope": 1.0, "intercept": 0.0, "oe": 1.0}


@dataclass(frozen=True)
class Estimate:
    """A measure with its bootstrap.

    Attributes:
        value: Of everyone; NaN where it is not defined.
        draws: (resamples,) of whole people; empty with fewer than five.
    """

    value: float
    draws: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def ends(self) -> tuple[float, float] | None:
        """95 % percentile interval; None without draws."""
        return interval(self.draws)

    def text(self, digits: int = 3) -> str:
        """``0.744 [0.715, 0.772]``, the number alone, or ``not defined``."""
        if not np.isfinite(self.value):
            return "not defined"
        ends = self.ends
        shown = f"{self.value:.{digits}f}"
        return shown if ends is None else f"{shown} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


class Measured:
    """One column of risks against an outcome; what is sorted once serves every resample.

    Args:
        follow_up: The outcome of (n,) people.
        risk: (n,) in [0, 1], finite.

    Raises:
        ValueError: A risk is missing or outside [0, 1], or lengths differ.
    """

    def __init__(self, follow_up: FollowUp, risk: NDArray[np.float64]) -> None:
        if len(risk) != len(follow_up) or not len(risk):
            raise ValueError(f"{len(risk)} risks for {len(follow_up)} people")
        if np.isnan(risk).any() or risk.min() < 0 or risk.max() > 1:
            raise ValueError("risks must lie in [0, 1]")
        self.follow_up, self.risk = follow_up, risk
        self.ranked = Ranked(follow_up.event, risk)
        self.smooth = calibration.Smooth(follow_up.event, risk)
        self.order = None
        if follow_up.time is not None:
            self.order = Concordance(follow_up.time, follow_up.event, risk)

    def measure(self, counts: NDArray[np.float64] | None = None) -> dict[str, float]:
        """Every measure; those that need times are missing without them.

        Args:
            counts: (n,) how often each person was drawn; None: once.
        """
        outcome, risk = self.follow_up, self.risk
        drawn = np.ones(len(risk)) if counts is None else counts
        weights, people = outcome.weights(drawn), float(drawn.sum())
        found = {
            "auroc": self.ranked.auroc(weights),
            "average_precision": self.ranked.average_precision(weights),
        }
        if self.order is not None:
            found["c_index"] = self.order(drawn)
            found["c_uno"] = self.order(drawn, self._uno(drawn))
        found["brier"] = calibration.brier(outcome.event, risk, weights, people)
        observed, expected = self._observed(drawn), float((drawn * risk).sum() / people)
        base = calibration.brier(outcome.event, np.full(len(risk), observed), weights, people)
        found["scaled_brier"] = 1 - found["brier"] / base if base > 0 else np.nan
        found["slope"] = calibration.recalibration(outcome.event, risk, weights)[0]
        found["intercept"] = calibration.intercept_in_the_large(outcome.event, risk, weights)
        found["oe"] = observed / expected if expected > 0 else np.nan
        errors = self.smooth.errors(weights, drawn)
        return found | dict(zip(("ici", "e50", "e90"), errors, strict=True))

    def _observed(self, drawn: NDArray[np.float64]) -> float:
        """Share of people with the event by the horizon (Kaplan-Meier where there are times)."""
        outcome = self.follow_up
        if outcome.time is None or outcome.horizon is None:
            return float((drawn * outcome.event).sum() / drawn.sum())
        return kaplan_meier(outcome.time, outcome.event, outcome.horizon, drawn)

    def _uno(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights of pairs that make C independent of the censoring (Uno et al. 2011)."""
        outcome = self.follow_up
        assert outcome.time is not None
        assert outcome.horizon is not None
        until = np.minimum(outcome.time, outcome.horizon)
        observed = censoring_survival(until, outcome.event, outcome.known, drawn)
        return np.where(outcome.event & (observed > 0), 1 / np.maximum(observed, 1e-9) ** 2, 0.0)

    def estimate(self, resamples: Resamples) -> dict[str, Estimate]:
        """Every measure with its draws; equal resamples of several columns are paired."""
        draws = [
            self.measure(counts[resamples.unit].astype(np.float64)) for counts in resamples.counts
        ]
        return {
            name: Estimate(value, np.array([one[name] for one in draws]))
            for name, value in self.measure().items()
        }


def difference(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of two columns measured on the same resamples."""
    draws = a.draws - b.draws if len(a.draws) == len(b.draws) else np.empty(0)
    return Estimate(a.value - b.value, draws)
