"""Coil sensitivity maps: ESPIRiT estimation from the calibration region, and coil combination."""

from __future__ import annotations

import torch
from torch import Tensor


def root_sum_of_squares(images: Tensor, dim: int = -3) -> Tensor:
    """Magnitude combination over the coil axis: ``(..., C, H, W)`` to real ``(..., H, W)``."""
    return images.abs().square().sum(dim).sqrt()


def combine(images: Tensor, maps: Tensor) -> Tensor:
    """SENSE combination ``sum_c conj(S_c) x_c`` over the coil axis -3, complex ``(..., H, W)``."""
    return (maps.conj() * images).sum(-3)


def expand(image: Tensor, maps: Tensor) -> Tensor:
    """Coil images ``S_c x``: ``(..., H, W)`` and ``(..., C, H, W)`` to ``(..., C, H, W)``."""
    return maps * image.unsqueeze(-3)


def espirit_maps(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
) -> Tensor:
    """ESPIRiT sensitivity maps (first eigenvector) from fully sampled central k-space.

    Uecker et al., Magn Reson Med 2014;71:990. The signal subspace of the calibration matrix gives,
    at each pixel, a C x C positive semidefinite matrix whose leading eigenvector is the map and
    whose leading eigenvalue is 1 where there is signal. That matrix field is band-limited to
    ``2 kernel - 1`` samples, so it is formed on a small grid and interpolated exactly.

    Args:
        calibration: ``(C, h, w)`` complex, centred fully sampled block (fft2c convention). It must
            hold acquired samples only: whatever enters here must never be a training target.
        shape: image matrix ``(H, W)`` of the maps.
        kernel: k-space kernel width.
        threshold: singular values below ``threshold`` x the largest are taken as noise.
        crop: pixels whose leading eigenvalue is below this get zero maps (no signal).

    Returns:
        ``(C, H, W)`` maps with unit root-sum-of-squares inside the support and zero outside, phase
        relative to the first virtual coil (the dominant one of the calibration data).

    Raises:
        ValueError: if the block is smaller than the kernel, holds only zeros, or explains no pixel
            (too few samples for so many coils).
    """
    coils, height, width = calibration.shape
    if height < kernel or width < kernel:
        raise ValueError(
            f"espirit_maps: calibration block {(height, width)} is smaller than the kernel {kernel}"
        )
    if not bool(calibration.abs().sum() > 0):
        raise ValueError("espirit_maps: the calibration block holds only zeros")

    vectors = _signal_subspace(calibration, kernel, threshold)  # (n, C, k, k)
    field = _projection_field(vectors, kernel, shape)  # (H, W, C, C)
    # The leading eigenvalue is at most the trace, so pixels of a smaller trace have no signal.
    candidates = field.diagonal(dim1=-2, dim2=-1).sum(-1).real >= crop
    values, vectors = _leading_eigenvector(field[candidates])
    leading = field.new_zeros(coils, *shape)
    leading[:, candidates] = vectors.T

    # The phase of each pixel's eigenvector is arbitrary: fix it by the dominant virtual coil.
    flat = calibration.reshape(coils, -1)
    dominant = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    virtual = torch.einsum("c,chw->hw", dominant.conj(), leading)
    maps = leading * torch.polar(torch.ones_like(virtual.real), -virtual.angle())
    support = torch.zeros(shape, dtype=torch.bool, device=field.device)
    support[candidates] = values >= crop
    if not bool(support.any()):
        raise ValueError(
            f"espirit_maps: no pixel's eigenvalue reaches {crop} with a {height} x {width} block "
            f"and {coils} coils; enlarge the calibration block or take a smaller kernel"
        )
    return maps * support


def _signal_subspace(calibration: Tensor, kernel: int, threshold: float) -> Tensor:
    """Right singular vectors of the calibration matrix, as kernels ``(n, C, k, k)``."""
    coils = calibration.shape[0]
    patches = calibration.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (C, ph, pw, k, k)
    matrix = patches.permute(1, 2, 0, 3, 4).reshape(-1, coils * kernel * kernel)
    # Eigenvectors of the Gram matrix are cheaper than an SVD of the tall matrix.
    values, vectors = torch.linalg.eigh((matrix.mH @ matrix).to(torch.complex128))
    keep = values > threshold**2 * values[-1]
    # The Gram matrix is sum conj(patch) patch^T: its eigenvectors span the conjugate patches.
    chosen = vectors[:, keep].T.conj().to(calibration.dtype)
    return chosen.reshape(-1, coils, kernel, kernel)


def _projection_field(vectors: Tensor, kernel: int, shape: tuple[int, int]) -> Tensor:
    """``G(r)_cd = sum_n v_nc(r) conj(v_nd(r))``, ``(H, W, C, C)``, eigenvalues at most 1."""
    grid = 2 * kernel
    coarse = torch.fft.ifft2(vectors, s=(grid, grid), norm="forward")
    product = torch.einsum("nchw,ndhw->cdhw", coarse, coarse.conj())
    lags = torch.fft.fftshift(torch.fft.fft2(product, norm="forward"), dim=(-2, -1))
    # Lag l stands at index l + kernel; the centred image is a transform of phase-shifted lags, and
    # the phase ramps on both sides cost less than shifting C x C images.
    for dim, size in ((-2, shape[0]), (-1, shape[1])):
        lags = lags * _ramp(grid, -(size // 2), size, dim)
    field = torch.fft.ifft2(lags, s=shape, norm="forward")
    for dim, size in ((-2, shape[0]), (-1, shape[1])):
        field = field * _ramp(size, -kernel, size, dim, start=-(size // 2))
    return field.permute(2, 3, 0, 1) / kernel**2


def _ramp(count: int, shift: int, size: int, dim: int, *, start: int = 0) -> Tensor:
    """``exp(2 pi i shift (start + n) / size)`` for n < count, along axis ``dim`` (-2 or -1)."""
    turns = (shift * (start + torch.arange(count, dtype=torch.float64)) / size) % 1.0
    ramp = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(torch.complex64)
    return ramp.unsqueeze(-1) if dim == -2 else ramp


def _leading_eigenvector(matrices: Tensor, *, squarings: int = 8) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its eigenvector of ``(P, C, C)`` Hermitian semidefinite matrices.

    Repeated squaring reaches the 2**squarings-th power, in which the leading eigenvector outweighs
    the next by ``(lambda_1 / lambda_2)**256``; it is several times faster than a batch of full
    eigendecompositions. Where two eigenvalues are equal to within 1 %, the vector returned lies in
    the space that both span, as any choice there does.

    Returns:
        Values ``(P,)`` real and unit vectors ``(P, C)``.
    """
    power = matrices
    for _ in range(squarings):
        power = torch.bmm(power, power)
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).real[:, None, None]
    # The column of the largest diagonal entry cannot be orthogonal to the leading eigenvector.
    column = power.diagonal(dim1=-2, dim2=-1).real.argmax(-1)
    vectors = power[torch.arange(len(power)), :, column]
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    product = torch.bmm(matrices, vectors[..., None])[..., 0]
    return (vectors.conj() * product).sum(-1).real, vectors
