"""Radial sampling: trajectories, density compensation, positions for splitting, calibration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sagittal_core.ops import cg_solve, nufft_type1, toeplitz_kernel, toeplitz_normal
from sagittal_mri.physics.fourier import fft2c

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


def expect_diameters(trajectory: Tensor) -> None:
    """Check that every spoke is an evenly sampled straight line through the centre of k-space.

    Args:
        trajectory: ``(spokes, samples, 2)`` real.

    Raises:
        ValueError: for spirals, half spokes (centre-out) and uneven sampling, whose density
            :func:`ramp_weights` does not describe.
    """
    step = trajectory.diff(dim=1)
    mean = step.mean(1, keepdim=True)
    size = mean.norm(dim=-1).clamp(min=torch.finfo(mean.dtype).tiny)
    bent = float(((step - mean).norm(dim=-1) / size).max())
    middle = float((trajectory.mean(1).norm(dim=-1) / size[:, 0]).max())
    if bent > 0.05 or middle > 0.1 * trajectory.shape[1]:
        raise ValueError(
            "expected radial spokes: straight, evenly sampled, through the centre of k-space; "
            f"steps along a spoke differ by up to {bent:.0%}, and a spoke's middle lies up to "
            f"{middle:.1f} steps from the centre"
        )


def ramp_weights(trajectory: Tensor, shape: tuple[int, int]) -> Tensor:
    """Ramp density compensation ``(spokes, samples)``, so that F^H W F is near the identity.

    A sample at radius r stands for an annulus sector of area ``|r| dr pi / spokes``; the samples at
    the centre share the disc of radius ``dr / 2``. Units: fraction of the Nyquist cell
    ``(2 pi)^2 / (H W)``, matching the orthonormal scaling of the operators.

    Args:
        trajectory: ``(spokes, samples, 2)`` radians per pixel, full-diameter spokes whose
            directions cover the half circle about evenly.
        shape: image matrix ``(H, W)``.
    """
    spokes = trajectory.shape[0]
    radius = trajectory.norm(dim=-1)
    step = trajectory.diff(dim=1).norm(dim=-1).mean()
    area = radius * step * math.pi / spokes
    disc = math.pi * (step / 2) ** 2 / spokes
    area = torch.where(radius < step / 4, disc, area)
    return area * (shape[0] * shape[1]) / (2 * math.pi) ** 2


def calibration_radius(shape: tuple[int, int], calibration: int) -> float:
    """Radius in radians per pixel of a k-space disc that is ``calibration`` samples across.

    A sample is the spacing that the longer side of the field of view needs.
    """
    return math.pi * calibration / max(shape)


def spoke_positions(trajectory: Tensor, groups: int, radius: float) -> Tensor:
    """Number every sample with the position, 0 to ``groups``, that a split moves as a whole.

    Position 0 is the calibration disc: the samples of *all* spokes within ``radius``. Coil maps and
    scale come from them, so they always belong to the network's input and are never held out; as
    noise is independent from sample to sample, maps and scale know nothing of held-out samples.
    Positions 1.. are the outer samples of groups of spokes. Ranked by direction, every
    ``groups``-th spoke goes to one group, so that each group fans out over all directions; taking
    every eighth golden-angle spoke would give wedges, as 8 golden angles are nearly 5 half turns.

    Args:
        trajectory: ``(spokes, samples, 2)``.
        groups: number of groups, 1 to ``spokes``.
        radius: of the disc, radians per pixel.

    Returns:
        ``(spokes, samples)`` int64.

    Raises:
        ValueError: if ``groups`` is out of range.
    """
    spokes = trajectory.shape[0]
    if not 1 <= groups <= spokes:
        raise ValueError(f"spoke_positions: groups must lie in 1..{spokes}, found {groups}")
    end = trajectory[:, -1] - trajectory[:, 0]
    direction = torch.atan2(end[:, 0], end[:, 1]) % math.pi
    rank = torch.empty(spokes, dtype=torch.int64, device=trajectory.device)
    rank[direction.argsort()] = torch.arange(spokes, device=trajectory.device)
    outside = trajectory.norm(dim=-1) > radius
    return torch.where(outside, rank[:, None] % groups + 1, 0)


def calibration_kspace(
    samples: Tensor, trajectory: Tensor, shape: tuple[int, int], calibration: int
) -> Tensor:
    """Central k-space on a Cartesian grid, from the samples in the calibration disc alone.

    Low-resolution coil images by least squares, ``min ||W^1/2 (F x - y)||^2 + 0.01 ||x||^2`` (15
    conjugate gradient steps), then their transform. Least squares also fills the corners of the
    square around the disc, as the object is smaller than the field of view.

    Args:
        samples: ``(C, spokes, samples)`` complex64, without density weights.
        trajectory: ``(spokes, samples, 2)`` float32, radians per pixel.
        shape: image matrix ``(H, W)``.
        calibration: diameter of the disc in samples.

    Returns:
        ``(C, h, w)`` complex64 in the convention of :func:`fft2c` on the full matrix; the longer
        side is ``calibration`` (made even).
    """
    small = tuple(2 * math.ceil(n * calibration / max(shape) / 2) for n in shape)
    zoom = torch.tensor([n / m for n, m in zip(shape, small, strict=True)])
    inside = trajectory.norm(dim=-1) <= calibration_radius(shape, calibration)
    omega = (trajectory[inside] * zoom.to(trajectory)).clamp(-math.pi, math.pi)
    weights = ramp_weights(trajectory, shape)[inside] / math.prod(small)
    rhs = nufft_type1(weights * samples[:, inside], omega, small, 1e-5) * math.sqrt(
        math.prod(small)
    )
    kernel = toeplitz_kernel(omega, weights, small)
    ones = torch.ones(1, 1, *small, dtype=samples.dtype, device=samples.device)
    images = cg_solve(lambda x: toeplitz_normal(x, ones, kernel), rhs, 0.01, max_iter=15)
    return fft2c(images)
