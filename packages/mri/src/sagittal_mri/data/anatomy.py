"""Anatomy for simulation: slices of a magnitude volume, smooth phase, coils around the head."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def smooth_phase(
    shape: tuple[int, int], generator: torch.Generator, *, order: int = 3, span: float = 1.0
) -> Tensor:
    """A random smooth image phase ``(H, W)`` in radians: a polynomial of degree ``order``.

    Coefficients are standard normal times ``span``, damped with the degree, on coordinates in
    [-1, 1]; this resembles the background phase of gradient-echo images after coil combination.
    """
    rows = torch.linspace(-1, 1, shape[0])[:, None]
    columns = torch.linspace(-1, 1, shape[1])[None, :]
    phase = torch.zeros(shape)
    for i in range(order + 1):
        for j in range(order + 1 - i):
            weight = torch.randn((), generator=generator) * span / (1 + i + j)
            phase = phase + weight * rows**i * columns**j
    return phase


def loop_coil_maps(
    shape: tuple[int, int],
    coils: int,
    generator: torch.Generator,
    *,
    height_mm: float = 0.0,
    radius_mm: float = 150.0,
    loop_mm: float = 55.0,
    jitter: float = 0.05,
) -> Tensor:
    """Receive sensitivities of circular loops on a cylinder around the head, by Biot-Savart.

    A loop's sensitivity is the transverse field B_x - i B_y that unit current in it would make
    (reciprocity, Hoult & Richards 1976). Two staggered rings of loops; each loop's position is
    jittered so that no two simulated scans have the same array.

    Args:
        shape: pixels of 1 mm, ``(H, W)``, centred on the cylinder's axis.
        coils: number of loops.
        generator: source of the jitter.
        height_mm: position of the slice along the cylinder.
        radius_mm: cylinder radius.
        loop_mm: loop radius.
        jitter: relative standard deviation of the loops' positions and radii.

    Returns:
        ``(coils, H, W)`` complex64, scaled so that the root-sum-of-squares has mean 1.
    """
    rows = torch.arange(shape[0], dtype=torch.float32) - shape[0] // 2
    columns = torch.arange(shape[1], dtype=torch.float32) - shape[1] // 2
    step = 4  # the field is smooth: evaluate coarsely and interpolate
    coarse_rows, coarse_columns = rows[::step], columns[::step]
    y, x = torch.meshgrid(coarse_rows, coarse_columns, indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, height_mm)], -1)  # (h, w, 3)

    angles = torch.arange(coils) * (2 * math.pi / coils)
    angles = angles + jitter * torch.randn(coils, generator=generator)
    ring = torch.where(torch.arange(coils) % 2 == 0, -35.0, 35.0)
    ring = ring + 100 * jitter * torch.randn(coils, generator=generator)
    radii = loop_mm * (1 + jitter * torch.randn(coils, generator=generator))

    turn = torch.linspace(0, 2 * math.pi, 33)[:-1] + math.pi / 32
    fields = [
        _loop_field(points, float(a), float(z), float(r), radius_mm, turn)
        for a, z, r in zip(angles, ring, radii, strict=True)
    ]
    coarse = torch.stack(fields)  # (C, h, w, 2)
    fine = functional.interpolate(
        coarse.permute(0, 3, 1, 2), size=shape, mode="bicubic", align_corners=True
    )
    maps = torch.complex(fine[:, 0], -fine[:, 1])
    return maps / maps.abs().square().sum(0).sqrt().mean()


def _loop_field(
    points: Tensor, angle: float, height: float, loop: float, radius: float, turn: Tensor
) -> Tensor:
    """Transverse magnetic field ``(h, w, 2)`` at ``points`` of one loop facing the axis."""
    normal = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    tangent = torch.tensor([-math.sin(angle), math.cos(angle), 0.0])
    axis = torch.tensor([0.0, 0.0, 1.0])
    center = radius * normal + height * axis
    cosine, sine = torch.cos(turn)[:, None], torch.sin(turn)[:, None]
    wire = center + loop * (cosine * tangent + sine * axis)  # (n, 3)
    element = loop * (-sine * tangent + cosine * axis) * (2 * math.pi / turn.numel())
    offset = points[..., None, :] - wire  # (h, w, n, 3)
    distance = offset.square().sum(-1, keepdim=True).clamp(min=25.0)  # within 5 mm of the wire
    field = torch.cross(element.expand_as(offset), offset, dim=-1) / distance**1.5
    return field.sum(-2)[..., :2]


def simulate_coil_images(
    magnitude: Tensor, number: int, coils: int, generator: torch.Generator
) -> Tensor:
    """Noise-free complex coil images of one slice, with a phase and a coil array of their own.

    Args:
        magnitude: ``(H, W)`` float32, pixels of 1 mm.
        number: of the slice in its volume, in mm; slice 90 is at the middle of the array.
        coils: number of loops around the head.
        generator: source of the phase and of the loops' jitter.

    Returns:
        ``(coils, H, W)`` complex64.
    """
    shape = (magnitude.shape[-2], magnitude.shape[-1])
    phase = smooth_phase(shape, generator)
    maps = loop_coil_maps(shape, coils, generator, height_mm=float(number - 90))
    return maps * (magnitude * torch.exp(1j * phase))


def oriented_slices(volume: np.ndarray, axis: int, shape: tuple[int, int]) -> Tensor:
    """Cut a volume into centred 2-D slices along ``axis``.

    Args:
        volume: ``(X, Y, Z)`` magnitude, any real dtype.
        axis: 0, 1 or 2.
        shape: matrix ``(H, W)``; slices are cropped or zero-padded about their centre.

    Returns:
        ``(S, H, W)`` float32 scaled to a maximum of 1 over the volume.
    """
    stack = torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume, axis, 0), dtype=np.float32))
    height, width = stack.shape[-2:]
    stack = _crop_or_pad(stack, -2, height, shape[0])
    stack = _crop_or_pad(stack, -1, width, shape[1])
    return stack / stack.max()


def _crop_or_pad(stack: Tensor, dim: int, size: int, target: int) -> Tensor:
    """Centre-crop or zero-pad one axis from ``size`` to ``target``."""
    if size >= target:
        return stack.narrow(dim, size // 2 - target // 2, target)
    before = target // 2 - size // 2
    after = target - size - before
    pad = (before, after) if dim == -1 else (0, 0, before, after)
    return functional.pad(stack, pad)
