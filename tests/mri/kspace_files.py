"""Small measured-like files for the tests, made of the simulator's parts and our writers."""

from __future__ import annotations

from pathlib import Path

import torch

from sagittal_mri.data.anatomy import simulate_coil_images
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.data.writers import write_kspace_h5
from sagittal_mri.physics.fourier import fft2c
from sagittal_mri.physics.masks import column_density, draw_columns
from sagittal_mri.physics.noise import complex_noise


def full_kspace(slices, coils=3, noise=0.01, seed=0):
    """Coil k-space ``(S, C, h, w)`` of magnitudes ``(S, H, W)``; the pixels are as they are."""
    generator = torch.Generator().manual_seed(seed)
    stack = [
        fft2c(simulate_coil_images(image, 90 + number, coils, generator))
        for number, image in enumerate(slices)
    ]
    clean = torch.stack(stack)
    return clean + complex_noise(tuple(clean.shape), noise, generator)


def discs(count=2, shape=(32, 48)):
    """Ellipses ``(count, H, W)`` that grow."""
    rows = torch.linspace(-1, 1, shape[0])[:, None]
    columns = torch.linspace(-1, 1, shape[1])[None]
    radius = rows**2 / 0.7 + columns**2 / 0.6
    return torch.stack([(radius < 0.7 + 0.1 * i).float() for i in range(count)])


def columns(width, acceleration=2.0, calibration=16, seed=0):
    """A drawn mask ``(1, width)``."""
    density = column_density(width, acceleration, calibration)
    return draw_columns(density, calibration, torch.Generator().manual_seed(seed)).mask[None]


def write_file(path: Path, kspace, mask=None, **fields):
    """Write a record of this k-space and mask (fully sampled by default), and return the path."""
    shape = tuple(kspace.shape[-2:])
    mask = torch.ones(1, shape[1], dtype=torch.bool) if mask is None else mask
    settings = {"image_shape": shape, "voxel_size_mm": (1.0, 1.0, 5.0), **fields}
    record = KspaceRecord(kspace * mask, mask, None, source=path, **settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_kspace_h5(path, record)
    return path
