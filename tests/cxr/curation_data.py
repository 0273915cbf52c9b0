"""Pairs of embeddings for the curation tests."""

from __future__ import annotations

import torch
from torch import Tensor

from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.selector import Candidates, Selection, Selector


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1)


def pairs(count: int, seed: int = 0, dim: int = 6, first: int = 0, losses: bool = True):
    """Random pairs with row numbers in no order."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(count, generator=generator) + first

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    images, texts = unit(draw(count, dim)), unit(draw(count, dim))
    reference = unit(draw(count, 4)), unit(draw(count, 4))
    extra = (draw(count), draw(count), *reference) if losses else ()
    return Candidates(rows, images, texts, *extra)


def taken(candidates: Candidates, places: Tensor) -> Candidates:
    """The pairs at some places, in that order."""
    return Candidates(*(None if field is None else field[places] for field in candidates))


def decided(candidates: Candidates, selection: Selection) -> dict[int, tuple[bool, int]]:
    """Row number to what was decided."""
    both = zip(selection.keep.tolist(), selection.reasons.tolist(), strict=True)
    return dict(zip(candidates.rows.tolist(), both, strict=True))


def run_batches(selector: Selector, batches: list[Candidates]) -> list[Selection]:
    """Select and update, batch by batch."""
    selections = []
    for step, batch in enumerate(batches):
        selections.append(selector.select(batch, step=step))
        selector.update(batch, selections[-1])
    return selections


def ready(prototypes: torch.Tensor, **options: object) -> PrototypeSelector:
    """A selector with given prototypes."""
    selector = PrototypeSelector(prototypes=len(prototypes), **options)
    selector.prototypes = unit(prototypes)
    return selector


def grouped(sizes: list[int], seed: int = 0, dim: int = 16) -> tuple[Candidates, torch.Tensor]:
    """Pairs in tight groups around orthogonal directions, and those directions as prototypes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(dim, dtype=torch.float64)[: len(sizes)]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = 0.1 * torch.randn(len(owner), dim, generator=generator, dtype=torch.float64)
    rows = unit(centres[owner] + noise)
    batch = Candidates(torch.arange(len(owner)), rows, rows)
    return batch, torch.cat([centres, centres], 1)
