"""Organ masks of a scan as one volume of class numbers on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes import Volume, read_nifti
from sagittal_genai.slices.scans import Labels, Organ


class LabelVolume(NamedTuple):
    """Class numbers ``(x, y, z)`` of a scan.

    Attributes:
        labels: 0 where there is no organ, and where no mask reaches.
        resampled: how many masks lay on another grid.
        short: how many of these do not reach over the whole scan, by more than a voxel.
    """

    labels: NDArray[Any]
    resampled: int
    short: int


class Gridded(NamedTuple):
    """Values of a mask at the voxels of a scan; see :class:`LabelVolume`."""

    values: NDArray[Any]
    moved: bool
    short: bool


def read_masks(
    masks: Sequence[Labels | Organ], volume: Volume, numbers: Mapping[str, int]
) -> LabelVolume:
    """Read all masks of a scan.

    Args:
        masks: files; where organs overlap, the later one wins.
        volume: the scan, canonical.
        numbers: class name to number in the slice folder.

    Raises:
        DataError: if a mask cannot be read, holds unknown classes or lies beside the scan.
    """
    dtype = np.uint8 if max(numbers.values(), default=0) < 256 else np.uint16
    labels, resampled, short = np.zeros(volume.array.shape, dtype), 0, 0
    for mask in masks:
        found, moved, ends = on_grid(read_nifti(mask.path).canonical(), volume, mask.path)
        resampled, short = resampled + moved, short + ends
        if isinstance(mask, Organ):
            labels[found > mask.threshold] = numbers[mask.name]
        else:
            used = _renumbered(found, mask, numbers).astype(dtype)
            labels[used > 0] = used[used > 0]
    return LabelVolume(labels, resampled, short)


def on_grid(mask: Volume, volume: Volume, file: Path) -> Gridded:
    """Values of a mask at the voxels of a volume, the nearest ones, 0 where it does not reach.

    Raises:
        DataError: if the mask is turned against the volume or lies beside it.
    """
    same = mask.array.shape == volume.array.shape
    unknown = any("orientation unknown" in note for note in (*mask.notes, *volume.notes))
    if same and (unknown or np.allclose(mask.affine, volume.affine, atol=1e-2)):
        return Gridded(mask.array, False, False)
    # Voxel of the mask for each voxel of the volume; without rotation the axes are independent.
    step = np.linalg.solve(mask.affine, volume.affine)
    if np.abs(step[:3, :3] - np.diag(np.diag(step[:3, :3]))).max() > 0.01:
        raise DataError(
            file, key="affine", expected="axes parallel to the scan's", found="a rotated mask"
        )
    indices, inside = [], []
    for axis in range(3):
        places = step[axis, axis] * np.arange(volume.array.shape[axis]) + step[axis, 3]
        nearest = np.floor(places + 0.5).astype(np.int64)
        inside.append((nearest >= 0) & (nearest < mask.array.shape[axis]))
        indices.append(np.clip(nearest, 0, mask.array.shape[axis] - 1))
    if not all(one.any() for one in inside):
        raise DataError(file, key="affine", expected="a mask over the scan", found="one beside it")
    covered = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    short = any(int((~one).sum()) > 1 for one in inside)
    return Gridded(np.where(covered, mask.array[np.ix_(*indices)], 0), True, short)


def _renumbered(found: NDArray[Any], mask: Labels, numbers: Mapping[str, int]) -> NDArray[np.int64]:
    whole = np.rint(found).astype(np.int64)
    if found.dtype.kind == "f" and not np.array_equal(whole, found):
        raise DataError(mask.path, key="values", expected="class numbers", found="fractions")
    present = np.unique(whole)
    unknown = [int(v) for v in present if v != 0 and int(v) not in mask.classes]
    if unknown:
        raise DataError(
            mask.path,
            key="values",
            expected=f"0 or one of the {len(mask.classes)} classes given",
            found=f"{len(unknown)} others: {unknown[:8]}",
        )
    table = np.array([numbers[mask.classes[int(v)]] if v != 0 else 0 for v in present], np.int64)
    return table[np.searchsorted(present, whole)]
