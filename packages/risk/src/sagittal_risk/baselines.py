"""Models to compare with: logistic regression, Cox, gradient boosting; and cross-fitting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sagittal_core.seeds import counter_seed
from sagittal_risk.cox import Cox


class Model(Protocol):
    """Learns risks from features that may be missing (NaN)."""

    def fit(
        self,
        features: NDArray[np.float64],
        event: NDArray[np.bool_],
        time: NDArray[np.float64] | None,
    ) -> Model:
        """Learn from (n, p) features, (n,) events within the horizon and (n,) times, or None."""

    def risk(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) probability of the event within the horizon."""


class _Standard:
    """Missing values become the mean; then mean 0 and standard deviation 1."""

    def fit(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        known = ~np.isnan(features)
        count = np.maximum(known.sum(0), 1)
        self.mean = np.where(known, features, 0).sum(0) / count
        spread = np.where(known, features - self.mean, 0)
        self.scale = np.sqrt((spread**2).sum(0) / count)
        self.scale[self.scale == 0] = 1.0
        return self(features)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        filled = np.where(np.isnan(features), self.mean, features)
        return (filled - self.mean) / self.scale


class LogisticRisk:
    """Logistic regression with an L2 penalty on standardised features.

    Args:
        c: Inverse strength of the penalty, as scikit-learn's ``C``.
    """

    def __init__(self, c: float = 1.0) -> None:
        self.c = c

    def fit(
        self,
        features: NDArray[np.float64],
        event: NDArray[np.bool_],
        time: NDArray[np.float64] | None = None,
    ) -> LogisticRisk:
        """See :class:`Model`; ``time`` is not used."""
        from sklearn.linear_model import LogisticRegression

        self._standard = _Standard()
        self._model = LogisticRegression(C=self.c, max_iter=1000)
        self._model.fit(self._standard.fit(features), event)
        return self

    def risk(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :class:`Model`."""
        return self._model.predict_proba(self._standard(features))[:, 1]


class CoxRisk:
    """Cox regression on standardised features; takes those who leave early as censored.

    Args:
        horizon: In the unit of ``time``.
        l2: Penalty of :class:`~sagittal_risk.cox.Cox`.
    """

    def __init__(self, horizon: float, l2: float = 1e-4) -> None:
        self.horizon, self.l2 = horizon, l2

    def fit(
        self,
        features: NDArray[np.float64],
        event: NDArray[np.bool_],
        time: NDArray[np.float64] | None,
    ) -> CoxRisk:
        """See :class:`Model`.

        Raises:
            ValueError: There are no times.
        """
        if time is None:
            raise ValueError("a Cox model needs times")
        self._standard = _Standard()
        self._model = Cox(self.l2).fit(self._standard.fit(features), time, event)
        return self

    def risk(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :class:`Model`."""
        return self._model.risk(self._standard(features), self.horizon)


class BoostingRisk:
    """Gradient boosted trees (scikit-learn's histogram kind), which take missing values as such.

    Args:
        trees: Number.
        rate: Learning rate.
        leaves: At most, of a tree.
        least: People in a leaf at least.
        seed: Of scikit-learn's draws.
    """

    def __init__(
        self,
        trees: int = 150,
        rate: float = 0.03,
        leaves: int = 6,
        least: int = 40,
        seed: int = 0,
    ) -> None:
        self.settings = {
            "max_iter": trees,
            "learning_rate": rate,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": least,
            "early_stopping": False,
            "random_state": seed,
        }

    def fit(
        self,
        features: NDArray[np.float64],
        event: NDArray[np.bool_],
        time: NDArray[np.float64] | None = None,
    ) -> BoostingRisk:
        """See :class:`Model`; ``time`` is not used."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._model = HistGradientBoostingClassifier(**self.settings)
        self._model.fit(features, event)
        return self

    def risk(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :class:`Model`."""
        return self._model.predict_proba(features)[:, 1]


def folds(
    event: NDArray[np.bool_], person: NDArray[np.str_], count: int = 5, seed: int = 0
) -> Iterator[NDArray[np.bool_]]:
    """Test rows of each fold, (n,) bool: whole people, as many with the event in each.

    Raises:
        ValueError: Fewer people with or without the event than folds.
    """
    names, unit = np.unique(person, return_inverse=True)
    has = np.zeros(len(names), bool)
    np.logical_or.at(has, unit, event)
    if min(has.sum(), (~has).sum()) < count:
        raise ValueError(f"{count} folds need as many people with and without the event")
    rng = np.random.default_rng(counter_seed(seed, "folds"))
    place = np.empty(len(names), int)
    for one in (True, False):
        members = np.flatnonzero(has == one)
        place[rng.permutation(members)] = np.arange(len(members)) % count
    for number in range(count):
        yield place[unit] == number


def cross_fitted(
    make: Callable[[], Model],
    features: NDArray[np.float64],
    event: NDArray[np.bool_],
    time: NDArray[np.float64] | None,
    person: NDArray[np.str_],
    *,
    count: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(n,) risk of everyone by a model that saw others only; see :func:`folds`."""
    out = np.full(len(event), np.nan)
    for test in folds(event, person, count, seed):
        model = make().fit(features[~test], event[~test], None if time is None else time[~test])
        out[test] = model.risk(features[test])
    return out
