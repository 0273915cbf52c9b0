"""One radiograph as grey levels 0..255, from any of the files that data sets come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagittal_core.volumes import Radiograph, read_radiograph

_SAMPLE = 1_000_000  # pixels that percentiles are taken of; all of them in smaller pictures
_SIDE = 64  # of the copy that looks_inverted judges


def load_grey(
    path: str | Path, window: bool = True, *, percentiles: Sequence[float] = (0.5, 99.5)
) -> NDArray[np.uint8]:
    """Read a radiograph as a screen would show it: what absorbs much is bright.

    DICOM goes through modality LUT, VOI LUT or window, then the inversion of MONOCHROME1. A picture
    of 8 bits stays as it is. Deeper ones are scaled in a straight line: what the file's window
    shows from black to white where one was applied, otherwise the values between two percentiles.

    Args:
        path: PNG, JPEG or TIFF of 8 or 16 bits, or DICOM of any other name.
        window: apply a DICOM file's VOI LUT or window, where it has one.
        percentiles: shown black and white where there is no window; [0, 100] cuts nothing off.

    Returns:
        (H, W) uint8. A picture that is the same everywhere is 0 where it is not of 8 bits.

    Raises:
        DataError: if it cannot be read, or is no single grey image.
    """
    return to_grey(read_radiograph(path, window=window), percentiles)


def to_grey(
    radiograph: Radiograph, percentiles: Sequence[float] = (0.5, 99.5)
) -> NDArray[np.uint8]:
    """Scale what :func:`~sagittal_core.volumes.read_radiograph` gave, as :func:`load_grey` says."""
    pixels, (low, high) = radiograph.pixels, radiograph.full_range
    if (low, high) == (0, 255) and pixels.dtype.kind == "u":
        return pixels.astype(np.uint8, copy=False)
    if not radiograph.windowed:
        low, high = _ends(pixels, percentiles)
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    if pixels.dtype == np.uint16:  # a table of 65,536 grey levels is faster than arithmetic
        table = _scaled(np.arange(65536, dtype=np.float32), low, high)
        return table[pixels]
    return _scaled(pixels.astype(np.float32), low, high)


def looks_inverted(image: NDArray[np.uint8]) -> bool:
    """Say whether a frontal radiograph is probably shown as a negative, by its anatomy.

    It is a rule of thumb for reports, not a ground to change a picture; the package's README says
    how often it errs. Lateral views and other parts of the body are not what it is made for.

    Args:
        image: (H, W) grey levels of a frontal view.
    """
    return inversion_score(image) < 0


def inversion_score(image: NDArray[np.uint8]) -> float:
    """Positive for what looks right, negative for a negative, in grey levels.

    Lungs hold air: shown rightly, both are darker than the spine and mediastinum between them. And
    in the upper corners the beam met air, so they are darker than the body. The score is the first
    difference plus half the second. Medians are taken at fixed shares of the picture, after a
    border of one level (collimation, paper) is cut off: rows 25 to 60 % and columns 44 to 56 % for
    the middle, columns 20 to 36 % and 64 to 80 % for the lungs. The score of a negative is minus
    that of the picture.

    Args:
        image: (H, W) uint8.
    """
    picture = Image.fromarray(_without_border(image))
    small = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)

    def level(top: float, bottom: float, left: float, right: float) -> NDArray[np.float32]:
        rows, columns = (
            [round(v * _SIDE) for v in pair] for pair in ((top, bottom), (left, right))
        )
        return small[rows[0] : rows[1], columns[0] : columns[1]].reshape(-1)

    middle = np.median(level(0.25, 0.6, 0.44, 0.56))
    lungs = np.median(level(0.25, 0.6, 0.2, 0.36)) + np.median(level(0.25, 0.6, 0.64, 0.8))
    body = np.median(level(0.375, 0.8125, 0.25, 0.75))
    corners = np.concatenate([level(0, 0.1, 0, 0.16), level(0, 0.1, 0.84, 1)])
    return float(middle - lungs / 2 + (body - np.median(corners)) / 2)


def _without_border(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows and columns of a single level at the edges removed."""
    rows = np.flatnonzero(np.ptp(image, axis=1) > 8)
    columns = np.flatnonzero(np.ptp(image, axis=0) > 8)
    if len(rows) < 8 or len(columns) < 8:
        return image
    return np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _ends(pixels: NDArray[Any], percentiles: Sequence[float]) -> tuple[float, float]:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be increasing in 0..100, got {low} and {high}")
    if (low, high) == (0, 100):
        return float(pixels.min()), float(pixels.max())
    flat = pixels.reshape(-1)
    flat = flat[:: max(1, len(flat) // _SAMPLE)]
    ends = np.percentile(flat, [low, high])
    if ends[0] == ends[1]:  # almost all of it is one value
        return float(pixels.min()), float(pixels.max())
    return float(ends[0]), float(ends[1])


def _scaled(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    share = (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)
    return np.rint(share * np.float32(255)).astype(np.uint8)
