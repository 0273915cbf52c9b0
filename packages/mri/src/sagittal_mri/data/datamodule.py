"""Lightning data modules of the MRI systems."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import lightning
from torch.utils.data import Dataset

from sagittal_core import sample_data
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_seed
from sagittal_mri.data.batch import ReconBatch, collate, crop_readout
from sagittal_mri.data.simulate import SimulatedScans, split_slices, volume_slices


class ScanList(Protocol):
    """Scans by number, each a batch of one."""

    def __len__(self) -> int:
        """Number of scans."""

    def __getitem__(self, index: int) -> ReconBatch:
        """Scan ``index``, the same in every process."""


class KeyedScans(Dataset[ReconBatch]):
    """Scans indexed by (index, epoch), optionally as random windows of image rows.

    Args:
        scans: the scans.
        readout_rows: rows per window; None keeps whole images.
        seed: root of the windows' randomness.
    """

    def __init__(self, scans: ScanList, readout_rows: int | None, seed: int) -> None:
        self.scans, self.readout_rows, self.seed = scans, readout_rows, seed

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, key: ItemKey) -> ReconBatch:
        scan = self.scans[key.index]
        if self.readout_rows is None:
            return scan
        room = scan.kspace.shape[-2] - self.readout_rows
        first = counter_seed(self.seed, key.epoch, key.index, "rows") % (room + 1)
        return crop_readout(scan, first, self.readout_rows)


class SimulatedMRI(lightning.LightningDataModule):
    """Multi-coil scans simulated from a magnitude volume, split by blocks of slices.

    Args:
        volume: path of a magnitude NIfTI or .npy, or the name of sample data ("mni152_t1").
        axis: slice axis of the volume.
        image_shape: matrix of a slice, ``[H, W]``; phase encoding along W.
        accelerations: nominal accelerations, taken by the scans in turn.
        coils: receive channels.
        calibration: fully sampled central columns.
        noise: standard deviation of a k-space sample's noise; the image maximum is 1.
        repeats: training scans per slice.
        readout_rows: train on random windows of this many image rows (exact for column sampling);
            null trains on whole slices.
        batch_size: training scans per step and process.
        seed: root of the simulation and of the data order.
    """

    quarter_turns = 1  # of pictures; a volume's slices are (x, y): anterior is shown at the top

    def __init__(
        self,
        volume: str = "mni152_t1",
        axis: int = 2,
        image_shape: tuple[int, int] = (160, 192),
        accelerations: tuple[float, ...] = (4.0,),
        coils: int = 8,
        calibration: int = 24,
        noise: float = 0.03,
        repeats: int = 1,
        readout_rows: int | None = None,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.volume, self.axis, self.image_shape = volume, axis, image_shape
        self.accelerations, self.coils, self.calibration = accelerations, coils, calibration
        self.noise, self.repeats, self.readout_rows = noise, repeats, readout_rows
        self.batch_size, self.seed = batch_size, seed
        if readout_rows is not None and not 0 < readout_rows <= image_shape[0]:
            raise ValueError(
                f"SimulatedMRI: readout_rows must lie in 1..{image_shape[0]}, found {readout_rows}"
            )
        self.scans: dict[str, SimulatedScans] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the volume and split its slices; scans are simulated when first asked for."""
        if self.scans:
            return
        path = Path(self.volume)
        if path.suffix == "":
            path = sample_data.path(self.volume)
        slices, numbers = volume_slices(path, self.axis, self.image_shape)
        for role, chosen in split_slices(len(numbers)).items():
            self.scans[role] = SimulatedScans(
                slices[chosen],
                [numbers[i] for i in chosen],
                accelerations=self.accelerations,
                coils=self.coils,
                calibration=self.calibration,
                noise=self.noise,
                repeats=self.repeats if role == "train" else 1,
                seed=self.seed,
            )

    def other_scans(self, name: str) -> SimulatedScans:
        """Whole scans of another anatomy, a path or sample data: one per acceleration."""
        path = Path(name) if Path(name).suffix else sample_data.path(name)
        slices, numbers = volume_slices(path, 2)
        return SimulatedScans(
            slices,
            numbers,
            accelerations=self.accelerations,
            coils=self.coils,
            calibration=self.calibration,
            noise=self.noise,
            repeats=len(self.accelerations),
            seed=self.seed + 1,
        )

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled scans, by a permutation that depends on seed and epoch alone."""
        data = KeyedScans(self.scans["train"], self.readout_rows, self.seed)
        return ResumableDataLoader(
            data, seed=self.seed, batch_size=self.batch_size, collate_fn=collate
        )

    def val_dataloader(self) -> ResumableDataLoader:
        """Whole validation scans, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Whole test scans, in order."""
        return self._in_order("test")

    def _in_order(self, role: str) -> ResumableDataLoader:
        data = KeyedScans(self.scans[role], None, self.seed)
        return ResumableDataLoader(data, seed=self.seed, shuffle=False, collate_fn=collate)
