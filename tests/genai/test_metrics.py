"""The metrics of an evaluation against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from sagittal_core.resampling import Resamples, auroc, interval
from sagittal_genai.metrics import monosemanticity as mono
from sagittal_genai.metrics.features import active_per_row, densities, mean_correlation
from sagittal_genai.metrics.probes import (
    STRENGTHS,
    fit_few,
    fit_probe,
    rank_features,
    recovery,
    recovery_above_chance,
    standardised,
)
from sagittal_genai.metrics.retrieval import Fingerprints, concept_agreement, cosines, nearest
from sagittal_genai.metrics.stability import LARGEST_ASSIGNMENT, match_cosines, random_cosines


@given(
    truth=st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda t: 0 < sum(t) < len(t)),
    data=st.data(),
)
def test_auroc_counts_ties_one_half(truth: list[bool], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.integers(0, 4), min_size=len(truth), max_size=len(truth)))
    labels, values = np.array(truth), np.array(scores, dtype=float)
    assert auroc(labels, values) == pytest.approx(roc_auc_score(labels, values))


def test_auroc_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auroc(np.array([1, 1]), np.array([0.0, 1.0]))


def test_a_resampled_auroc_is_that_of_the_rows_repeated() -> None:
    rng = np.random.default_rng(0)
    subjects = rng.integers(0, 6, 40)
    truth, scores = rng.integers(0, 2, 40), rng.integers(0, 9, 40).astype(float)
    known = rng.random(40) < 0.8
    sampled = Resamples(subjects, 20)
    drawn = sampled.auroc(truth, scores, known)
    for number in range(20):
        times = sampled.counts[number][subjects] * known
        rows = np.repeat(np.arange(40), times)
        assert drawn[number] == pytest.approx(auroc(truth[rows], scores[rows]))
    value = rng.random(40)
    means = sampled.mean(np.where(known, value, np.nan))
    times = sampled.counts[3][subjects] * known
    assert means[3] == pytest.approx((times * value).sum() / times.sum())


def test_a_resampled_r2_is_that_of_the_rows_repeated() -> None:
    rng = np.random.default_rng(0)
    subjects = rng.integers(0, 6, 40)
    x = rng.standard_normal((40, 3)) + 2 * rng.standard_normal((6, 3))[subjects]
    guess = x + rng.standard_normal((40, 3))
    sampled = Resamples(subjects, 20)
    sums = np.stack([x[subjects == unit].sum(0) for unit in range(6)])
    errors = ((x - guess) ** 2).sum(1)
    drawn = sampled.explained(sums, (x**2).sum(1), errors)
    for number in range(20):
        rows = np.repeat(np.arange(40), sampled.counts[number][subjects])
        around = ((x[rows] - x[rows].mean(0)) ** 2).sum()
        assert drawn[number] == pytest.approx(1 - errors[rows].sum() / around)


def test_resamples_belong_to_subjects_and_not_to_rows() -> None:
    one = Resamples(["a", "b", "c", "d", "a"], 7, least=4)
    other = Resamples(["d", "c", "b", "a"], 7, least=4)
    assert (one.counts == other.counts).all()
    assert (one.counts.sum(1) == 4).all()
    assert (one.halves.sum(1) == 2).all()
    alone = Resamples(["a", "a"], 7)
    assert alone.counts.shape == (0, 1)
    few = Resamples(["a", "b", "c", "d"], 7)
    assert few.counts.shape == (0, 4)
    assert interval(few.mean(np.arange(4.0))) is None
    assert interval(alone.mean(np.ones(2))) is None
    absent = Resamples(["a", "b"], 50, seed=1, least=2)
    assert np.isnan(absent.auroc(np.array([0, 1]), np.array([0.0, 1.0]))).any()


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    # 200 studies of 40 subjects: coverage 0.95 with a standard error of 0.015, so > 0.87 is 5 of
    # them away.
    rng, hits = np.random.default_rng(0), 0
    for study in range(200):
        effect = rng.standard_normal(40)
        values = np.repeat(effect, 3) + rng.standard_normal(120)
        ends = interval(Resamples(np.repeat(np.arange(40), 3), 200, seed=study).mean(values))
        assert ends is not None
        hits += ends[0] <= 0 <= ends[1]
    assert hits > 174


def test_recovery_of_the_published_aucs() -> None:
    assert round(100 * recovery(0.796, 0.907), 1) == 87.8
    assert round(100 * recovery_above_chance(0.796, 0.907), 1) == 72.7
    assert math.isnan(recovery_above_chance(0.6, 0.5))


def sparse_problem() -> tuple[csr_matrix, np.ndarray]:
    """300 rows of 30 features; features 4 and 11 decide the label."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(300, 30)) * (rng.random((300, 30)) < 0.2)
    truth = (x[:, 4] + 3 * x[:, 11] > 0.3).astype(int)
    return csr_matrix(x.astype(np.float32)), truth


def test_the_published_probe_stops_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from sagittal_genai.metrics import probes

    codes, truth = sparse_problem()
    monkeypatch.setattr(probes, "SAIL_REFIT", 1)
    assert not fit_few(codes, truth, np.arange(30), 5, "sail").converged
    monkeypatch.undo()
    assert fit_few(codes, truth, np.arange(30), 5, "sail").converged
    assert not fit_probe(codes, truth, codes, truth, "sail", iterations=1).converged


@pytest.mark.parametrize("solver", ["l2", "sail"])
def test_probes_find_the_features_that_decide(solver: str) -> None:
    codes, truth = sparse_problem()
    probe = fit_probe(codes[:200], truth[:200], codes[200:], truth[200:], solver)
    ranked = rank_features(probe, codes[:200], solver)
    assert set(ranked[:2].tolist()) == {4, 11}
    assert auroc(truth[200:], probe.scores(codes[200:])) > 0.9
    few = fit_few(codes[:200], truth[:200], ranked, 2, solver)
    assert set(np.flatnonzero(few.weights).tolist()) == {4, 11}
    assert auroc(truth[200:], few.scores(codes[200:])) > 0.95
    one = fit_few(codes[:200], truth[:200], ranked, 1, solver)
    assert 0.6 < auroc(truth[200:], one.scores(codes[200:])) < 0.95


def test_the_unit_of_a_feature_does_not_change_its_rank() -> None:
    codes, truth = sparse_problem()
    unit = np.logspace(-3, 3, 30)
    scaled = csr_matrix(codes.multiply(unit[None]), dtype=np.float64)
    probes = [fit_probe(c, truth, c, truth) for c in (codes, scaled)]
    ranks = [rank_features(p, c) for p, c in zip(probes, (codes, scaled), strict=True)]
    assert (ranks[0][:5] == ranks[1][:5]).all()


def test_the_penalty_is_chosen_on_the_rows_given_for_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 80))
    truth = (x[:, 0] + 0.5 * rng.standard_normal(60) > 0).astype(int)
    held = rng.standard_normal((400, 80))
    held_truth = (held[:, 0] > 0).astype(int)
    chosen = fit_probe(x, truth, held, held_truth)
    each = [fit_probe(x, truth, held, held_truth, strengths=(c,)) for c in STRENGTHS]
    assert chosen.strength == max(each, key=lambda probe: probe.selected).strength
    assert chosen.selected == pytest.approx(max(p.selected for p in each), abs=1e-3)


def test_dense_rows_take_their_units_from_training_rows() -> None:
    rows = np.array([[0.0, 5], [2, 5], [9, 7]])
    found = standardised(rows, np.array([True, True, False]))
    np.testing.assert_allclose(found, [[-1, 0], [1, 0], [8, 2]])


SETS = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.uint8)


def test_jaccard_coherence_and_specificity_by_hand() -> None:
    found = mono.pairwise_jaccard(SETS)
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected)
    assert mono.coherence(SETS[:3], null=0.1) == pytest.approx(0.5 / 3 - 0.1)
    assert mono.coherence(SETS[:3], null=0.9) == 0
    p = np.array([2, 1, 1]) / 4
    assert mono.specificity(SETS[:3]) == pytest.approx(1 + (p * np.log(p)).sum() / np.log(4))
    assert mono.specificity(SETS[[1, 1]]) == 1
    assert mono.specificity(SETS[3:]) == 0


def test_one_row_of_a_group_unless_there_are_too_few() -> None:
    rows, groups = np.arange(6), np.array([0, 0, 1, 1, 2, 2])
    values = np.array([5.0, 9, 1, 2, 7, 7])
    top = mono.top_rows(values, rows, groups, count=3)
    assert top.rows.tolist() == [1, 4, 3]
    assert top.groups.tolist() == [0, 2, 1]
    assert mono.top_rows(values, rows, groups, count=4, per_group=2).rows.tolist() == [1, 4, 5, 0]
    assert mono.rows_per_group(np.arange(10)) == 1
    assert mono.rows_per_group(groups) == 4
    assert mono.rows_per_group(np.zeros(30)) == 10


def test_monosemanticity_by_hand() -> None:
    # Twelve scans; concept = scan number modulo 3. Feature 0 fires on concept 0 (four scans),
    # feature 1 on all but one, feature 2 on every row, feature 3 never, feature 4 once.
    sets = np.eye(3, dtype=np.uint8)[np.arange(12) % 3]
    codes = np.zeros((12, 5), dtype=np.float32)
    codes[:, 2] = 1
    codes[sets[:, 0] == 1, 0] = 2
    codes[:11, 1] = np.linspace(2, 1, 11)
    codes[5, 4] = 1
    found = mono.monosemanticity(
        csr_matrix(codes), sets, np.arange(12), np.random.default_rng(0), count=4
    )
    assert found.features.tolist() == [0, 1]
    assert found.per_group == 1
    assert found.counts == {
        "never active": 1,
        "active in every row": 1,
        "fewer than 4 top rows": 1,
    }
    # Random fours of twelve: 3 of 11 others share the concept.
    assert found.null == pytest.approx(3 / 11, abs=0.08)
    assert found.values[0] == pytest.approx(1 - found.null)
    p = np.array([2, 1, 1]) / 4  # scans 0 1 2 3
    assert found.specificity[1] == pytest.approx(1 + (p * np.log(p)).sum() / np.log(3))
    assert found.coherence[1] == pytest.approx(max(0, 1 / 6 - found.null))
    again = mono.m_of(
        csr_matrix(codes), np.array([1, 4]), sets, np.arange(12), found.null, count=4, least=2
    )
    assert again[0] == pytest.approx(found.values[1])
    assert np.isnan(again[1])


def test_halves_of_the_subjects_spread_around_m() -> None:
    rng = np.random.default_rng(0)
    sets = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, 80)]
    codes = np.zeros((80, 2), dtype=np.float32)
    codes[sets[:, 0] == 1, 0] = 1 + rng.random(int((sets[:, 0] == 1).sum()))
    codes[:, 1] = rng.random(80)
    sampled = Resamples(np.arange(80), 30)
    arguments = (sets, np.arange(80), sampled.halves[:, sampled.unit], 0.3)
    pure = mono.resampled_m(csr_matrix(codes), np.array([0]), *arguments)
    np.testing.assert_allclose(pure, 0.7)
    mixed = mono.resampled_m(csr_matrix(codes), np.array([1]), *arguments)
    assert 0 < mixed.std() < 0.2


def test_fingerprints_by_hand() -> None:
    codes = csr_matrix(
        np.array([[3.0, 4, 0, 1], [0, 2, 0, 1], [1, 0, 5, 1], [0, 0, 0, 1]], dtype=np.float32)
    )
    prints = Fingerprints(codes)  # the last feature is active in every row and says nothing
    np.testing.assert_allclose(prints.by_strongest(0, 1), [1, 1 / 3, 1 / 5, 1 / 5])
    np.testing.assert_allclose(prints.by_strongest(0, 2), [1, 0.8, 0.6, 0])
    np.testing.assert_allclose(prints.by_all(0), [1, 0.8, 3 / (5 * math.sqrt(26)), 0], rtol=1e-6)
    assert prints.by_strongest(3, 5).tolist() == [0, 0, 0, 0]


def test_retrieval_takes_one_row_of_a_scan_and_none_of_the_same_subject() -> None:
    similarity = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.6])
    subjects, scans = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 2, 2, 3, 4])
    lots = np.array([0, 1, 2, 3, 5, 4])
    assert nearest(similarity, subjects, scans, 0, np.arange(6), 3).tolist() == [2, 4, 5]
    assert nearest(similarity, subjects, scans, 0, lots, 3).tolist() == [2, 5, 4]
    assert nearest(similarity, subjects, scans, 5, lots, 1).tolist() == [0]
    assert concept_agreement(SETS, 0, np.array([1, 2])) == pytest.approx(0.25)
    assert math.isnan(concept_agreement(SETS, 3, np.array([0])))
    rows = np.array([[1.0, 0], [0.6, 0.8], [0, 1]])
    assert cosines(rows, 0, np.array([1, 2])) == pytest.approx(0.3)


def test_use_of_features_by_hand() -> None:
    codes = csr_matrix(np.array([[1.0, 0, 2, 0], [2, 0, 0, 0], [3, 1, 1, 0], [4, 0, 0, 0]]))
    assert densities(codes).tolist() == [1, 0.25, 0.5, 0]
    assert active_per_row(codes).tolist() == [2, 1, 3, 1]
    expected = np.abs(np.corrcoef(codes.toarray()[:, :3].T))[np.triu_indices(3, 1)].mean()
    assert mean_correlation(codes) == pytest.approx(expected)
    assert mean_correlation(codes[:, :1]) is None


def test_the_same_features_in_another_order_match() -> None:
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((30, 12))
    cosine, how = match_cosines(decoder, 3 * decoder[rng.permutation(30)][:20])
    assert how == "one to one"
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
    assert random_cosines(decoder, decoder, rng).mean() < 0.9
    many = rng.standard_normal((LARGEST_ASSIGNMENT + 1, 4))
    cosine, how = match_cosines(many, many[::-1])
    assert how == "nearest"
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)
