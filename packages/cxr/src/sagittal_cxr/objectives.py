"""Contrastive losses of image-text pairs, and the gathering of rows that they need.

With images x_i and texts y_i of unit length, scale s and bias b, similarities are
``l_ij = s x_i.y_j (+ b)``; pairs of one index belong together, all others are negatives.

Every process computes the loss of the whole global batch from gathered rows. The backward pass of
:func:`gather_rows` sums the gradients of all processes, so that the mean over processes, which DDP
takes, is the gradient that one process would have on the joined batch. (Returning a process' own
slice alone, as some released code does, gives encoders a gradient that is smaller by the number of
processes than that of the scale.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from sagittal_core.errors import ConfigError


class Objective(ABC):
    """A loss of the rows of a global batch.

    Args:
        max_scale: The scale of similarities is held at or below this after every step (CLIP: 100);
            None: it is free, as published for CheXficient.

    Attributes:
        needs_bias: Whether the model must have a ``logit_bias``.
    """

    needs_bias: bool

    def __init__(self, max_scale: float | None = None) -> None:
        if max_scale is not None and max_scale <= 0:
            raise ConfigError(f"objective: max_scale {max_scale}; expected above 0")
        self.max_scale = max_scale

    @abstractmethod
    def per_pair(
        self, images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Losses (N,) of pairs of unit rows (N, D); the batch's loss is their mean."""

    def __call__(
        self, images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Loss () of a global batch: unit rows (N, D), logarithm of the scale (), bias ()."""
        return self.per_pair(images, texts, logit_scale, logit_bias).mean()


class InfoNCE(Objective):
    """Cross-entropy over the batch, from images to texts and back (CLIP, ConVIRT).

    ``L = -1/2N sum_i [log softmax_j(l_ij)_i + log softmax_j(l_ji)_i]``.

    Args:
        max_scale: The scale of similarities is held at or below this after every step (CLIP: 100);
            None: it is free, as published for CheXficient.
    """

    needs_bias = False

    def per_pair(
        self, images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Mean of a pair's two cross-entropies."""
        logits = _logits(images, texts, logit_scale)
        target = torch.arange(len(logits), device=logits.device)
        forth = functional.cross_entropy(logits, target, reduction="none")
        return (forth + functional.cross_entropy(logits.T, target, reduction="none")) / 2


class SigLIP(Objective):
    """Every pair of rows is a decision of its own (Zhai et al., arXiv 2303.15343).

    ``L = -1/N sum_ij log sigmoid(z_ij l_ij)``, z_ij = 1 for i = j, else -1. The model wants a
    ``logit_bias`` (-10) and a ``temperature`` of 0.1.

    Args:
        max_scale: The scale of similarities is held at or below this after every step; None: it is
            free.
    """

    needs_bias = True

    def per_pair(
        self, images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """Half of what a pair's row and column of decisions cost together."""
        if logit_bias is None:
            raise ConfigError("SigLIP: the model needs a logit_bias, such as -10")
        logits = _logits(images, texts, logit_scale) + logit_bias
        sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
        costs = -functional.logsigmoid(sign * logits)
        return (costs.sum(1) + costs.sum(0)) / 2


def _logits(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Scaled similarities (N, N), never in half precision."""
    with torch.autocast(images.device.type, enabled=False):
        return logit_scale.exp() * images @ texts.T


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes (N, D), those of rank 0 first; every process must call it.

    The backward pass sums the gradients of all processes, see above.

    Args:
        rows: (n, D) rows of this process; n may differ between processes and be 0.
    """
    if not _grouped():
        return rows
    joined: Tensor = _Gather.apply(rows)
    return joined


def gather_pairs(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`gather_rows` of images and texts (n, D), in one exchange."""
    images, texts = gather_rows(torch.cat([images, texts], 1)).chunk(2, 1)
    return images, texts


def gather_in_order(values: Tensor) -> Tensor:
    """Values of a global batch in the order that one process would have them, without gradients.

    Ranks take turns in the order of data (:class:`sagittal_core.sampling.CounterSampler`).

    Args:
        values: (n, ...), n the same on every rank.
    """
    if not _grouped():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)


def own_part(values: Tensor) -> Tensor:
    """This rank's part (n, ...) of what :func:`gather_in_order` returned."""
    return values[dist.get_rank() :: dist.get_world_size()] if _grouped() else values


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Rows of all ranks, of any number each; the gradient is the sum over ranks of a rank's own."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        here = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(here) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, here)
        lengths = [int(count) for count in counts]
        # Collectives want equal shapes: padded here, cut there.
        padded = rows.new_zeros(max(lengths), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        ctx.first = sum(lengths[: dist.get_rank()])  # type: ignore[attr-defined]
        ctx.count = len(rows)  # type: ignore[attr-defined]
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        first: int = ctx.first  # type: ignore[attr-defined]
        return total[first : first + ctx.count]  # type: ignore[attr-defined]
