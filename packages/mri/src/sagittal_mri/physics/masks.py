"""Cartesian undersampling: independent Bernoulli columns with a stated probability per column.

Independence is what makes the training theory exact: with columns acquired independently with
probability p_j and kept in the network input with probability q_j, the chance that a column
outside the input is a target is ``p (1 - q) / (1 - p q)`` (Millard & Chiew, IEEE TCI 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Undersampling(NamedTuple):
    """One acquisition pattern along the phase-encoding axis of ``W`` columns."""

    mask: Tensor  # (W,) bool, True = acquired
    density: Tensor  # (W,) float64, probability that the column is acquired
    calibration: Tensor  # (W,) bool, the fully sampled calibration (ACS) columns


def calibration_columns(width: int, calibration: int) -> Tensor:
    """The block of ``calibration`` columns centred on ``width // 2``, ``(width,)`` bool."""
    columns = torch.zeros(width, dtype=torch.bool)
    first = width // 2 - calibration // 2
    columns[first : first + calibration] = True
    return columns


def column_density(width: int, acceleration: float, calibration: int, power: float = 2.0) -> Tensor:
    """Acquisition probability per column: 1 in the calibration block, falling polynomially outside.

    Outside the block ``p_j ∝ (1 - |j - c| / c)^power + floor``, clipped to 1, scaled so that the
    expected number of columns is ``width / acceleration``. The floor (0.05 of the peak) keeps every
    probability positive: a column that is never acquired is never supervised.

    Args:
        width: number of phase-encoding columns.
        acceleration: width over the expected number of acquired columns, > 1.
        calibration: fully sampled central columns.
        power: 0 is uniform; larger favours low frequencies.

    Returns:
        ``(width,)`` float64 in (0, 1].

    Raises:
        ValueError: if the calibration block alone exceeds the budget.
    """
    budget = width / acceleration
    if acceleration <= 1:
        raise ValueError(f"column_density: acceleration must be above 1, found {acceleration}")
    if calibration >= budget:
        raise ValueError(
            f"column_density: {calibration} calibration columns leave nothing of the "
            f"{budget:.1f} that acceleration {acceleration} allows on {width} columns"
        )
    center = calibration_columns(width, calibration)
    distance = (torch.arange(width, dtype=torch.float64) - width // 2).abs() / (width / 2)
    shape = (1 - distance).clamp(min=0) ** power + 0.05
    shape[center] = 0

    low, high = 0.0, float(budget / shape[~center].min())
    for _ in range(80):  # bisection: the clipped sum is monotone in the scale
        scale = (low + high) / 2
        if float((shape * scale).clamp(max=1).sum()) < budget - calibration:
            low = scale
        else:
            high = scale
    density = (shape * (low + high) / 2).clamp(max=1)
    density[center] = 1
    return density


def draw_columns(
    density: Tensor, calibration: int, generator: torch.Generator | None = None
) -> Undersampling:
    """Draw each column independently with its probability; the calibration block is always in.

    Args:
        density: ``(W,)`` probabilities from :func:`column_density`.
        calibration: width of the fully sampled block.
        generator: source of randomness (CPU).
    """
    center = calibration_columns(density.numel(), calibration)
    drawn = torch.rand(density.numel(), dtype=torch.float64, generator=generator) < density
    return Undersampling(drawn | center, density, center)
