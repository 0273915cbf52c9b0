"""The pieces of prototype curation: bands by quantile, farthest points, caps, balanced assignment.

All on float64 tensors on the CPU whose rows are in the order of the row numbers, so that a tie,
which always falls to the lower place, falls to the lower row number.
"""

from __future__ import annotations

import torch
from torch import Tensor

CENTRAL, SUPPORT, OUTLIER = 0, 1, 2


def bands(distances: Tensor, clusters: Tensor, support: float, outlier: float) -> Tensor:
    """Each pair's band within its cluster, by the distance to its prototype.

    With q the quantile of a cluster's distances by linear interpolation, as ``torch.quantile``:
    OUTLIER if d > q(outlier), SUPPORT if q(support) < d <= q(outlier), else CENTRAL. In a cluster
    of two to twenty pairs with the published 0.95, the quantile lies below the largest distance, so
    the farthest pair is an outlier whatever it is; one pair alone, or pairs that are all equally
    far, are central.

    Args:
        distances: (N,) to the own prototype.
        clusters: (N,) int64, its number.
        support: Lower quantile, in [0, 1].
        outlier: Upper quantile, >= ``support``.

    Returns:
        (N,) int64 of CENTRAL, SUPPORT and OUTLIER.
    """
    found = torch.full((len(distances),), CENTRAL)
    at = torch.tensor([support, outlier], dtype=distances.dtype)
    for cluster in clusters.unique().tolist():
        members = clusters == cluster
        low, high = torch.quantile(distances[members], at)
        beyond = torch.where(distances > high, OUTLIER, torch.where(distances > low, SUPPORT, 0))
        found[members] = beyond[members]
    return found


def farthest_points(
    points: Tensor, count: int, start: int, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Farthest-point sampling (Gonzalez 1985): the next is farthest from all chosen before.

    No point is chosen twice, not even among equal ones (the published code, which takes the first
    of equal maxima, then returns the same point again and keeps fewer than its cap).

    Args:
        points: (n, D).
        count: 0 <= count <= n.
        start: Place of the first one, if nothing is known.
        known: (m, D) points that count as chosen before; the first one is then the farthest from
            these.

    Returns:
        (count,) int64 places, in the order they were chosen; and (count,) the squared distance of
        each to all before it, which never grows; infinite for the first if nothing is known.
    """
    nearest = torch.full((len(points),), float("inf"), dtype=points.dtype)
    if known is not None and len(known):
        lengths = points.square().sum(1)[:, None] + known.square().sum(1)
        nearest = (lengths - 2.0 * points @ known.T).amin(1).clamp(min=0.0)
        start = int(nearest.argmax()) if count else 0
    chosen: list[int] = []
    gaps = torch.empty(count, dtype=points.dtype)
    current = start
    for number in range(count):
        chosen.append(current)
        gaps[number] = nearest[current]
        nearest = torch.minimum(nearest, (points - points[current]).square().sum(1))
        nearest[current] = -1.0  # and stays so: distances are not negative
        current = int(nearest.argmax())
    return torch.tensor(chosen, dtype=torch.int64), gaps


def caps(sizes: list[int], total: int, turn: int) -> list[int]:
    """Share ``total`` among clusters as evenly as their sizes allow: the real-valued cap, rounded.

    The cap c solves ``sum(min(size, c)) = total``. Every cluster gets ``min(size, floor(c))``, and
    what is left over goes, one each, to clusters that have more, beginning with number ``turn``
    modulo their count, so that over many batches none is favoured.

    Args:
        sizes: Members of each cluster.
        total: To hand out; more than there are gives everything.
        turn: Counts batches.

    Returns:
        One number for each cluster, no larger than its size, of sum ``min(total, sum(sizes))``.
    """
    low, high = 0, max(sizes, default=0)
    while low < high:  # largest integer cap that hands out no more than the total
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= total:
            low = middle
        else:
            high = middle - 1
    given = [min(size, low) for size in sizes]
    larger = [k for k, size in enumerate(sizes) if size > low]
    for j in range(min(total - sum(given), len(larger))):
        given[larger[(turn + j) % len(larger)]] += 1
    return given


def balanced_assignment(similarities: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Which prototype each feature updates: Sinkhorn-Knopp (Cuturi 2013), then the largest.

    Args:
        similarities: (M, K) cosines of features and prototypes.
        epsilon: Strength of the entropy; large spreads features evenly.
        iterations: Of normalising over features, then over prototypes.

    Returns:
        (M,) int64; ties fall to the lower prototype.
    """
    plan = torch.exp(similarities / epsilon)
    plan = plan / plan.sum()
    features, prototypes = plan.shape
    for _ in range(iterations):
        plan = plan / plan.sum(0, keepdim=True) / prototypes
        plan = plan / plan.sum(1, keepdim=True) / features
    return plan.argmax(1)
