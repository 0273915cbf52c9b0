"""The typed batch that flows from the data modules to the reconstruction modules."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sagittal_mri.physics.fourier import fftc, ifftc
from sagittal_mri.physics.sense import CartesianSense


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

    def operator(self, columns: Tensor | None = None, everything: bool = False) -> CartesianSense:
        """The SENSE operator of the acquired columns, of a subset of them, or of every column.

        Args:
            columns: ``(B, W)`` bool subset; None is all that was acquired.
            everything: take ``columns`` as given, even where not acquired (supervised targets).
        """
        mask = self.acquired if columns is None else columns
        if not everything:
            mask = mask & self.acquired
        return CartesianSense(self.maps, mask.unsqueeze(1))


def crop_readout(scan: ReconBatch, first: int, rows: int) -> ReconBatch:
    """The same scans on ``rows`` image rows from ``first`` on: exact, and cheaper to train on.

    Columns are undersampled along W alone, so the rows of the image are independent problems once
    the fully sampled readout (H) is transformed; a window of rows is a smaller scan of its own. The
    noise stays white (the transforms are orthonormal), and scale and maps are those of the scan.
    """
    window = slice(first, first + rows)

    def cut(kspace: Tensor) -> Tensor:
        return fftc(ifftc(kspace, -2)[..., window, :], -2)

    return scan._replace(
        kspace=cut(scan.kspace),
        maps=scan.maps[..., window, :],
        reference_kspace=cut(scan.reference_kspace),
        reference=scan.reference[..., window, :],
        body=scan.body[..., window, :],
    )


def collate(scans: list[ReconBatch]) -> ReconBatch:
    """Stack single scans, each a batch of one, along the first axis."""
    return ReconBatch(*(torch.cat(field) for field in zip(*scans, strict=True)))
