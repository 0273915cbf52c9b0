r"""Plain-torch definitions of every operator: the specification of the compiled kernels.

NaN and infinities propagate: a frame and coil that holds one gives NaN throughout.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def nudft_type2(image: Tensor, trajectory: Tensor) -> Tensor:
    """Direct sum ``y_m = sum_n x_n exp(-i <omega_m, n>)``: the oracle, O(N M).

    Args:
        image: (..., N1, .., Nd) complex.
        trajectory: (M, d) real, radians per pixel.

    Returns:
        (..., M) complex samples.
    """
    shape = image.shape[image.dim() - trajectory.shape[-1] :]
    phase = _direct_phases(trajectory, tuple(shape), image.dtype)
    return image.flatten(-len(shape)) @ phase.T


def nudft_type1(samples: Tensor, trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Adjoint of :func:`nudft_type2`: ``x_n = sum_m y_m exp(+i <omega_m, n>)``.

    Args:
        samples: (..., M) complex.
        trajectory: (M, d) real, radians per pixel.
        shape: Image shape.

    Returns:
        (..., N1, .., Nd) complex image.
    """
    phase = _direct_phases(trajectory, shape, samples.dtype)
    return (samples @ phase.conj()).unflatten(-1, shape)


def _direct_phases(trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    axes = [torch.arange(n, device=trajectory.device) - n // 2 for n in shape]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    return torch.exp(-1j * (trajectory @ pixels.to(trajectory.dtype).T)).to(dtype)  # (M, prod N)


def kernel_weights(points: Tensor, coefficients: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """First cell (T, M, d) int64 and weights (T, M, d, width) of the points' footprints."""
    width = coefficients.shape[1]
    first = torch.ceil(points - width / 2)
    z = (2 * (first - points + width / 2) - 1).to(dtype)[..., None]
    table = coefficients.to(dtype)
    weights = table[0].expand(*z.shape[:-1], width)
    for row in table[1:]:
        weights = weights * z + row
    return first.long(), weights


def _footprints(
    points: Tensor, coefficients: Tensor, grid_shape: tuple[int, ...], dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """Flat cell index and weight, both (T, M), of every cell of the footprint."""
    first, weights = kernel_weights(points, coefficients, dtype)
    width = coefficients.shape[1]
    cells = []
    for offset in itertools.product(range(width), repeat=len(grid_shape)):
        index = torch.zeros_like(first[..., 0])
        weight = torch.ones_like(weights[..., 0, 0])
        for axis, (j, size) in enumerate(zip(offset, grid_shape, strict=True)):
            index = index * size + (first[..., axis] + j) % size
            weight = weight * weights[..., axis, j]
        cells.append((index, weight))
    return cells


def spread(
    samples: Tensor,
    points: Tensor,
    order: Tensor,
    offsets: Tensor,
    coefficients: Tensor,
    grid_shape: list[int],
    tiles: list[int],
) -> Tensor:
    """Add samples (T, C, M), weighted by the kernel, onto periodic grids (T, C, *grid_shape).

    ``order``, ``offsets`` and ``tiles`` only say in which order compiled kernels visit the points.
    """
    shape = tuple(grid_shape)
    frames, coils, _ = samples.shape
    grid = samples.new_zeros(frames, coils, math.prod(shape))
    for index, weight in _footprints(points, coefficients, shape, samples.real.dtype):
        grid.scatter_add_(2, index[:, None].expand(-1, coils, -1), samples * weight[:, None])
    return grid.reshape(frames, coils, *shape)


def interp(
    grid: Tensor,
    points: Tensor,
    order: Tensor,
    offsets: Tensor,
    coefficients: Tensor,
    tiles: list[int],
) -> Tensor:
    """Weighted sums of periodic grids (T, C, *grid) at the points: (T, C, M), adjoint of spread."""
    flat = grid.flatten(2)
    coils = flat.shape[1]
    samples = grid.new_zeros(*flat.shape[:2], points.shape[1])
    for index, weight in _footprints(points, coefficients, grid.shape[2:], grid.real.dtype):
        samples += flat.gather(2, index[:, None].expand(-1, coils, -1)) * weight[:, None]
    return samples


def toeplitz_turn(x: Tensor, modulation: Tensor) -> Tensor:
    """``y_k0 = x_k^T`` and ``y_k1 = (m x_k)^T``: (K, n, rest), (n,) -> (K, 2, rest, n)."""
    turned = x.transpose(1, 2)
    return torch.stack([turned, turned * modulation], 1)


def toeplitz_unturn(x: Tensor, modulation: Tensor) -> Tensor:
    """Adjoint of turn, ``(x_k0 + conj(m) x_k1)^T``: (K, 2, rest, n), (n,) -> (K, n, rest)."""
    # Not conj(): its lazy view is not resolved when a compiled graph calls this function.
    summed = x[:, 0] + torch.conj_physical(modulation) * x[:, 1]
    return summed.transpose(1, 2).contiguous()


def toeplitz_expand(image: Tensor, maps: Tensor, modulation: Tensor) -> Tensor:
    """Turn ``S_bc x_b``: (B, *N), (B or 1, C, *N), (N0,) -> (B, C, 2, N1, .., N0)."""
    coils = image[:, None] * maps
    turned = toeplitz_turn(coils.flatten(0, 1).flatten(2), modulation)
    return turned.reshape(*coils.shape[:2], 2, *coils.shape[3:], coils.shape[2])


def toeplitz_filter(spectrum: Tensor, kernel: Tensor) -> Tensor:
    """Complex spectrum (B, C, *N) times a real kernel (B or 1, *N)."""
    return torch.view_as_complex(torch.view_as_real(spectrum) * kernel[:, None, ..., None])


def toeplitz_reduce(
    coil_images: Tensor, maps: Tensor, modulation: Tensor, partial: Tensor
) -> Tensor:
    """``partial_b + sum_c conj(S_bc) v_bc``, v the unturned (B, C, 2, N1, .., N0): (B, *N)."""
    lead, inner = coil_images.shape[:2], coil_images.shape[3:-1]
    flat = coil_images.reshape(math.prod(lead), 2, math.prod(inner), coil_images.shape[-1])
    coils = toeplitz_unturn(flat, modulation).reshape(*lead, *partial.shape[1:])
    return partial + (torch.conj_physical(maps) * coils).sum(1)


def toeplitz_normal(image: Tensor, maps: Tensor, kernel: Tensor, lam: Tensor) -> Tensor:
    """``lam_b x_b + sum_c conj(S_bc) sum_p conj(m_p) IFFT(K_bp FFT(m_p S_bc x_b))``.

    Args:
        image: (B, *N) complex.
        maps: (B or 1, C, *N).
        kernel: (B or 1, 2**d, *N) real; phase p has one bit an axis, the first axis' the highest.
        lam: (B or 1,) real.

    Returns:
        (B, *N), where ``m_p(n) = exp(-i pi <bits of p, n / N>)``.
    """
    shape = image.shape[1:]
    axes = tuple(range(-len(shape), 0))
    grids = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64, device=image.device) / n for n in shape),
        indexing="ij",
    )
    out = image * lam.reshape(-1, *(1,) * len(shape))
    for p, bits in enumerate(itertools.product((0, 1), repeat=len(shape))):
        turns = [bit * grid for bit, grid in zip(bits, grids, strict=True)]
        angle = -math.pi * torch.stack(turns).sum(0)
        modulation = torch.polar(torch.ones_like(angle), angle).to(image.dtype)
        spectrum = torch.fft.fftn((image * modulation)[:, None] * maps, dim=axes)
        coils = torch.fft.ifftn(spectrum * kernel[:, p, None], dim=axes)
        combined = (torch.conj_physical(maps) * coils).sum(1)
        out = out + torch.conj_physical(modulation) * combined
    return out


def cg_step(
    x: Tensor, r: Tensor, p: Tensor, q: Tensor, rs: Tensor, stop: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One conjugate-gradient update of a batch of real systems (Hestenes and Stiefel, 1952).

    Args:
        x: (B, n) iterate.
        r: (B, n) residual.
        p: (B, n) search direction.
        q: (B, n) operator applied to ``p``.
        rs: (B,) squared norm of ``r``.
        stop: (B,) a batch element with ``rs <= stop`` has converged.

    Returns:
        The updated ``x, r, p, rs``. A converged element, and one whose curvature ``<p, q>`` is
        not positive, comes back unchanged, bit for bit. NaN counts as neither.
    """
    curvature = (p * q).sum(1)
    frozen = (rs <= stop) | (curvature <= 0)
    alpha = (rs / curvature)[:, None]
    r_new = r - alpha * q
    rs_new = (r_new * r_new).sum(1)
    p_new = r_new + (rs_new / rs)[:, None] * p
    keep = frozen[:, None]
    return (
        torch.where(keep, x, x + alpha * p),
        torch.where(keep, r, r_new),
        torch.where(keep, p, p_new),
        torch.where(frozen, rs, rs_new),
    )
