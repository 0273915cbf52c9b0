"""What lies under each patch of an encoder's grid: background or not, and which organs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

ORGAN_SHARE = 0.25  # of a patch that a class must cover to be listed


def patch_numbers(size: tuple[int, int], grid: tuple[int, int]) -> NDArray[np.int64]:
    """Number of the patch, row-major, of each pixel of an image: (H, W) for a size (H, W)."""
    rows, columns = (np.arange(s) * g // s for s, g in zip(size, grid, strict=True))
    return rows[:, None] * grid[1] + columns[None]


def empty_patches(image: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches have one grey value only: nothing is there to be encoded.

    Args:
        image: (H, W) uint8, as the network sees it, before normalisation.
        grid: (h, w) patches.

    Returns:
        (h * w,) bool, row-major.
    """
    numbers = patch_numbers((image.shape[0], image.shape[1]), grid).ravel()
    lowest = np.full(grid[0] * grid[1], 255, np.uint8)
    highest = np.zeros(grid[0] * grid[1], np.uint8)
    np.minimum.at(lowest, numbers, image.ravel())
    np.maximum.at(highest, numbers, image.ravel())
    return lowest >= highest


def patch_organs(
    labels: NDArray[np.int32], grid: tuple[int, int], classes: Mapping[int, str]
) -> list[list[str]]:
    """Classes that cover at least a quarter of each patch.

    Args:
        labels: (H, W) class numbers, in the geometry of the network's input; 0 is background.
        grid: (h, w) patches.
        classes: Class number to name; a number without a name is left out.

    Returns:
        h * w lists of names, row-major, each in the order of the numbers.
    """
    patches = grid[0] * grid[1]
    numbers = patch_numbers((labels.shape[0], labels.shape[1]), grid)
    present = [int(n) for n in np.unique(labels) if int(n) in classes and n != 0]
    area = np.bincount(numbers.ravel(), minlength=patches)
    found: list[list[str]] = [[] for _ in range(patches)]
    for number in present:
        covered = np.bincount(numbers[labels == number], minlength=patches)
        for patch in np.flatnonzero(covered >= ORGAN_SHARE * area):
            found[int(patch)].append(classes[number])
    return found
