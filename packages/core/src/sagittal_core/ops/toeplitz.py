r"""The normal operator of a non-uniform transform, as a convolution.

:math:`T = A^H W A` depends on pixel differences only. It is applied in its polyphase form, whose
FFTs have the size of the image instead of twice that:

.. math:: T x = \sum_c \bar S_c \sum_{b\in\{0,1\}^d} \bar m_b\,
          \mathrm{IFFT}(K_b\,\mathrm{FFT}(m_b S_c x)), \quad m_b(n) = e^{-i\pi\langle b, n/N\rangle}

(even and odd bins of the zero-padded transform; the padded form: Fessler et al., IEEE TSP 53,
2005).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sagittal_core.ops import _library, _native, reference
from sagittal_core.ops.gridding import check_trajectory, fourier
from sagittal_core.ops.nufft import nufft_type1

# The kernel is computed once per trajectory, always in double precision.
_KERNEL_TOL = {torch.float32: 1e-9, torch.float64: 1e-12}


def toeplitz_kernel(trajectory: Tensor, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Spectrum of the convolution ``A^H W A``.

    The kernel is linear in the weights: kernels of groups of samples add up to the kernel of
    their union, so a random subset of groups costs additions and no transform. It is exactly
    real, which makes the operator exactly self-adjoint.

    Args:
        trajectory: (M, d) or (T, M, d), float32 or float64, radians per pixel in [-pi, pi].
        weights: (M,) or (T, M), the dtype of ``trajectory``, >= 0. (T, M) with one trajectory
            (M, d) gives T kernels of the same trajectory, for example one per group of spokes.
        shape: Image shape N, d entries.

    Returns:
        (2**d, *N) or (T, 2**d, *N) real, dtype of ``trajectory``, no gradient. Needs working
        memory for about 4**d times the image in complex128.

    Raises:
        TypeError: dtypes differ or are not real.
        ValueError: Shapes do not fit, weights are negative or NaN, the trajectory is out of range.
    """
    shape = tuple(int(n) for n in shape)
    check_trajectory(trajectory, shape)
    if weights.dtype != trajectory.dtype:
        raise TypeError(
            f"weights must be {trajectory.dtype} as the trajectory, got {weights.dtype}"
        )
    frames = trajectory.shape[:-2] or weights.shape[:-1]
    if weights.dim() not in (1, 2) or weights.shape not in (
        (*frames, trajectory.shape[-2]),
        (trajectory.shape[-2],),
    ):
        raise ValueError(
            f"weights {tuple(weights.shape)} do not fit trajectory {tuple(trajectory.shape)}"
        )
    if not bool((weights >= 0).all()):
        raise ValueError("weights must be >= 0 and not NaN")
    double = tuple(2 * n for n in shape)
    samples = weights.detach().double().expand(*frames, trajectory.shape[-2]).to(torch.complex128)
    omega = trajectory.detach().double()
    response = nufft_type1(samples, omega, double, _KERNEL_TOL[trajectory.dtype])
    axes = tuple(range(-len(shape), 0))
    for axis in axes:
        # Lag -N occurs in no difference of two pixels, and has no partner at +N.
        response.select(axis, 0).zero_()
    spectrum = torch.fft.fftn(torch.fft.ifftshift(response, dim=axes), dim=axes).real
    phases = []
    for bits in itertools.product((0, 1), repeat=len(shape)):
        bins = (..., *(slice(bit, None, 2) for bit in bits))
        phases.append(spectrum[bins])
    kernel = torch.stack(phases, -len(shape) - 1) / 2 ** len(shape)
    return kernel.to(trajectory.dtype).contiguous()


@lru_cache(maxsize=16)
def _modulations(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """``m_b`` for every b, each (*N)."""
    found = []
    for bits in itertools.product((0, 1), repeat=len(shape)):
        phase = torch.zeros((), dtype=torch.float64, device=device)
        for bit, n in zip(bits, shape, strict=True):
            step = bit * torch.arange(n, dtype=torch.float64, device=device) * (math.pi / n)
            phase = phase[..., None] + step
        found.append(torch.polar(torch.ones_like(phase), -phase).to(dtype))
    return tuple(found)


def toeplitz_normal(
    image: Tensor,  # (B, *N)
    maps: Tensor,  # (B, C, *N) or (1, C, *N)
    kernel: Tensor,  # (2**d, *N) or (B, 2**d, *N)
    lam: float | Tensor = 0.0,
) -> Tensor:
    """``sum_c conj(S_c) T (S_c x) + lam x``.

    Differentiable with respect to image, maps, kernel and ``lam``. The backward pass for the
    image is the operator itself and stores nothing.

    Args:
        image: (B, *N) complex.
        maps: (B, C, *N) or (1, C, *N) complex coil sensitivities, dtype of ``image``.
        kernel: (2**d, *N) or (B, 2**d, *N) real, from :func:`toeplitz_kernel`.
        lam: Number, scalar tensor or (B,) real.

    Returns:
        (B, *N).

    Raises:
        TypeError: dtypes do not match.
        ValueError: Shapes do not fit.
    """
    kernel = _check_normal(image, maps, kernel)
    _native.load()
    dims = image.dim() - 1
    weight = lam
    if isinstance(lam, Tensor) and lam.dim():
        weight = lam.reshape(-1, *(1,) * (image.dim() - 1))
    out = image * weight
    modulations = _modulations(tuple(image.shape[1:]), image.dtype, image.device)
    for phase, modulation in enumerate(modulations):
        coil_images = torch.ops.sagittal.toeplitz_expand(image, maps, modulation)
        spectrum = fourier(coil_images, dims)
        spectrum = torch.ops.sagittal.toeplitz_filter(spectrum, kernel[:, phase])
        coil_images = fourier(spectrum, dims, inverse=True)
        out = torch.ops.sagittal.toeplitz_reduce(coil_images, maps, modulation, out)
    return out


def _check_normal(image: Tensor, maps: Tensor, kernel: Tensor) -> Tensor:
    """Return the kernel as (B or 1, 2**d, *N)."""
    if not image.is_complex() or maps.dtype != image.dtype:
        raise TypeError(
            f"image and maps must be complex of one dtype, got {image.dtype} and {maps.dtype}"
        )
    if kernel.dtype != image.dtype.to_real():
        raise TypeError(f"kernel must be {image.dtype.to_real()}, got {kernel.dtype}")
    shape = tuple(image.shape[1:])
    if len(shape) not in (2, 3):
        raise ValueError(f"image must be (B, *N) in 2 or 3 dimensions, got {tuple(image.shape)}")
    batches = (1, image.shape[0])
    if maps.dim() != image.dim() + 1 or maps.shape[2:] != shape or maps.shape[0] not in batches:
        raise ValueError(
            f"maps must be (B, C, *N) for image {tuple(image.shape)}, got {tuple(maps.shape)}"
        )
    if kernel.dim() == len(shape) + 1:
        kernel = kernel[None]
    if kernel.shape[1:] != (2 ** len(shape), *shape) or kernel.shape[0] not in batches:
        raise ValueError(
            f"kernel must be ({2 ** len(shape)}, *N) or (B, {2 ** len(shape)}, *N) for image "
            f"{tuple(image.shape)}, got {tuple(kernel.shape)}"
        )
    return kernel


# --- registration ---------------------------------------------------------------------------------


def _like_batch(grad: Tensor, like: Tensor) -> Tensor:
    """Undo the broadcast of a batch of one."""
    return grad if like.shape[0] == grad.shape[0] else grad.sum(0, keepdim=True)


def _fake_expand(image: Tensor, maps: Tensor, modulation: Tensor) -> Tensor:
    return image.new_empty(image.shape[0], *maps.shape[1:])


def _fake_filter(spectrum: Tensor, kernel: Tensor) -> Tensor:
    return spectrum.new_empty(spectrum.shape)


def _fake_reduce(coil_images: Tensor, maps: Tensor, modulation: Tensor, partial: Tensor) -> Tensor:
    return partial.new_empty(partial.shape)


def _setup_expand(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, maps, modulation = inputs
    ctx.save_for_backward(image if ctx.needs_input_grad[1] else None, maps, modulation)


def _expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, maps, modulation = ctx.saved_tensors
    for_image = for_maps = None
    if ctx.needs_input_grad[0]:
        empty = grad.new_zeros(grad.shape[0], *grad.shape[2:])
        for_image = torch.ops.sagittal.toeplitz_reduce(grad, maps, modulation, empty)
    if ctx.needs_input_grad[1]:
        for_maps = _like_batch((image * modulation).conj()[:, None] * grad, maps)
    return for_image, for_maps, None


def _setup_filter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    spectrum, kernel = inputs
    ctx.save_for_backward(spectrum if ctx.needs_input_grad[1] else None, kernel)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    spectrum, kernel = ctx.saved_tensors
    for_spectrum = for_kernel = None
    if ctx.needs_input_grad[0]:
        for_spectrum = torch.ops.sagittal.toeplitz_filter(grad, kernel)
    if ctx.needs_input_grad[1]:
        for_kernel = _like_batch((spectrum.conj() * grad).real.sum(1), kernel)
    return for_spectrum, for_kernel


def _setup_reduce(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    coil_images, maps, modulation, _ = inputs
    ctx.save_for_backward(coil_images if ctx.needs_input_grad[1] else None, maps, modulation)


def _reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    coil_images, maps, modulation = ctx.saved_tensors
    for_coils = for_maps = None
    if ctx.needs_input_grad[0]:
        for_coils = torch.ops.sagittal.toeplitz_expand(grad, maps, modulation)
    if ctx.needs_input_grad[1]:
        moved = (grad.conj() * modulation.conj())[:, None] * coil_images
        for_maps = _like_batch(moved, maps)
    # A copy: an operator's gradient must not be the tensor it was given.
    return for_coils, for_maps, None, grad.clone() if ctx.needs_input_grad[3] else None


_library.register("toeplitz_expand", reference.toeplitz_expand, _fake_expand)
_library.register("toeplitz_filter", reference.toeplitz_filter, _fake_filter)
_library.register("toeplitz_reduce", reference.toeplitz_reduce, _fake_reduce)
for _name, _backward, _setup in (
    ("toeplitz_expand", _expand_backward, _setup_expand),
    ("toeplitz_filter", _filter_backward, _setup_filter),
    ("toeplitz_reduce", _reduce_backward, _setup_reduce),
):
    torch.library.register_autograd(
        f"sagittal::{_name}", _backward, setup_context=_setup, lib=_library.LIB
    )
