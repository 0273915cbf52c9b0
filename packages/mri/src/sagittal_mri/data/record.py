"""The one record that every k-space reader delivers and every writer takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sagittal_core.errors import DataError

# float32 rounds pi up, so the bound on a trajectory has to allow for one rounding.
_PI_WITH_ROUNDING = math.pi * (1 + 1e-6)


def expect_finite(source: Path, key: str, value: Tensor) -> None:
    """Raise a DataError that counts and places the values that are NaN or infinite."""
    # One pass without a temporary of the data's size decides the common case.
    if math.isfinite(float((torch.view_as_real(value) if value.is_complex() else value).sum())):
        return
    broken = ~torch.isfinite(value)
    if bool(broken.any()):
        first = tuple(int(index) for index in broken.nonzero()[0])
        found = f"{int(broken.sum())} not finite, the first at {first}"
        raise DataError(source, key=key, expected="finite values", found=found)


@dataclass(frozen=True, eq=False)
class KspaceIndex:
    """What can be said of a k-space file without reading its samples.

    Attributes:
        path: the file.
        slices: what the file calls its slices, in anatomical order.
        coils: receive channels.
        grid: Cartesian ``(readout without oversampling, phase)``, else what one slice holds.
        is_cartesian: whether the samples lie on a grid.
        columns: ``(1 or slices, phase)`` bool, the acquired columns; None where only the samples
            tell.
        layout: "fastmri" or "ismrmrd".
        select: contrast, phase, ... that were chosen of an ISMRMRD file.
    """

    path: Path
    slices: tuple[int, ...]
    coils: int
    grid: tuple[int, int]
    is_cartesian: bool
    columns: Tensor | None
    layout: Literal["fastmri", "ismrmrd"] = "fastmri"
    select: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KspaceRecord:
    """Multi-coil k-space of a 2-D multi-slice acquisition, validated at construction.

    Cartesian k-space is in the centred convention: ``image = ifft2c(kspace)``, orthonormal, zero
    frequency at index ``n // 2``. Values are those of the file, never rescaled.

    Attributes:
        kspace: Cartesian ``(slices, coils, readout, phase)``, otherwise
            ``(slices, coils, spokes, samples)``; complex64.
        mask: bool, broadcastable to ``kspace``; True where a sample was acquired. Cartesian:
            ``(1, phase)`` when whole lines are acquired, else ``(readout, phase)``.
            Non-Cartesian: ``(spokes, 1)``. k-space is zero where a reader's mask is False.
        trajectory: None for Cartesian, else ``(spokes, samples, 2)`` float32 in radians per pixel
            of ``image_shape``, in [-pi, pi], first coordinate along the first image axis.
        image_shape: ``(h, w)`` of the image. Cartesian: the centred crop of the k-space grid that
            is the reconstruction matrix; ``h`` equals the readout length, since readout
            oversampling is removed, and ``w`` may be less than the phase length.
        reference: ``(slices, h, w)`` float32 magnitude, or None.
        noise_covariance: ``(coils, coils)`` complex64, E[n n^H] of one sample, or None.
        voxel_size_mm: size of an image pixel along h and w, and the distance of the slices.
        affine: ``(4, 4)`` float64, image indices (h, w, slice) to RAS+ mm, or None.
        source: the file, or a name for data made in memory.
        attributes: plain values of the file's header (acquisition, max, norm, ...).
        patient_id: kept for grouping by patient; never printed with the record, never logged.
        notes: what the reader inferred, left out or changed, in words.

    Raises:
        DataError: naming ``source``, the field, what was expected and what was found.
    """

    kspace: Tensor
    mask: Tensor
    trajectory: Tensor | None
    image_shape: tuple[int, int]
    source: Path
    reference: Tensor | None = None
    noise_covariance: Tensor | None = None
    voxel_size_mm: tuple[float, float, float] | None = None
    affine: Tensor | None = None
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    patient_id: str | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.validate()

    @property
    def is_cartesian(self) -> bool:
        """True if the samples lie on the grid of the discrete Fourier transform."""
        return self.trajectory is None

    def validate(self) -> None:
        """Check every field against the others.

        Raises:
            DataError: at the first contradiction.
        """
        self._expect_dtype("kspace", self.kspace, torch.complex64)
        if self.kspace.ndim != 4 or self.kspace.numel() == 0:
            self._fail(
                "kspace", "four non-empty axes (slices, coils, ...)", str(tuple(self.kspace.shape))
            )
        expect_finite(self.source, "kspace", self.kspace)
        self._validate_mask()
        if self.trajectory is None:
            self._validate_grid()
        else:
            self._validate_trajectory(self.trajectory)
        self._validate_reference()
        self._validate_covariance()
        self._validate_geometry()

    def _validate_mask(self) -> None:
        self._expect_dtype("mask", self.mask, torch.bool)
        rows, columns = self.kspace.shape[-2:]
        allowed = [(rows, 1)] if self.trajectory is not None else [(1, columns), (rows, columns)]
        if tuple(self.mask.shape) not in allowed:
            self._fail(
                "mask",
                "shape " + " or ".join(map(str, allowed)) + " to fit kspace",
                str(tuple(self.mask.shape)),
            )
        if not bool(self.mask.any()):
            self._fail(
                "mask", "at least one acquired position", f"none of {self.mask.numel()} is kept"
            )

    def _validate_grid(self) -> None:
        rows, columns = self.kspace.shape[-2:]
        height, width = self.image_shape
        if height != rows or not 0 < width <= columns:
            self._fail("image_shape", f"({rows}, 1..{columns}) to fit kspace", str((height, width)))

    def _validate_trajectory(self, trajectory: Tensor) -> None:
        expected = (*self.kspace.shape[-2:], 2)
        if tuple(trajectory.shape) != expected:
            self._fail("trajectory", f"shape {expected}", f"{tuple(trajectory.shape)}")
        self._expect_dtype("trajectory", trajectory, torch.float32)
        expect_finite(self.source, "trajectory", trajectory)
        low, high = float(trajectory.min()), float(trajectory.max())
        if max(-low, high) > _PI_WITH_ROUNDING:
            self._fail(
                "trajectory",
                "radians per pixel in [-pi, pi]",
                f"values from {low:.4g} to {high:.4g}",
                hint="check the units: cycles, index or radians",
            )
        if min(self.image_shape) < 1:
            self._fail("image_shape", "two positive sizes", str(self.image_shape))

    def _validate_reference(self) -> None:
        if self.reference is None:
            return
        expected = (self.kspace.shape[0], *self.image_shape)
        if tuple(self.reference.shape) != expected:
            self._fail("reference", f"shape {expected}", str(tuple(self.reference.shape)))
        self._expect_dtype("reference", self.reference, torch.float32)
        expect_finite(self.source, "reference", self.reference)
        if float(self.reference.min()) < 0:
            self._fail(
                "reference", "magnitudes >= 0", f"values from {float(self.reference.min()):g}"
            )

    def _validate_covariance(self) -> None:
        covariance = self.noise_covariance
        if covariance is None:
            return
        coils = self.kspace.shape[1]
        if tuple(covariance.shape) != (coils, coils):
            self._fail(
                "noise_covariance",
                f"shape {(coils, coils)}, the coils of kspace",
                str(tuple(covariance.shape)),
            )
        self._expect_dtype("noise_covariance", covariance, torch.complex64)
        expect_finite(self.source, "noise_covariance", covariance)
        asymmetry = float((covariance - covariance.mH).abs().max())
        power = covariance.diagonal().real
        if float(power.min()) <= 0 or asymmetry > 1e-4 * float(power.max()):
            self._fail(
                "noise_covariance",
                "a Hermitian matrix with a positive diagonal",
                f"smallest diagonal {float(power.min()):.3g}, asymmetry {asymmetry:.3g}",
            )

    def _validate_geometry(self) -> None:
        voxel = self.voxel_size_mm
        if voxel is not None and not (
            len(voxel) == 3 and all(math.isfinite(size) and size > 0 for size in voxel)
        ):
            self._fail("voxel_size_mm", "three positive lengths", str(voxel))
        if self.affine is not None:
            if tuple(self.affine.shape) != (4, 4):
                self._fail("affine", "shape (4, 4)", str(tuple(self.affine.shape)))
            self._expect_dtype("affine", self.affine, torch.float64)
            expect_finite(self.source, "affine", self.affine)

    def _expect_dtype(self, key: str, value: Tensor, dtype: torch.dtype) -> None:
        if value.dtype != dtype:
            self._fail(key, str(dtype), str(value.dtype))

    def _fail(self, key: str, expected: str, found: str, hint: str = "") -> None:
        raise DataError(self.source, key=key, expected=expected, found=found, hint=hint)
