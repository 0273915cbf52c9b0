"""How one acquisition becomes (input, target, weight) views: the choice that defines UNITS methods.

An acquisition holds the samples ``a``. A partition draws views; in each, the network sees the input
samples I and is judged on the target samples T with weights w:
``L = sum_views || W^1/2 M_T (F S f(y_I) - y) ||^2``. Conditioned on I this is a supervised risk
with weight ``w_k P(k in T | I)`` at each position k (UNITS; the tests check it), so supervised
training, SSDU and its K-weighted form differ only in the partition.

Positions are Cartesian columns or radial spokes; all coils of a position go together, because
receiver noise is independent between positions but not between coils.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """One (input, target, weight) triple over the positions of a batch."""

    input: Tensor  # (B, P) bool: samples that the network sees, in A as well as in y
    target: Tensor  # (B, P) bool: samples that the loss compares
    weight: Tensor  # (B, P) float: weight of each squared target residual


class Acquisition(NamedTuple):
    """The sampled positions of a batch and the law that they were drawn from."""

    acquired: Tensor  # (B, P) bool
    density: Tensor  # (B, P) float, probability that the position was acquired, in (0, 1]
    calibration: Tensor  # (B, P) bool, fully sampled block: maps and scale come from it


class Partition(ABC):
    """Draws the views of one batch.

    ``resample`` says how often the draw changes: "step" (a new split each time a scan is seen) or
    "fixed" (one split per scan for the whole training). ``supervised`` says whether targets come
    from a fully sampled reference instead of the acquired samples.
    """

    resample: str
    supervised: bool

    @abstractmethod
    def __call__(self, acquisition: Acquisition, generators: list[torch.Generator]) -> list[View]:
        """Views of the batch; ``generators`` holds one counter-seeded generator per scan."""


class Supervised(Partition):
    """Input: all that was acquired. Target: every position of the fully sampled reference."""

    resample = "fixed"
    supervised = True

    def __call__(self, acquisition: Acquisition, generators: list[torch.Generator]) -> list[View]:
        """One view; nothing is drawn."""
        everything = torch.ones_like(acquisition.acquired)
        return [View(acquisition.acquired, everything, everything.to(acquisition.density))]


class SSDU(Partition):
    """Self-supervision by data undersampling (Yaman et al., MRM 2020;84:3172).

    Each acquired position outside the calibration block is kept in the input with probability
    ``1 - rho``, independently, and is a target otherwise. The calibration block always stays in the
    input, since maps and scale are computed from it.

    No split then judges what the network does to the calibration block, and low frequencies drift.
    ``judge_calibration`` adds the block to the targets as well. At these positions the loss favours
    the measured value, noise and all, as data consistency does; elsewhere nothing changes.

    Args:
        rho: expected share of the outer acquired positions that become targets, in (0, 1).
        resample: "step" draws a new split each step, "fixed" one per scan (as published).
        views: number of independent splits per scan and step; more is multi-mask SSDU.
        judge_calibration: False leaves the calibration block out of the loss, as published.
    """

    supervised = False

    def __init__(
        self,
        rho: float = 0.4,
        resample: str = "step",
        views: int = 1,
        judge_calibration: bool = True,
    ) -> None:
        if not 0 < rho < 1:
            raise ValueError(f"SSDU: rho must lie in (0, 1), found {rho}")
        if resample not in ("step", "fixed"):
            raise ValueError(f"SSDU: resample is 'step' or 'fixed', found {resample!r}")
        if views < 1:
            raise ValueError(f"SSDU: views must be at least 1, found {views}")
        self.rho, self.resample, self.views = rho, resample, views
        self.judge_calibration = judge_calibration

    def __call__(self, acquisition: Acquisition, generators: list[torch.Generator]) -> list[View]:
        """``views`` independent splits."""
        return [self._draw(acquisition, generators) for _ in range(self.views)]

    def _draw(self, acquisition: Acquisition, generators: list[torch.Generator]) -> View:
        acquired, density, calibration = acquisition
        count = acquired.shape[-1]
        uniform = torch.stack([torch.rand(count, generator=g) for g in generators])
        chosen = uniform.to(acquired.device) < self.rho
        held_out = acquired & chosen & ~calibration
        target = held_out | calibration if self.judge_calibration else held_out
        return View(acquired & ~held_out, target, self._weight(density))

    def _weight(self, density: Tensor) -> Tensor:
        """No weighting: a rarely acquired position counts as rarely as it occurs."""
        return torch.ones_like(density)


class KWeightedSSDU(SSDU):
    """SSDU with inverse-probability weights: its expectation is the supervised risk outside I.

    For positions acquired independently with probability p and kept with probability q = 1 - rho,
    ``P(k in T | k not in I) = p (1 - q) / (1 - p q) = 1 - K`` and the weight is ``1 / (1 - K)``
    (Millard & Chiew, IEEE TCI 2023, "(1-K)^-1/2 weighting" of the residual).

    Args:
        rho: expected share of the outer acquired positions that become targets, in (0, 1).
        resample: "step" or "fixed".
        views: number of independent splits.
        judge_calibration: as in :class:`SSDU`, with weight 1.
        max_weight: cap on the weight, which keeps the variance of the loss finite in practice; a
            capped position has a positive but smaller weight, so the optimum stays the same.
    """

    def __init__(
        self,
        rho: float = 0.4,
        resample: str = "step",
        views: int = 1,
        judge_calibration: bool = True,
        max_weight: float = 50.0,
    ) -> None:
        super().__init__(rho, resample, views, judge_calibration)
        self.max_weight = max_weight

    def _weight(self, density: Tensor) -> Tensor:
        keep = 1 - self.rho
        chance = density * (1 - keep) / (1 - density * keep)
        return (1 / chance).clamp(max=self.max_weight)
