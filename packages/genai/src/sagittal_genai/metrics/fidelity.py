"""How well, and with how many features, rows are reconstructed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sagittal_core.ops.sparse import SparseCodes


class Fidelity(nn.Module):
    """Counts over batches and processes, in double precision.

    ``r2`` is ``1 - sum (x - xhat)^2 / sum (x - m)^2`` with the mean m of each dimension.
    ``r2_global`` takes one mean of all numbers, as SAIL reports it: dimensions with different means
    raise it although nothing is explained. ``r2_dimensions`` is the unweighted mean of each
    dimension's R2 over the dimensions that vary.

    Args:
        dim: D.
        n_features: F.
    """

    sums: Tensor
    rows: Tensor
    entries: Tensor
    used: Tensor

    def __init__(self, dim: int, n_features: int) -> None:
        super().__init__()
        # Sums of x, x^2 and squared errors of each dimension.
        self.register_buffer("sums", torch.zeros(3, dim, dtype=torch.float64), persistent=False)
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("entries", torch.zeros((), dtype=torch.int64), persistent=False)
        used = torch.zeros(n_features, dtype=torch.int64)
        self.register_buffer("used", used, persistent=False)

    def reset(self) -> None:
        """Forget all counts."""
        for counts in (self.sums, self.rows, self.entries, self.used):
            counts.zero_()

    @torch.no_grad()
    def update(self, x: Tensor, reconstruction: Tensor, codes: SparseCodes) -> None:
        """Count a batch: (N, D), (N, D) and its codes."""
        double, error = x.double(), (x.double() - reconstruction.double()).square()
        self.sums += torch.stack([double.sum(0), double.square().sum(0), error.sum(0)])
        active = codes.indices[codes.values > 0]
        self.rows += len(x)
        self.entries += len(active)
        self.used += active.bincount(minlength=len(self.used))

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The metrics over everything counted, on all processes; collective.

        Returns:
            ``r2``, ``r2_global``, ``r2_dimensions``, ``l0`` (active features of a row) and
            ``unused_share`` (of the features, active in none of the rows), float32 scalars.

        Raises:
            ValueError: Nothing was counted, or the rows are all equal.
        """
        sums, rows, entries, used = (
            self._total(counts) for counts in (self.sums, self.rows, self.entries, self.used)
        )
        if int(rows) == 0:
            raise ValueError("no rows were counted")
        total, squares, errors = sums
        spread = (squares - total.square() / rows).clamp(min=0)
        everything = squares.sum() - total.sum().square() / (rows * len(total))
        varies = spread > 1e-12 * squares.clamp(min=1e-300)
        if not bool(varies.any()):
            raise ValueError("the rows are all equal: R2 is not defined")
        found = {
            "r2": 1 - errors.sum() / spread.sum(),
            "r2_global": 1 - errors.sum() / everything,
            "r2_dimensions": (1 - errors[varies] / spread[varies]).mean(),
            "l0": entries / rows,
            "unused_share": (used == 0).double().mean(),
        }
        return {name: value.float() for name, value in found.items()}

    @staticmethod
    def _total(counts: Tensor) -> Tensor:
        if not (dist.is_available() and dist.is_initialized()):
            return counts
        summed = counts.clone()
        dist.all_reduce(summed)
        return summed
