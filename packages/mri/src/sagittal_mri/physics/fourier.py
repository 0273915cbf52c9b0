"""Centred, orthonormal discrete Fourier transforms, as fastMRI and ISMRMRD tools use them."""

from __future__ import annotations

import torch
from torch import Tensor

_IMAGE_DIMS = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Image to k-space, zero frequency at index ``n // 2`` of both axes.

    Args:
        image: ``(..., H, W)`` complex.

    Returns:
        k-space ``(..., H, W)``, same dtype. Orthonormal, so norms are preserved (Parseval).
    """
    shifted = torch.fft.ifftshift(image, dim=_IMAGE_DIMS)
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_IMAGE_DIMS)


def ifft2c(kspace: Tensor) -> Tensor:
    """k-space to image: the inverse, and the adjoint, of :func:`fft2c`. ``(..., H, W)`` complex."""
    shifted = torch.fft.ifftshift(kspace, dim=_IMAGE_DIMS)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_IMAGE_DIMS)


def fftc(data: Tensor, dim: int) -> Tensor:
    """Centred orthonormal transform along one axis ``dim``; complex, shape kept."""
    shifted = torch.fft.ifftshift(data, dim=dim)
    return torch.fft.fftshift(torch.fft.fft(shifted, dim=dim, norm="ortho"), dim=dim)


def ifftc(data: Tensor, dim: int) -> Tensor:
    """Centred orthonormal inverse transform along one axis ``dim``; complex, shape kept."""
    shifted = torch.fft.ifftshift(data, dim=dim)
    return torch.fft.fftshift(torch.fft.ifft(shifted, dim=dim, norm="ortho"), dim=dim)


def center_crop(data: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cut the centred ``shape`` out of the last two axes, keeping index ``n // 2`` at the centre.

    Raises:
        ValueError: if ``shape`` is larger than the data.
    """
    height, width = data.shape[-2:]
    if shape[0] > height or shape[1] > width:
        raise ValueError(f"center_crop: cannot cut {shape} out of {(height, width)}")
    top, left = height // 2 - shape[0] // 2, width // 2 - shape[1] // 2
    return data[..., top : top + shape[0], left : left + shape[1]]


def center_pad(data: Tensor, shape: tuple[int, int]) -> Tensor:
    """Zero-pad the last two axes to ``shape``, keeping index ``n // 2`` at the centre.

    Raises:
        ValueError: if ``shape`` is smaller than the data.
    """
    height, width = data.shape[-2:]
    if shape[0] < height or shape[1] < width:
        raise ValueError(f"center_pad: cannot pad {(height, width)} to {shape}")
    top, left = shape[0] // 2 - height // 2, shape[1] // 2 - width // 2
    padded = data.new_zeros(*data.shape[:-2], *shape)
    padded[..., top : top + height, left : left + width] = data
    return padded
