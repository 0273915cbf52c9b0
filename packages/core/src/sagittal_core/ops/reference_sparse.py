r"""Plain-torch definitions of the sparse coding operators: the specification of the kernels.

Codes are entries (row, feature, value). They are stored as ``indices`` and ``values`` of one
shape: (N, k) with ``offsets`` None, or (nnz,) with ``offsets`` (N + 1,), the rows' bounds. Within
a row they are ordered by value, descending, and equal values by index, ascending.
"""

from __future__ import annotations

import torch
from torch import Tensor


def activations(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
    """``relu((x - shift) W^T + b)``: (N, D), (F, D), (F,), (D,) -> (N, F).

    Raises:
        RuntimeError: A pre-activation is NaN.
    """
    centred = x if shift is None else x - shift
    found = torch.addmm(bias, centred, weight.T)
    raise_on_nan(found, "pre-activation")
    return torch.where(found > 0, found, 0)


def raise_on_nan(rows: Tensor, what: str) -> None:
    """Name the first row that holds NaN.

    Raises:
        RuntimeError: There is one.
    """
    bad = rows.isnan().any(1)
    if bool(bad.any()):
        raise RuntimeError(f"NaN {what} in row {int(bad.int().argmax())}")


def topk_select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices, each (N, k), of the ``k`` largest of every row of (N, F)."""
    raise_on_nan(scores, "score")
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k].contiguous(), indices[:, :k].contiguous()


def topk_encode(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """Values and indices of the ``k`` largest activations of every row.

    A row with fewer than ``k`` positive ones goes on with zeros at the lowest indices that are
    not positive: what the order says about equal values.
    """
    return topk_select(activations(x, weight, bias, shift), k)


def batchtopk_encode(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``N k`` largest positive activations of the batch: values, indices, offsets.

    Of equal values at the limit those of the first rows stay, in a row those of the lowest index.
    """
    p = activations(x, weight, bias, shift)
    order = p.flatten().argsort(descending=True, stable=True)[: k * len(p)]
    kept = torch.zeros_like(p).flatten()
    kept[order] = p.flatten()[order]
    return _positive_entries(kept.view_as(p))


def threshold_encode(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations above ``threshold``, (1,) or (F,), unchanged: values, indices, offsets."""
    p = activations(x, weight, bias, shift)
    return _positive_entries(torch.where(p > threshold, p, 0))


def _positive_entries(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = (p > 0).sum(1)
    values, indices = p.sort(dim=1, descending=True, stable=True)
    mask = torch.arange(p.shape[1], device=p.device) < count[:, None]
    return values[mask], indices[mask], row_offsets(count)


def row_offsets(count: Tensor) -> Tensor:
    """(N,) numbers of entries -> (N + 1,) int64 offsets."""
    return torch.cat([count.new_zeros(1), count.cumsum(0)]).long()


def entry_rows(indices: Tensor, offsets: Tensor | None) -> Tensor:
    """Row of every entry, flat.

    Raises:
        RuntimeError: ``offsets`` do not rise from 0 to the number of entries.
    """
    if offsets is None:
        rows = torch.arange(indices.shape[0], device=indices.device)
        return rows.repeat_interleave(indices.shape[1])
    steps = offsets.diff()
    if bool((steps < 0).any()) or int(offsets[0]) != 0 or int(offsets[-1]) != len(indices):
        raise RuntimeError(f"offsets must rise from 0 to nnz = {len(indices)}")
    rows = torch.arange(len(offsets) - 1, device=indices.device)
    return rows.repeat_interleave(steps)


def _groups(indices: Tensor, prefixes: list[int]) -> Tensor:
    """Group of every entry's feature, flat."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < prefixes[-1]:
        raise RuntimeError(f"indices must be in 0..{prefixes[-1] - 1}")
    ends = torch.tensor(prefixes, device=indices.device)
    return torch.bucketize(indices.flatten(), ends, right=True)


def sparse_decode(
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    prefixes: list[int],
) -> Tensor:
    """``out_l = bias + sum of v_j W[i_j] over entries with i_j < prefixes[l]``: (L, N, D)."""
    rows = entry_rows(indices, offsets)
    count = len(indices) if offsets is None else len(offsets) - 1
    group = _groups(indices, prefixes)
    out = weight.new_zeros(len(prefixes), count, weight.shape[1])
    terms = values.flatten()[:, None] * weight[indices.flatten()]
    out.index_put_((group, rows), terms, accumulate=True)
    return out.cumsum(0) + bias


def sparse_decode_backward(
    grad: Tensor,
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    weight: Tensor,
    prefixes: list[int],
) -> tuple[Tensor, Tensor]:
    """Gradients of values and weight for ``grad``, (L, N, D), summed from each prefix to the last.

    ``dv = <G_m, W[i]>`` and ``dW[f] = sum v G_m`` with ``G_m = sum_{l >= m} dL/dout_l`` of the
    feature's group m.
    """
    rows, flat = entry_rows(indices, offsets), indices.flatten()
    incoming = grad[_groups(indices, prefixes), rows]
    for_values = (incoming * weight[flat]).sum(1).view_as(values)
    for_weight = torch.zeros_like(weight).index_add_(0, flat, values.flatten()[:, None] * incoming)
    return for_values, for_weight


def sparse_encode_backward(
    grad: Tensor,
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    x: Tensor,
    shift: Tensor | None,
    features: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of the encoder's weight, (F, D), and bias, (F,), through positive entries only.

    ``dW[f] = sum dv (x_n - shift)``, ``db[f] = sum dv``.
    """
    scale = torch.where(values > 0, grad, 0).flatten()
    flat = indices.flatten()
    centred = x if shift is None else x - shift
    terms = scale[:, None] * centred[entry_rows(indices, offsets)]
    for_weight = x.new_zeros(features, x.shape[1]).index_add_(0, flat, terms)
    return for_weight, x.new_zeros(features).index_add_(0, flat, scale)
