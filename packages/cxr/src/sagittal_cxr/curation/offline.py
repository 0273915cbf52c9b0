"""A selector over a store of pairs, batch by batch, as training would ask it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_generator
from sagittal_core.store import EmbeddingStore
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.curation.selector import Candidates, Selector, reason_names


class StoredPairs:
    """Candidates out of a store that :func:`.pairs.embed` wrote, and of a reference's if any.

    Args:
        store: Image and text rows side by side.
        image_dim: Width of the image's part.
        scale: Of cosines in the loss; None: the encoders have no common space, and no loss.
        reference: A store of the same pairs in the same order.
        reference_dim: Width of the image's part in it.
        reference_scale: As ``scale``.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        image_dim: int,
        scale: float | None,
        reference: EmbeddingStore | None = None,
        reference_dim: int = 0,
        reference_scale: float | None = None,
    ) -> None:
        self.store, self.image_dim, self.scale = store, image_dim, scale
        self.reference, self.reference_dim = reference, reference_dim
        self.reference_scale = reference_scale
        self.rows = torch.from_numpy(store.index(["row"])["row"].to_numpy().astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Tensor) -> Candidates:
        """The pairs at some places of the store, with losses where there can be any."""
        images, texts = self._parts(self.store, self.image_dim, places)
        found = Candidates(self.rows[places], images, texts)
        if self.scale is not None:
            found = found._replace(losses=contrastive(images, texts, self.scale))
        if self.reference is not None and self.reference_scale is not None:
            images, texts = self._parts(self.reference, self.reference_dim, places)
            found = found._replace(
                reference_losses=contrastive(images, texts, self.reference_scale),
                reference_images=images,
                reference_texts=texts,
            )
        return found

    @staticmethod
    def _parts(store: EmbeddingStore, width: int, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = store.rows(places.numpy())
        return rows[:, :width], rows[:, width:]


def contrastive(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """(N,) each pair's mean cross-entropy from image to texts and back, within the batch."""
    logits = scale * images @ texts.T
    target = torch.arange(len(logits))
    there = cross_entropy(logits, target, reduction="none")
    return (there + cross_entropy(logits.T, target, reduction="none")) / 2.0


def order(count: int, batch: int | None, seed: int, turn: int) -> Iterator[Tensor]:
    """Places 0 .. count - 1 in batches, in an order that is a function of seed and pass.

    Args:
        count: Number of pairs.
        batch: Pairs at a time; None: all. The last batch may be smaller.
        seed: Of the order.
        turn: Number of the pass.
    """
    places = torch.randperm(count, generator=counter_generator(seed, turn, "curate"))
    yield from places.split(batch or max(count, 1))


def curate_pairs(
    pairs: StoredPairs,
    selector: Selector,
    ledger: Ledger,
    *,
    batch: int | None,
    passes: int,
    seed: int,
) -> None:
    """Ask the selector about every pair; decisions of the last pass are kept.

    A selector with a warm-up gets it first, from batches that it then decides over as well, which
    is the published protocol. Earlier passes let prototypes settle.

    Args:
        pairs: All of them.
        selector: Changed by this.
        ledger: Gets the decisions of the last pass, and the selector's state.
        batch: Pairs at a time; None: all.
        passes: Number of passes, from 1.
        seed: Of the order.

    Raises:
        ConfigError: If the warm-up wants more batches than there are.
    """
    take = getattr(selector, "warm_up", None)
    if take is not None and not any(
        take(pairs.at(places)) for places in order(len(pairs), batch, seed, 0)
    ):
        batches = math.ceil(len(pairs) / (batch or max(len(pairs), 1)))
        raise ConfigError(
            f"curate: {len(pairs)} pairs make {batches} batches, too few to initialise the"
            " prototypes; lower the selector's warmup_batches or batch_size"
        )
    step = 0
    for turn in range(passes):
        for number, places in enumerate(order(len(pairs), batch, seed, turn)):
            candidates = pairs.at(places)
            selection = selector.select(candidates, step=step)
            selector.update(candidates, selection)
            if turn == passes - 1:
                names = reason_names(selector, selection)
                ledger.append(number, candidates.rows.numpy(), selection.keep.cpu().numpy(), names)
            step += 1
    ledger.write_state(selector.state_dict())
