"""Bands by mean and standard deviation, and a budget for each cluster: the later released rule.

Facts of cwangrun/CheXficient at commit 491163e (``models_clip.py``, ``configs.py``), which replaced
the quantiles of commit 93b55e9. With m and s the mean and the standard deviation (over n) of the
distances of a cluster's pairs to its prototype:

==========  =========================  =================================================
band        distance d                 kept
==========  =========================  =================================================
central     d <= m + s                 farthest points, m_c of n_c
periphery   m + s < d < m + 2 s        farthest points, m_p of n_p
tail        m + 2 s <= d < m + 3 s     all
outlier     d >= m + 3 s               none
==========  =========================  =================================================

with m_c + m_p = max(1, floor(0.2 (n_c + n_p))), shared out in proportion to the square roots of n_c
and n_p, m_c rounded half to even. Its settings are 32 prototypes and 240 pairs a GPU.

All on float64 tensors on the CPU, as in :mod:`.bands`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sagittal_cxr.curation.bands import CENTRAL, OUTLIER

PERIPHERY, TAIL = 6, 7
_EQUAL = 1e-12  # distances lie in [0, 2]: rounding alone makes no band


def sigma_bands(distances: Tensor, clusters: Tensor) -> Tensor:
    """Each pair's band within its cluster.

    Pairs that are all equally far are central, as a pair alone is: the published comparisons, taken
    in turn, keep them as central too.

    Args:
        distances: (N,) to the own prototype.
        clusters: (N,) int64, its number.

    Returns:
        (N,) int64 of CENTRAL, PERIPHERY, TAIL and OUTLIER.
    """
    found = torch.full((len(distances),), CENTRAL)
    for cluster in clusters.unique().tolist():
        members = clusters == cluster
        mine = distances[members]
        over, s = mine - mine.mean(), mine.std(unbiased=False)
        band = torch.full((len(mine),), OUTLIER)
        band[over < 3.0 * s] = TAIL
        band[over < 2.0 * s] = PERIPHERY
        band[over <= s + _EQUAL] = CENTRAL
        found[members] = band
    return found


def budget_of(central: int, periphery: int, share: float) -> int:
    """Central and peripheral pairs kept of a cluster, as published: at least one of any."""
    total = central + periphery
    return max(1, int(total * share)) if total else 0


def split_budget(kept: int, central: int, periphery: int, whole: bool) -> tuple[int, int]:
    """Share what is kept of a cluster between its central and its peripheral pairs.

    In proportion to the square roots of their numbers, so that the few at the edge get more than
    their share.

    Args:
        kept: 0 <= kept <= central + periphery.
        central: Central pairs.
        periphery: Peripheral pairs.
        whole: Where one has fewer than its part, give the rest to the other; False: it is lost, as
            published.

    Returns:
        Of each, how many are kept.
    """
    if not (central and periphery):
        return (kept, 0) if central else (0, kept)
    weight = math.sqrt(central) / (math.sqrt(central) + math.sqrt(periphery))
    part = round(kept * weight)
    of_central, of_periphery = min(part, central), min(kept - part, periphery)
    if whole:
        of_periphery = min(kept - of_central, periphery)
        of_central = kept - of_periphery
    return of_central, of_periphery


def budgets(sizes: list[int], total: int, turn: int) -> list[int]:
    """Share ``total`` among clusters in proportion to their sizes, by largest remainders.

    Args:
        sizes: Central and peripheral pairs of each cluster.
        total: To hand out; more than there are gives everything.
        turn: Counts batches: equal remainders take turns.

    Returns:
        One number for each cluster, no larger than its size, of sum ``min(total, sum(sizes))``.
    """
    count, every = len(sizes), sum(sizes)
    total = min(total, every)
    if not total:
        return [0] * count
    given = [size * total // every for size in sizes]
    order = sorted(range(count), key=lambda k: (-(sizes[k] * total % every), (k - turn) % count))
    for k in order[: total - sum(given)]:
        given[k] += 1
    return given
