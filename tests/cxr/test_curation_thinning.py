"""Variations of prototype curation that keep fewer near-duplicates: thinned, and with a memory."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from curation_data import grouped, pairs, ready, run_batches, taken, unit

from sagittal_cxr.curation import bands
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.selector import reason_names


def test_duplicates_in_the_support_band_are_kept_unless_it_is_thinned() -> None:
    # A hundred central pairs about one prototype, and ten equal ones farther off.
    batch, centres = grouped([110])
    first, second = torch.eye(16, dtype=torch.float64)[:2]
    rows = batch.images.clone()
    rows[100:110] = unit((0.6 * first + second)[None])
    batch = batch._replace(images=rows, texts=rows)
    options = {"ratio": 0.2, "support": 0.8, "outlier": 0.99}
    published = ready(centres, **options).select(batch, step=0).keep
    assert published.sum() == 22
    assert published[100:].all()
    thinned = ready(centres, thin="all", **options).select(batch, step=0)
    assert thinned.keep.sum() == 22
    assert thinned.keep[100:].sum() == 1
    names = reason_names(ready(centres), thinned)
    assert names[100:].count("redundant") == 9
    assert names[100:].count("support") == 1


def test_one_radius_for_all_clusters_takes_no_duplicates_to_fill_a_small_one() -> None:
    # Cluster 0 is wide; cluster 1 is ten times the same pair. By caps half are of each.
    batch, centres = grouped([40, 10])
    rows = batch.images.clone()
    rows[40:] = rows[40]
    batch = batch._replace(images=rows, texts=rows)
    counts = {}
    for thin in ("all", "radius"):
        keep = ready(centres, ratio=0.4, thin=thin).select(batch, step=0).keep
        counts[thin] = (int(keep[:40].sum()), int(keep[40:].sum()))
    assert counts == {"all": (10, 10), "radius": (19, 1)}


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    ratio=st.floats(0.02, 0.7),
    thin=st.sampled_from(["all", "radius"]),
)
def test_the_variations_reach_the_ratio_too(sizes: list[int], ratio: float, thin: str) -> None:
    selector = PrototypeSelector(prototypes=3, ratio=ratio, thin=thin, memory=30)
    selector.prototypes = unit(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))
    for step, size in enumerate(sizes):
        batch = pairs(size, step, first=1000 * step)
        wanted = selector.quota.of(size)
        selection = selector.select(batch, step=step)
        outliers = reason_names(selector, selection).count("outlier")
        assert selection.keep.sum() == min(wanted, size - outliers)
        selector.update(batch, selection)


def test_what_was_kept_before_is_remembered() -> None:
    line = torch.tensor([[0.0], [1.0], [4.0], [10.0]])
    known = torch.tensor([[9.0], [0.5]])
    order, gaps = bands.farthest_points(line, 2, 0, known)
    assert order.tolist() == [2, 3]
    assert gaps.tolist() == [12.25, 1.0]
    batch, centres = grouped([60, 60])
    halves = [taken(batch, torch.arange(start, 120, 2)) for start in (0, 1)]
    # The second batch repeats the first: with a memory other pairs are kept of it.
    again = halves[0]._replace(rows=halves[0].rows + 1000)
    kept = []
    for memory in (0, 60):
        selector = ready(centres, ratio=0.2, thin="all", momentum=1.0, memory=memory)
        selections = run_batches(selector, [halves[0], again])
        kept.append(int((selections[0].keep & selections[1].keep).sum()))
    assert kept[1] == 0 < kept[0]
    selector = ready(centres, memory=5)
    run_batches(selector, halves)
    assert selector.state_dict()["remembered"].shape == (5, 32)
