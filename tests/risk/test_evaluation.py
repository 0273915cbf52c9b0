"""Every measure against scikit-learn, a brute-force definition or a case worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from sagittal_core.resampling import Resamples
from sagittal_risk.evaluation.calibration import (
    Smooth,
    brier,
    grouped,
    intercept_in_the_large,
    logit,
    recalibration,
)
from sagittal_risk.evaluation.decision import net_benefit, treat_all
from sagittal_risk.evaluation.discrimination import Concordance, Ranked
from sagittal_risk.evaluation.followup import FollowUp, censoring_survival, kaplan_meier
from sagittal_risk.evaluation.measures import Measured, difference
from sagittal_risk.evaluation.missingness import hide, missingness_curve
from sagittal_risk.evaluation.subgroups import benjamini_hochberg, holm, subgroups


def sample(seed: int, n: int = 200, tie: bool = True):
    rng = np.random.default_rng(seed)
    risk = rng.beta(2, 5, n)
    risk = np.round(risk, 1) if tie else risk
    return rng.random(n) < risk, risk, rng.integers(0, 4, n).astype(float)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tie", [True, False])
def test_ranks_are_scikit_learns_with_weights(seed: int, tie: bool) -> None:
    event, risk, weights = sample(seed, tie=tie)
    ranked = Ranked(event, risk)
    assert ranked.auroc(weights) == pytest.approx(roc_auc_score(event, risk, sample_weight=weights))
    assert ranked.average_precision(weights) == pytest.approx(
        average_precision_score(event, risk, sample_weight=weights)
    )
    inside = np.clip(risk, 0, 1)
    assert brier(event, inside, weights, weights.sum()) == pytest.approx(
        brier_score_loss(event, inside, sample_weight=weights)
    )


def test_one_class_has_no_auroc() -> None:
    ranked = Ranked(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]))
    assert np.isnan(ranked.auroc(np.ones(3)))
    assert np.isnan(ranked.average_precision(np.ones(3)))


def harrell(time, event, risk, weights) -> float:
    right = pairs = 0.0
    for i, j in itertools.permutations(range(len(time)), 2):
        first = time[i] < time[j] or (time[i] == time[j] and not event[j])
        if event[i] and first:
            pairs += weights[i] * weights[j]
            score = 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
            right += weights[i] * weights[j] * score
    return right / pairs if pairs else np.nan


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 6), st.integers(0, 3)),
        min_size=1,
        max_size=14,
    )
)
def test_concordance_is_the_pairwise_definition(people: list) -> None:
    time, event, risk, weights = (np.array(column) for column in zip(*people, strict=True))
    expected = harrell(time, event, risk, weights)
    found = Concordance(time.astype(float), event.astype(bool), risk / 7)(weights.astype(float))
    assert found == pytest.approx(expected, nan_ok=True)


def test_concordance_by_hand() -> None:
    # Pairs: (1, 2) right, (1, 3) right, (1, 4) tied; 2 is censored; (3, 4) wrong.
    time, event = np.array([1.0, 2, 3, 4]), np.array([1, 0, 1, 0], bool)
    risk = np.array([0.5, 0.4, 0.3, 0.5])
    assert Concordance(time, event, risk)(np.ones(4)) == pytest.approx(2.5 / 4)


def test_concordance_of_binary_times_is_the_auroc() -> None:
    event, risk, weights = sample(7)
    time = np.where(event, 1.0, 2.0)
    assert Concordance(time, event, risk)(weights) == pytest.approx(
        Ranked(event, risk).auroc(weights)
    )


@pytest.mark.parametrize("seed", range(3))
def test_recalibration_is_an_unpenalised_logistic_regression(seed: int) -> None:
    event, risk, weights = sample(seed, 400, tie=False)
    slope, intercept = recalibration(event, risk, weights)
    oracle = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000)
    oracle.fit(logit(risk)[:, None], event, sample_weight=weights)
    assert slope == pytest.approx(oracle.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(oracle.intercept_[0], abs=1e-4)
    shift = intercept_in_the_large(event, risk, weights)
    moved = 1 / (1 + np.exp(-(logit(risk) + shift)))
    assert (weights * moved).sum() == pytest.approx((weights * event).sum())


def test_calibration_without_a_solution_is_not_defined() -> None:
    event, ones = np.array([0, 0, 1, 1], bool), np.ones(4)
    assert np.isnan(recalibration(event, np.array([0.1, 0.2, 0.8, 0.9]), ones)[0])  # separated
    assert np.isnan(recalibration(event, np.full(4, 0.3), ones)[0])  # one risk only
    assert np.isnan(intercept_in_the_large(np.zeros(4, bool), np.full(4, 0.3), ones))
    # As many as expected, one risk for all: nothing is to be added.
    assert intercept_in_the_large(event, np.full(4, 0.5), ones) == pytest.approx(0)


def test_smooth_curve_is_loess_by_its_definition() -> None:
    event, risk, _ = sample(3, 120, tie=False)
    smooth = Smooth(event, risk, grid=7)
    curve = smooth.curve(np.ones(120))
    for at, found in zip(smooth.at, curve, strict=True):
        distance = np.abs(risk - at)
        width = np.sort(distance)[89]  # the nearest 90 of 120
        near = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
        fit = np.polyfit(risk - at, event, 2, w=np.sqrt(near))
        assert found == pytest.approx(np.clip(fit[-1], 0, 1), abs=1e-5)


def test_errors_of_a_known_miscalibration() -> None:
    # Observed frequency is the risk plus 0.1 exactly: a parabola follows it without error.
    risk = np.repeat(np.linspace(0.1, 0.6, 11), 100)
    rank = np.tile(np.arange(100), 11)
    event = rank < np.round(100 * (risk + 0.1))
    ones = np.ones(len(risk))
    assert Smooth(event, risk).errors(ones, ones) == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)
    # E90 is the 90th percentile: shift the upper fifth only.
    event = rank < np.round(100 * (risk + 0.3 * (risk > 0.5)))
    ici, half, ninety = Smooth(event, risk).errors(ones, ones)
    assert half < ici < ninety


def test_weights_count_as_repeated_people() -> None:
    event, risk, weights = sample(11, 80)
    repeated = np.repeat(np.arange(80), weights.astype(int))
    a = Smooth(event, risk, grid=9)
    curve = a.curve(weights)
    b = Smooth(event[repeated], risk[repeated], grid=9)
    at = np.isin(a.at, b.at)
    np.testing.assert_allclose(curve[at], b.curve(np.ones(len(repeated)))[np.isin(b.at, a.at)])


def test_many_risks_are_binned_with_little_change() -> None:
    event, risk, _ = sample(5, 5000, tie=False)
    smooth = Smooth(event, risk, grid=5)
    assert smooth.count == 1000
    at = smooth.at[2]
    distance = np.abs(risk - at)
    width = np.sort(distance)[3749]
    near = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
    fit = np.polyfit(risk - at, event, 2, w=np.sqrt(near))
    assert smooth.curve(np.ones(5000))[2] == pytest.approx(fit[-1], abs=5e-4)


def test_grouped_risks_by_hand() -> None:
    mean, observed, people = grouped(
        np.array([0, 1, 0, 1], bool), np.array([0.1, 0.2, 0.7, 0.9]), np.ones(4), 2
    )
    assert mean == pytest.approx([0.15, 0.8])
    assert observed == pytest.approx([0.5, 0.5])
    assert people.tolist() == [2, 2]


def test_censoring_by_hand() -> None:
    # At 1 one leaves of five; at 2 an event; at 3 one leaves of three; the last two stay.
    time = np.array([1.0, 2, 3, 9, 9])
    event = np.array([0, 1, 0, 0, 0], bool)
    outcome = FollowUp.of(event, time, 5.0)
    assert outcome.known.tolist() == [False, True, False, True, True]
    expected = [0, 1 / (4 / 5), 0, *[1 / (4 / 5 * 2 / 3)] * 2]
    np.testing.assert_allclose(outcome.weights(), expected)
    assert kaplan_meier(time, event, 5.0) == pytest.approx(1 / 4)
    risk = np.array([0.1, 0.6, 0.2, 0.3, 0.4])
    by_hand = (1.25 * 0.4**2 + 1.875 * (0.3**2 + 0.4**2)) / 5
    assert brier(outcome.event, risk, outcome.weights(), 5) == pytest.approx(by_hand)


def test_at_one_time_events_come_before_censorings() -> None:
    time, event = np.array([1.0, 1, 2]), np.array([1, 0, 0], bool)
    outcome = FollowUp.of(event, time, 1.5)
    # The event leaves first: one of two is censored.
    np.testing.assert_allclose(outcome.weights(), [1, 0, 2])
    survival = censoring_survival(np.minimum(time, 1.5), event, outcome.known, np.ones(3))
    np.testing.assert_allclose(survival, [1, 1, 0.5])


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_weighted_events_are_kaplan_meiers(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, 8, n).astype(float), rng.random(n) < 0.5
    outcome = FollowUp.of(event, time, 5.0)
    share = (outcome.weights() * outcome.event).sum() / n
    assert share == pytest.approx(kaplan_meier(time, event, 5.0), abs=1e-9)


def test_events_after_the_horizon_do_not_count() -> None:
    outcome = FollowUp.of(np.array([True, True]), np.array([3.0, 8.0]), 5.0)
    assert outcome.event.tolist() == [True, False]
    assert outcome.known.all()
    with pytest.raises(ValueError, match="horizon"):
        FollowUp.of(np.array([True]), np.array([3.0]))


def test_decision_curve_by_hand() -> None:
    event = np.array([1, 0, 1, 0, 0], bool)
    risk = np.array([0.9, 0.8, 0.3, 0.2, 0.1])
    at = np.array([0.2, 0.5])
    found = net_benefit(event, risk, np.ones(5), 5, at)
    assert found == pytest.approx([(2 - 2 * 0.25) / 5, (1 - 1 * 1) / 5])
    everyone = treat_all(event, np.ones(5), 5, at)
    assert everyone == pytest.approx([(2 - 3 * 0.25) / 5, (2 - 3) / 5])


def test_a_bootstrap_of_people_is_paired_and_repeats() -> None:
    event, risk, _ = sample(1, 150, tie=False)
    person = np.repeat(np.arange(75), 2).astype(str)
    drawn = Resamples(person, 60, seed=4)
    one = Measured(FollowUp.of(event), risk).estimate(drawn)
    same = Measured(FollowUp.of(event), risk**1.0).estimate(drawn)
    gap = difference(one["auroc"], same["auroc"])
    assert gap.value == 0
    assert np.all(gap.draws == 0)
    low, high = one["auroc"].ends
    assert low < one["auroc"].value < high
    assert one["oe"].value == pytest.approx(event.mean() / risk.mean())
    assert "c_index" not in one
    assert one["auroc"].text().count("[") == 1


def test_four_people_give_no_interval() -> None:
    event, risk = np.array([0, 1, 0, 1], bool), np.array([0.1, 0.7, 0.6, 0.4])
    found = Measured(FollowUp.of(event), risk).estimate(Resamples(np.arange(4).astype(str), 50))
    assert found["auroc"].ends is None
    assert found["auroc"].text() == "0.750"
    assert found["slope"].value == found["slope"].value


@pytest.mark.parametrize("risk", [[0.1, np.nan], [0.1, 1.2], [0.1]])
def test_what_is_no_risk_is_refused(risk: list) -> None:
    with pytest.raises(ValueError, match="risks"):
        Measured(FollowUp.of(np.array([0, 1], bool)), np.array(risk))


def test_uncensored_times_give_the_same_as_none() -> None:
    event, risk, _ = sample(2, 120, tie=False)
    time = np.where(event, 1.0, 5.0)
    with_times = Measured(FollowUp.of(event, time, 3.0), risk).measure()
    without = Measured(FollowUp.of(event), risk).measure()
    for name, value in without.items():
        assert with_times[name] == pytest.approx(value)
    assert with_times["c_index"] == pytest.approx(with_times["auroc"])
    assert with_times["c_uno"] == pytest.approx(with_times["c_index"])


def test_censoring_weights_recover_what_censoring_hides() -> None:
    # Those at high risk leave as often as others: the weighted measures stay where they were.
    rng = np.random.default_rng(8)
    n = 6000
    risk = rng.uniform(0.05, 0.6, n)
    event_time = np.where(rng.random(n) < risk, rng.uniform(0, 10, n), 20.0)
    leave = rng.uniform(0, 20, n)
    truth = Measured(FollowUp.of(event_time <= 10), risk).measure()
    seen = FollowUp.of(event_time <= leave, np.minimum(event_time, leave), 10.0)
    assert 0.3 < 1 - seen.known.mean() < 0.6
    found = Measured(seen, risk).measure()
    # n = 6000: standard errors are about 0.01 (auroc), 0.03 (oe), 0.05 (slope).
    assert found["auroc"] == pytest.approx(truth["auroc"], abs=0.04)
    assert found["oe"] == pytest.approx(truth["oe"], abs=0.1)
    assert found["slope"] == pytest.approx(truth["slope"], abs=0.2)
    assert found["brier"] == pytest.approx(truth["brier"], abs=0.01)


def test_adjusted_p_values_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert benjamini_hochberg(p) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_subgroups_find_the_one_that_differs_and_list_the_small_one() -> None:
    rng = np.random.default_rng(3)
    n = 1500
    risk = rng.uniform(0.05, 0.5, n)
    site = np.where(np.arange(n) < 20, "tiny", np.where(rng.random(n) < 0.4, "bad", "good"))
    event = rng.random(n) < np.where(site == "bad", risk * 1.9, risk)
    person = np.arange(n).astype(str)
    found = {
        one.level: one
        for one in subgroups(FollowUp.of(event), risk, {"site": site}, person, resamples=80)
    }
    assert found["bad"].estimates["oe"].value > 1.5
    assert found["bad"].holm["oe"] < 0.01
    assert found["bad"].holm["oe"] >= found["bad"].p["oe"]
    assert found["good"].differences["oe"].value < 0
    assert found["tiny"].estimates == {}
    assert found["tiny"].people == 20
    assert sum(one.people for one in found.values()) == n


def test_two_levels_are_one_comparison() -> None:
    event, risk, _ = sample(6, 400, tie=False)
    sex = np.where(np.arange(400) % 2, "m", "f")
    person = np.arange(400).astype(str)
    one, other = subgroups(FollowUp.of(event), risk, {"sex": sex}, person, resamples=40)
    assert one.p == pytest.approx(other.p)
    assert one.differences["oe"].value == pytest.approx(-other.differences["oe"].value)
    assert one.holm == other.holm
    # Three comparisons, not six.
    assert max(one.holm.values()) <= 3 * max(one.p.values()) + 1e-12
    assert min(one.holm.values()) == pytest.approx(min(1, 3 * min(one.p.values())))


def test_hidden_fields_are_nested_and_counted() -> None:
    columns = {name: np.arange(50.0) for name in ("age", "a", "b", "c", "d")}
    half, most = (hide(columns, share, ("age",)) for share in (0.5, 0.75))
    shown = {k: ~np.isnan(v) for k, v in half.items()}
    assert shown["age"].all()
    assert (np.sum([shown[k] for k in "abcd"], axis=0) == 2).all()
    assert all((~np.isnan(most[k]) | ~shown[k]).all() for k in "abcd")


def test_missingness_curve_shows_coverage_and_performance() -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=400) for name in ("age", "a", "b")}
    event = rng.random(400) < 1 / (1 + np.exp(-(columns["a"] + columns["b"])))

    def predict(given):
        return 1 / (1 + np.exp(-(np.nan_to_num(given["a"]) + np.nan_to_num(given["b"]))))

    def strict(given):
        return 1 / (1 + np.exp(-(given["a"] + given["b"])))

    args = (columns, FollowUp.of(event), np.arange(400).astype(str))
    curve = missingness_curve(predict, *args, shares=(0, 0.5, 1), always=("age",), resamples=20)
    areas = [one.estimates["auroc"].value for one in curve]
    assert areas[0] == 0.5
    assert areas == sorted(areas)
    assert areas[-1] > 0.7
    assert [one.coverage for one in curve] == [1, 1, 1]
    few = missingness_curve(strict, *args, shares=(0, 1), always=("age",), resamples=20)
    assert [one.coverage for one in few] == [0, 1]
    assert few[0].estimates == {}
