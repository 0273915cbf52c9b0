"""The sampling density of measured data, estimated from the masks of many scans."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sagittal_mri.physics.masks import calibration_columns

_BINS = 16
_PRIOR_SCANS = 4.0


def central_columns(acquired: Tensor) -> int:
    """Width of the largest fully acquired block centred on column ``W // 2``; 0 if there is none.

    Args:
        acquired: ``(W,)`` bool.
    """
    center = acquired.numel() // 2
    below, above = (
        int(side.int().cumprod(0).sum()) for side in (acquired[:center].flip(0), acquired[center:])
    )
    return 2 * below + 1 if above > below else 2 * above


class ColumnDensity:
    """Acquisition probability per column, estimated from the masks of a training set.

    Two facts about column sampling make few masks enough: the density is symmetric about the
    centre, and it varies slowly with spatial frequency. So a profile m over 16 bins of
    ``|k| / k_max`` is pooled over all masks, whatever their width: of the columns in a bin that lie
    outside their scan's central block, the share acquired, ``(hits + 1/2) / (trials + 1)``. The
    estimate of a column acquired in c of the n masks of its width is the posterior mean of a beta
    distribution whose prior is worth 4 scans of that profile::

        p = (c + 4 m) / (n + 4)

    It lies strictly between 0 and 1, tends to the frequency c / n with many scans, and is the
    profile alone for a width that was never seen. Columns in the central block of every mask of
    their width have p = 1.

    An error in p changes how much a column counts, not what the loss is least for (any positive
    weights have the same minimiser). The K-weights also take columns as independent; for
    equispaced masks the marginal p is right, the conditional weight an approximation.

    Args:
        masks: ``(W,)`` bool each, one for every independently drawn mask; widths may differ.

    Raises:
        ValueError: without a mask.
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        if not masks:
            raise ValueError("ColumnDensity: no masks to estimate the density from")
        self.masks = [mask.bool() for mask in masks]
        hits = torch.zeros(_BINS, dtype=torch.float64)
        trials = torch.zeros(_BINS, dtype=torch.float64)
        for mask in self.masks:
            width = mask.numel()
            outer = ~calibration_columns(width, central_columns(mask))
            bins = _bins(width)[outer]
            trials += torch.bincount(bins, minlength=_BINS)
            hits += torch.bincount(bins, weights=mask[outer].double(), minlength=_BINS)
        self.profile = (hits + 0.5) / (trials + 1)

    def __call__(self, width: int) -> Tensor:
        """Estimate for masks of ``width`` columns, ``(width,)`` float32 in (0, 1]."""
        same = [mask for mask in self.masks if mask.numel() == width]
        prior = self.profile[_bins(width)]
        if not same:
            return prior.float()
        count = torch.stack(same).sum(0).double()
        density = (count + _PRIOR_SCANS * prior) / (len(same) + _PRIOR_SCANS)
        block = min(central_columns(mask) for mask in same)
        density[calibration_columns(width, block)] = 1
        return density.float()

    def never_acquired(self) -> dict[int, Tensor]:
        """Columns that no mask of their width acquires, ``(W,)`` bool, by width W; none left out.

        Their true probability may be zero, and then self-supervised losses never see them.
        """
        missing = {}
        for width in sorted({mask.numel() for mask in self.masks}):
            same = [mask for mask in self.masks if mask.numel() == width]
            missing[width] = ~torch.stack(same).any(0)
        return missing


def _bins(width: int) -> Tensor:
    """Bin of ``|k| / k_max`` of each column, ``(width,)`` int64."""
    offset = (torch.arange(width) - width // 2).abs().double() / (width / 2)
    return (offset * _BINS).long().clamp(max=_BINS - 1)
