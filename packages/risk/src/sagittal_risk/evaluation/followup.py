"""What happened up to the horizon, and how much each person counts where some left early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FollowUp:
    """The outcome of (n,) people.

    With times, people who left before the horizon without the event are censored: unknown. The
    others then count more, by the inverse of the probability of being observed so long (inverse
    probability of censoring weighting; Graf et al. 1999).

    Attributes:
        event: (n,) whether the event came at or before the horizon.
        time: (n,) of the event or the end of observation; None: everyone is known.
        horizon: In the unit of ``time``.
    """

    event: NDArray[np.bool_]
    time: NDArray[np.float64] | None = None
    horizon: float | None = None

    @classmethod
    def of(
        cls,
        event: NDArray[np.bool_],
        time: NDArray[np.float64] | None = None,
        horizon: float | None = None,
    ) -> FollowUp:
        """From events whenever they came; those after the horizon do not count.

        Raises:
            ValueError: Times without a horizon, or one without the other's length.
        """
        if time is None:
            return cls(event.astype(bool))
        if horizon is None or len(time) != len(event) or np.isnan(time).any():
            raise ValueError("times need a horizon, one for each person, none missing")
        return cls(event.astype(bool) & (time <= horizon), time, horizon)

    def __len__(self) -> int:
        return len(self.event)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) whether the state at the horizon is known."""
        if self.time is None or self.horizon is None:
            return np.ones(len(self.event), bool)
        return self.event | (self.time >= self.horizon)

    def weights(self, counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(n,) how much each person counts: 0 for the censored.

        Args:
            counts: (n,) how often each person was drawn; None: once.
        """
        drawn = np.ones(len(self.event)) if counts is None else counts
        if self.time is None or self.horizon is None:
            return drawn
        until = np.minimum(self.time, self.horizon)
        observed = censoring_survival(until, self.event, self.known, drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.known & (drawn > 0), drawn / observed, 0.0)

    def take(self, rows: NDArray[np.bool_]) -> FollowUp:
        """Some of the people."""
        time = None if self.time is None else self.time[rows]
        return FollowUp(self.event[rows], time, self.horizon)


def censoring_survival(
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    known: NDArray[np.bool_],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n,) Kaplan-Meier probability of not being censored before each person's time.

    At equal times events come before censorings. Who reaches the horizon (known without an event)
    is not censored.
    """
    times, place = np.unique(time, return_inverse=True)
    size = len(times)
    total, events, lost = (
        np.bincount(place, counts * which, size) for which in (np.ones(len(time)), event, ~known)
    )
    at_risk = np.cumsum(total[::-1])[::-1] - events
    with np.errstate(divide="ignore", invalid="ignore"):
        stay = np.where(lost > 0, 1 - lost / at_risk, 1.0)
    before = np.concatenate([[1.0], np.cumprod(stay)[:-1]])
    return before[place]


def kaplan_meier(
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    horizon: float,
    counts: NDArray[np.float64] | None = None,
) -> float:
    """Probability of the event up to ``horizon``, one minus Kaplan and Meier's survival."""
    drawn = np.ones(len(time)) if counts is None else counts
    times, place = np.unique(time, return_inverse=True)
    total = np.bincount(place, drawn, len(times))
    events = np.bincount(place, drawn * event, len(times))
    at_risk = np.cumsum(total[::-1])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        stay = np.where((events > 0) & (times <= horizon), 1 - events / at_risk, 1.0)
    return float(1 - stay.prod())
