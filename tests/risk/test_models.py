"""Cox against published figures and the likelihood itself; baselines and cross-fitting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from sagittal_risk.baselines import BoostingRisk, CoxRisk, LogisticRisk, cross_fitted, folds
from sagittal_risk.cox import Cox

# Remission of leukaemia in weeks (Freireich et al. 1963): 6-mercaptopurine, then placebo.
TREATED = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_cox_has_the_published_coefficient_of_the_leukaemia_trial() -> None:
    time = np.array([*TREATED, *PLACEBO], float)
    event = np.array([*RELAPSED, *[1] * 21], bool)
    placebo = np.r_[np.zeros(21), np.ones(21)][:, None]
    model = Cox().fit(placebo, time, event)
    # Efron's method: 1.572, standard error 0.412 (Venables & Ripley, section 13.3).
    assert model.coefficients == pytest.approx([1.572], abs=5e-4)
    assert model.errors == pytest.approx([0.412], abs=5e-4)


def efron(beta: np.ndarray, x: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Minus the partial likelihood, written as in Efron (1977), term by term."""
    total = 0.0
    for t in np.unique(time[event]):
        tied = np.flatnonzero(event & (time == t))
        risk = np.exp(x[time >= t] @ beta).sum()
        ties = np.exp(x[tied] @ beta).sum()
        total += (x[tied] @ beta).sum()
        total -= sum(np.log(risk - k / len(tied) * ties) for k in range(len(tied)))
    return -total


def tied_data(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    time = np.ceil(rng.exponential(np.exp(-x[:, 0])) * 4)
    return x, time, rng.random(n) < 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cox_maximises_efrons_likelihood(seed: int) -> None:
    x, time, event = tied_data(seed)
    model = Cox().fit(x, time, event)
    oracle = minimize(efron, np.zeros(3), (x, time, event), method="BFGS", tol=1e-10)
    np.testing.assert_allclose(model.coefficients, oracle.x, atol=2e-5)


def test_baseline_hazard_without_features_is_nelson_aalen_with_fleming_and_harrington() -> None:
    time, event = np.array([1.0, 2, 2, 3, 4]), np.array([1, 1, 1, 0, 1], bool)
    model = Cox(l2=1.0).fit(np.zeros((5, 1)), time, event)
    np.testing.assert_allclose(model.times, [1, 2, 4])
    np.testing.assert_allclose(model.hazard, np.cumsum([1 / 5, 1 / 4 + 1 / 3, 1]))
    risk = model.risk(np.zeros((1, 1)), 2.5)
    assert risk == pytest.approx([1 - np.exp(-(1 / 5 + 1 / 4 + 1 / 3))])
    assert model.risk(np.zeros((1, 1)), 0.5) == pytest.approx([0])


def test_cox_says_what_it_cannot_fit() -> None:
    with pytest.raises(ValueError, match="at least one event"):
        Cox().fit(np.zeros((3, 1)), np.ones(3), np.zeros(3, bool))


def people(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, 4)) * [1, 10, 0.1, 1] + [0, 50, 3, 0]
    hazard = np.exp(0.9 * x[:, 0] - 0.05 * (x[:, 1] - 50) - 3)
    time = np.minimum(rng.exponential(1 / hazard), 10)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x, time < 10, time, np.arange(n).astype(str)


@pytest.mark.parametrize("make", [LogisticRisk, lambda: CoxRisk(10.0), BoostingRisk])
def test_baselines_learn_with_missing_values(make) -> None:
    from sagittal_core.resampling import auroc

    x, event, time, person = people()
    risk = cross_fitted(make, x, event, time, person, seed=1)
    assert ((risk > 0) & (risk < 1)).all()
    assert auroc(event, risk) > 0.7
    assert risk.mean() == pytest.approx(event.mean(), abs=0.03)
    again = cross_fitted(make, x, event, time, person, seed=1)
    np.testing.assert_array_equal(risk, again)


def test_a_unit_of_a_feature_changes_nothing() -> None:
    x, event, time, _ = people(200)
    scaled = x * [1, 1000, 0.01, 1] + [0, 5, 0, 1]
    for make in (LogisticRisk, lambda: CoxRisk(10.0)):
        one, other = (make().fit(m, event, time).risk(m) for m in (x, scaled))
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_cox_needs_times() -> None:
    x, event, _, person = people(100)
    with pytest.raises(ValueError, match="needs times"):
        cross_fitted(lambda: CoxRisk(10.0), x, event, None, person)


def test_folds_keep_people_together_and_balance_events() -> None:
    person = np.repeat(np.arange(50), 3).astype(str)
    event = np.repeat(np.arange(50) < 12, 3)
    tests = list(folds(event, person, 5, seed=3))
    assert (np.sum(tests, axis=0) == 1).all()
    for test in tests:
        assert not set(person[test]) & set(person[~test])
        assert 2 <= event[test].sum() / 3 <= 3
    with pytest.raises(ValueError, match="folds need"):
        list(folds(np.zeros(10, bool), np.arange(10).astype(str)))
