"""How many pairs of each batch to keep so that the share over all batches is the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sagittal_core.errors import ConfigError


class Quota:
    """Error diffusion: what one batch's rounding leaves over or lacks goes to the next.

    As long as a rule keeps exactly what it is asked for, the number kept is within half a pair of
    ``ratio`` times the number seen after every batch, whatever the sizes of the batches.

    Args:
        ratio: Share to keep, in (0, 1].

    Attributes:
        seen: Pairs so far.
        kept: Pairs kept so far.

    Raises:
        ConfigError: If the ratio is out of range.
    """

    def __init__(self, ratio: float) -> None:
        if not 0.0 < ratio <= 1.0:
            raise ConfigError(f"selector: ratio must lie in (0, 1], got {ratio}")
        self.ratio = ratio
        self.seen = self.kept = 0

    def of(self, batch: int) -> int:
        """Pairs to keep of the next ``batch`` pairs: 0 <= result <= batch."""
        wanted = math.floor(self.ratio * (self.seen + batch) + 0.5) - self.kept
        return min(max(wanted, 0), batch)

    def add(self, batch: int, kept: int) -> None:
        """Take note of a batch and of how many of it were kept."""
        self.seen, self.kept = self.seen + batch, self.kept + kept

    def state(self) -> dict[str, Tensor]:
        """Both counts, as a checkpoint keeps them."""
        return {"seen": torch.tensor(self.seen), "kept": torch.tensor(self.kept)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the counts back."""
        self.seen, self.kept = int(state["seen"]), int(state["kept"])


def highest(scores: Tensor, count: int) -> Tensor:
    """Mark the ``count`` highest of (N,) scores; ties fall to the earlier place. (N,) bool."""
    marked = torch.zeros(len(scores), dtype=torch.bool)
    marked[torch.argsort(scores, descending=True, stable=True)[:count]] = True
    return marked
