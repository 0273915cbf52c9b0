"""Image quality metrics with stated definitions; all on magnitude images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nrmse(image: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """``||x - r|| / ||r||`` per image, inside ``mask``.

    Args:
        image: ``(B, H, W)`` real.
        reference: ``(B, H, W)`` real.
        mask: ``(B, H, W)`` bool; None takes every pixel.

    Returns:
        ``(B,)``.
    """
    inside = torch.ones_like(reference) if mask is None else mask.to(reference)
    error = ((image - reference) * inside).flatten(1).norm(dim=1)
    return error / (reference * inside).flatten(1).norm(dim=1)


def psnr(
    image: Tensor, reference: Tensor, mask: Tensor | None = None, peak: Tensor | None = None
) -> Tensor:
    """``20 log10(peak / RMSE)`` in dB per image, the error averaged inside ``mask``.

    Args:
        image: ``(B, H, W)`` real.
        reference: ``(B, H, W)`` real.
        mask: ``(B, H, W)`` bool; None takes every pixel.
        peak: ``(B,)`` dynamic range; None is the maximum of each reference (fastMRI takes the
            maximum of the volume).

    Returns:
        ``(B,)`` in dB.
    """
    inside = torch.ones_like(reference) if mask is None else mask.to(reference)
    square = ((image - reference).square() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    top = reference.flatten(1).amax(1) if peak is None else peak
    return 20 * torch.log10(top) - 10 * torch.log10(square)


def ssim(
    image: Tensor, reference: Tensor, mask: Tensor | None = None, peak: Tensor | None = None
) -> Tensor:
    """Structural similarity as in fastMRI: 7 x 7 uniform window, K1 = 0.01, K2 = 0.03.

    Wang et al., IEEE TIP 2004, with the unbiased covariance of scikit-image. The map covers the
    pixels whose window lies inside the image; the mean runs over those inside ``mask``.

    Args:
        image: ``(B, H, W)`` real.
        reference: ``(B, H, W)`` real.
        mask: ``(B, H, W)`` bool; None takes every pixel.
        peak: ``(B,)`` dynamic range; None is the maximum of each reference.

    Returns:
        ``(B,)``.
    """
    window, pad = 7, 3
    top = reference.flatten(1).amax(1) if peak is None else peak
    c1 = (0.01 * top).square()[:, None, None]
    c2 = (0.03 * top).square()[:, None, None]

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.unsqueeze(1), window, stride=1).squeeze(1)

    x, r = image.double(), reference.double()
    mx, mr = mean(x), mean(r)
    unbiased = window**2 / (window**2 - 1)
    vx = unbiased * (mean(x * x) - mx * mx)
    vr = unbiased * (mean(r * r) - mr * mr)
    cov = unbiased * (mean(x * r) - mx * mr)
    value = ((2 * mx * mr + c1) * (2 * cov + c2)) / ((mx**2 + mr**2 + c1) * (vx + vr + c2))
    inside = torch.ones_like(value) if mask is None else mask[:, pad:-pad, pad:-pad].to(value)
    score = (value * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    return score.to(reference.dtype)
