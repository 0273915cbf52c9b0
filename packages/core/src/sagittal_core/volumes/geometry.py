"""Where voxels lie in the patient: affines from what scanners write, axes nearest to RAS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE = 0.01  # of the distance of the slices


class Stack(NamedTuple):
    """Affine ``(4, 4)`` to LPS mm of parallel, equally spaced slices, and their distance in mm."""

    affine: NDArray[np.float64]
    distance: float


def stack_affine(
    axes: NDArray[np.float64],
    spacing: tuple[float, float, float],
    positions: NDArray[np.float64],
    origin: tuple[float, float] = (0.0, 0.0),
) -> Stack:
    """Affine of a stack of slices from their directions and positions, as DICOM and ISMRMRD give.

    Args:
        axes: ``(3, 3)`` columns: unit vectors of the first and second image index and of the slice
            normal, in LPS.
        spacing: mm along these; the third counts only if there is a single slice.
        positions: ``(n, 3)`` LPS mm of one pixel of every slice, in stack order.
        origin: (first, second) index of that pixel.

    Raises:
        ValueError: if the axes are not orthonormal or the slices not equally spaced; says what was
            found.
    """
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise ValueError("directions missing or not orthonormal")
    step = axes[:, 2] * spacing[2]
    if len(positions) > 1:
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
        distance = float(np.linalg.norm(step))
        straight = positions[0] + np.arange(len(positions))[:, None] * step
        if distance == 0 or np.abs(positions - straight).max() > _TOLERANCE * distance:
            raise ValueError("slices not equally spaced on a line")
    affine = np.eye(4)
    affine[:3, 0] = axes[:, 0] * spacing[0]
    affine[:3, 1] = axes[:, 1] * spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0] - affine[:3, :2] @ np.asarray(origin, np.float64)
    return Stack(affine, float(np.linalg.norm(step)))


def closest_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, ...]]:
    """Voxel axes nearest to right, anterior and superior, and which of them run the other way.

    The largest cosine is settled first, then the largest among the axes that are left, as nibabel
    does: the assignment is one to one for oblique scans as well, and agrees with other programs.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, order = np.abs(cosines), [0, 0, 0]
    for _ in range(3):
        patient, voxel = np.unravel_index(int(left.argmax()), left.shape)
        order[int(patient)] = int(voxel)
        left[patient, :] = left[:, voxel] = -1.0
    best = (order[0], order[1], order[2])
    return best, tuple(bool(cosines[i, best[i]] < 0) for i in range(3))


def skew_degrees(affine: NDArray[np.float64], first: int, second: int) -> float:
    """Degrees by which the angle between two columns of an affine misses 90."""
    a, b = affine[:3, first], affine[:3, second]
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return float(np.degrees(np.arcsin(np.clip(abs(cosine), 0.0, 1.0))))
