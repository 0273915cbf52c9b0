"""How well two segmentations agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice_and_iou(
    found: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice 2 |A and B| / (|A| + |B|) and IoU |A and B| / |A or B| of each image.

    Args:
        found: (N, H, W).
        truth: (N, H, W).

    Returns:
        (N,) and (N,); 1 where both masks are empty, as is the rule where many images have nothing
        to find (SIIM).

    Raises:
        ValueError: If the shapes differ or are not of three axes.
    """
    if found.shape != truth.shape or found.ndim != 3:
        raise ValueError(f"expected masks (N, H, W) of one shape, got {found.shape}, {truth.shape}")
    both = (found & truth).sum((1, 2)).astype(np.float64)
    sizes = found.sum((1, 2)) + truth.sum((1, 2)).astype(np.float64)
    union = sizes - both
    dice = np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)
    iou = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    return dice, iou
