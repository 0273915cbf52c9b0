"""Selectors by score, and what all selectors refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

sys.path.insert(0, str(Path(__file__).parent))
from curation_data import decided, pairs, run_batches, taken, unit

import sagittal_cxr.registry
from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.curation.jest import JESTSelector
from sagittal_cxr.curation.scores import CLIPScoreSelector, RandomSelector, RHOSelector
from sagittal_cxr.curation.selector import Candidates, Selector, reason_names

BY_SCORE = [RandomSelector, CLIPScoreSelector, RHOSelector]
ALL = [
    "JESTSelector",
    "SemDeDupSelector",
    "CLIPScoreSelector",
    "PrototypeSelector",
    "RHOSelector",
    "RandomSelector",
]


@pytest.mark.parametrize("kind", BY_SCORE)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=10),
    ratio=st.floats(0.01, 1.0),
)
def test_the_share_kept_is_exact_to_half_a_pair(kind: type, sizes: list[int], ratio: float) -> None:
    selector = kind(ratio)
    seen = kept = 0
    for step, size in enumerate(sizes):
        batch = pairs(size, step, first=100 * step)
        selection = selector.select(batch, step=step)
        selector.update(batch, selection)
        seen, kept = seen + size, kept + int(selection.keep.sum())
        assert abs(kept - ratio * seen) <= 0.5 + 1e-9
        assert len(set(reason_names(selector, selection))) <= 2
        assert torch.equal(selection.reasons == 0, selection.keep)


@pytest.mark.parametrize("kind", BY_SCORE)
@given(size=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_decision_does_not_depend_on_the_order(kind: type, size: int, seed: int) -> None:
    batch = pairs(size, seed)
    other = taken(batch, torch.randperm(size, generator=torch.Generator().manual_seed(seed)))
    found = [decided(b, kind(0.4).select(b, step=0)) for b in (batch, other)]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", BY_SCORE)
def test_a_checkpoint_goes_on_where_it_was(kind: type) -> None:
    batches = [pairs(7, seed, first=10 * seed) for seed in range(4)]
    whole = kind(0.3)
    expected = run_batches(whole, batches)
    first, second = kind(0.3), kind(0.3)
    run_batches(first, batches[:2])
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        selection = second.select(batches[step], step=step)
        assert torch.equal(selection.keep, expected[step].keep)
        second.update(batches[step], selection)


def test_scores_by_hand() -> None:
    images = unit(torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]]))
    texts = unit(torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 1]]))
    rows = torch.tensor([9, 8, 7, 6])
    batch = Candidates(rows, images, texts, torch.arange(4.0), torch.tensor([0.0, 3, 0, 9]))
    # Cosines 1, 0, .7, .7: of the two equal ones the lower row number comes first.
    assert CLIPScoreSelector(0.5).select(batch, step=0).keep.tolist() == [True, False, False, True]
    # Reducible losses 0, -2, 2, -6.
    assert RHOSelector(0.5).select(batch, step=0).keep.tolist() == [True, False, True, False]


def test_a_row_keeps_its_luck() -> None:
    # The same rows are drawn whatever the batch's other pairs and the step.
    batch = pairs(40, 1)
    first = RandomSelector(0.5, seed=3).select(batch, step=0)
    again = RandomSelector(0.5, seed=3).select(batch, step=7)
    assert torch.equal(first.keep, again.keep)
    assert not torch.equal(RandomSelector(0.5, seed=4).select(batch, step=0).keep, first.keep)
    luck = decided(batch, first)
    half = taken(batch, first.keep.nonzero()[:, 0])
    assert all(luck[row][0] for row in decided(half, RandomSelector(1.0).select(half, step=0)))


def test_random_draws_look_random() -> None:
    # 2000 rows in 20 batches; the count drawn of any fixed half is hypergeometric with standard
    # deviation 11, so 60 is over five of them.
    selector, drawn = RandomSelector(0.5), 0
    for step in range(20):
        batch = pairs(100, step, first=100 * step)
        selection = selector.select(batch, step=step)
        drawn += int(selection.keep[batch.rows % 2 == 0].sum())
        selector.update(batch, selection)
    assert abs(drawn - 500) < 60


@pytest.mark.parametrize("ratio", [0.0, 1.0001, -0.1, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    for kind in BY_SCORE:
        with pytest.raises(ConfigError, match="ratio"):
            kind(ratio)


def broken(**fields: torch.Tensor) -> Candidates:
    return pairs(4, losses=False)._replace(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images": torch.full((4, 6), float("nan"))}, "NaN or infinity in 4 of 4 rows"),
        ({"texts": torch.ones(4, 6)}, "unit length"),
        ({"texts": torch.ones(3, 6)}, r"\(4, D\)"),
        ({"rows": torch.tensor([1, 2, 1, 3])}, "twice"),
        ({"rows": torch.zeros(2, 2)}, r"\(N,\)"),
        ({"losses": torch.tensor([1.0, 2, 3, float("inf")])}, "1 of 4 rows"),
        ({"losses": torch.zeros(5)}, r"\(4,\)"),
    ],
)
def test_a_batch_that_cannot_be_judged_is_an_error(fields: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        RandomSelector(0.5).select(broken(**fields), step=0)


def test_a_rule_names_what_it_lacks() -> None:
    with pytest.raises(DataError, match="losses"):
        RHOSelector(0.5).select(broken(), step=0)


def test_rules_by_cosine_need_one_space() -> None:
    batch = broken(texts=unit(torch.ones(4, 5)))
    assert RandomSelector(0.5).select(batch, step=0).keep.sum() == 2
    with pytest.raises(DataError, match="no common space"):
        CLIPScoreSelector(0.5).select(batch, step=0)
    batch = batch._replace(reference_images=batch.images, reference_texts=batch.images)
    with pytest.raises(DataError, match="no common space"):
        JESTSelector(0.5).select(batch, step=0)


def test_half_precision_embeddings_are_fine() -> None:
    batch = pairs(8)
    half = batch._replace(images=batch.images.half(), texts=batch.texts.half())
    assert RandomSelector(0.5).select(half, step=0).keep.sum() == 4


@pytest.mark.parametrize("name", ALL)
def test_a_yaml_names_a_selector(name: str) -> None:
    assert name in sagittal_cxr.registry.__all__
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--selector", type=Selector | None, default=None)
    given_value = {"class_path": name, "init_args": {"ratio": 0.25}}
    selector = parser.instantiate_classes(parser.parse_object({"selector": given_value})).selector
    assert type(selector).__name__ == name
    assert selector.ratio == 0.25
