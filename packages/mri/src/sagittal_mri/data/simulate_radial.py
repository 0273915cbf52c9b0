"""Radial multi-coil scans simulated from a real magnitude volume: golden-angle spokes."""

from __future__ import annotations

import math
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from sagittal_core import sample_data
from sagittal_core.ops import nufft_type2
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_generator
from sagittal_mri.data.anatomy import simulate_coil_images
from sagittal_mri.data.batch import collate
from sagittal_mri.data.radial import RadialBatch, kspace_disc, make_radial_scan
from sagittal_mri.data.simulate import split_slices, volume_slices
from sagittal_mri.physics.fourier import center_crop, fft2c
from sagittal_mri.physics.noise import complex_noise
from sagittal_mri.physics.radial import golden_angle_trajectory

_TOLERANCE = 1e-6  # of the simulating NUFFT: ten times below what reconstruction uses
_FIRST_SPOKES = 1_000_000  # golden angles mod pi spread evenly: any direction may come first


class SimulatedRadialScans(Dataset[RadialBatch]):
    """Golden-angle scans of the slices of a magnitude volume, one item a scan.

    Every scan has its own first direction, coil array, phase and noise, all functions of
    (seed, slice, repeat); readouts are oversampled twice. Items are kept once simulated.

    Args:
        slices: ``(S, H, W)`` float32 magnitudes, maximum 1.
        numbers: number of every slice in its volume.
        acceleration: spokes of a full acquisition, pi/2 times the longer side of the image, over
            those of a scan.
        groups: groups of spokes that a split moves as a whole.
        coils: receive channels.
        calibration: diameter of the calibration disc in k-space samples.
        noise: standard deviation of the complex noise of every sample (orthonormal scaling, image
            maximum 1, mean root-sum-of-squares sensitivity 1).
        downsample: image pixels are this many of the volume's wide. The spokes reach as far as such
            pixels need, and the object keeps its detail.
        repeats: scans per slice.
        seed: root of all randomness.

    Raises:
        ValueError: if ``downsample`` does not divide the slices.
    """

    def __init__(
        self,
        slices: Tensor,
        numbers: list[int],
        *,
        acceleration: float = 8.0,
        groups: int = 8,
        coils: int = 8,
        calibration: int = 24,
        noise: float = 0.03,
        downsample: int = 1,
        repeats: int = 1,
        seed: int = 0,
    ) -> None:
        self.slices, self.numbers = slices, numbers
        self.downsample = downsample
        if downsample < 1 or any(n % downsample for n in slices.shape[-2:]):
            raise ValueError(
                f"SimulatedRadialScans: downsample {downsample} does not divide slices of "
                f"{tuple(slices.shape[-2:])}"
            )
        self.accelerations, self.groups, self.coils = (acceleration,), groups, coils
        self.calibration, self.noise = calibration, noise
        self.repeats, self.seed = repeats, seed
        full = math.pi / 2 * max(slices.shape[-2:]) / downsample
        self.spokes = max(1, round(full / acceleration))
        self._cache: dict[int, RadialBatch] = {}

    def __len__(self) -> int:
        return len(self.numbers) * self.repeats

    def acceleration(self, index: int) -> float:
        """Nominal acceleration, the same for every scan."""
        return self.accelerations[0]

    def __getitem__(self, key: int | ItemKey) -> RadialBatch:
        index = key.index if isinstance(key, ItemKey) else key
        if index not in self._cache:
            self._cache[index] = self._simulate(index)
        return self._cache[index]

    def _simulate(self, index: int) -> RadialBatch:
        position, repeat = index // self.repeats, index % self.repeats
        number, magnitude = self.numbers[position], self.slices[position]
        step, (height, width) = self.downsample, magnitude.shape
        shape = (height // step, width // step)
        generator = counter_generator(self.seed, "radial scan", number, repeat)
        images = simulate_coil_images(magnitude, number, self.coils, generator)
        first = int(torch.randint(_FIRST_SPOKES, (1,), generator=generator))
        trajectory = golden_angle_trajectory(self.spokes, 2 * max(shape), first)
        # A pixel of the image is the mean of step^2 of the volume's; k-space scales with it.
        unit = math.sqrt(math.prod(shape)) / (height * width)
        clean = unit * nufft_type2(images, trajectory.flatten(0, 1) / step, _TOLERANCE)
        noisy = clean + complex_noise(tuple(clean.shape), self.noise, generator)
        grid = center_crop(fft2c(images), shape) / step
        return make_radial_scan(
            noisy.unflatten(-1, (self.spokes, -1)),
            trajectory,
            shape,
            calibration=self.calibration,
            groups=self.groups,
            index=index,
            reference_kspace=grid * kspace_disc(shape),
            body=functional.max_pool2d((magnitude > 0).float()[None], step)[0] > 0,
        )


class SimulatedRadialMRI(lightning.LightningDataModule):
    """Golden-angle radial scans simulated from a magnitude volume, split by blocks of slices.

    Args:
        volume: path of a magnitude NIfTI or .npy, or the name of sample data ("mni152_t1").
        axis: slice axis of the volume.
        image_shape: matrix of a slice of the volume, ``[H, W]``.
        downsample: scan with pixels this many of the volume's wide.
        acceleration: spokes of a full acquisition, pi/2 times the longer side of the image, over
            those of a scan.
        groups: groups of spokes that a split sends to the input or to the loss as a whole; memory
            grows with them.
        coils: receive channels.
        calibration: diameter, in k-space samples, of the centre that coil maps and scale come from.
        noise: standard deviation of a sample's noise; the image maximum is 1.
        repeats: training scans per slice.
        batch_size: training scans per step and process.
        seed: root of the simulation and of the data order.
    """

    quarter_turns = 1  # of pictures; a volume's slices are (x, y): anterior is shown at the top

    def __init__(
        self,
        volume: str = "mni152_t1",
        axis: int = 2,
        image_shape: tuple[int, int] = (160, 192),
        downsample: int = 1,
        acceleration: float = 8.0,
        groups: int = 8,
        coils: int = 8,
        calibration: int = 24,
        noise: float = 0.03,
        repeats: int = 1,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.volume, self.axis = volume, axis
        self.image_shape, self.downsample = image_shape, downsample
        self.accelerations, self.groups, self.coils = (acceleration,), groups, coils
        self.calibration, self.noise, self.repeats = calibration, noise, repeats
        self.batch_size, self.seed = batch_size, seed
        self.scans: dict[str, SimulatedRadialScans] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the volume and split its slices; scans are simulated when first asked for."""
        if self.scans:
            return
        slices, numbers = volume_slices(_path(self.volume), self.axis, self.image_shape)
        for role, chosen in split_slices(len(numbers)).items():
            repeats = self.repeats if role == "train" else 1
            picked = [numbers[i] for i in chosen]
            self.scans[role] = self._simulated(slices[chosen], picked, self.seed, repeats)

    def other_scans(self, name: str) -> SimulatedRadialScans:
        """Whole scans of another anatomy, a path or sample data, at the same acceleration."""
        return self._simulated(*volume_slices(_path(name), 2), self.seed + 1, 1)

    def _simulated(
        self, slices: Tensor, numbers: list[int], seed: int, repeats: int
    ) -> SimulatedRadialScans:
        return SimulatedRadialScans(
            slices,
            numbers,
            acceleration=self.accelerations[0],
            groups=self.groups,
            coils=self.coils,
            calibration=self.calibration,
            noise=self.noise,
            downsample=self.downsample,
            repeats=repeats,
            seed=seed,
        )

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled scans, by a permutation that depends on seed and epoch alone."""
        return ResumableDataLoader(
            self.scans["train"], seed=self.seed, batch_size=self.batch_size, collate_fn=collate
        )

    def val_dataloader(self) -> ResumableDataLoader:
        """Validation scans, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Test scans, in order."""
        return self._in_order("test")

    def _in_order(self, role: str) -> ResumableDataLoader:
        return ResumableDataLoader(
            self.scans[role], seed=self.seed, shuffle=False, collate_fn=collate
        )


def _path(volume: str) -> Path:
    """A file, or sample data by its name."""
    return Path(volume) if Path(volume).suffix else sample_data.path(volume)
