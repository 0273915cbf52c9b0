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
from torch.autograd.forward_ad import unpack_dual

from sagittal_core.ops import _library, _native, reference
from sagittal_core.ops.gridding import check_trajectory
from sagittal_core.ops.nufft import nufft_type1

# The kernel is computed once per trajectory, always in double precision.
_KERNEL_TOL = {torch.float32: 1e-9, torch.float64: 1e-12}
# Coils go through together as long as their spectra stay in a shared cache.
_SPECTRUM_BYTES = 4 << 20
# As in csrc/nufft/fft.h.
_LARGEST_PRIME = 127


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
        (2**d, *N) or (T, 2**d, *N) real, dtype of ``trajectory``, differentiable with respect to
        weights and trajectory. Needs working memory for about 4**d times the image in complex128.

    Raises:
        TypeError: dtypes differ or are not real.
        ValueError: Shapes do not fit, weights are negative or not finite, the trajectory is out of
            range.
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
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("weights must be >= 0 and finite")
    if not all(frames):
        return weights.new_zeros(*frames, 2 ** len(shape), *shape)
    double = tuple(2 * n for n in shape)
    samples = weights.double().expand(*frames, trajectory.shape[-2]).to(torch.complex128)
    omega = trajectory.double()
    response = nufft_type1(samples, omega, double, _KERNEL_TOL[trajectory.dtype])
    axes = tuple(range(-len(shape), 0))
    # Lag -N occurs in no difference of two pixels, and has no partner at +N.
    paired = torch.ones(double, dtype=torch.float64, device=omega.device)
    for axis in axes:
        paired.select(axis, 0).zero_()
    response = response * paired
    spectrum = torch.fft.fftn(torch.fft.ifftshift(response, dim=axes), dim=axes).real
    phases = []
    for bits in itertools.product((0, 1), repeat=len(shape)):
        bins = (..., *(slice(bit, None, 2) for bit in bits))
        phases.append(spectrum[bins])
    kernel = torch.stack(phases, -len(shape) - 1) / 2 ** len(shape)
    return kernel.to(trajectory.dtype).contiguous()


def _modulation(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``exp(-i pi k / n)`` for k = 0..n-1."""
    phase = torch.arange(n, dtype=torch.float64, device=device) * (-math.pi / n)
    return torch.polar(torch.ones_like(phase), phase).to(dtype)


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
        TypeError: dtypes do not match, or ``lam`` is complex.
        ValueError: Shapes or devices do not fit.
        NotImplementedError: In forward-mode differentiation.
    """
    kernel = _check_normal(image, maps, kernel)
    if isinstance(lam, complex) or (isinstance(lam, Tensor) and lam.is_complex()):
        raise TypeError("lam must be real")
    weight = torch.as_tensor(lam, dtype=image.dtype.to_real(), device=image.device).reshape(-1)
    if weight.shape[0] not in (1, image.shape[0]):
        raise ValueError(f"lam must be a scalar or ({image.shape[0]},), got {tuple(weight.shape)}")
    _native.load()
    if image.numel() == 0 or maps.shape[1] == 0:
        return image * weight.reshape(-1, *(1,) * (image.dim() - 1))
    if image.device.type == "cpu" and fits_one_operator(tuple(image.shape[1:])):
        return torch.ops.sagittal.toeplitz_normal(image, maps, kernel, weight)
    return _by_passes(image, maps, kernel, weight)


def fits_one_operator(shape: tuple[int, ...]) -> bool:
    """Whether one operator computes images of this shape on the CPU, transforms included.

    That needs lengths without a prime factor above 127. Others, and other devices, go through an
    operator for each pass, with the transforms of torch in between; results agree to rounding.
    """
    return all(_has_small_factors(int(n)) for n in shape)


@lru_cache(maxsize=256)
def _has_small_factors(n: int) -> bool:
    for factor in range(2, _LARGEST_PRIME + 1):
        while n > 1 and n % factor == 0:
            n //= factor
    return n == 1


def _groups(image: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
    """Maps of coils that go through the passes together."""
    each = image.numel() * image.element_size() * 2 ** (image.dim() - 1)
    return maps.split(max(1, _SPECTRUM_BYTES // each), 1)


def _by_passes(image: Tensor, maps: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
    """The operator as passes between FFTs of torch, in any dimension and for any length."""
    out = image * weight.reshape(-1, *(1,) * (image.dim() - 1))
    first = _modulation(image.shape[1], image.dtype, image.device)
    for part in _groups(image, maps):
        coils = _filtered(_spectra(image, part), kernel)
        out = torch.ops.sagittal.toeplitz_reduce(coils, part, first, out)
    return out


def _spectra(image: Tensor, maps: Tensor) -> Tensor:
    """Spectra of all phases of some coil images: (B, C, 2**d, *N).

    The transform of an axis is shared by all phases of the axes after it, and runs along the last,
    contiguous axis: the operators between the transforms turn the next axis there. In two
    dimensions that leaves 12 of the 16 passes of one-dimensional transforms, in three 28 of 48.
    """
    shape, ops = tuple(image.shape[1:]), torch.ops.sagittal
    modulations = [_modulation(n, image.dtype, image.device) for n in shape]
    spectrum = torch.fft.fft(ops.toeplitz_expand(image, maps, modulations[0]))
    for n, modulation in zip(shape[1:], modulations[1:], strict=True):
        rest = math.prod(shape) // n
        spectrum = torch.fft.fft(ops.toeplitz_turn(spectrum.reshape(-1, n, rest), modulation))
    return spectrum.reshape(image.shape[0], maps.shape[1], 2 ** len(shape), *shape)


def _filtered(spectra: Tensor, kernel: Tensor) -> Tensor:
    """Turned coil images (B, C, 2, N1, .., N0) of spectra times the kernel."""
    shape, ops = tuple(kernel.shape[2:]), torch.ops.sagittal
    spectrum = ops.toeplitz_filter(spectra, kernel)
    for n in shape[:0:-1]:
        rest = math.prod(shape) // n
        coils = torch.fft.ifft(spectrum.reshape(-1, 2, rest, n))
        spectrum = ops.toeplitz_unturn(coils, _modulation(n, spectra.dtype, spectra.device))
    return torch.fft.ifft(spectrum.reshape(*spectra.shape[:2], 2, *shape[1:], shape[0]))


def _check_normal(image: Tensor, maps: Tensor, kernel: Tensor) -> Tensor:
    """Return the kernel as (B or 1, 2**d, *N)."""
    if not image.is_complex() or maps.dtype != image.dtype:
        raise TypeError(
            f"image and maps must be complex of one dtype, got {image.dtype} and {maps.dtype}"
        )
    if kernel.dtype != image.dtype.to_real():
        raise TypeError(f"kernel must be {image.dtype.to_real()}, got {kernel.dtype}")
    if len({image.device, maps.device, kernel.device}) > 1:
        raise ValueError(
            f"image is on {image.device}, maps on {maps.device}, kernel on {kernel.device}"
        )
    if any(unpack_dual(x).tangent is not None for x in (image, maps, kernel)):
        # Operators of torch.library would drop the tangent without a word.
        raise NotImplementedError("toeplitz_normal has no forward-mode derivative; use vjp or grad")
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
    return image.new_empty(image.shape[0], maps.shape[1], 2, *image.shape[2:], image.shape[1])


def _fake_turn(x: Tensor, modulation: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], 2, x.shape[2], x.shape[1])


def _fake_unturn(x: Tensor, modulation: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[3], x.shape[2])


def _fake_filter(spectrum: Tensor, kernel: Tensor) -> Tensor:
    return spectrum.new_empty(spectrum.shape)


def _fake_reduce(coil_images: Tensor, maps: Tensor, modulation: Tensor, partial: Tensor) -> Tensor:
    return partial.new_empty(partial.shape)


def _unturned(x: Tensor, modulation: Tensor) -> Tensor:
    """Unturn (B, C, 2, N1, .., N0) -> (B, C, *N)."""
    n, inner = x.shape[-1], x.shape[3:-1]
    flat = x.reshape(math.prod(x.shape[:2]), 2, math.prod(inner), n)
    return torch.ops.sagittal.toeplitz_unturn(flat, modulation).reshape(*x.shape[:2], n, *inner)


def _setup_expand(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, maps, modulation = inputs
    ctx.save_for_backward(image if ctx.needs_input_grad[1] else None, maps, modulation)


def _expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, maps, modulation = ctx.saved_tensors
    for_image = for_maps = None
    if ctx.needs_input_grad[0]:
        empty = grad.new_zeros(grad.shape[0], grad.shape[-1], *grad.shape[3:-1])
        for_image = torch.ops.sagittal.toeplitz_reduce(grad, maps, modulation, empty)
    if ctx.needs_input_grad[1]:
        for_maps = _like_batch(image.conj()[:, None] * _unturned(grad, modulation), maps)
    return for_image, for_maps, None


def _setup_turn(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _turn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.sagittal.toeplitz_unturn(grad, *ctx.saved_tensors), None


def _unturn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.sagittal.toeplitz_turn(grad, *ctx.saved_tensors), None


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
        moved = grad.conj()[:, None] * _unturned(coil_images, modulation)
        for_maps = _like_batch(moved, maps)
    # A copy: an operator's gradient must not be the tensor it was given.
    return for_coils, for_maps, None, grad.clone() if ctx.needs_input_grad[3] else None


def _fake_normal(image: Tensor, maps: Tensor, kernel: Tensor, lam: Tensor) -> Tensor:
    return image.new_empty(image.shape)


def _setup_normal(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, maps, kernel, lam = inputs
    ctx.save_for_backward(image if any(ctx.needs_input_grad[1:]) else None, maps, kernel, lam)


def _normal_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, maps, kernel, lam = ctx.saved_tensors
    for_image = for_maps = for_kernel = for_lam = None
    if ctx.needs_input_grad[0]:
        for_image = torch.ops.sagittal.toeplitz_normal(grad, maps, kernel, lam)
    if any(ctx.needs_input_grad[1:3]):
        for_maps, for_kernel = _normal_parameters(image, maps, kernel, grad)
    if ctx.needs_input_grad[3]:
        for_lam = _like_batch((image.conj() * grad).real.flatten(1).sum(1), lam)
    return for_image, for_maps, for_kernel, for_lam


def _normal_parameters(
    image: Tensor, maps: Tensor, kernel: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of maps and kernel, from spectra computed anew by the passes."""
    first = _modulation(image.shape[1], image.dtype, image.device)
    of_maps, of_kernel = [], torch.zeros_like(kernel)
    for part in _groups(image, maps):
        forward, backward = _spectra(image, part), _spectra(grad, part)
        moved = image.conj()[:, None] * _unturned(_filtered(backward, kernel), first)
        moved = moved + grad.conj()[:, None] * _unturned(_filtered(forward, kernel), first)
        of_maps.append(_like_batch(moved, maps))
        of_kernel = of_kernel + _like_batch((forward.conj() * backward).real.sum(1), kernel)
    return torch.cat(of_maps, 1), of_kernel / math.prod(image.shape[1:])


_library.register("toeplitz_normal", reference.toeplitz_normal, _fake_normal)
_library.register("toeplitz_expand", reference.toeplitz_expand, _fake_expand)
_library.register("toeplitz_turn", reference.toeplitz_turn, _fake_turn)
_library.register("toeplitz_unturn", reference.toeplitz_unturn, _fake_unturn)
_library.register("toeplitz_filter", reference.toeplitz_filter, _fake_filter)
_library.register("toeplitz_reduce", reference.toeplitz_reduce, _fake_reduce)
for _name, _backward, _setup in (
    ("toeplitz_normal", _normal_backward, _setup_normal),
    ("toeplitz_expand", _expand_backward, _setup_expand),
    ("toeplitz_turn", _turn_backward, _setup_turn),
    ("toeplitz_unturn", _unturn_backward, _setup_turn),
    ("toeplitz_filter", _filter_backward, _setup_filter),
    ("toeplitz_reduce", _reduce_backward, _setup_reduce),
):
    torch.library.register_autograd(
        f"sagittal::{_name}", _backward, setup_context=_setup, lib=_library.LIB
    )
