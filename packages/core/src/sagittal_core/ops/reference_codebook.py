"""Plain-torch codebook operators: the specification of the compiled ones."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE_SCORES = 1 << 22  # scores held at once


def scores_dtype(*tensors: Tensor) -> torch.dtype:
    """What sums are held in: float64 if a tensor is float64, float32 otherwise."""
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise RuntimeError, as compiled kernels do, if the tensor holds NaN or infinity."""
    if not bool(tensor.isfinite().all()):
        raise RuntimeError(f"{name} holds NaN or infinity")


def codebook_lookup(
    z: Tensor, codebook: Tensor, bias: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k highest ``<z_n, e_j> - ||e_j||^2 / 2 + bias``, best first, equal ones by index.

    Args:
        z: (N, D).
        codebook: (K, D).
        bias: (K,) or (N, K) of :func:`scores_dtype`, or None. -inf rules a code out.
        k: 1 to K.

    Returns:
        Scores (N, k) and indices (N, k) int64.
    """
    check_finite("z", z)
    check_finite("codebook", codebook)
    if bias is not None and not bool((bias < torch.inf).all()):
        raise RuntimeError("bias holds NaN or +inf")
    codes = codebook.to(scores_dtype(z, codebook))
    offset = -0.5 * codes.square().sum(1)
    if bias is not None and bias.dim() == 1:
        offset = offset + bias
    indices = z.new_empty(len(z), k, dtype=torch.int64)
    scores = z.new_empty(len(z), k, dtype=codes.dtype)
    rows = max(1, _TILE_SCORES // len(codes))
    for begin in range(0, len(z), rows):
        part = slice(begin, begin + rows)
        tile = torch.addmm(offset, z[part].to(codes.dtype), codes.T)  # (rows, K)
        if bias is not None and bias.dim() == 2:
            tile += bias[part]
        if k == 1:  # max gives the first of equal maxima
            scores[part], indices[part] = tile.max(1, keepdim=True)
        else:
            best = tile.sort(dim=1, descending=True, stable=True)
            scores[part], indices[part] = best.values[:, :k], best.indices[:, :k]
    return scores, indices


def codebook_sums(z: Tensor, indices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the rows of each code, by sorting instead of a one-hot matrix.

    Args:
        z: (M, D).
        indices: (M,) int64 in [0, size).
        size: Number of codes K.

    Returns:
        Sums (K, D) of :func:`scores_dtype` and counts (K,) int64; zero for a code without rows.
    """
    if not bool(((indices >= 0) & (indices < size)).all()):
        raise RuntimeError(f"indices must be in [0, {size})")
    counts = torch.bincount(indices, minlength=size)
    rows = z[indices.argsort(stable=True)].to(scores_dtype(z))
    return torch.segment_reduce(rows, "sum", lengths=counts, unsafe=True, initial=0), counts
