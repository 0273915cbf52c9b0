"""The interface of all selectors, and what one says of a batch of pairs."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Candidates(NamedTuple):
    """A global batch of pairs, the same on every rank.

    Attributes:
        rows: (N,) int64 row numbers in the index, no number twice.
        images: (N, D) unit rows of the model's image embeddings.
        texts: (N, D) unit rows of its text embeddings; of another width only where two encoders
            have no common space, which rules by cosine refuse.
        losses: (N,) the model's loss of each pair; None: not wanted by the selector.
        reference_losses: (N,) the loss of each pair under a reference model; None: as ``losses``.
        reference_images: (N, E) unit rows of the reference model's image embeddings; None: as
            ``losses``. Only the joint rule (JEST) reads these two.
        reference_texts: (N, E) unit rows of its text embeddings.
    """

    rows: Tensor
    images: Tensor
    texts: Tensor
    losses: Tensor | None = None
    reference_losses: Tensor | None = None
    reference_images: Tensor | None = None
    reference_texts: Tensor | None = None


class Selection(NamedTuple):
    """What a selector decided.

    Attributes:
        keep: (N,) bool.
        reasons: (N,) int64, an index into the selector's ``reasons`` for each pair, kept or not.
    """

    keep: Tensor
    reasons: Tensor


class Selector(Protocol):
    """Decides batch by batch which pairs a model is trained on.

    An object of this kind keeps what it learns (prototypes, counts) in tensors that
    ``state_dict`` and ``load_state_dict`` carry through a checkpoint, and draws nothing except
    from its seed and the row numbers, so that ranks and resumed runs agree.

    Attributes:
        ratio: Share of pairs it aims to keep, in (0, 1]; None: the rule has no such aim.
        reasons: Names of the reasons.
        needs_losses: Whether it wants ``Candidates.losses``.
        needs_reference: Whether it wants ``Candidates.reference_losses``.
    """

    ratio: float | None
    reasons: tuple[str, ...]
    needs_losses: bool
    needs_reference: bool

    def select(self, candidates: Candidates, *, step: int) -> Selection:
        """Decide over one batch; ``step`` counts global batches from 0. Changes nothing."""
        ...

    def update(self, candidates: Candidates, selection: Selection) -> None:
        """Learn from the batch after the optimiser's step."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What has to survive a kill."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take it back."""
        ...


def reason_names(selector: Selector, selection: Selection) -> list[str]:
    """The reason of each pair by name, as the ledger keeps it."""
    return [selector.reasons[number] for number in selection.reasons.tolist()]
