"""From a canonical volume to square pictures in radiological display convention.

Axial and coronal pictures show the patient's right on the left; sagittal ones look from the
patient's left, with anterior on the left. Anterior (axial) or superior (others) is up. With axes in
RAS+ that is the same step for all three: transpose, then turn both axes round.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagittal_core.volumes import Volume
from sagittal_genai.slices.scans import PLANES


class Raster(NamedTuple):
    """How a slice of (rows, columns) becomes a square: resized to ``shape``, then placed."""

    shape: tuple[int, int]
    size: int


def in_plane(plane: str) -> tuple[int, int]:
    """Volume axes along the (columns, rows) of a picture."""
    first, second = (axis for axis in range(3) if axis != PLANES.index(plane))
    return first, second


def raster(volume: Volume, plane: str, size: int, fit: str) -> Raster:
    """Square pixels for a plane: the longer side is kept (pad) or the shorter one (crop)."""
    across, down = in_plane(plane)
    extents = (
        volume.array.shape[down] * volume.spacing[down],
        volume.array.shape[across] * volume.spacing[across],
    )
    return square(extents, size, fit)


def square(extents: tuple[float, float], size: int, fit: str) -> Raster:
    """As :func:`raster`, from a height and width in one unit."""
    pixel = (max(extents) if fit == "pad" else min(extents)) / size
    height, width = (max(1, round(extent / pixel)) for extent in extents)
    return Raster((height, width), size)


def displayed(array: NDArray[Any], plane: str, number: int) -> NDArray[Any]:
    """One slice ``(rows, columns)`` of a canonical array ``(x, y, z)`` as it is shown."""
    return np.take(array, number, axis=PLANES.index(plane)).T[::-1, ::-1]


def grey_picture(values: NDArray[np.float32], raster: Raster) -> NDArray[np.uint8]:
    """Resize by Lanczos with antialiasing, once, and place; ``values`` are 0..255."""
    height, width = raster.shape
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))  # mode F: not quantised yet
    resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return _placed(np.rint(np.clip(resized, 0, 255)).astype(np.uint8), raster.size)


def label_picture(labels: NDArray[Any], raster: Raster) -> NDArray[Any]:
    """Resize class numbers to the nearest pixel, on the same raster."""
    rows, columns = (_nearest(n, m) for n, m in zip(labels.shape, raster.shape, strict=True))
    return _placed(labels[rows[:, None], columns], raster.size)


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """Source index under the centre of each target pixel."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)


def _placed(image: NDArray[Any], size: int) -> NDArray[Any]:
    """Centre in a square of zeros, or cut the centre out."""
    out = np.zeros((size, size), image.dtype)
    source, target = [], []
    for length in image.shape:
        keep = min(length, size)
        source.append(slice((length - keep) // 2, (length - keep) // 2 + keep))
        target.append(slice((size - keep) // 2, (size - keep) // 2 + keep))
    out[tuple(target)] = image[tuple(source)]
    return out
