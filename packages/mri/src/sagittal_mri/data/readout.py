"""Removal of readout oversampling."""

from __future__ import annotations

import torch
from torch import Tensor

from sagittal_mri.physics.fourier import ifftc

_READOUT = -2


def remove_oversampling(kspace: Tensor, size: int) -> Tensor:
    """Crop the image of ``kspace`` to its central ``size`` pixels along the readout.

    The inverse transform, the crop and the forward transform are orthonormal, so image values and
    the noise variance of a k-space sample stay what they were.

    Args:
        kspace: ``(..., readout, phase)`` complex, centred.
        size: pixels to keep, at most ``readout``.

    Returns:
        ``(..., size, phase)``, same dtype.
    """
    readout = kspace.shape[_READOUT]
    if size == readout:
        return kspace
    start = readout // 2 - size // 2
    image = ifftc(kspace, _READOUT).narrow(_READOUT, start, size)
    # The crop keeps index n // 2 at the centre, where ifftshift expects it.
    shifted = torch.fft.ifftshift(image, dim=_READOUT)
    return torch.fft.fftshift(torch.fft.fft(shifted, dim=_READOUT, norm="ortho"), dim=_READOUT)


def crop_readout_mask(mask: Tensor, size: int) -> Tensor | None:
    """The acquired positions after :func:`remove_oversampling`.

    Args:
        mask: ``(1, phase)`` or ``(readout, phase)`` bool.
        size: the new readout length.

    Returns:
        The mask on the coarser grid, where a position counts as acquired if the nearest old one
        was; None if some line was acquired with gaps, which the crop would smear over each other.
    """
    readout = mask.shape[0]
    if readout in (1, size):
        return mask
    edges = mask.int().diff(dim=0, prepend=mask.new_zeros(1, mask.shape[1]).int()).clamp(min=0)
    if bool((edges.sum(0) > 1).any()):
        return None
    position = (torch.arange(size) - size // 2) * (readout / size) + readout // 2
    return mask[position.round().long().clamp(0, readout - 1)]
