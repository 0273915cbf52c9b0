r"""Sparse autoencoders: ``x ~ b_d + sum_j v_j W_d[i_j]`` with few active features a row.

TopK and AuxK: Gao et al., 2024; BatchTopK: Bussmann et al., 2024; Matryoshka: Bussmann et al.,
2025; SAIL: Wesp et al., 2026. Everything runs on the fused sparse operators of
:mod:`sagittal_core.ops.sparse`: no tensor of N x F numbers exists, forward or backward.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sagittal_core.ops.sparse import SparseCodes, sparse_decode, topk_encode
from sagittal_genai.nn.activations import BatchTopK, Encoder, JumpReLU, TopK


class SAEOutput(NamedTuple):
    """One pass over N rows.

    Attributes:
        reconstructions: (L, N, D), from ever larger prefixes of the features, the last one from
            all; L is 1 without prefixes. In normalised units.
        normalised: (N, D), the input in normalised units.
        codes: The active features.
        penalty: Scalar of the activation, such as JumpReLU's.
    """

    reconstructions: Tensor
    normalised: Tensor
    codes: SparseCodes
    penalty: Tensor


class SparseAutoencoder(nn.Module):
    """Encoder, activation and decoder, in units in which a centred row has a mean square of 1.

    ``W_e`` starts as a copy of ``W_d``, whose rows are random directions of unit length and are
    kept at that length: call :meth:`project_gradient` before and :meth:`normalise` after every
    optimizer step. ``tied`` uses one matrix for both.

    Args:
        input_dim: D.
        n_features: F.
        activation: :class:`~sagittal_genai.nn.activations.TopK`, ``BatchTopK`` or ``JumpReLU``.
        prefixes: Rising sizes of nested dictionaries, the last one F (Matryoshka): one global
            choice of features, and a reconstruction from each prefix. None: F alone.
        prefix_k: Active features of a row for each prefix, the last one the activation's ``k``:
            each prefix then makes a choice of its own, as in SAIL, instead of the global one.
        tied: Whether ``W_d`` is ``W_e``.
        seed: Of the first directions.
    """

    scale: Tensor
    initialised: Tensor
    idle: Tensor

    def __init__(
        self,
        input_dim: int,
        n_features: int,
        activation: nn.Module,
        prefixes: list[int] | None = None,
        tied: bool = False,
        seed: int = 0,
        prefix_k: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.prefixes = [n_features] if prefixes is None else list(prefixes)
        if self.prefixes != sorted(set(self.prefixes)) or self.prefixes[-1] != n_features:
            raise ValueError(f"prefixes must rise to n_features = {n_features}, got {prefixes}")
        if not 1 <= (k := getattr(activation, "k", 1)) <= n_features:
            raise ValueError(f"k must be between 1 and n_features = {n_features}, got {k}")
        self.smaller = nn.ModuleList(_with_k(activation, prefix_k, self.prefixes))
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_features, input_dim, generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_e = nn.Parameter(directions)
        self.W_d = self.W_e if tied else nn.Parameter(directions.clone())
        self.b_e = nn.Parameter(torch.zeros(n_features))
        self.b_d = nn.Parameter(torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        # Rows seen since each feature was last active.
        self.register_buffer("idle", torch.zeros(n_features, dtype=torch.int64))

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        """Set the units, the decoder's bias (the geometric median) and JumpReLU's first thresholds.

        Args:
            rows: (n, D) training rows.
        """
        centred = rows - rows.mean(0)
        rms = centred.square().mean().sqrt()
        if not bool(rms > 0):
            raise ValueError("the training rows are all equal: there is nothing to encode")
        self.scale.copy_(1 / rms)
        self.b_d.copy_(geometric_median(rows * self.scale))
        if isinstance(self.activation, JumpReLU):
            some = rows[:: -(-len(rows) // 1024)] * self.scale
            self.activation.initialise(some, Encoder(self.W_e, self.b_e, self.b_d))
        self.initialised.fill_(True)

    def forward(self, x: Tensor) -> SAEOutput:
        """Encode and decode (N, D) rows."""
        normalised = x * self.scale
        codes, penalty = self.activation(normalised, Encoder(self.W_e, self.b_e, self.b_d))
        decoded = self._own_choices(normalised, codes) if self.smaller else self._decode(codes)
        return SAEOutput(decoded, normalised, codes, penalty)

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseCodes:
        """Active features of (N, D) rows; call ``eval()`` first for the trained thresholds."""
        codes, _ = self.activation(x * self.scale, Encoder(self.W_e, self.b_e, self.b_d))
        return codes

    @torch.no_grad()
    def decode(self, codes: SparseCodes) -> Tensor:
        """Rows (N, D) in the units of the input, from all features."""
        return self._decode(codes)[-1] / self.scale

    def _decode(self, codes: SparseCodes) -> Tensor:
        return sparse_decode(
            codes.indices,
            codes.values,
            self.W_d,
            self.b_d,
            offsets=codes.offsets,
            prefixes=self.prefixes,
        )

    def _own_choices(self, normalised: Tensor, codes: SparseCodes) -> Tensor:
        """Reconstructions (L, N, D), each prefix but the last one from its own active features."""
        found = []
        for activation, end in zip(self.smaller, self.prefixes, strict=False):
            prefix = Encoder(self.W_e[:end], self.b_e[:end], self.b_d)
            (indices, values, offsets), _ = activation(normalised, prefix)
            found.append(sparse_decode(indices, values, self.W_d[:end], self.b_d, offsets=offsets))
        return torch.stack([*found, self._decode(codes)[-1]])

    @torch.no_grad()
    def count_use(self, codes: SparseCodes, rows: int) -> None:
        """Note which features were active in a training batch of this many rows, on all ranks."""
        seen = torch.tensor(rows, device=self.idle.device)
        fired = torch.zeros_like(self.idle)
        fired[codes.indices[codes.values > 0]] = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)
            dist.all_reduce(fired, op=dist.ReduceOp.MAX)
        self.idle += seen
        self.idle[fired.bool()] = 0

    def auxiliary_loss(self, out: SAEOutput, dead_after: int, k_aux: int) -> Tensor:
        """AuxK: what dead features make of the residual (Gao et al., 2024, appendix A.2).

        Only the rows of the dead features enter the matrix product. The residual is detached, and
        ``b_d`` is in it already, so it is not added again; gradients reach the encoder too.

        Args:
            out: Of this batch.
            dead_after: Rows without activity after which a feature is dead.
            k_aux: Dead features of a row to use at most.

        Returns:
            Mean squared error over the residual's mean square, times min(dead / k_aux, 1); 0
            without dead features.
        """
        dead = (self.idle >= dead_after).nonzero().flatten()
        if not len(dead):
            return out.normalised.new_zeros(())
        residual = (out.normalised - out.reconstructions[-1]).detach()
        k = min(k_aux, len(dead))
        shift = self.b_d.detach()
        codes = topk_encode(out.normalised, self.W_e[dead], self.b_e[dead], k, b_d=shift)
        found = sparse_decode(
            codes.indices, codes.values, self.W_d[dead], torch.zeros_like(self.b_d)
        )
        error = (found - residual).square().mean() / residual.square().mean().clamp(min=1e-12)
        return error * min(len(dead) / k_aux, 1.0)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove the part of the decoder's gradient that only changes the rows' length."""
        if self.W_d.grad is not None:
            along = torch.einsum("fd,fd->f", self.W_d.grad, self.W_d)
            self.W_d.grad.addcmul_(along[:, None], self.W_d, value=-1)

    @torch.no_grad()
    def normalise(self) -> None:
        """Give the decoder's rows unit length again."""
        self.W_d.div_(self.W_d.norm(dim=1, keepdim=True).clamp(min=1e-12))


def _with_k(
    activation: nn.Module, prefix_k: list[int] | None, prefixes: list[int]
) -> list[nn.Module]:
    """Copies of the activation, each with its own k, for all prefixes but the last one."""
    if prefix_k is None:
        return []
    if not isinstance(activation, (TopK, BatchTopK)):
        raise ValueError(f"prefix_k needs TopK or BatchTopK, not {type(activation).__name__}")
    if len(prefix_k) != len(prefixes) or prefix_k[-1] != activation.k:
        raise ValueError(
            f"prefix_k must be one number for each of {prefixes}, the last one the activation's"
            f" k = {activation.k}; got {prefix_k}"
        )
    copies = [copy.deepcopy(activation) for _ in prefix_k[:-1]]
    for one, k in zip(copies, prefix_k, strict=False):
        one.k = k
    return list(copies)


def geometric_median(rows: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Point of least summed distance to (n, D) rows, (D,), by Weiszfeld's iteration.

    Args:
        rows: At least one.
        iterations: At most.
        tolerance: Relative change at which it stops.
    """
    point = rows.mean(0)
    for _ in range(iterations):
        weights = 1 / (rows - point).norm(dim=1).clamp(min=1e-12)
        moved = (weights[:, None] * rows).sum(0) / weights.sum()
        change, point = (moved - point).norm(), moved
        if bool(change <= tolerance * point.norm().clamp(min=1e-12)):
            break
    return point
