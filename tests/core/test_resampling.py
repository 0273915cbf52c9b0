"""The cluster bootstrap against metrics of rows that are weighted by how often they were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from sagittal_core.resampling import Resamples


@given(data=st.data(), n=st.integers(2, 16))
def test_ranking_metrics_of_a_resample_are_those_of_weighted_rows(
    data: st.DataObject, n: int
) -> None:
    def drawn(most: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(0, most), min_size=n, max_size=n)))

    truth, scores, known = drawn(1), drawn(4).astype(float), drawn(3) > 0
    sampled = Resamples(drawn(3), 10, least=1)
    auroc = sampled.auroc(truth, scores, known)
    precision = sampled.average_precision(truth, scores, known)
    for number in range(10):
        weight = sampled.counts[number][sampled.unit] * known
        rows = weight > 0
        values = set(truth[rows])
        weighted = (truth[rows], scores[rows])
        if values == {0, 1}:
            expected = roc_auc_score(*weighted, sample_weight=weight[rows])
            assert auroc[number] == pytest.approx(expected)
        else:
            assert np.isnan(auroc[number])
        if 1 in values:
            expected = average_precision_score(*weighted, sample_weight=weight[rows])
            assert precision[number] == pytest.approx(expected)
        else:
            assert np.isnan(precision[number])


def test_concordance_adds_up_over_targets() -> None:
    rng = np.random.default_rng(1)
    truth, scores = rng.integers(0, 2, 30), rng.integers(0, 5, 30).astype(float)
    sampled = Resamples(rng.integers(0, 7, 30), 9, least=1)
    right, pairs = sampled.concordance(truth, scores)
    for number in range(9):
        rows = np.repeat(np.arange(30), sampled.counts[number][sampled.unit])
        yes, no = scores[rows][truth[rows] == 1], scores[rows][truth[rows] == 0]
        assert pairs[number] == len(yes) * len(no)
        above = (yes[:, None] > no).sum() + (yes[:, None] == no).sum() / 2
        assert right[number] == pytest.approx(above)
    nothing = sampled.concordance(truth, scores, np.zeros(30, dtype=bool))
    assert (nothing[0] == 0).all()
    assert (nothing[1] == 0).all()
