"""Where a finding is: boxes against boxes, and maps against boxes.

A box is (x, y, width, height) in pixels from the top left corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _corners(boxes: ArrayLike) -> NDArray[np.float64]:
    """(N, 4) left, top, right, bottom; a side of negative length is 0, so that no area is lost."""
    given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(given).all():
        raise ValueError("boxes must be finite")
    ends = given[:, :2] + np.maximum(given[:, 2:], 0)
    return np.concatenate([given[:, :2], ends], axis=1)


def _areas(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """Intersection, union and hull of every pair, (N, M) each."""
    a, b = _corners(first)[:, None], _corners(second)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.maximum(sides, 0).prod(-1)
    own = [(c[..., 2:] - c[..., :2]).prod(-1) for c in (a, b)]
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    return both, own[0] + own[1] - both, hull


def iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair.

    Args:
        first: (N, 4) boxes.
        second: (M, 4) boxes.

    Returns:
        (N, M); 0 where both areas are 0.

    Raises:
        ValueError: If a number is not finite.
    """
    both, union, _ = _areas(first, second)
    return np.where(union > 0, both / np.where(union > 0, union, 1), 0.0)


def generalised_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """IoU - (hull - union) / hull of every pair (Rezatofighi et al., 2019), in [-1, 1].

    Of boxes that do not meet it says how far apart they are, where IoU is 0.
    """
    both, union, hull = _areas(first, second)
    overlap = np.where(union > 0, both / np.where(union > 0, union, 1), 0.0)
    gap = np.where(hull > 0, (hull - union) / np.where(hull > 0, hull, 1), 0.0)
    return overlap - gap


def inside(boxes: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool: pixels whose centre is in one of the boxes (N, 4)."""
    found = np.zeros((height, width), np.bool_)
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for left, top, right, bottom in _corners(boxes):
        high = (rows >= top) & (rows < bottom)
        found |= high[:, None] & (columns >= left) & (columns < right)
    return found


def pointing(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Whether the highest value is inside (pointing game); of several, the share that is.

    Args:
        values: (H, W).
        mask: (H, W).
    """
    top = values == values.max()
    return float((top & mask).sum() / top.sum())


def contrast_to_noise(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """(mean inside - mean outside) / sqrt(variance inside + variance outside).

    Signed, unlike in BioViL: a map that is high everywhere but inside is below 0.

    Args:
        values: (H, W).
        mask: (H, W).

    Returns:
        NaN where nothing is inside or outside, or the map is the same everywhere.
    """
    if mask.all() or not mask.any():
        return float("nan")
    within, without = values[mask], values[~mask]
    noise = float(np.sqrt(within.var() + without.var()))
    return float((within.mean() - without.mean()) / noise) if noise > 0 else float("nan")
