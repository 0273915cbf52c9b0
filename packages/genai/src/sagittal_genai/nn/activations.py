"""How a sparse autoencoder chooses its active features, in training and afterwards.

Each is called with ``p = relu((x - b_d) W_e^T + b_e)`` still factored, so that the (N, F) matrix of
activations never exists (:func:`sagittal_core.ops.sparse.topk_encode`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sagittal_core.ops.sparse import SparseCodes, topk_encode


class Encoder(NamedTuple):
    """What pre-activations are made of: W_e (F, D), b_e (F,), b_d (D,)."""

    weight: Tensor
    bias: Tensor
    shift: Tensor


class TopK(nn.Module):
    """The k largest activations of every row (Gao et al., 2024), in training and afterwards.

    Args:
        k: Active features of a row.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor, encoder: Encoder) -> tuple[SparseCodes, Tensor]:
        """Return the codes of (N, D) rows and a sparsity penalty, here 0."""
        codes = topk_encode(x, encoder.weight, encoder.bias, self.k, b_d=encoder.shift)
        return codes, x.new_zeros(())


class BatchTopK(nn.Module):
    """The N k largest activations of the batch (Bussmann et al., 2024); a threshold afterwards.

    The threshold is a running mean of the least activation kept in a training batch: its weights
    start at the last batch alone and tend to an exponential mean, so that the first, untrained
    batches are forgotten. Evaluation keeps what is above it, unchanged.

    Args:
        k: Active features of a row on average.
        decay: Of the exponential mean.
    """

    threshold: Tensor
    batches: Tensor

    def __init__(self, k: int, decay: float = 0.999) -> None:
        super().__init__()
        self.k, self.decay = k, decay
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, encoder: Encoder) -> tuple[SparseCodes, Tensor]:
        """Return the codes of (N, D) rows and a sparsity penalty, here 0.

        Raises:
            RuntimeError: In evaluation, before the first training batch.
        """
        if self.training:
            codes = topk_encode(
                x, encoder.weight, encoder.bias, self.k, "batchtopk", b_d=encoder.shift
            )
            self._follow(codes.values.detach())
            return codes, x.new_zeros(())
        if int(self.batches) == 0:
            raise RuntimeError("BatchTopK has no threshold before its first training batch")
        limit = self.threshold.to(x.dtype)
        codes = topk_encode(
            x, encoder.weight, encoder.bias, mode="threshold", b_d=encoder.shift, threshold=limit
        )
        return codes, x.new_zeros(())

    @torch.no_grad()
    def _follow(self, kept: Tensor) -> None:
        least = kept.min() if kept.numel() else kept.new_zeros(())
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(least)
            least = least / dist.get_world_size()
        rate = max(1 - self.decay, 10 / (10 + int(self.batches)))
        self.threshold += rate * (least.to(self.threshold) - self.threshold)
        self.batches += 1


class FixedThreshold(nn.Module):
    """``p 1[p > theta]`` with thresholds that came with the weights and are not trained.

    Args:
        n_features: F; thresholds are 0, a ReLU, until they are loaded.
    """

    threshold: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(n_features))

    def forward(self, x: Tensor, encoder: Encoder) -> tuple[SparseCodes, Tensor]:
        """Return the codes of (N, D) rows and a sparsity penalty, here 0."""
        limit = self.threshold.to(x.dtype)
        codes = topk_encode(
            x, encoder.weight, encoder.bias, mode="threshold", b_d=encoder.shift, threshold=limit
        )
        return codes, x.new_zeros(())


class _Jump(torch.autograd.Function):
    """``p 1[p > theta]``; theta gets the gradient of a box kernel of width ``bandwidth``."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(p, theta)
        ctx.bandwidth = bandwidth
        return torch.where(p > theta, p, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        p, theta = ctx.saved_tensors
        near = (p - theta).abs() < ctx.bandwidth / 2
        for_theta = torch.where(near, -theta / ctx.bandwidth * grads[0], 0)
        return torch.where(p > theta, grads[0], 0), for_theta, None


class _Step(torch.autograd.Function):
    """``1[p > theta]`` with the same pseudo-derivative; p gets none."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(p, theta)
        ctx.bandwidth = bandwidth
        return (p > theta).to(p.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        p, theta = ctx.saved_tensors
        near = (p - theta).abs() < ctx.bandwidth / 2
        return None, torch.where(near, -grads[0] / ctx.bandwidth, 0), None


class JumpReLU(nn.Module):
    r"""``p 1[p > theta]`` with a learned threshold for each feature (Rajamanoharan et al., 2024).

    Straight-through gradients of theta need the activations within half a bandwidth of it only:
    they are encoded as well, as entries of value 0. The penalty is
    :math:`\lambda (L_0 / k - 1)^2`, so that ``k`` means what it means for the others.

    Args:
        n_features: F.
        k: Active features of a row to aim at.
        coefficient: lambda.
        bandwidth: Of the pseudo-derivative, in units of the activations; narrow ones give noisy
            thresholds, which leave many features unused.
        initial: First threshold of every feature; None: that with which ``k`` features of a
            training row are active at first, set by :meth:`initialise`.
    """

    def __init__(
        self,
        n_features: int,
        k: int,
        coefficient: float = 1.0,
        bandwidth: float = 2.0,
        initial: float | None = None,
    ) -> None:
        super().__init__()
        self.k, self.coefficient, self.bandwidth = k, coefficient, bandwidth
        self.initial = initial
        first = math.log(1.0 if initial is None else initial)
        self.log_threshold = nn.Parameter(torch.full((n_features,), first))

    @torch.no_grad()
    def initialise(self, x: Tensor, encoder: Encoder) -> None:
        """Set the first thresholds from (n, D) rows, unless one was given."""
        if self.initial is None:
            kept = topk_encode(
                x, encoder.weight, encoder.bias, self.k, "batchtopk", b_d=encoder.shift
            ).values
            self.log_threshold.fill_(math.log(float(kept.min())))

    def forward(self, x: Tensor, encoder: Encoder) -> tuple[SparseCodes, Tensor]:
        """Return the codes of (N, D) rows and the sparsity penalty."""
        theta = self.log_threshold.exp()
        margin = self.bandwidth / 2 if self.training else 0.0
        limit = (theta.detach() - margin).clamp(min=0)
        indices, p, offsets = topk_encode(
            x, encoder.weight, encoder.bias, mode="threshold", b_d=encoder.shift, threshold=limit
        )
        chosen = theta[indices]
        values = _Jump.apply(p, chosen, self.bandwidth)
        active = _Step.apply(p, chosen, self.bandwidth).sum() / max(1, len(x))
        penalty = self.coefficient * (active / self.k - 1).square()
        return SparseCodes(indices, values, offsets), penalty
