r"""Top-k sparse encoding and decoding: the two halves of a sparse autoencoder.

.. math:: p = \mathrm{relu}((x - b_d) W_e^T + b_e), \quad (i, v) = \mathrm{topk}(p), \quad
          \hat x = b_d + \sum_j v_j W_d[i_j]

(Makhzani and Frey, k-Sparse Autoencoders, 2013; Gao et al., Scaling and evaluating sparse
autoencoders, 2024; BatchTopK: Bussmann et al., 2024). Neither the (N, F) matrix of activations
nor a (N, k, D) temporary exists, forward or backward: memory grows with N k and F D.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sagittal_core.ops import _library, _native, reference_sparse

_MODES = ("topk", "batchtopk", "threshold")


class SparseCodes(NamedTuple):
    """The non-zero entries of N sparse rows, by value descending, equal values by index.

    Attributes:
        indices: int64, (N, k), or (nnz,) with ``offsets``.
        values: Shape of ``indices``, real.
        offsets: (N + 1,) int64 bounds of the rows, as in the CSR format; None for (N, k).
    """

    indices: Tensor
    values: Tensor
    offsets: Tensor | None = None

    def to_csr(self) -> SparseCodes:
        """The same codes with ``offsets`` and without the zeros that fill rows up to k."""
        if self.offsets is not None:
            return self
        kept = self.values != 0
        offsets = reference_sparse.row_offsets(kept.sum(1))
        return SparseCodes(self.indices[kept], self.values[kept], offsets)


def topk_encode(
    x: Tensor,  # (N, D)
    W_e: Tensor,  # (F, D)
    b_e: Tensor,  # (F,)
    k: int | None = None,
    mode: str = "topk",
    *,
    b_d: Tensor | None = None,  # (D,)
    threshold: float | Tensor | None = None,  # scalar or (F,)
) -> SparseCodes:
    """Select the active features of ``p = relu((x - b_d) W_e^T + b_e)``.

    Differentiable with respect to ``x``, ``W_e``, ``b_e`` and ``b_d``, through the selected
    positive entries only. The threshold gets no gradient.

    Args:
        x: (N, D) float32 or float64; N may be 0.
        W_e: (F, D), dtype of ``x``.
        b_e: (F,), dtype of ``x``.
        k: Features of a row, 1 <= k <= F, in the modes topk and batchtopk (there on average).
        mode: ``"topk"``: the ``k`` largest of each row, (N, k); a row with fewer positive ones
            goes on with value 0 at the lowest indices that are not positive. ``"batchtopk"``: the
            ``N k`` largest positive ones of the batch. ``"threshold"``: all that are positive and
            above ``threshold``, unchanged (a JumpReLU).
        b_d: Subtracted from ``x``, the decoder's bias; None for zero.
        threshold: Scalar or (F,), for the mode threshold.

    Returns:
        Codes of N rows; ``offsets`` is None in the mode topk only.

    Raises:
        TypeError: dtypes differ or are not float32 or float64.
        ValueError: Shapes, ``k``, ``mode`` and ``threshold`` do not fit.
        RuntimeError: A pre-activation is NaN.
    """
    features = _check_weight(W_e, "W_e", x.shape[-1] if x.dim() == 2 else -1)
    if x.dim() != 2:
        raise ValueError(f"x must be (N, D), got {tuple(x.shape)}")
    _check_vector(b_e, "b_e", features)
    if b_d is not None:
        _check_vector(b_d, "b_d", x.shape[1])
    _check_dtype(x, W_e=W_e, b_e=b_e, b_d=b_d)
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}; got {mode!r}")
    if (threshold is not None) != (mode == "threshold"):
        raise ValueError(f"threshold belongs to the mode threshold; got {threshold} in {mode}")
    _native.load()
    if mode == "threshold":
        limit = torch.as_tensor(threshold, dtype=x.dtype, device=x.device).detach().reshape(-1)
        if limit.shape[0] not in (1, features):
            raise ValueError(f"threshold must be a scalar or ({features},), got {limit.shape[0]}")
        if bool(limit.isnan().any()):
            raise ValueError("threshold must not be NaN")
        values, indices, offsets = torch.ops.sagittal.threshold_encode(x, W_e, b_e, b_d, limit)
        return SparseCodes(indices, values, offsets)
    if k is None or not 1 <= k <= features:
        raise ValueError(f"k must be between 1 and F = {features}, got {k}")
    if mode == "batchtopk":
        values, indices, offsets = torch.ops.sagittal.batchtopk_encode(x, W_e, b_e, b_d, k)
        return SparseCodes(indices, values, offsets)
    values, indices = torch.ops.sagittal.topk_encode(x, W_e, b_e, b_d, k)
    return SparseCodes(indices, values)


def sparse_decode(
    indices: Tensor,  # (N, k) or (nnz,)
    values: Tensor,  # (N, k) or (nnz,)
    W_d: Tensor,  # (F, D)
    b_d: Tensor,  # (D,)
    *,
    offsets: Tensor | None = None,  # (N + 1,)
    prefixes: list[int] | None = None,
) -> Tensor:
    """``b_d + sum_j v_j W_d[i_j]`` of every row.

    Differentiable with respect to ``values``, ``W_d`` and ``b_d``. The backward pass visits the
    entries sorted by feature once, in a fixed order: equal bits on any number of threads.

    Args:
        indices: int64 features, 0 <= i < F, repeated ones add up.
        values: Shape of ``indices``, float32 or float64.
        W_d: (F, D), dtype of ``values``; rows are the features' directions.
        b_d: (D,), dtype of ``values``.
        offsets: (N + 1,) int64 row bounds of flat codes (CSR); None for (N, k).
        prefixes: Ascending ends of nested sets of features, the last one F: one reconstruction
            each, from the features below it (Matryoshka; Bussmann et al., 2025), in one pass.

    Returns:
        (N, D), or (L, N, D) for L prefixes.

    Raises:
        TypeError: dtypes differ or are not float32 or float64, or integers are not int64.
        ValueError: Shapes or prefixes do not fit.
        RuntimeError: An index is out of range, or offsets do not rise from 0 to nnz.
    """
    features = _check_weight(W_d, "W_d")
    _check_vector(b_d, "b_d", W_d.shape[1])
    _check_dtype(values, "values", W_d=W_d, b_d=b_d)
    _check_codes(indices, values, offsets)
    ends = [features] if prefixes is None else [int(end) for end in prefixes]
    if not ends or ends[-1] != features or any(a >= b for a, b in pairwise([0, *ends])):
        raise ValueError(f"prefixes must rise to F = {features}, got {prefixes}")
    _native.load()
    out = torch.ops.sagittal.sparse_decode(indices, values, offsets, W_d, b_d, ends)
    return out[0] if prefixes is None else out


def topk_select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest entries of every row, in an order that every backend keeps.

    Differentiable with respect to ``scores``.

    Args:
        scores: (N, F) float32 or float64, infinities allowed.
        k: 1 <= k <= F.

    Returns:
        Indices, int64, and values, both (N, k): by value descending, equal values by index.

    Raises:
        TypeError: ``scores`` is not float32 or float64.
        ValueError: ``scores`` is not (N, F), or ``k`` is out of range.
        RuntimeError: A score is NaN.
    """
    _check_dtype(scores, "scores")
    if scores.dim() != 2 or not 1 <= k <= scores.shape[1]:
        raise ValueError(f"scores must be (N, F) and 1 <= k <= F, got {tuple(scores.shape)}, k {k}")
    _native.load()
    values, indices = torch.ops.sagittal.topk_select(scores, k)
    return indices, values


def _check_weight(weight: Tensor, name: str, width: int | None = None) -> int:
    """Return F."""
    if weight.dim() != 2 or 0 in weight.shape or width not in (None, -1, weight.shape[1]):
        wanted = "(F, D)" if width in (None, -1) else f"(F, {width})"
        raise ValueError(f"{name} must be {wanted}, not empty, got {tuple(weight.shape)}")
    return weight.shape[0]


def _check_vector(vector: Tensor, name: str, length: int) -> None:
    if vector.shape != (length,):
        raise ValueError(f"{name} must be ({length},), got {tuple(vector.shape)}")


def _check_dtype(first: Tensor, first_name: str = "x", **others: Tensor | None) -> None:
    if first.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{first_name} must be float32 or float64, got {first.dtype}; convert it with .float()"
        )
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != first.dtype:
            raise TypeError(f"{name} must be {first.dtype} as {first_name}, got {tensor.dtype}")


def _check_codes(indices: Tensor, values: Tensor, offsets: Tensor | None) -> None:
    if indices.dtype != torch.int64 or (offsets is not None and offsets.dtype != torch.int64):
        raise TypeError("indices and offsets must be int64")
    dims = 2 if offsets is None else 1
    if indices.dim() != dims or indices.shape != values.shape:
        raise ValueError(
            f"indices and values must both be {'(N, k)' if dims == 2 else '(nnz,)'}, got "
            f"{tuple(indices.shape)} and {tuple(values.shape)}"
        )
    if offsets is not None and (offsets.dim() != 1 or len(offsets) == 0):
        raise ValueError(f"offsets must be (N + 1,), got {tuple(offsets.shape)}")


# --- registration ---------------------------------------------------------------------------------


def _batchtopk_encode(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row-wise candidates, then the global limit; rows that ran out of candidates are redone.

    A row is redone, with twice the candidates, when even its last one reaches the limit. The limit
    only rises with more candidates, so a row that is done stays done.
    """
    features, budget = weight.shape[0], k * len(x)
    width = min(features, 4 * k)
    pending = torch.arange(len(x), device=x.device)
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    while True:
        part = x if len(pending) == len(x) else x[pending]
        values, indices = torch.ops.sagittal.topk_encode(part, weight, bias, shift, width)
        pool = torch.cat([values[values > 0], *(v for v, _, _ in done)])
        rest = len(pool) - budget
        limit = pool.kthvalue(rest + 1).values if rest > 0 else pool.new_zeros(())
        kept = (values > 0) & (values >= limit)
        short = kept[:, -1] if width < features else torch.zeros_like(kept[:, -1])
        kept = kept & ~short[:, None]
        rows = pending[:, None].expand_as(kept)
        done.append((values[kept], indices[kept], rows[kept]))
        if not bool(short.any()):
            break
        pending, width = pending[short], min(features, 2 * width)
    values, indices, rows = (torch.cat(parts) for parts in zip(*done, strict=True))
    return _within_limit(values, indices, rows, limit, len(x), budget)


def _within_limit(
    values: Tensor, indices: Tensor, rows: Tensor, limit: Tensor, count: int, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries above the limit, and the first ones equal to it, as many as the budget allows."""
    order = rows.argsort(stable=True)
    values, indices, rows = values[order], indices[order], rows[order]
    above, ties = values > limit, values == limit
    kept = above | (ties & (ties.cumsum(0) <= budget - above.sum()))
    offsets = reference_sparse.row_offsets(rows[kept].bincount(minlength=count))
    return values[kept], indices[kept], offsets


def _fake_topk(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    return _fake_select(x, k)


def _fake_entries(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty(x.shape[0] + 1, dtype=torch.int64)
    return x.new_empty(count), x.new_empty(count, dtype=torch.int64), offsets


def _fake_select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n = scores.shape[0]
    return scores.new_empty(n, k), scores.new_empty(n, k, dtype=torch.int64)


def _fake_decode(
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    prefixes: list[int],
) -> Tensor:
    count = indices.shape[0] if offsets is None else offsets.shape[0] - 1
    return weight.new_empty(len(prefixes), count, weight.shape[1])


def _fake_decode_backward(
    grad: Tensor,
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    weight: Tensor,
    prefixes: list[int],
) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), weight.new_empty(weight.shape)


def _fake_encode_backward(
    grad: Tensor,
    indices: Tensor,
    values: Tensor,
    offsets: Tensor | None,
    x: Tensor,
    shift: Tensor | None,
    features: int,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(features, x.shape[1]), x.new_empty(features)


def _setup_encode(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, shift, _ = inputs
    values, indices, *offsets = output
    ctx.mark_non_differentiable(indices, *offsets)
    ctx.save_for_backward(x, weight, shift, values, indices, *offsets)


def _encode_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, shift, values, indices, *flat = ctx.saved_tensors
    offsets = flat[0] if flat else None
    for_x = for_weight = for_bias = for_shift = None
    if ctx.needs_input_grad[0]:
        active = torch.where(values > 0, grad, 0)
        zero = weight.new_zeros(weight.shape[1])
        ends = [weight.shape[0]]
        for_x = torch.ops.sagittal.sparse_decode(indices, active, offsets, weight, zero, ends)[0]
    if any(ctx.needs_input_grad[1:4]):
        for_weight, for_bias = torch.ops.sagittal.sparse_encode_backward(
            grad, indices, values, offsets, x, shift, weight.shape[0]
        )
        # - sum_n dx_n, one matrix-vector product instead of a pass over the rows.
        for_shift = -(for_bias @ weight) if ctx.needs_input_grad[3] else None
    return for_x, for_weight, for_bias, for_shift, None


def _setup_select(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.features = inputs[0].shape[1]


def _select_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
    (indices,) = ctx.saved_tensors
    return grad.new_zeros(grad.shape[0], ctx.features).scatter_(1, indices, grad), None


def _setup_decode(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    indices, values, offsets, weight, _, ctx.prefixes = inputs
    ctx.save_for_backward(indices, values, offsets, weight)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # A feature of group m is part of every reconstruction from the m-th on.
    grad = grad.flip(0).cumsum(0).flip(0) if len(grad) > 1 else grad
    for_values = for_weight = None
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
        for_values, for_weight = torch.ops.sagittal.sparse_decode_backward(
            grad, *ctx.saved_tensors, ctx.prefixes
        )
    for_bias = grad[0].sum(0) if ctx.needs_input_grad[4] else None
    return None, for_values, None, for_weight, for_bias, None


_library.register("topk_encode", reference_sparse.topk_encode, _fake_topk)
_library.register("threshold_encode", reference_sparse.threshold_encode, _fake_entries)
_library.register("topk_select", reference_sparse.topk_select, _fake_select)
_library.register("sparse_decode", reference_sparse.sparse_decode, _fake_decode)
_library.register(
    "sparse_decode_backward", reference_sparse.sparse_decode_backward, _fake_decode_backward
)
_library.register(
    "sparse_encode_backward", reference_sparse.sparse_encode_backward, _fake_encode_backward
)
# No kernel of its own: it is made of topk_encode's, on every device.
_library.LIB.impl("batchtopk_encode", _batchtopk_encode, "CompositeExplicitAutograd")
torch.library.register_fake("sagittal::batchtopk_encode", _fake_entries, lib=_library.LIB)
for _name, _backward, _setup in (
    ("topk_encode", _encode_backward, _setup_encode),
    ("batchtopk_encode", _encode_backward, _setup_encode),
    ("threshold_encode", _encode_backward, _setup_encode),
    ("topk_select", _select_backward, _setup_select),
    ("sparse_decode", _decode_backward, _setup_decode),
):
    torch.library.register_autograd(
        f"sagittal::{_name}", _backward, setup_context=_setup, lib=_library.LIB
    )
