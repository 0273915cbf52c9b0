"""Training and testing on folders of measured Cartesian k-space."""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ResumableDataLoader
from sagittal_mri.data.batch import collate
from sagittal_mri.data.datamodule import KeyedScans
from sagittal_mri.data.io import index_kspace, read_slice
from sagittal_mri.data.map_cache import MapCache
from sagittal_mri.data.measured_scans import SMALLEST_CALIBRATION, MeasuredScans, measured_columns
from sagittal_mri.data.record import KspaceIndex
from sagittal_mri.data.simulate import ROLES
from sagittal_mri.physics.density import ColumnDensity
from sagittal_mri.physics.masks import column_density

_SUFFIXES = (".h5", ".hdf5", ".mrd")
_PARTS, _PART_BYTES = 16, 4096
_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class MeasuredMRI(lightning.LightningDataModule):
    """Slices of fastMRI HDF5 or ISMRMRD files, 2-D Cartesian; one item a slice.

    ``train``, ``val`` and ``test`` are each a folder (its .h5, .hdf5 and .mrd files), a file, a
    glob pattern (``**`` descends), or a list of these. Only headers are read at the start; each
    slice is read, whitened by the file's noise covariance if it has one, and completed with ESPIRiT
    maps and a scale from its calibration columns when a loader asks for it.

    With ``accelerations``, the files must be fully sampled: columns are drawn independently from a
    known density, once per slice, and the whole k-space, noise included, is the reference of
    metrics and of ``Supervised``. Without, the files were acquired undersampled: there is no
    reference, training is self-supervised, and the density that K-weighted SSDU needs is estimated
    from the training masks (:class:`~sagittal_mri.physics.density.ColumnDensity`). A warning tells
    how many columns none of them acquires: these are never supervised.

    Metrics count the pixels above 10 % of the 99th percentile of the reference's magnitude, inside
    the reconstruction matrix of the header (fastMRI's central crop).

    Args:
        train: training files.
        val: validation files; null: none.
        test: test files; null: none.
        accelerations: grid columns over expected acquired columns, for fully sampled files; the
            slices take these in turn. null: take the columns as acquired.
        calibration: fully sampled central columns for maps and scale, never targets. null (only
            for undersampled files): each scan's own block; columns beside it that happen to be
            acquired then count to it, so that they are targets less often than the weights say.
        readout_rows: train on random windows of this many image rows; null trains on whole slices.
        batch_size: training slices per step and process; above 1, all must have one shape.
        select: which contrast, phase, repetition, set, ... to take of ISMRMRD files that hold
            several, e.g. ``{contrast: 0}``.
        cache_dir: folder that keeps the coil maps between runs (complex64, the size of the
            k-space); null keeps them in memory only.
        cache_slices: slices whose maps each loading process keeps in memory.
        num_workers: processes that read and estimate maps; 0 does it in the training process.
        seed: root of the drawn columns and of the data order.
    """

    quarter_turns = 0  # of pictures; slices are shown as the file stores them

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        accelerations: list[float] | None = None,
        calibration: int | None = 24,
        readout_rows: int | None = None,
        batch_size: int = 1,
        select: dict[str, int] | None = None,
        cache_dir: str | None = None,
        cache_slices: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.paths = {"train": train, "val": val, "test": test}
        self.accelerations = tuple(accelerations or ())
        self.calibration, self.readout_rows, self.batch_size = calibration, readout_rows, batch_size
        self.select, self.num_workers, self.seed = dict(select or {}), num_workers, seed
        self.cache_dir, self.cache_slices = cache_dir, cache_slices
        self.scans: dict[str, MeasuredScans] = {}
        if calibration is None and self.accelerations:
            raise ConfigError("MeasuredMRI: accelerations need calibration, a number of columns")
        if calibration is not None and calibration < SMALLEST_CALIBRATION:
            raise ConfigError(
                f"MeasuredMRI: calibration must be at least {SMALLEST_CALIBRATION} columns for the"
                f" coil maps, found {calibration}"
            )

    def setup(self, stage: str | None = None) -> None:
        """Index the files that ``stage`` needs.

        Raises:
            ConfigError: no files, the same file in two roles, shapes that make no batch.
            DataError: a file that cannot be used, as far as its headers tell.
        """
        wanted = [role for role in _STAGES.get(stage or "", ROLES) if self.paths[role] is not None]
        missing = [role for role in wanted if role not in self.scans]
        if not missing:
            return
        listed = {role: list_files(role, given) for role, given in self.paths.items() if given}
        expect_disjoint(listed)
        measured_density = not self.accelerations
        if measured_density and "train" not in listed:
            raise ConfigError(
                "MeasuredMRI: undersampled files need `train`, to estimate the density from"
            )
        needed = {*missing, "train"} if measured_density else set(missing)
        files = {role: self._index(listed[role]) for role in listed if role in needed}
        density = ColumnDensity(training_masks(files["train"])) if measured_density else None
        for role in missing:
            self._expect_accelerations(files[role])
            folder = None if self.cache_dir is None else Path(self.cache_dir)
            self.scans[role] = MeasuredScans(
                files[role],
                accelerations=self.accelerations,
                calibration=self.calibration,
                density=density,
                maps=MapCache(folder, self.cache_slices),
                seed=self.seed,
            )
        if "train" in missing:
            self._expect_batches(files["train"])
            if density is not None:
                warn_if_never_supervised(density)

    def _index(self, paths: list[Path]) -> list[KspaceIndex]:
        files = [index_kspace(path, self.select) for path in paths]
        for file in files:
            if not file.is_cartesian or min(file.grid) < SMALLEST_CALIBRATION:
                raise DataError(
                    file.path,
                    key="kspace",
                    expected=f"Cartesian, at least {SMALLEST_CALIBRATION} rows and columns",
                    found=("" if file.is_cartesian else "non-Cartesian, ") + str(file.grid),
                )
        return files

    def _expect_accelerations(self, files: Sequence[KspaceIndex]) -> None:
        for acceleration in self.accelerations:
            for width in sorted({file.grid[1] for file in files}):
                try:
                    column_density(width, acceleration, int(self.calibration or 0))
                except ValueError as error:
                    raise ConfigError(f"MeasuredMRI: {error}") from None

    def _expect_batches(self, files: Sequence[KspaceIndex]) -> None:
        heights = {file.grid[0] for file in files}
        if self.readout_rows is not None and not 0 < self.readout_rows <= min(heights):
            raise ConfigError(
                f"MeasuredMRI: readout_rows must lie in 1..{min(heights)}, the rows of the"
                f" smallest training file; found {self.readout_rows}"
            )
        shapes = {(f.coils, self.readout_rows or f.grid[0], f.grid[1]) for f in files}
        if self.batch_size > 1 and len(shapes) > 1:
            raise ConfigError(
                f"MeasuredMRI: batch_size {self.batch_size} needs training files of one shape;"
                f" (coils, rows, columns) are {', '.join(map(str, sorted(shapes)))}:"
                " set batch_size: 1 (trainer.accumulate_grad_batches makes larger steps)"
            )

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled slices, by a permutation that depends on seed and epoch alone."""
        return self._loader("train", self.readout_rows, self.batch_size)

    def val_dataloader(self) -> ResumableDataLoader | list[ResumableDataLoader]:
        """Whole validation slices, in order; no loader without ``val``."""
        return [] if self.paths["val"] is None else self._loader("val", None, 1)

    def test_dataloader(self) -> ResumableDataLoader:
        """Whole test slices, in order."""
        return self._loader("test", None, 1)

    def _loader(self, role: str, rows: int | None, batch_size: int) -> ResumableDataLoader:
        if role not in self.scans:
            raise ConfigError(f"MeasuredMRI: data.init_args.{role} is not set")
        return ResumableDataLoader(
            KeyedScans(self.scans[role], rows, self.seed),
            seed=self.seed,
            batch_size=batch_size,
            shuffle=role == "train",
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def list_files(role: str, given: str | Sequence[str]) -> list[Path]:
    """The files of folders, files and glob patterns, sorted and without repetition.

    Raises:
        ConfigError: if one of them stands for no file; ``role`` is named.
    """
    found: set[Path] = set()
    for item in [given] if isinstance(given, str) else given:
        path = Path(item).expanduser()
        if path.is_dir():
            files = [p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES]
        elif path.is_file():
            files = [path]
        else:
            files = [p for p in _glob(path) if p.is_file()]
        if not files:
            raise ConfigError(
                f"MeasuredMRI: {role}: {item} stands for no file; give a folder with files in"
                f" {', '.join(_SUFFIXES)}, a file or a glob pattern"
            )
        if path.is_dir() and (others := sum(1 for _ in path.iterdir()) - len(files)):
            rank_zero_info(
                f"MeasuredMRI: {role}: {len(files)} files of {item}; {others} other entries are no"
                f" {', '.join(_SUFFIXES)} files and are left aside"
            )
        found.update(files)
    return sorted(found)


def _glob(pattern: Path) -> list[Path]:
    """Matches of a pattern, absolute or relative to the working directory."""
    fixed = Path(pattern.anchor)
    return sorted(fixed.glob(str(pattern.relative_to(fixed))))


def expect_disjoint(listed: Mapping[str, Sequence[Path]]) -> None:
    """Raise a ConfigError if a file, or a copy of it, has two roles: that would be no test.

    Only files of equal size are opened: 16 samples of 4 kB tell most of them apart, and the rest
    are compared whole.
    """
    alike: dict[tuple[int, str], list[tuple[str, Path]]] = {}
    sizes: dict[int, list[tuple[str, Path]]] = {}
    for role, paths in listed.items():
        for path in paths:
            sizes.setdefault(path.stat().st_size, []).append((role, path))
    for size, files in sizes.items():
        if len({role for role, _ in files}) > 1:
            for role, path in files:
                alike.setdefault((size, _samples(path, size)), []).append((role, path))
    for files in alike.values():
        for (role, path), (other, twin) in itertools.combinations(files, 2):
            if role != other and filecmp.cmp(path, twin, shallow=False):
                raise ConfigError(
                    f"MeasuredMRI: {role} and {other} share a scan: {path} is the same as {twin}"
                )


def _samples(path: Path, size: int) -> str:
    """Hash of parts spread evenly over a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for part in range(_PARTS):
            file.seek(max(0, size - _PART_BYTES) * part // (_PARTS - 1))
            digest.update(file.read(_PART_BYTES))
    return digest.hexdigest()


def training_masks(files: Sequence[KspaceIndex]) -> list[Tensor]:
    """The distinct masks ``(W,)`` of every file, for :class:`ColumnDensity`.

    Slices that share a mask are one draw, not several. A fastMRI file without ``/mask`` shows its
    columns only in its k-space: its first slice is read.
    """
    masks: list[Tensor] = []
    for file in files:
        columns = file.columns
        if columns is None:
            columns = measured_columns(read_slice(file, 0))[None]
        masks.extend(torch.unique(columns, dim=0))
    return masks


def warn_if_never_supervised(density: ColumnDensity) -> None:
    """Warn of columns that no training mask acquires: no split ever makes them a target."""
    for width, never in density.never_acquired().items():
        if bool(never.any()):
            count = sum(mask.numel() == width for mask in density.masks)
            warnings.warn(
                f"MeasuredMRI: {int(never.sum())} of {width} columns are acquired by none of the"
                f" {count} training masks of this width. They are in no loss: self-supervised"
                " training says nothing about them; train on scans whose masks differ more.",
                stacklevel=2,
            )
