"""Multi-coil k-space simulated from a real magnitude volume: phase, coils, noise, undersampling.

Every slice is a scan of its own, with its own coil array, phase, noise and columns, all functions
of (seed, slice, repeat), so a scan is the same in every process and after every restart. What a
network is given with it (maps, scale) is computed from the noisy calibration block, never from the
truth.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.errors import DataError
from sagittal_core.seeds import counter_generator
from sagittal_mri.data.anatomy import oriented_slices, simulate_coil_images
from sagittal_mri.data.batch import ReconBatch
from sagittal_mri.physics.coils import espirit_maps, root_sum_of_squares
from sagittal_mri.physics.fourier import center_crop, fft2c, ifft2c
from sagittal_mri.physics.masks import column_density, draw_columns
from sagittal_mri.physics.noise import complex_noise

ROLES = ("train", "val", "test")


def load_magnitude(path: Path) -> np.ndarray:
    """Read a magnitude image from NIfTI (3-D) or NumPy ``.npy`` (2-D or 3-D).

    Returns:
        ``(X, Y, Z)`` float32; a 2-D image becomes ``(X, Y, 1)``.

    Raises:
        DataError: unreadable file, wrong number of axes, negative or non-finite values, all zeros.
    """
    try:
        if path.suffix == ".npy":
            volume = np.load(path, allow_pickle=False)
        else:
            image = nibabel.load(path)
            volume = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(
            path, key="image", expected="a NIfTI or .npy magnitude image", found=str(error)
        ) from error
    if volume.ndim == 2:
        volume = volume[..., None]
    if volume.ndim != 3:
        raise DataError(path, key="image", expected="2 or 3 axes", found=f"{volume.ndim} axes")
    volume = volume.astype(np.float32)
    if not np.isfinite(volume).all():
        raise DataError(path, key="image", expected="finite values", found="NaN or infinity")
    if volume.min() < 0 or volume.max() <= 0:
        found = f"minimum {volume.min():g}, maximum {volume.max():g}"
        raise DataError(path, key="image", expected="magnitudes >= 0, not all 0", found=found)
    return volume


def split_slices(count: int, *, block: int = 10, gap: int = 5) -> dict[str, list[int]]:
    """Split neighbouring slices into train, val and test so that no two roles touch.

    Blocks of ``block`` slices take the roles train, train, test, train, train, val in turn; the
    ``gap`` slices of a training block next to a held-out block are dropped.

    Args:
        count: number of slices, in anatomical order.
        block: slices per block.
        gap: distance kept between a training slice and any held-out slice.

    Raises:
        ValueError: if a role ends up empty.
    """
    pattern = ("train", "train", "test", "train", "train", "val")
    role = [pattern[(i // block) % len(pattern)] for i in range(count)]
    held_out = [i for i in range(count) if role[i] != "train"]
    kept = {name: [i for i in range(count) if role[i] == name] for name in ROLES}
    kept["train"] = [i for i in kept["train"] if all(abs(i - j) > gap for j in held_out)]
    empty = [name for name in ROLES if not kept[name]]
    if empty:
        raise ValueError(f"split_slices: {count} slices leave none for {', '.join(empty)}")
    return kept


class SimulatedScans(Dataset[ReconBatch]):
    """Undersampled multi-coil scans of the slices of a magnitude volume, one item a scan.

    Args:
        slices: ``(S, H, W)`` float32 magnitudes, maximum 1; the phase encoding runs along W.
        numbers: number of every slice in its volume (mm along the coil array's axis, and the seed).
        accelerations: scans take these in turn.
        coils: receive channels.
        calibration: fully sampled central columns, and the rows used with them for the maps.
        noise: standard deviation of the complex noise of every coil's k-space sample (orthonormal
            transform, image maximum 1, mean root-sum-of-squares sensitivity 1).
        repeats: scans per slice, with different columns, coils, phase and noise.
        seed: root of all randomness.
        cache: keep simulated scans in memory.
    """

    def __init__(
        self,
        slices: Tensor,
        numbers: list[int],
        *,
        accelerations: tuple[float, ...] = (4.0,),
        coils: int = 8,
        calibration: int = 24,
        noise: float = 0.04,
        repeats: int = 1,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        self.slices, self.numbers = slices, numbers
        self.coils, self.calibration, self.noise = coils, calibration, noise
        self.repeats, self.seed = repeats, seed
        width = slices.shape[-1]
        self.accelerations = accelerations
        self.densities = [column_density(width, r, calibration) for r in accelerations]
        self._cache: dict[int, ReconBatch] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.numbers) * self.repeats

    def acceleration(self, index: int) -> float:
        """Nominal acceleration of scan ``index``."""
        return self.accelerations[index % len(self.accelerations)]

    def __getitem__(self, index: int) -> ReconBatch:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        scan = self._simulate(index)
        if self._cache is not None:
            self._cache[index] = scan
        return scan

    def _simulate(self, index: int) -> ReconBatch:
        position, repeat = index // self.repeats, index % self.repeats
        number = self.numbers[position]
        generator = counter_generator(self.seed, "scan", number, repeat)
        magnitude = self.slices[position]
        clean = fft2c(simulate_coil_images(magnitude, number, self.coils, generator))
        noisy = clean + complex_noise(tuple(clean.shape), self.noise, generator)
        density = self.densities[index % len(self.densities)]
        columns = draw_columns(density, self.calibration, generator)
        return make_scan(
            noisy * columns.mask,
            columns.mask,
            columns.density.float(),
            columns.calibration,
            index=index,
            reference_kspace=clean,
            body=magnitude > 0,
        )


def calibration_maps(kspace: Tensor, width: int) -> Tensor:
    """ESPIRiT maps ``(C, H, W)`` from the ``width`` central columns and as many rows of k-space."""
    shape = (kspace.shape[-2], kspace.shape[-1])
    return espirit_maps(center_crop(kspace, (min(width, shape[0]), width)), shape)


def make_scan(
    kspace: Tensor,
    acquired: Tensor,
    density: Tensor,
    calibration: Tensor,
    *,
    index: int,
    maps: Tensor | None = None,
    reference_kspace: Tensor | None = None,
    body: Tensor | None = None,
) -> ReconBatch:
    """Complete one measured or simulated slice: maps and scale from its calibration block.

    Args:
        kspace: ``(C, H, W)`` complex64, zero outside the acquired columns.
        acquired: ``(W,)`` bool.
        density: ``(W,)`` float32, acquisition probability of each column.
        calibration: ``(W,)`` bool, the fully sampled block.
        index: number of the scan in its data set.
        maps: ``(C, H, W)`` from :func:`calibration_maps`, if they were estimated before.
        reference_kspace: ``(C, H, W)`` fully sampled, if known.
        body: ``(H, W)`` bool, pixels that metrics count; None counts every pixel.

    Returns:
        A batch of one. The scale is the 99th percentile of the calibration image's magnitude.
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    if maps is None:
        maps = calibration_maps(kspace, int(calibration.sum()))
    low = root_sum_of_squares(ifft2c(kspace * calibration))
    scale = torch.quantile(low, 0.99)
    full = kspace[:0] if reference_kspace is None else reference_kspace
    known = reference_kspace is not None
    reference = root_sum_of_squares(ifft2c(full)) if known else torch.zeros(shape)
    pixels = torch.ones(shape, dtype=torch.bool) if body is None else body
    fields = (kspace, maps, acquired, density, calibration, scale, torch.tensor(index), full)
    return ReconBatch(*(field.unsqueeze(0) for field in (*fields, reference, pixels)))


def volume_slices(
    path: Path, axis: int, shape: tuple[int, int] | None = None
) -> tuple[Tensor, list[int]]:
    """Slices of a volume that hold at least 10 % anatomy, with their numbers along the axis.

    Args:
        path: magnitude NIfTI or .npy.
        axis: slice axis.
        shape: matrix to crop or pad to; None keeps the volume's own.

    Returns:
        ``(S, H, W)`` float32 with maximum 1, and S numbers.
    """
    volume = load_magnitude(path)
    height, width = np.moveaxis(volume, axis, 0).shape[1:]
    stack = oriented_slices(volume, axis, shape or (height, width))
    filled = (stack > 0.05).float().mean((1, 2))
    numbers = [i for i in range(stack.shape[0]) if float(filled[i]) >= 0.10]
    return stack[numbers], numbers
