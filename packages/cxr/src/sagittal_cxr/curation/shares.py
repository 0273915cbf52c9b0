"""What share of the pairs the published rules keep, and of the compute that remains."""

from __future__ import annotations

import math


def kept_share(
    batch: int, prototypes: int, cap: int, support: float = 0.85, outlier: float = 0.95
) -> float:
    """Share of a batch that the rule by quantiles keeps if its clusters are equally large.

    Args:
        batch: Pairs in a global batch, at least 1.
        prototypes: K.
        cap: Central pairs kept of a cluster at most.
        support: Lower quantile of the support band.
        outlier: Upper quantile of it.
    """
    kept = 0
    for k in range(prototypes):
        size = batch // prototypes + (k < batch % prototypes)
        if size:
            low, high = (math.floor(q * (size - 1)) + 1 for q in (support, outlier))
            kept += min(low, cap) + (high - low)
    return kept / batch


def sigma_share(budget: float = 0.2) -> float:
    """Share that the rule by standard deviations keeps of large clusters with normal distances.

    Args:
        budget: Share kept of central and peripheral pairs.
    """
    two, three = (0.5 * (1.0 + math.erf(z / math.sqrt(2.0))) for z in (2.0, 3.0))
    return budget * two + (three - two)


def compute_share(kept: float, epochs: int, curated: int = 1) -> float:
    """Share of a full training's steps that remain: the curating epochs see every pair.

    Args:
        kept: Share of pairs kept.
        epochs: Of training.
        curated: Of those, epochs in which the selector decides.
    """
    return (curated + (epochs - curated) * kept) / epochs
