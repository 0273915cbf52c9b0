"""One global batch's decision, the same on every rank, and the account of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sagittal_core.errors import ConfigError
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.curation.selector import Candidates, Selection, Selector, reason_names
from sagittal_cxr.gradient_cache import in_chunks
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.objectives import Objective, gather_in_order


class Chosen(NamedTuple):
    """What is trained on of a global batch.

    Attributes:
        train: (N,) bool in the order of the global batch: the kept pairs, or all if none is kept.
        kept: How many pairs the selector kept.
    """

    train: Tensor
    kept: int


class Curator:
    """Asks a selector about global batches and remembers which rows it kept.

    Rows are encoded without gradients and without dropout; the published code takes them from the
    training pass, dropout included. Every rank gathers the same candidates, rank 0's decision is
    sent to all, and every rank updates its selector with it. As no selector sees the weights, its
    update comes before the optimiser's step, with the same result as after it, so that a checkpoint
    written right after the step holds both.

    Args:
        selector: Decides.
        reference: A frozen model for selectors that compare with one.

    Attributes:
        steps: Global batches decided over.
        forwards: Pairs encoded by the model in training for decisions, over all ranks.
        reference_forwards: Pairs encoded by the reference.
    """

    def __init__(self, selector: Selector, reference: ImageTextModel | None = None) -> None:
        self.selector, self.reference = selector, reference
        self.steps = self.forwards = self.reference_forwards = 0
        self._kept: set[int] = set()
        self._ledger: Ledger | None = None

    def open(self, folder: Path | None, index: str | None = None) -> None:
        """Write decisions to a folder from now on; on rank 0 only.

        Args:
            folder: Where; None: nowhere.
            index: Identity of the index whose rows are decided over.

        Raises:
            DataError: The folder has decisions over another index.
        """
        self._ledger = None if folder is None else Ledger(folder)
        if self._ledger is not None:
            self._ledger.begin(index)

    def warm_up(
        self, network: ImageTextModel, objective: Objective, batch: PairBatch, chunk: int | None
    ) -> bool:
        """Show the selector a batch before training; False: it wants no more."""
        take = getattr(self.selector, "warm_up", None)
        if take is None or getattr(self.selector, "ready", False):
            return False
        return not take(self._candidates(network, objective, batch, chunk))

    def choose(
        self, network: ImageTextModel, objective: Objective, batch: PairBatch, chunk: int | None
    ) -> Chosen:
        """Decide over one global batch, of which ``batch`` is this rank's part."""
        candidates = self._candidates(network, objective, batch, chunk)
        selection = _of_rank_0(self.selector.select(candidates, step=self.steps))
        self.selector.update(candidates, selection)
        if self._ledger is not None:
            names = reason_names(self.selector, selection)
            rows, keep = candidates.rows.cpu().numpy(), selection.keep.cpu().numpy()
            self._ledger.append(self.steps, rows, keep, names)
        self._kept.update(candidates.rows[selection.keep].tolist())
        self.steps += 1
        kept = int(selection.keep.sum())
        return Chosen(selection.keep if kept else torch.ones_like(selection.keep), kept)

    def write_state(self) -> None:
        """Write the selector's state beside its decisions."""
        if self._ledger is not None:
            self._ledger.write_state(self.selector.state_dict())

    def kept(self) -> Tensor:
        """(n,) int64, rows kept in any step, ascending."""
        return torch.tensor(sorted(self._kept), dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a kill: tensors and plain numbers."""
        return {
            "kept": self.kept(),
            "steps": self.steps,
            "forwards": self.forwards,
            "reference_forwards": self.reference_forwards,
            "selector": self.selector.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._kept = set(state["kept"].tolist())
        self.steps, self.forwards = state["steps"], state["forwards"]
        self.reference_forwards = state["reference_forwards"]
        self.selector.load_state_dict(state["selector"])

    @torch.no_grad()
    def _candidates(
        self, network: ImageTextModel, objective: Objective, batch: PairBatch, chunk: int | None
    ) -> Candidates:
        rows = gather_in_order(batch.rows)
        with evaluating(network):
            images, texts = (gather_in_order(part) for part in encode(network, batch, chunk))
        # Under autocast, weights cast in here would be used again without a gradient.
        torch.clear_autocast_cache()
        self.forwards += len(rows)
        found = Candidates(rows, images, texts)
        if self.selector.needs_losses:
            found = found._replace(losses=_losses(network, objective, images, texts))
        if self.selector.needs_reference:
            if self.reference is None:
                name = type(self.selector).__name__
                raise ConfigError(f"{name} compares with a reference model: set model.reference")
            with evaluating(self.reference):
                parts = encode(self.reference, batch, chunk)
            images, texts = (gather_in_order(part) for part in parts)
            self.reference_forwards += len(rows)
            losses = _losses(self.reference, objective, images, texts)
            found = found._replace(
                reference_losses=losses, reference_images=images, reference_texts=texts
            )
        return found


def encode(network: ImageTextModel, batch: PairBatch, chunk: int | None) -> tuple[Tensor, Tensor]:
    """Unit rows (B, dim) of a batch's images and texts, ``chunk`` at a time."""
    return (
        in_chunks(network.encode_image, chunk, batch.images),
        in_chunks(network.encode_text, chunk, batch.input_ids, batch.attention_mask),
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without dropout and the like, then as before."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _losses(network: ImageTextModel, objective: Objective, images: Tensor, texts: Tensor) -> Tensor:
    return objective.per_pair(images, texts, network.logit_scale, network.logit_bias)


def _of_rank_0(selection: Selection) -> Selection:
    if not (dist.is_available() and dist.is_initialized()):
        return selection
    both = torch.stack([selection.keep.long(), selection.reasons])
    dist.broadcast(both, 0)
    return Selection(both[0].bool(), both[1])
