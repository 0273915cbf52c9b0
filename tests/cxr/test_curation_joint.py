"""Selectors that compare pairs with each other: near-duplicates, and joint learnability."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from curation_data import decided, pairs, run_batches, taken, unit
from ddp_selection import decisions

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.curation.jest import JESTSelector
from sagittal_cxr.curation.selector import Candidates, reason_names
from sagittal_cxr.curation.semdedup import SemDeDupSelector

BOTH = [SemDeDupSelector, JESTSelector]


@pytest.mark.parametrize("kind", BOTH)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), ratio=st.floats(0.02, 1.0))
def test_the_share_kept_is_exact_to_half_a_pair(kind: type, sizes: list[int], ratio: float) -> None:
    selector = kind(ratio)
    batches = [pairs(size, step, first=100 * step) for step, size in enumerate(sizes)]
    kept = sum(int(selection.keep.sum()) for selection in run_batches(selector, batches))
    assert abs(kept - ratio * sum(sizes)) <= 0.5 + 1e-9


@pytest.mark.parametrize("kind", BOTH)
@given(size=st.integers(1, 30), seed=st.integers(0, 9))
def test_a_decision_does_not_depend_on_the_order(kind: type, size: int, seed: int) -> None:
    batch = pairs(size, seed)
    other = taken(batch, torch.randperm(size, generator=torch.Generator().manual_seed(seed)))
    found = [decided(b, kind(0.4).select(b, step=0)) for b in (batch, other)]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", BOTH)
def test_a_checkpoint_goes_on_where_it_was(kind: type) -> None:
    batches = [pairs(7, seed, first=10 * seed) for seed in range(4)]
    whole, first, second = kind(0.3), kind(0.3), kind(0.3)
    expected = run_batches(whole, batches)
    run_batches(first, batches[:2])
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        selection = second.select(batches[step], step=step)
        assert torch.equal(selection.keep, expected[step].keep)
        second.update(batches[step], selection)


def angles(*degrees: float) -> torch.Tensor:
    at = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([at.cos(), at.sin()], 1)


def test_near_duplicates_by_hand() -> None:
    # One cluster about 34 degrees; farthest first: 90, 0, 1, 45. Each one's largest cosine to
    # those before it: none, cos 90, cos 1, cos 44 (to 1). At half, the two first are kept.
    images = angles(0, 1, 45, 90)
    batch = Candidates(torch.arange(4), images, images.flip(0))
    selection = SemDeDupSelector(0.5).select(batch, step=0)
    assert selection.keep.tolist() == [True, False, False, True]
    assert SemDeDupSelector(0.75).select(batch, step=0).keep.tolist() == [True, False, True, True]
    names = reason_names(SemDeDupSelector(0.5), selection)
    assert names == ["distinct", "near-duplicate", "near-duplicate", "distinct"]
    # By text the order is reversed: row 3 has the angle 0.
    by_text = SemDeDupSelector(0.75, what="text").select(batch, step=0)
    assert by_text.keep.tolist() == [True, True, False, True]


def test_of_duplicates_the_farthest_from_the_centroid_stays() -> None:
    centres = torch.eye(8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(8, 5, 8, generator=generator, dtype=torch.float64)
    rows = unit((centres[:, None] + noise).reshape(40, 8))
    batch = Candidates(torch.arange(40), rows, rows)
    # 40 pairs of 8 kinds: with a fifth kept, one of each kind, in one cluster or in several.
    for size in (256, 10):
        keep = SemDeDupSelector(0.2, cluster_size=size).select(batch, step=0).keep
        assert keep.reshape(8, 5).sum(1).tolist() == [1] * 8
    centroid = unit(rows.mean(0, keepdim=True))[0]
    keep = SemDeDupSelector(0.2).select(batch, step=0).keep
    expected = (rows @ centroid).reshape(8, 5).argmin(1) + 5 * torch.arange(8)
    assert keep.nonzero()[:, 0].tolist() == expected.tolist()


def test_what_a_pair_adds_is_the_difference_of_the_whole_losses() -> None:
    # The sigmoid loss of a set is a plain sum, so adding j changes it by the conditional loss.
    logits = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    selector = JESTSelector(0.5, bias=-1.0)

    def whole(members: list[int]) -> float:
        total = 0.0
        for i in members:
            for j in members:
                sign = 1.0 if i == j else -1.0
                total += math.log1p(math.exp(-sign * (float(logits[i, j]) - 1.0)))
        return total

    for drawn in ([], [2], [0, 3]):
        mask = torch.zeros(5, dtype=torch.bool)
        mask[drawn] = True
        added = selector.conditional(logits, mask)
        for j in set(range(5)) - set(drawn):
            assert float(added[j]) == pytest.approx(whole([*drawn, j]) - whole(drawn))


def test_the_softmax_variant_is_a_pairs_own_cross_entropy() -> None:
    logits = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    selector = JESTSelector(0.5, loss="softmax")
    mask = torch.tensor([True, False, True, False, False])
    found = selector.conditional(logits, mask)
    for j, members in ((1, [0, 1, 2]), (0, [0, 2])):
        part, at = logits[members][:, members], members.index(j)
        target = torch.tensor([at])
        expected = sum(
            torch.nn.functional.cross_entropy(m[at : at + 1], target) for m in (part, part.T)
        )
        assert float(found[j]) == pytest.approx(float(expected) / 2)
    alone = selector.conditional(logits, torch.zeros(5, dtype=torch.bool))
    everyone = selector.conditional(logits, torch.ones(5, dtype=torch.bool))
    assert torch.equal(alone, everyone)


@pytest.mark.parametrize(("loss", "least"), [("sigmoid", 8.0), ("softmax", 5.0)])
def test_what_only_the_reference_can_tell_is_drawn(loss: str, least: float) -> None:
    # To the learner all pairs are alike; the reference tells the first eight apart and not the
    # others, so those eight are learnable. The softmax loss is bounded by the log of the set's
    # size, so it only makes them likelier (4 of 8 by chance).
    alike = torch.eye(16, dtype=torch.float64)[:1].expand(16, 16)
    known = torch.eye(16, dtype=torch.float64)
    other = known[torch.cat([torch.arange(8), torch.arange(8, 16).roll(3)])]
    batch = Candidates(torch.arange(16), alike, alike, None, None, known, other)
    selector = JESTSelector(0.5, chunks=4, loss=loss, scale=40.0, bias=-20.0)
    drawn = [float(selector.select(batch, step=step).keep[:8].sum()) for step in range(20)]
    assert sum(drawn) / 20 >= least


def test_draws_follow_the_seed_and_the_step() -> None:
    batch = pairs(40)
    first = JESTSelector(0.5).select(batch, step=0).keep
    assert torch.equal(JESTSelector(0.5).select(batch, step=0).keep, first)
    assert not torch.equal(JESTSelector(0.5).select(batch, step=1).keep, first)
    assert not torch.equal(JESTSelector(0.5, seed=1).select(batch, step=0).keep, first)


def test_it_names_what_it_lacks() -> None:
    with pytest.raises(DataError, match="reference_images"):
        JESTSelector(0.5).select(pairs(4, losses=False), step=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SemDeDupSelector(0.5, cluster_size=0),
        lambda: SemDeDupSelector(0.5, what="both"),
        lambda: JESTSelector(0.5, chunks=0),
        lambda: JESTSelector(0.5, scale=0.0),
        lambda: JESTSelector(0.5, loss="hinge"),
    ],
)
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_decide_as_one_with_the_joined_batch(tmp_path: Path) -> None:
    code = (
        "import sys, torch.multiprocessing as mp\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from ddp_selection import work\n"
        "if __name__ == '__main__':\n"
        "    mp.spawn(work, (sys.argv[2],), nprocs=2)\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = decisions(False, slice(None))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(found) == len(expected) == 9
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
