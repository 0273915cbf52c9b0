"""Decision curves (Vickers and Elkin 2006): is it better to act on the risk than to treat all?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def net_benefit(
    event: NDArray[np.bool_],
    risk: NDArray[np.float64],
    weights: NDArray[np.float64],
    people: float,
    thresholds: NDArray[np.float64],
) -> NDArray[np.float64]:
    """True positives less false ones at the threshold's odds, per person, (thresholds,).

    Who has the threshold's risk or more is treated. With censoring weights the numbers of true and
    false positives are estimates. Treating none has a net benefit of 0.

    Args:
        event: (n,) at the horizon.
        risk: (n,).
        weights: (n,).
        people: How many, the censored included.
        thresholds: Each in (0, 1).
    """
    order = np.argsort(risk, kind="stable")
    mine, happened = weights[order], event[order]
    hits = np.r_[0, np.cumsum(mine * happened)]
    misses = np.r_[0, np.cumsum(mine * ~happened)]
    first = np.searchsorted(risk[order], thresholds, side="left")
    odds = thresholds / (1 - thresholds)
    return ((hits[-1] - hits[first]) - (misses[-1] - misses[first]) * odds) / people


def treat_all(
    event: NDArray[np.bool_],
    weights: NDArray[np.float64],
    people: float,
    thresholds: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Net benefit of treating everyone, (thresholds,)."""
    return net_benefit(event, np.ones(len(event)), weights, people, thresholds)
