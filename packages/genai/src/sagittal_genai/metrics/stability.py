"""Whether autoencoders that differ in their seed find the same features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

# The assignment takes O(F^3) steps: seconds at this size.
LARGEST_ASSIGNMENT = 2048


def match_cosines(first: NDArray, second: NDArray) -> tuple[NDArray[np.float64], str]:
    """Cosine of each row's partner in another decoder.

    Up to ``LARGEST_ASSIGNMENT`` rows the partners are one to one (Hungarian method). Above, each
    row takes the nearest row of the other decoder, which two rows may share: never less than the
    former.

    Args:
        first: (F1, D) decoder rows, F1 <= F2; the smaller one is matched into the larger.
        second: (F2, D).

    Returns:
        (min(F1, F2),) cosines, and how partners were found: ``"one to one"`` or ``"nearest"``.
    """
    small, large = sorted((_unit(first), _unit(second)), key=len)
    if len(large) <= LARGEST_ASSIGNMENT:
        cosines = small @ large.T
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        return cosines[rows, columns], "one to one"
    # In blocks: the whole matrix of a large dictionary would not fit.
    nearest = [(small[i : i + 1024] @ large.T).max(1) for i in range(0, len(small), 1024)]
    return np.concatenate(nearest), "nearest"


def random_cosines(
    first: NDArray, second: NDArray, rng: np.random.Generator
) -> NDArray[np.float64]:
    """:func:`match_cosines` with random directions in place of the second decoder's rows."""
    directions = rng.standard_normal(second.shape).astype(np.float32)
    return match_cosines(first, directions)[0]


def _unit(rows: NDArray) -> NDArray:
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
