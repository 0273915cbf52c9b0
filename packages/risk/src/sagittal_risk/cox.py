"""Proportional hazards (Cox 1972) with Efron's treatment of ties, by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ITERATIONS, _TOLERANCE = 50, 1e-9


@dataclass
class Cox:
    """A Cox model.

    Attributes:
        l2: Penalty ``l2 / 2 * sum(b ** 2)`` per person, of coefficients on the features as given.
        coefficients: (p,) after :meth:`fit`.
        errors: (p,) their standard errors, from the observed information.
        times: Event times, ascending.
        hazard: Cumulative baseline hazard at them (Efron), of features 0.
    """

    l2: float = 0.0
    coefficients: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    times: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    hazard: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def fit(
        self, features: NDArray[np.float64], time: NDArray[np.float64], event: NDArray[np.bool_]
    ) -> Cox:
        """Maximise the partial likelihood.

        Args:
            features: (n, p) finite numbers.
            time: (n,) of the event or the end of observation.
            event: (n,) whether it was the event.

        Raises:
            ValueError: There is no event, or Newton's method does not converge (a feature that
                separates those with events from the others; try ``l2``).
        """
        if not event.any():
            raise ValueError("a Cox model needs at least one event")
        likelihood = _Likelihood(features, time, event.astype(bool), self.l2)
        beta = np.zeros(features.shape[1])
        value, gradient, information = likelihood(beta)
        for _ in range(_ITERATIONS):
            step = np.linalg.solve(information, gradient)
            scale = 1.0
            while True:
                tried = likelihood(beta + scale * step)
                if tried[0] >= value - 1e-12 * abs(value) or scale < 1e-6:
                    break
                scale /= 2
            beta, (value, gradient, information) = beta + scale * step, tried
            if gradient @ np.linalg.solve(information, gradient) < _TOLERANCE:
                break
        else:
            raise ValueError("the Cox model does not converge: a feature may separate; set l2")
        self.coefficients = beta
        self.errors = np.sqrt(np.diag(np.linalg.inv(information)))
        self.times, self.hazard = likelihood.baseline(beta)
        return self

    def log_hazard(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) logarithm of each person's hazard over the baseline's."""
        return features @ self.coefficients

    def risk(self, features: NDArray[np.float64], horizon: float) -> NDArray[np.float64]:
        """(n,) probability of the event up to ``horizon``, censoring apart."""
        at = np.searchsorted(self.times, horizon, side="right")
        total = self.hazard[at - 1] if at else 0.0
        return -np.expm1(-total * np.exp(self.log_hazard(features)))


class _Likelihood:
    """Partial likelihood: value, gradient and information at given coefficients."""

    def __init__(
        self,
        features: NDArray[np.float64],
        time: NDArray[np.float64],
        event: NDArray[np.bool_],
        l2: float,
    ) -> None:
        order = np.argsort(-time, kind="stable")  # who is at risk comes first
        self.x, self.penalty = features[order], l2 * len(time)
        self.rows = np.flatnonzero(event[order])
        late = -time[order]
        event_times, self.group, self.deaths = np.unique(
            late[self.rows], return_inverse=True, return_counts=True
        )
        self.times = -event_times
        # All with a time at or after the event time are at risk.
        self.at_risk = np.searchsorted(late, event_times, side="right") - 1
        first = np.cumsum(self.deaths) - self.deaths
        # The l-th of d tied events takes l / d of the tied people out of the risk set.
        rank = np.arange(len(self.rows)) - first[self.group]
        self.share = rank / self.deaths[self.group]

    def __call__(
        self, beta: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        hazard, shift = self._hazard(beta)
        one = hazard[:, None] * self.x
        two = one[:, :, None] * self.x[:, None, :]
        s0, s1, s2 = (self._risk_set(part) for part in (hazard, one, two))
        mean = s1 / s0[:, None]
        value = (self.x[self.rows] @ beta).sum() - (np.log(s0) + shift).sum()
        gradient = (self.x[self.rows] - mean).sum(0)
        information = (s2 / s0[:, None, None] - mean[:, :, None] * mean[:, None, :]).sum(0)
        value -= self.penalty / 2 * float(beta @ beta)
        gradient = gradient - self.penalty * beta
        return float(value), gradient, information + self.penalty * np.eye(len(beta))

    def baseline(
        self, beta: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Event times ascending, and the cumulative hazard at them."""
        hazard, shift = self._hazard(beta)
        steps = np.exp(-shift) / self._risk_set(hazard)
        jumps = np.bincount(self.group, steps)
        return self.times[::-1], np.cumsum(jumps[::-1])

    def _hazard(self, beta: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        eta = self.x @ beta
        shift = float(eta.max())  # against overflow; it cancels, or is given back
        return np.exp(eta - shift), shift

    def _risk_set(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over the risk set of each event, (events, ...), tied ones taken out in turn."""
        whole = np.cumsum(part, axis=0)[self.at_risk][self.group]
        tied = np.zeros((len(self.times), *part.shape[1:]))
        np.add.at(tied, self.group, part[self.rows])
        share = self.share.reshape(-1, *[1] * (part.ndim - 1))
        return whole - share * tied[self.group]
