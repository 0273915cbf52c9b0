"""Metrics of tasks against scikit-learn, values by hand, and resampled rows."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from sagittal_core.resampling import Resamples
from sagittal_cxr.metrics import binary, retrieval

truths = st.lists(st.booleans(), min_size=2, max_size=14).filter(lambda t: 0 < sum(t) < len(t))


@given(truth=truths, data=st.data())
def test_ranking_metrics_are_those_of_sklearn_with_ties(
    truth: list[bool], data: st.DataObject
) -> None:
    scores = data.draw(st.lists(st.integers(0, 4), min_size=len(truth), max_size=len(truth)))
    labels, values = np.array(truth).astype(float), np.array(scores, dtype=float)
    assert binary.auroc(labels, values) == pytest.approx(roc_auc_score(labels, values))
    expected = average_precision_score(labels, values)
    assert binary.average_precision(labels, values) == pytest.approx(expected)


@given(truth=truths, data=st.data())
def test_resampled_metrics_are_those_of_the_rows_repeated(
    truth: list[bool], data: st.DataObject
) -> None:
    n = len(truth)
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=float)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    subjects = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    labels, sampled = np.array(truth).astype(float), Resamples(subjects, 12, least=1)
    drawn = sampled.average_precision(labels, scores, known)
    likely = scores / 4
    errors = binary.resampled_calibration_error(sampled, labels, likely, known, 5)
    for number in range(12):
        rows = np.repeat(np.arange(n), sampled.counts[number][sampled.unit] * known)
        if not labels[rows].any():
            assert np.isnan(drawn[number])
        else:
            expected = binary.average_precision(labels[rows], scores[rows])
            assert drawn[number] == pytest.approx(expected)
        if len(rows):
            expected = binary.expected_calibration_error(labels[rows], likely[rows], 5)
            assert errors[number] == pytest.approx(expected)
        else:
            assert np.isnan(errors[number])


def test_calibration_by_hand() -> None:
    truth = np.array([1.0, 0.0, 1.0, 1.0])
    likely = np.array([0.1, 0.2, 0.9, 1.0])
    # Bins [0, 0.5) and [0.5, 1]: |1/2 - 0.15| over two rows, |1 - 0.95| over the other two.
    found = binary.expected_calibration_error(truth, likely, 2)
    assert found == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)
    assert binary.brier(truth, likely) == pytest.approx(brier_score_loss(truth, likely))
    counts, gaps = binary.calibration_bins(truth, likely, 10)
    assert counts.tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 2]
    assert gaps.sum() == pytest.approx((truth - likely).sum())


def test_right_probabilities_have_little_error_and_shifted_ones_their_shift() -> None:
    rng = np.random.default_rng(0)
    likely = rng.random(200_000)
    truth = (rng.random(200_000) < likely).astype(float)
    assert binary.expected_calibration_error(truth, likely) < 0.01
    shifted = np.clip(likely, 0, 0.8) + 0.2 * (likely <= 0.8)
    assert binary.expected_calibration_error(truth, shifted) > 0.1


def test_youden_takes_the_threshold_that_separates() -> None:
    truth = np.array([0, 0, 1, 0, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    # At 0.5: 2/3 found, none called wrongly; at 0.3: all found, 1/3 called wrongly: a tie of J,
    # of which the higher threshold is taken.
    assert binary.youden_threshold(truth, scores) == 0.5
    assert binary.sensitivity_specificity(truth, scores, 0.5) == (pytest.approx(2 / 3), 1.0)
    with pytest.raises(ValueError, match="both classes"):
        binary.youden_threshold(np.ones(3), scores[:3])
    with pytest.raises(ValueError, match="positive"):
        binary.average_precision(np.zeros(3), scores[:3])


def test_a_thousand_resamples_of_many_images_are_fast() -> None:
    rng = np.random.default_rng(0)
    sampled = Resamples(rng.integers(0, 2800, 6000), 1000)
    truth, scores = rng.random(6000) < 0.1, rng.random(6000)
    start = time.perf_counter()
    assert len(sampled.auroc(truth, scores)) == 1000
    assert time.perf_counter() - start < 3


def test_texts_fold_white_space_and_nothing_else() -> None:
    texts = ["No effusion.", "No  effusion.\n", "no effusion.", "No effusion."]
    names, which = retrieval.distinct(texts)
    assert names == ["No effusion.", "no effusion."]
    assert which.tolist() == [0, 0, 1, 0]


def test_ranks_by_hand() -> None:
    images = np.array([[1.0, 0], [0, 1], [0.8, 0.6]], dtype=np.float32)
    texts = np.array([[1.0, 0], [0, 1]], dtype=np.float32)
    own = np.array([0, 1, 1])
    assert retrieval.image_to_text_ranks(images, texts, own).tolist() == [1, 1, 2]
    # Text 1 has two images, the nearer one at the top.
    assert retrieval.text_to_image_ranks(images, texts, own).tolist() == [1, 1]
    own = np.array([1, 0, 1])
    assert retrieval.text_to_image_ranks(images, texts, own).tolist() == [3, 2]


def test_equal_rows_give_the_mean_rank_and_no_recall_for_nothing() -> None:
    images, texts = np.ones((4, 2), dtype=np.float32), np.ones((4, 2), dtype=np.float32)
    own = np.arange(4)
    assert (retrieval.image_to_text_ranks(images, texts, own) == 2.5).all()
    assert (retrieval.text_to_image_ranks(images, texts, own) == 2.5).all()


def test_chunks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(37, 5)).astype(np.float32)
    own = rng.integers(0, 11, 37)
    own[:11] = np.arange(11)
    texts = rng.normal(size=(11, 5)).astype(np.float32)
    whole = [
        f(images, texts, own)
        for f in (retrieval.image_to_text_ranks, retrieval.text_to_image_ranks)
    ]
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", 40)
    parts = [
        f(images, texts, own)
        for f in (retrieval.image_to_text_ranks, retrieval.text_to_image_ranks)
    ]
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


def test_chance_is_what_random_orders_give() -> None:
    rng = np.random.default_rng(0)
    own = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4])
    hits = []
    for _ in range(3000):
        order = rng.permutation(len(own))
        hits.append(np.mean([np.isin(own[order[:3]], text).any() for text in range(5)]))
    # 3000 orders: a standard error below 0.005.
    assert retrieval.chance_text_to_image(own, 3) == pytest.approx(np.mean(hits), abs=0.02)
    assert retrieval.chance_text_to_image(np.arange(8), 2) == pytest.approx(2 / 8)
    assert retrieval.chance_text_to_image(own, 99) == 1
    assert retrieval.chance_image_to_text(4, 1) == 0.25
    assert retrieval.chance_image_to_text(4, 9) == 1
