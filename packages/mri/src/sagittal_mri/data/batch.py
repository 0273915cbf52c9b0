"""The typed batches that flow from the data modules to the reconstruction modules."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sagittal_core.errors import ConfigError
from sagittal_mri.partitions import Acquisition
from sagittal_mri.physics.fourier import fftc, ifftc
from sagittal_mri.physics.sense import CartesianSense, SenseOperator


class Scans(Protocol):
    """What training, testing and the classical reconstructions ask of a batch of B scans.

    The samples of a scan fall into P *positions* (Cartesian columns, groups of radial spokes),
    which a partition sends to the network's input or to the loss. Arguments named ``positions`` are
    ``(B, P)``; None stands for all that was acquired.
    """

    @property
    def number(self) -> Tensor:
        """``(B,)`` int64, number of the scan in its data set; seeds its splits."""

    @property
    def scale(self) -> Tensor:
        """``(B,)`` float32, from calibration samples only: a typical image magnitude."""

    @property
    def reference(self) -> Tensor:
        """``(B, H, W)`` magnitude; zeros where unknown."""

    @property
    def body(self) -> Tensor:
        """``(B, H, W)`` bool, pixels that the metrics count."""

    @property
    def has_reference(self) -> bool:
        """Whether noise-free data is known for these scans."""

    def law(self) -> Acquisition:
        """The positions, and the law that they were drawn from."""

    def operator(self, positions: Tensor | None = None) -> SenseOperator:
        """The SENSE operator A of acquired ``positions``."""

    def adjoint(self, positions: Tensor | None = None) -> Tensor:
        """``A^H y`` ``(B, H, W)`` of acquired ``positions``: what a reconstruction starts from."""

    def measured(self, positions: Tensor) -> Tensor:
        """What :meth:`operator` predicts: the samples of ``positions``, zero elsewhere."""

    def per_sample(self, values: Tensor) -> Tensor:
        """Values per position ``(B, P)``, broadcastable to the samples."""

    def truth(self) -> tuple[SenseOperator, Tensor]:
        """Operator of a full noise-free acquisition and its samples: what supervision targets."""


class ReconBatch(NamedTuple):
    """Cartesian scans of one matrix size, B of them."""

    kspace: Tensor  # (B, C, H, W) complex64, zero outside the acquired columns
    maps: Tensor  # (B, C, H, W) complex64, estimated from the calibration block
    acquired: Tensor  # (B, W) bool
    density: Tensor  # (B, W) float32, acquisition probability of each column
    calibration: Tensor  # (B, W) bool
    scale: Tensor  # (B,) float32, from the calibration block only
    number: Tensor  # (B,) int64, number of the scan in its data set; seeds its splits
    reference_kspace: Tensor  # (B, C, H, W) fully sampled, or (B, 0, H, W) where unknown
    reference: Tensor  # (B, H, W) magnitude; zeros where unknown
    body: Tensor  # (B, H, W) bool, pixels that the metrics count

    @property
    def has_reference(self) -> bool:
        """Whether fully sampled data is known for these scans."""
        return self.reference_kspace.shape[1] > 0

    def law(self) -> Acquisition:
        """Columns drawn independently, each with its density."""
        return Acquisition(self.acquired, self.density, self.calibration)

    def operator(self, positions: Tensor | None = None) -> CartesianSense:
        """The SENSE operator of the acquired columns, or of those in ``positions`` ``(B, W)``."""
        mask = self.acquired if positions is None else positions & self.acquired
        return CartesianSense(self.maps, mask.unsqueeze(1))

    def adjoint(self, positions: Tensor | None = None) -> Tensor:
        """``A^H y`` of the acquired columns, or of those in ``positions``: ``(B, H, W)``."""
        return self.operator(positions).adjoint(self.kspace)

    def measured(self, positions: Tensor) -> Tensor:
        """k-space ``(B, C, H, W)``, zero outside ``positions``."""
        return self.per_sample(positions) * self.kspace

    def per_sample(self, values: Tensor) -> Tensor:
        """Values per column ``(B, W)`` as ``(B, 1, 1, W)``."""
        return values[:, None, None, :]

    def truth(self) -> tuple[CartesianSense, Tensor]:
        """The operator of every column and the fully sampled k-space.

        Raises:
            ConfigError: if these scans are known only as far as they were acquired.
        """
        if not self.has_reference:
            raise ConfigError(
                "Supervised training needs fully sampled scans; these are undersampled: "
                "choose another partition, or fully sampled files and data.init_args.accelerations"
            )
        everything = torch.ones_like(self.acquired).unsqueeze(1)
        return CartesianSense(self.maps, everything), self.reference_kspace


def crop_readout(scan: ReconBatch, first: int, rows: int) -> ReconBatch:
    """The same scans on ``rows`` image rows from ``first`` on: exact, and cheaper to train on.

    Columns are undersampled along W alone, so the rows of the image are independent problems once
    the fully sampled readout (H) is transformed; a window of rows is a smaller scan of its own. The
    noise stays white (the transforms are orthonormal), and scale and maps are those of the scan.
    """
    window = slice(first, first + rows)

    def cut(kspace: Tensor) -> Tensor:
        if not kspace.numel():  # no reference: MKL refuses to transform nothing
            return kspace[..., window, :]
        return fftc(ifftc(kspace, -2)[..., window, :], -2)

    return scan._replace(
        kspace=cut(scan.kspace),
        maps=scan.maps[..., window, :],
        reference_kspace=cut(scan.reference_kspace),
        reference=scan.reference[..., window, :],
        body=scan.body[..., window, :],
    )


Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


def collate(scans: list[Batch]) -> Batch:
    """Stack single scans, each a batch of one, along the first axis of every field."""
    return type(scans[0])(*(torch.cat(field) for field in zip(*scans, strict=True)))
