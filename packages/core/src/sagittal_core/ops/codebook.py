r"""Nearest codes of a codebook, and the sums that update it.

With :math:`s_{nj} = \langle z_n, e_j\rangle - \tfrac12\|e_j\|^2 + b_{nj}` the nearest code of
:math:`z_n` is :math:`\arg\max_j s_{nj}` (b = 0), since
:math:`\|z_n - e_j\|^2 = \|z_n\|^2 - 2 s_{nj}`. The N x K matrix of scores is never stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sagittal_core.ops import _library, _native
from sagittal_core.ops import reference_codebook as reference

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def codebook_lookup(
    z: Tensor,  # (N, D)
    codebook: Tensor,  # (K, D)
    bias: Tensor | None = None,  # (K,) or (N, K)
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    """The codes with the highest ``<z_n, e_j> - ||e_j||^2 / 2 + bias``: the nearest, without bias.

    Equal scores go to the lowest index, on every backend. Scores are differentiable with respect
    to ``z``, ``codebook`` and ``bias`` with the choice held fixed: the gradient of ``s_n`` is
    ``e_j`` for ``z_n`` and ``z_n - e_j`` for the chosen ``e_j``. Indices carry no gradient. Twice
    differentiable.

    With the environment variable ``SAGITTAL_TENSOR_CORES=1`` (default 0, read at every call) tensor
    cores look for the best code on CUDA if ``k`` is 1 and nothing is float64. They only choose
    candidates, within a bound of their error; float32 sums decide, so indices and scores are bit
    for bit those of the ordinary kernel. Where nearly all codes lie within that bound, as when rows
    and codes are far from the origin, it is slower than that one. Compiled and emulated, never run
    on a GPU.

    Args:
        z: (N, D) float32, float64, float16 or bfloat16; finite.
        codebook: (K, D), K >= 1, any of these dtypes; finite.
        bias: (K,) or (N, K), dtype of the scores; -inf rules a code out.
        k: How many codes of each row, at most K.

    Returns:
        Indices int64 and scores. Both are (N,) for ``k=1``, otherwise (N, k), best first. Scores
        are float64 if ``z`` or ``codebook`` is, otherwise float32, which is also what sums are
        held in. ``||z_n||^2 - 2 * score`` is the squared distance. Scores must stay in the range
        of their dtype.

    Raises:
        TypeError: A dtype is not one of those above.
        ValueError: Shapes do not fit, or ``k`` is not in [1, K].
        RuntimeError: ``z`` or ``codebook`` holds NaN or infinity, or ``bias`` NaN or +inf; on CUDA
            also if ``SAGITTAL_TENSOR_CORES`` is neither 0 nor 1, or 1 on a GPU older than 8.0.
    """
    _check_matrix("z", z)
    _check_matrix("codebook", codebook)
    if z.shape[1] != codebook.shape[1] or not len(codebook):
        raise ValueError(
            f"z must be (N, D) and codebook (K, D) with K >= 1, got {tuple(z.shape)} and "
            f"{tuple(codebook.shape)}"
        )
    if not 1 <= k <= len(codebook):
        raise ValueError(f"k must be in [1, {len(codebook)}], got {k}")
    if bias is not None:
        dtype, fits = reference.scores_dtype(z, codebook), (len(z), len(codebook))
        if bias.dtype != dtype:
            raise TypeError(f"bias must be {dtype} as the scores, got {bias.dtype}")
        if bias.shape not in (fits, fits[1:]):
            raise ValueError(f"bias must be {fits[1:]} or {fits}, got {tuple(bias.shape)}")
    _native.load()
    scores, indices = torch.ops.sagittal.codebook_lookup(z, codebook, bias, k)
    return (indices[:, 0], scores[:, 0]) if k == 1 else (indices, scores)


def codebook_sums(z: Tensor, indices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the rows that chose each code.

    Rows are summed in order of (code, row) in fixed chunks: the same bits on any number of threads,
    and no M x K one-hot matrix. Differentiable with respect to ``z``.

    Args:
        z: (M, D) float32, float64, float16 or bfloat16.
        indices: (M,) int64 in [0, size).
        size: Number of codes K >= 1.

    Returns:
        Counts (K,) int64 and sums (K, D), float64 if ``z`` is, otherwise float32. A code without
        rows has zeros.

    Raises:
        TypeError: A dtype is not one of those above.
        ValueError: Shapes do not fit, or ``size`` < 1.
        RuntimeError: An index is out of range.
    """
    _check_matrix("z", z)
    if indices.dtype != torch.int64:
        raise TypeError(f"indices must be int64, got {indices.dtype}")
    if indices.shape != z.shape[:1] or size < 1:
        raise ValueError(
            f"indices must be (M,) for z (M, D) and size >= 1, got {tuple(indices.shape)}, "
            f"{tuple(z.shape)} and {size}"
        )
    _native.load()
    sums, counts = torch.ops.sagittal.codebook_sums(z, indices, size)
    return counts, sums


def _check_matrix(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if tensor.dim() != 2:
        raise ValueError(f"{name} must have two dimensions, got {tuple(tensor.shape)}")


# --- registration ---------------------------------------------------------------------------------


def _fake_lookup(z: Tensor, codebook: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    scores = z.new_empty(z.shape[0], k, dtype=reference.scores_dtype(z, codebook))
    return scores, z.new_empty(z.shape[0], k, dtype=torch.int64)


def _fake_sums(z: Tensor, indices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    sums = z.new_empty(size, z.shape[1], dtype=reference.scores_dtype(z))
    return sums, z.new_empty(size, dtype=torch.int64)


def _setup_lookup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, codebook, bias, _ = inputs
    ctx.save_for_backward(z, codebook, output[1])
    ctx.bias_shape = None if bias is None else bias.shape


def _lookup_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    z, codebook, indices = ctx.saved_tensors  # (N, D), (K, D), (N, k); grad (N, k)
    for_z = for_codebook = for_bias = None
    codes = codebook.to(grad.dtype)
    if ctx.needs_input_grad[0]:
        for_z = (grad[..., None] * codes[indices]).sum(1).to(z.dtype)
    shared = ctx.bias_shape is not None and len(ctx.bias_shape) == 1
    if ctx.needs_input_grad[1] or (ctx.needs_input_grad[2] and shared):
        # One column more than z: the sum of the gradients themselves.
        ones = torch.cat([z.to(grad.dtype), grad.new_ones(len(z), 1)], 1)
        weighted = (grad[..., None] * ones[:, None]).flatten(0, 1)
        sums, _ = torch.ops.sagittal.codebook_sums(weighted, indices.flatten(), len(codebook))
        for_codebook = (sums[:, :-1] - sums[:, -1:] * codes).to(codebook.dtype)
        for_bias = sums[:, -1].clone() if shared else None
    if ctx.needs_input_grad[2] and not shared:
        for_bias = grad.new_zeros(ctx.bias_shape).scatter(1, indices, grad)
    return for_z, for_codebook, for_bias, None


def _setup_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, indices, _ = inputs
    ctx.save_for_backward(indices)
    ctx.dtype = z.dtype


def _sums_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (indices,) = ctx.saved_tensors
    return grad[indices].to(ctx.dtype), None, None


_library.register("codebook_lookup", reference.codebook_lookup, _fake_lookup)
_library.register("codebook_sums", reference.codebook_sums, _fake_sums)
for _name, _backward, _setup in (
    ("codebook_lookup", _lookup_backward, _setup_lookup),
    ("codebook_sums", _sums_backward, _setup_sums),
):
    torch.library.register_autograd(
        f"sagittal::{_name}", _backward, setup_context=_setup, lib=_library.LIB
    )
