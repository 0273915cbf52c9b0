"""Radial sampling: golden-angle trajectories and their density compensation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees (Winkelmann et al., TMI 2007)


def golden_angle_trajectory(spokes: int, samples: int, first: int = 0) -> Tensor:
    """Full-diameter golden-angle spokes through the centre of k-space.

    Args:
        spokes: number of spokes.
        samples: samples per spoke; the centre of k-space is at index ``samples // 2``.
        first: index of the first spoke in the golden-angle sequence.

    Returns:
        ``(spokes, samples, 2)`` float32 in radians per pixel, within [-pi, pi), order (H, W).
    """
    angle = (torch.arange(first, first + spokes, dtype=torch.float64) * GOLDEN_ANGLE) % math.pi
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) * (2 * math.pi / samples)
    direction = torch.stack([torch.sin(angle), torch.cos(angle)], -1)
    return (radius[None, :, None] * direction[:, None, :]).to(torch.float32)


def ramp_weights(trajectory: Tensor, shape: tuple[int, int]) -> Tensor:
    """Ramp density compensation ``(spokes, samples)``, so that F^H W F is near the identity.

    A sample at radius r stands for an annulus sector of area ``|r| dr pi / spokes``; the samples at
    the centre share the disc of radius ``dr / 2``. Units: fraction of the Nyquist cell
    ``(2 pi)^2 / (H W)``, matching the orthonormal scaling of the operators.
    """
    spokes, samples = trajectory.shape[:2]
    radius = trajectory.norm(dim=-1)
    step = 2 * math.pi / samples
    area = radius * step * math.pi / spokes
    disc = math.pi * (step / 2) ** 2 / spokes
    area = torch.where(radius < step / 4, torch.full_like(area, disc), area)
    return area * (shape[0] * shape[1]) / (2 * math.pi) ** 2
