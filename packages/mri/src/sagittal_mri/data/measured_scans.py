"""The slices of measured Cartesian k-space files as scans for training and testing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.errors import DataError
from sagittal_core.seeds import counter_generator
from sagittal_mri.data.batch import ReconBatch
from sagittal_mri.data.io import read_slice
from sagittal_mri.data.map_cache import MapCache, content_key
from sagittal_mri.data.record import KspaceIndex, KspaceRecord
from sagittal_mri.data.simulate import calibration_maps, make_scan
from sagittal_mri.physics.coils import root_sum_of_squares
from sagittal_mri.physics.density import ColumnDensity, central_columns
from sagittal_mri.physics.fourier import ifft2c
from sagittal_mri.physics.masks import calibration_columns, column_density, draw_columns
from sagittal_mri.physics.noise import whiten

SMALLEST_CALIBRATION = 12  # columns and rows: twice the ESPIRiT kernel
BODY_FRACTION = 0.1


class MeasuredScans(Dataset[ReconBatch]):
    """The slices of Cartesian k-space files, one item a slice, read when asked for.

    Args:
        files: what the files hold.
        accelerations: for fully sampled files: nominal accelerations, taken by the slices in turn.
            Columns are drawn once per (seed, content, slice number), as a scanner would acquire
            them: renaming or moving a file changes nothing. Empty: the files are undersampled, and
            their columns are taken as they are.
        calibration: fully sampled central columns; None: as many as each undersampled scan has.
        density: estimated acquisition probabilities, where columns are taken as they are.
        maps: where coil maps are kept.
        seed: root of the drawn columns.
    """

    def __init__(
        self,
        files: Sequence[KspaceIndex],
        *,
        accelerations: Sequence[float],
        calibration: int | None,
        density: ColumnDensity | None,
        maps: MapCache,
        seed: int,
    ) -> None:
        self.files, self.accelerations = files, tuple(accelerations)
        self.calibration, self.density, self.maps, self.seed = calibration, density, maps, seed
        self.items = [(file, k) for file in files for k in range(len(file.slices))]

    def __len__(self) -> int:
        return len(self.items)

    def acceleration(self, index: int) -> float:
        """Nominal acceleration of scan ``index``, of fully sampled files."""
        return self.accelerations[index % len(self.accelerations)]

    def __getitem__(self, index: int) -> ReconBatch:
        file, position = self.items[index]
        record = read_slice(file, position)
        try:
            return self._scan(index, file, position, record)
        except DataError:
            raise
        except ValueError as error:  # whitening and map estimation know no file
            raise DataError(
                file.path,
                key=f"slice {file.slices[position]}",
                expected="k-space and noise that coil maps can be estimated from",
                found=str(error),
            ) from error

    def _scan(
        self, index: int, file: KspaceIndex, position: int, record: KspaceRecord
    ) -> ReconBatch:
        kspace = record.kspace[0]
        if record.noise_covariance is not None:
            kspace = whiten(kspace, record.noise_covariance)
        measured = measured_columns(record)
        number = file.slices[position]
        if self.accelerations:
            acquired, density, width = self._undersample(index, file, number, record)
        else:
            acquired, density, width = self._as_acquired(file, measured)
        calibration = calibration_columns(kspace.shape[-1], width)
        key = content_key(kspace[..., calibration], tuple(kspace.shape), width)
        maps = self.maps.get(key, tuple(kspace.shape), lambda: calibration_maps(kspace, width))
        known = bool(self.accelerations)
        return make_scan(
            kspace * acquired,
            acquired,
            density,
            calibration,
            index=index,
            maps=maps,
            reference_kspace=kspace if known else None,
            body=body_pixels(kspace, record.image_shape[1]) if known else None,
        )

    def _undersample(
        self, index: int, file: KspaceIndex, number: int, record: KspaceRecord
    ) -> tuple[Tensor, Tensor, int]:
        """Acquired columns, their density and the calibration width, of a fully sampled slice."""
        assert self.calibration is not None
        measured = measured_columns(record)
        inside = measured.nonzero().flatten()
        gaps = int((~measured[int(inside[0]) : int(inside[-1]) + 1]).sum())
        if gaps or central_columns(measured) < self.calibration:
            raise DataError(
                file.path,
                key="mask",
                expected="fully sampled k-space (at most padded at its edges), to be undersampled",
                found=f"{int(measured.sum())} of {measured.numel()} columns, {gaps} gaps",
                hint="for files that were acquired undersampled set accelerations: null",
            )
        density = column_density(measured.numel(), self.acceleration(index), self.calibration)
        block = calibration_columns(measured.numel(), self.calibration)
        content = content_key(record.kspace[0][..., block])
        generator = counter_generator(self.seed, "columns", content, number)
        drawn = draw_columns(density, self.calibration, generator)
        return drawn.mask & measured, density.float(), self.calibration

    def _as_acquired(self, file: KspaceIndex, measured: Tensor) -> tuple[Tensor, Tensor, int]:
        """The same three of a slice that was acquired undersampled."""
        assert self.density is not None
        found = central_columns(measured)
        wanted = found if self.calibration is None else self.calibration
        if found < wanted or wanted < SMALLEST_CALIBRATION:
            needed = max(wanted if self.calibration else 0, SMALLEST_CALIBRATION)
            raise DataError(
                file.path,
                key="mask",
                expected=f"at least {needed} fully sampled central columns for the coil maps",
                found=f"{found} of {measured.numel()}",
                hint=f"set calibration: {found}" if found >= SMALLEST_CALIBRATION else "",
            )
        density = self.density(measured.numel())
        density[calibration_columns(measured.numel(), wanted)] = 1
        return measured, density, wanted


def body_pixels(kspace: Tensor, width: int) -> Tensor:
    """Pixels that metrics count.

    Args:
        kspace: ``(C, H, W)`` fully sampled.
        width: central image columns that the header's reconstruction matrix keeps.

    Returns:
        ``(H, W)`` bool: above 10 % of the 99th percentile of the root-sum-of-squares image, in the
        central ``width`` columns.
    """
    inside = calibration_columns(kspace.shape[-1], width)  # any centred run of columns
    image = root_sum_of_squares(ifft2c(kspace)) * inside
    return image > BODY_FRACTION * torch.quantile(image[:, inside].flatten(), 0.99)


def measured_columns(record: KspaceRecord) -> Tensor:
    """Acquired columns ``(W,)`` bool: what partitions split, and windows of rows take for granted.

    Raises:
        DataError: if single positions of a line are missing.
    """
    if record.mask.shape[0] != 1:
        raise DataError(
            record.source,
            key="mask",
            expected="whole columns, acquired or not",
            found="single positions (an asymmetric echo, or a two-dimensional mask)",
        )
    return record.mask[0]
