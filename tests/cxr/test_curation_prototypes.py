"""Prototype curation against cases by hand, and the published arithmetic."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from curation_data import decided, grouped, pairs, ready, run_batches, taken, unit

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.curation import bands
from sagittal_cxr.curation.kmeans import kmeans
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.selector import Candidates, reason_names
from sagittal_cxr.curation.shares import compute_share, kept_share

VARIATIONS = [{}, {"thin": "all", "memory": 20}, {"bands": "sigma", "memory": 20}]


def test_the_published_share_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    batch, centres = grouped([80] * 6)
    selection = ready(centres).select(batch, step=0)
    share = selection.keep.double().mean().item()
    assert share == 0.225
    assert kept_share(480, 6, 10) == 0.225
    counts = torch.bincount(selection.reasons, minlength=4)
    assert counts.tolist() == [60, 48, 24, 348]  # central, support, outlier, redundant
    compute = compute_share(0.225, epochs=20)
    assert compute == pytest.approx((1 + 19 * 0.225) / 20)
    assert compute_share(0.227, 20) == pytest.approx(0.266, abs=5e-4)  # with the paper's 22.7 %
    with capsys.disabled():
        print(f"\nbatch 480, K 6, cap 10: kept {share:.1%}, compute {compute:.1%}")


@pytest.mark.parametrize(
    ("batch", "prototypes", "cap", "share"),
    # By hand for 16 a cluster: q95 at 14.25, q85 at 12.75, so 1 outlier, 2 support, 13 central.
    [(96, 6, 10, 12 / 16), (480, 12, 10, (120 + 4 * 12) / 480), (960, 6, 10, (60 + 96) / 960)],
)
def test_the_published_share_depends_on_the_batch(
    batch: int, prototypes: int, cap: int, share: float
) -> None:
    assert kept_share(batch, prototypes, cap) == pytest.approx(share)
    candidates, centres = grouped([batch // prototypes] * prototypes)
    keep = ready(centres, cap=cap).select(candidates, step=0).keep
    assert keep.double().mean().item() == pytest.approx(share)


def test_bands_by_hand() -> None:
    # 21 distances 0..20: q85 = 17, q95 = 19; a value equal to a quantile is on its inner side.
    found = bands.bands(torch.arange(21.0), torch.zeros(21, dtype=torch.int64), 0.85, 0.95)
    assert found.tolist() == [bands.CENTRAL] * 18 + [bands.SUPPORT] * 2 + [bands.OUTLIER]


def test_small_clusters_and_ties() -> None:
    # One alone is central; of two the farther is an outlier; equal distances are all central.
    distances = torch.tensor([5.0, 1.0, 2.0, 3.0, 3.0, 3.0])
    clusters = torch.tensor([0, 1, 1, 2, 2, 2])
    found = bands.bands(distances, clusters, 0.85, 0.95)
    assert found.tolist() == [0, 0, bands.OUTLIER, 0, 0, 0]


def test_a_pair_as_far_from_two_prototypes_belongs_to_the_first() -> None:
    between = unit(torch.tensor([[1.0, 1.0]]))
    batch = Candidates(torch.tensor([3]), between, between)
    selector = ready(torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0]]), cap=0)
    # Its cluster holds it alone, so it is central, and with cap 0 redundant.
    assert reason_names(selector, selector.select(batch, step=0)) == ["redundant"]
    selector.cap = 10
    selector.update(batch, selector.select(batch, step=0))
    assert selector.prototypes[1].tolist() == pytest.approx([0.5**0.5, 0, 0.5**0.5, 0])
    assert selector.prototypes[0, 0] > 0


def test_farthest_points_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [4.0], [10.0], [10.0]])
    order, gaps = bands.farthest_points(line, 3, start=1)
    assert order.tolist() == [1, 3, 2]
    assert gaps.tolist() == [math.inf, 81.0, 9.0]
    order, gaps = bands.farthest_points(line, 5, start=0)
    assert order.tolist() == [0, 3, 2, 1, 4]
    assert gaps.tolist() == [math.inf, 100.0, 16.0, 1.0, 0.0]
    assert bands.farthest_points(line[3:], 2, start=0)[0].tolist() == [0, 1]
    assert bands.farthest_points(line, 0, start=0)[0].tolist() == []


@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    total=st.integers(0, 300),
    turn=st.integers(0, 20),
)
def test_caps_hand_out_the_total_evenly(sizes: list[int], total: int, turn: int) -> None:
    given_out = bands.caps(sizes, total, turn)
    assert sum(given_out) == min(total, sum(sizes))
    assert all(0 <= g <= size for g, size in zip(given_out, sizes, strict=True))
    limited = [g for g, size in zip(given_out, sizes, strict=True) if g < size]
    assert not limited or max(limited) - min(limited) <= 1
    assert all(g <= min(limited) + 1 for g in given_out if limited)


def test_caps_take_turns() -> None:
    assert bands.caps([5, 5, 5], 7, 0) == [3, 2, 2]
    assert bands.caps([5, 5, 5], 7, 1) == [2, 3, 2]
    assert bands.caps([1, 5, 5], 4, 0) == [1, 2, 1]


def test_a_balanced_assignment_by_hand() -> None:
    # Three features nearest to prototype 0, the third of them hardly: balance moves it to 1.
    similarities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.5]], dtype=torch.float64)
    assert similarities.argmax(1).tolist() == [0, 0, 0]
    assert bands.balanced_assignment(similarities, 0.5, 3).tolist() == [0, 0, 1]
    assert bands.balanced_assignment(torch.zeros(2, 3), 0.5, 3).tolist() == [0, 0]


def test_prototypes_move_a_tenth_of_the_way_to_the_mean_of_what_they_are_given() -> None:
    first, second = torch.eye(2, dtype=torch.float64)
    selector = ready(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    rows = unit(torch.stack([first + 0.2 * second, first - 0.1 * second, second]))
    batch = Candidates(torch.arange(3), rows, rows)
    keep = torch.tensor([True, True, False])
    before = selector.prototypes.clone()
    selection = selector.select(batch, step=0)
    selector.update(batch, type(selection)(keep, selection.reasons))
    z = torch.cat([rows, rows], 1) / math.sqrt(2)
    assigned = bands.balanced_assignment(z[:2] @ before.T, 0.5, 3)
    for k in range(2):
        members = z[:2][assigned == k]
        moved = before[k] if not len(members) else 0.9 * before[k] + 0.1 * members.mean(0)
        assert torch.allclose(selector.prototypes[k], moved / moved.norm())
    assert not torch.equal(selector.prototypes, before)


def test_nothing_kept_moves_nothing() -> None:
    batch, centres = grouped([4, 4])
    selector = ready(centres)
    before = selector.prototypes.clone()
    selection = selector.select(batch, step=0)
    selector.update(batch, type(selection)(torch.zeros(8, dtype=torch.bool), selection.reasons))
    assert torch.equal(selector.prototypes, before)


def test_a_batch_smaller_than_k_and_empty_clusters() -> None:
    _, centres = grouped([1] * 6)
    batch, _ = grouped([2, 0, 1])
    selector = ready(centres)
    names = reason_names(selector, selector.select(batch, step=0))
    assert sorted(names[:2]) == ["central", "outlier"]
    assert names[2] == "central"
    empty = Candidates(*(field[:0] for field in batch[:3]))
    selection = selector.select(empty, step=1)
    assert len(selection.keep) == len(selection.reasons) == 0
    selector.update(empty, selection)


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=12),
    ratio=st.floats(0.15, 0.85),
    seed=st.integers(0, 5),
)
def test_the_target_ratio_is_reached(sizes: list[int], ratio: float, seed: int) -> None:
    selector = PrototypeSelector(prototypes=3, ratio=ratio, seed=seed)
    selector.prototypes = unit(torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)))
    for step, size in enumerate(sizes):
        batch = pairs(size, seed + step, first=1000 * step)
        wanted = selector.quota.of(size)
        selection = selector.select(batch, step=step)
        names = reason_names(selector, selection)
        assert [name in ("central", "support") for name in names] == selection.keep.tolist()
        # Support is always kept and outliers never; between those, exactly what is wanted.
        support, outliers = names.count("support"), names.count("outlier")
        assert selection.keep.sum() == min(max(wanted, support), size - outliers)
        selector.update(batch, selection)
        if support < wanted < size - outliers:
            assert abs(selector.quota.kept - ratio * selector.quota.seen) <= 0.5 + 1e-9


def test_a_ratio_is_kept_to_half_a_pair_at_ordinary_batch_sizes() -> None:
    for size in (48, 96, 480):
        for ratio in (0.15, 0.227, 0.5):
            batches = [pairs(size, seed, first=1000 * seed) for seed in range(6)]
            selector = PrototypeSelector(ratio=ratio, warmup_batches=1)
            run_batches(selector, batches)
            assert abs(selector.quota.kept - ratio * 6 * size) <= 0.5


@given(size=st.integers(1, 70), seed=st.integers(0, 4), ratio=st.sampled_from([None, 0.3]))
@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_decision_does_not_depend_on_the_order(
    size: int, seed: int, ratio: float | None, variation: dict
) -> None:
    options = {"prototypes": 4, "ratio": ratio, "warmup_batches": 1, **variation}
    selectors = [PrototypeSelector(**options) for _ in range(2)]
    shuffle = torch.Generator().manual_seed(seed)
    for step in range(3):
        batch = pairs(size + 4, seed + step, first=100 * step)
        other = taken(batch, torch.randperm(size + 4, generator=shuffle))
        found = []
        for selector, given_batch in zip(selectors, (batch, other), strict=True):
            selection = selector.select(given_batch, step=step)
            found.append(decided(given_batch, selection))
            selector.update(given_batch, selection)
        assert found[0] == found[1]
    assert torch.equal(selectors[0].prototypes, selectors[1].prototypes)


@pytest.mark.parametrize("ratio", [None, 0.25])
def test_the_warm_up_keeps_a_random_share_and_learns_from_all(ratio: float | None) -> None:
    selector = PrototypeSelector(ratio=ratio, warmup_batches=3)
    batches = [pairs(48, seed, first=100 * seed) for seed in range(4)]
    selections = run_batches(selector, batches[:2])
    assert not selector.ready
    share = kept_share(48, 6, 10) if ratio is None else ratio
    for selection in selections:
        assert selection.keep.sum() == round(48 * share)
        names = set(reason_names(selector, selection))
        assert names <= {"warm-up drawn", "warm-up not drawn"}
    run_batches(selector, batches[2:3])
    assert selector.ready
    features = torch.cat([torch.cat([b.images, b.texts], 1)[b.rows.argsort()] for b in batches[:3]])
    expected = unit(kmeans(features / math.sqrt(2), 6, seed=0))
    assert torch.allclose(selector.prototypes, expected)
    assert selector.state_dict()["collected"].numel() == 0


def test_a_pass_of_its_own_before_training_as_published() -> None:
    selector = PrototypeSelector(warmup_batches=2)
    batches = [pairs(48, seed, first=100 * seed) for seed in range(2)]
    assert not selector.warm_up(batches[0])
    assert selector.warm_up(batches[1])
    before = selector.prototypes.clone()
    assert selector.warm_up(batches[0])
    assert torch.equal(selector.prototypes, before)
    assert selector.quota.seen == 0
    names = reason_names(selector, selector.select(batches[0], step=0))
    assert not any(name.startswith("warm-up") for name in names)


def test_a_warm_up_of_few_pairs_goes_on_until_there_are_k() -> None:
    selector = PrototypeSelector(prototypes=6, warmup_batches=1)
    assert not selector.warm_up(pairs(4, 0))
    assert selector.warm_up(pairs(4, 1))


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_checkpoint_goes_on_where_it_was(at: int, variation: dict) -> None:
    batches = [pairs(40, seed, first=100 * seed) for seed in range(6)]
    options = {"prototypes": 3, "ratio": 0.3, "warmup_batches": 2, **variation}
    whole, first, second = (PrototypeSelector(**options) for _ in range(3))
    expected = run_batches(whole, batches)
    run_batches(first, batches[:at])
    second.load_state_dict(first.state_dict())
    for step in range(at, 6):
        selection = second.select(batches[step], step=step)
        assert torch.equal(selection.keep, expected[step].keep)
        second.update(batches[step], selection)
    assert torch.equal(second.prototypes, whole.prototypes)
    with pytest.raises(ConfigError, match="3 prototypes"):
        PrototypeSelector(prototypes=4).load_state_dict(whole.state_dict())


def test_selecting_changes_nothing() -> None:
    selector = PrototypeSelector(prototypes=3, ratio=0.3, warmup_batches=1)
    batches = [pairs(40, seed, first=100 * seed) for seed in range(2)]
    run_batches(selector, batches[:1])
    before = selector.state_dict()
    twice = [selector.select(batches[1], step=1) for _ in range(2)]
    assert torch.equal(twice[0].keep, twice[1].keep)
    assert all(torch.equal(selector.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "options",
    [
        {"prototypes": 0},
        {"cap": -1},
        {"ratio": 0.09},
        {"ratio": 0.96},
        {"ratio": 0.0, "support": 0.9, "outlier": 0.9},
        {"support": 0.96},
        {"momentum": 1.1},
        {"epsilon": 0.0},
        {"iterations": 0},
        {"warmup_batches": 0},
        {"memory": -1},
        {"thin": "some"},
        {"thin": "radius"},
        {"thin": "all", "ratio": 0.0},
        {"bands": "deciles"},
        {"bands": "sigma", "thin": "all"},
        {"bands": "sigma", "budget": 0.0},
        {"bands": "sigma", "ratio": 1.1},
    ],
)
def test_settings_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        PrototypeSelector(**options)


def test_the_ends_of_the_range_of_ratios_are_allowed() -> None:
    PrototypeSelector(ratio=0.10)
    PrototypeSelector(ratio=0.95)
    PrototypeSelector(ratio=0.01, thin="all")
    PrototypeSelector(ratio=0.01, bands="sigma")


def test_another_width_than_before_is_named() -> None:
    selector = PrototypeSelector(prototypes=2, warmup_batches=1)
    selector.warm_up(pairs(8, dim=6))
    with pytest.raises(DataError, match="12 values together"):
        selector.select(pairs(8, dim=5), step=0)


def test_kmeans_finds_groups_and_needs_enough_points() -> None:
    batch, centres = grouped([30, 5, 12])
    found = unit(kmeans(batch.images, 3, seed=1))
    nearest = (found @ centres[:, :16].T).max(0)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert (nearest.values > 0.95).all()
    assert torch.equal(kmeans(batch.images, 3, seed=1), kmeans(batch.images, 3, seed=1))
    with pytest.raises(ValueError, match="4 clusters of 3 points"):
        kmeans(batch.images[:3], 4, seed=0)
    same = torch.ones(5, 2)
    assert kmeans(same, 3, seed=0).tolist() == [[1.0, 1.0]] * 3
