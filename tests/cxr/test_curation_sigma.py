"""Prototype curation by mean and standard deviation, against cases by hand and plain arithmetic."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from curation_data import grouped, pairs, ready, unit

from sagittal_cxr.curation import bands, sigma
from sagittal_cxr.curation.bands import CENTRAL, OUTLIER
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.selector import reason_names
from sagittal_cxr.curation.shares import sigma_share
from sagittal_cxr.curation.sigma import PERIPHERY, TAIL, budget_of, budgets, split_budget


@pytest.mark.parametrize(
    ("zeros", "band"),
    # One pair at 1 beside so many at 0: mean 1 / n, deviation sqrt(n - 1) / n, so that it lies
    # sqrt(n - 1) deviations above the mean: 1, 1.7, 2.8 and 3.9.
    [(1, CENTRAL), (3, PERIPHERY), (8, TAIL), (15, OUTLIER)],
)
def test_bands_by_hand(zeros: int, band: int) -> None:
    distances = torch.tensor([0.0] * zeros + [1.0], dtype=torch.float64)
    found = sigma.sigma_bands(distances, torch.zeros(zeros + 1, dtype=torch.int64))
    assert found.tolist() == [CENTRAL] * zeros + [band]


def test_one_alone_and_equal_distances_are_central() -> None:
    # 0.1 seven times has a mean that is not 0.1, and a deviation that is not 0.
    distances = torch.tensor([5.0, *[0.1] * 7, *[1 / 3] * 3], dtype=torch.float64)
    clusters = torch.tensor([4, *[1] * 7, *[2] * 3])
    assert sigma.sigma_bands(distances, clusters).tolist() == [CENTRAL] * 11


@given(seed=st.integers(0, 200), count=st.integers(1, 60))
def test_bands_are_those_of_plain_arithmetic(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    distances, clusters = random.gamma(1.0, size=count), random.integers(0, 3, count)
    found = sigma.sigma_bands(torch.from_numpy(distances), torch.from_numpy(clusters))
    for d, k, band in zip(distances, clusters, found.tolist(), strict=True):
        mine = distances[clusters == k]
        z = 0.0 if mine.std() == 0 else (d - mine.mean()) / mine.std()
        inside = z <= 1 + 1e-9
        assert band == (CENTRAL if inside else PERIPHERY if z < 2 else TAIL if z < 3 else OUTLIER)


def test_budgets_by_hand() -> None:
    assert [budget_of(*n, 0.2) for n in [(0, 0), (1, 0), (0, 4), (14, 1), (50, 8)]] == [
        0,
        1,
        1,
        3,
        11,
    ]
    # Roots 7.07 and 2.83: 11 are shared out 7.86 to 3.14. One of each: half of one, to even.
    for whole in (True, False):
        assert split_budget(11, 50, 8, whole) == (8, 3)
        assert split_budget(1, 1, 1, whole) == (0, 1)
        assert split_budget(3, 4, 0, whole) == (3, 0)
        assert split_budget(3, 0, 4, whole) == (0, 3)
    # Two of the periphery where there is one: what is lacking is lost, or made up for.
    assert split_budget(20, 100, 1, False) == (18, 1)
    assert split_budget(20, 100, 1, True) == (19, 1)
    assert split_budget(12, 3, 10, True) == (3, 9)
    assert budgets([30, 10, 0], 20, 0) == [15, 5, 0]
    assert budgets([5, 5, 5], 4, 0) == [2, 1, 1]
    assert budgets([5, 5, 5], 4, 1) == [1, 2, 1]
    assert budgets([], 4, 1) == []


@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    total=st.integers(0, 200),
    turn=st.integers(0, 20),
)
def test_budgets_hand_out_the_total_by_size(sizes: list[int], total: int, turn: int) -> None:
    given_out = budgets(sizes, total, turn)
    assert sum(given_out) == min(total, sum(sizes))
    exact = [size * sum(given_out) / max(1, sum(sizes)) for size in sizes]
    for g, size, e in zip(given_out, sizes, exact, strict=True):
        assert 0 <= g <= size
        assert abs(g - e) < 1 + 1e-9


@given(central=st.integers(0, 60), periphery=st.integers(0, 60), share=st.floats(0, 1))
def test_a_split_is_whole(central: int, periphery: int, share: float) -> None:
    kept = int(share * (central + periphery))
    one, other = split_budget(kept, central, periphery, True)
    assert one + other == kept
    less = split_budget(kept, central, periphery, False)
    assert 0 <= less[0] <= one <= central
    assert 0 <= less[1] <= other <= periphery


def test_the_published_share_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    # Distances of one cluster at the quantiles of a normal distribution, then as the rule says.
    places = (np.arange(40_000) + 0.5) / 40_000
    normal = torch.tensor([NormalDist().inv_cdf(place) for place in places])
    found = sigma.sigma_bands(normal, torch.zeros(40_000, dtype=torch.int64))
    counts = torch.bincount(found, minlength=8)
    kept = budget_of(int(counts[CENTRAL]), int(counts[PERIPHERY]), 0.2) + int(counts[TAIL])
    assert kept / 40_000 == pytest.approx(sigma_share(), abs=1e-3)
    assert sigma_share() == pytest.approx(0.2 * 0.97725 + 0.0214, abs=1e-4)
    # In a batch of the published size, 240 pairs on each of 8 GPUs, with 32 prototypes.
    batch, centres = grouped([60] * 32, dim=64)
    selector = ready(centres, bands="sigma")
    selection = selector.select(batch, step=0)
    names = np.array(reason_names(selector, selection))
    expected = 0
    for k in range(32):
        mine = slice(60 * k, 60 * (k + 1))
        distance = np.sqrt(2 - 2 * batch.images[mine, k].numpy())
        z = (distance - distance.mean()) / distance.std()
        central, edge = int((z <= 1).sum()), int(((z > 1) & (z < 2)).sum())
        tail = int(((z >= 2) & (z < 3)).sum())
        assert list(names[mine]).count("tail") == tail
        assert list(names[mine]).count("outlier") == (z >= 3).sum()
        budget = max(1, int(0.2 * (central + edge)))
        part = round(budget * central**0.5 / (central**0.5 + edge**0.5))
        expected += min(part, central) + min(budget - part, edge) + tail
    share = selection.keep.double().mean().item()
    assert selection.keep.sum() == expected
    assert share == pytest.approx(sigma_share(), abs=0.02)
    assert set(names[selection.keep.numpy()]) == {"central", "periphery", "tail"}
    assert set(names[~selection.keep.numpy()]) <= {"redundant", "outlier"}
    with capsys.disabled():
        print(f"\nnormal distances: kept {sigma_share():.1%}; batch 1920, K 32: {share:.1%}")


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=10),
    ratio=st.floats(0.1, 0.8),
    seed=st.integers(0, 5),
)
def test_the_target_ratio_is_reached(sizes: list[int], ratio: float, seed: int) -> None:
    selector = PrototypeSelector(prototypes=4, ratio=ratio, seed=seed, bands="sigma")
    selector.prototypes = unit(torch.randn(4, 12, generator=torch.Generator().manual_seed(seed)))
    for step, size in enumerate(sizes):
        batch = pairs(size, seed + step, first=1000 * step)
        wanted = selector.quota.of(size)
        selection = selector.select(batch, step=step)
        names = reason_names(selector, selection)
        tail, outliers = names.count("tail"), names.count("outlier")
        assert selection.keep.sum() == min(max(wanted, tail), size - outliers)
        selector.update(batch, selection)
        if tail < wanted < size - outliers:
            assert abs(selector.quota.kept - ratio * selector.quota.seen) <= 0.5 + 1e-9


def test_the_warm_up_keeps_what_the_rule_would() -> None:
    selector = PrototypeSelector(bands="sigma", warmup_batches=2)
    selection = selector.select(pairs(100), step=0)
    assert int(selection.keep.sum()) == round(100 * sigma_share())


def test_a_drawn_assignment_would_be_close_to_uniform() -> None:
    # Why the largest weight is taken here: the later commit adds noise of Gumbel's distribution,
    # of deviation 1.28, to weights that lie between 0 and 1.
    generator = torch.Generator().manual_seed(0)
    centres = unit(torch.randn(32, 64, generator=generator))
    own = torch.arange(32).repeat(60)
    noise = 0.05 * torch.randn(len(own), 64, generator=generator, dtype=torch.float64)
    cosines = unit(centres[own] + noise) @ centres.T
    assert torch.equal(bands.balanced_assignment(cosines, 0.5, 3), own)
    plan = torch.exp(cosines / 0.5)
    for _ in range(3):
        plan = plan / plan.sum(0, keepdim=True)
        plan = plan / plan.sum(1, keepdim=True)
    uniform = torch.rand(plan.shape, generator=generator, dtype=torch.float64)
    drawn = (plan - torch.log(-torch.log(uniform))).argmax(1)
    right = (drawn == own).double().mean().item()
    assert right < 2 / 32
    assert math.isclose(plan.sum(1).max().item(), 1.0)
