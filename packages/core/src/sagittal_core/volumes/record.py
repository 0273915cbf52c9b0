"""One volume in memory, and where its voxels lie in the patient."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError
from sagittal_core.volumes.geometry import closest_axes, skew_degrees

Array = NDArray[np.int16] | NDArray[np.float32]


@dataclass(frozen=True)
class Volume:
    """A scan.

    Attributes:
        array: ``(x, y, z)`` int16 or float32, finite; CT in Hounsfield units.
        affine: ``(4, 4)`` float64 from voxel indices to millimetres, RAS+ (right, anterior and
            superior are positive).
        modality: DICOM's code (CT, MR, ...), or None where the file does not tell.
        metadata: what the file tells beside the image, without anything that names a person.
        notes: what a reader had to assume or leave out.
    """

    array: Array
    affine: NDArray[np.float64]
    modality: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances of neighbouring voxels along the three axes, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def canonical(self) -> Volume:
        """The same voxels with axes permuted and flipped to point right, anterior and superior.

        An oblique scan keeps its obliqueness: nothing is interpolated, and each axis points to
        within 45 degrees or so of where its name says.
        """
        order, flips = closest_axes(self.affine)
        array = self.array.transpose(order)
        matrix = np.eye(4)
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            matrix[:3, new] = self.affine[:3, old] * (-1 if flip else 1)
        corner = [
            self.array.shape[old] - 1 if flip else 0 for old, flip in zip(order, flips, strict=True)
        ]
        start = np.zeros(3)
        start[list(order)] = corner
        matrix[:3, 3] = self.affine[:3, :3] @ start + self.affine[:3, 3]
        turned = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        return replace(self, array=np.ascontiguousarray(turned), affine=matrix)

    def skew(self, first: int, second: int) -> float:
        """Degrees by which two axes miss a right angle (gantry tilt, a wrong header)."""
        return skew_degrees(self.affine, first, second)


def compact(values: NDArray[Any]) -> Array:
    """The values as int16 if they are integers that fit, as float32 otherwise."""
    if values.dtype.kind in "iub" and (
        values.size == 0 or (values.min() >= -32768 and values.max() <= 32767)
    ):
        return values.astype(np.int16, copy=False)
    return values.astype(np.float32, copy=False)


def need(module: str, file: str | Path, extra: str = "volumes") -> Any:
    """Import an optional library, or say which extra brings it.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"reading {Path(file).suffix or 'this file'} needs {module} ({error}); run"
            f" `pip install 'sagittal-core[{extra}]'`"
        ) from error
