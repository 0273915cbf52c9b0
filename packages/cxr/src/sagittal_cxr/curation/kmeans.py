"""k-means that gives the same centroids everywhere: seeded, float64, ties to the lower number."""

from __future__ import annotations

import torch
from torch import Tensor

from sagittal_core.seeds import counter_generator


def kmeans(
    points: Tensor, clusters: int, *, seed: int, iterations: int = 20, starts: int = 4
) -> Tensor:
    """Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007), the best of some.

    A cluster that loses all its points goes to the point that is farthest from its own centroid, so
    none stays empty while there are enough distinct points.

    Args:
        points: (n, D) finite, n >= ``clusters``.
        clusters: K >= 1.
        seed: Of the starts.
        iterations: At most; it stops early when no point changes its cluster.
        starts: Tries, of which that with the smallest sum of squared distances is taken.

    Returns:
        (K, D) float64.

    Raises:
        ValueError: If there are fewer points than clusters.
    """
    data = points.detach().cpu().to(torch.float64)
    if clusters < 1 or len(data) < clusters:
        raise ValueError(f"{clusters} clusters of {len(data)} points")
    tries = [_lloyd(data, _start(data, clusters, seed, n), iterations) for n in range(starts)]
    spread = [float(squared_distances(data, c).amin(1).sum()) for c in tries]
    return tries[spread.index(min(spread))]


def _lloyd(data: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    last = torch.full((len(data),), -1)
    lengths = data.square().sum(1)
    for _ in range(iterations):
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2: a matrix product, as this is done some hundred times.
        products = data @ centroids.T
        distances, nearest = (centroids.square().sum(1) - 2.0 * products).min(dim=1)
        if bool((nearest == last).all()):
            break
        last, distances = nearest, distances + lengths
        for k in range(len(centroids)):
            members = nearest == k
            if bool(members.any()):
                centroids[k] = data[members].mean(0)
            else:
                far = int(distances.argmax())
                centroids[k], distances[far] = data[far], -1.0
    return centroids


def squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """(n, K) squared Euclidean distances, one row independent of the others bit for bit."""
    return torch.stack([(points - centroid).square().sum(1) for centroid in centroids], dim=1)


def _start(data: Tensor, clusters: int, seed: int, number: int) -> Tensor:
    """k-means++: each centroid a point, drawn by its squared distance from those before."""
    generator = counter_generator(seed, number, "k-means")
    uniform = torch.rand(clusters, generator=generator, dtype=torch.float64)
    chosen = [min(int(uniform[0] * len(data)), len(data) - 1)]
    distances = (data - data[chosen[0]]).square().sum(1)
    for k in range(1, clusters):
        distances[chosen] = 0.0
        total = distances.cumsum(0)
        if float(total[-1]) > 0.0:
            place = int(torch.searchsorted(total, uniform[k] * total[-1], right=True))
            place = min(place, len(data) - 1)
        else:  # fewer distinct points than clusters: any other point
            place = next(i for i in range(len(data)) if i not in chosen)
        chosen.append(place)
        distances = torch.minimum(distances, (data - data[place]).square().sum(1))
    return data[chosen].clone()
