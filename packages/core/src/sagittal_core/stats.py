"""Bootstrap confidence intervals over independent units (patients, volumes), paired or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.seeds import counter_seed

# Bounds the resampled index matrix to ~32 MB, whatever the number of resamples.
_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A point estimate with its confidence interval.

    Attributes:
        estimate: The statistic of the observed values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Nominal coverage, e.g. 0.95.
        n: Number of independent units that were resampled (groups if groups were given).
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    statistic: Callable[..., np.floating | NDArray[np.floating]] = np.mean,
) -> Interval:
    """Percentile bootstrap interval of a statistic (Efron & Tibshirani 1993, ch. 13).

    With ``groups`` whole groups are drawn with replacement and their values pooled (the cluster
    bootstrap): slices of one volume are not independent, volumes are. The percentile interval of a
    mean is narrow by about ``sqrt((n - 1) / n)``, and is to be read with care below ten units.

    Args:
        values: ``(N,)`` finite numbers.
        groups: ``(N,)`` labels of the independent unit each value belongs to; None: every value is
            a unit of its own.
        level: Nominal coverage in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; equal arguments give equal intervals.
        statistic: A function with an ``axis`` argument, such as ``np.mean`` or ``np.median``.

    Returns:
        The interval; ``n`` counts independent units.

    Raises:
        ValueError: If values are not finite or not 1-D, lengths differ, there are fewer than two
            independent units, or ``level``/``resamples`` is out of range.
    """
    data = np.asarray(values, dtype=np.float64)
    members = _members(data, groups)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    rng = np.random.default_rng(counter_seed(seed, "bootstrap"))
    draws = _resampled(data, members, statistic, resamples, rng)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(float(statistic(data, axis=-1)), float(low), float(high), level, len(members))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of ``mean(a - b)`` where ``a[i]`` and ``b[i]`` measure the same item.

    Args:
        a: ``(N,)`` values of the first method.
        b: ``(N,)`` values of the second method, in the same order.
        groups: As in :func:`bootstrap_interval`.
        level: Nominal coverage in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: As :func:`bootstrap_interval`, or if the shapes of ``a`` and ``b`` differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    return bootstrap_interval(
        first - second, groups=groups, level=level, resamples=resamples, seed=seed
    )


def _members(
    data: NDArray[np.float64], groups: ArrayLike | Sequence[str] | None
) -> list[NDArray[np.intp]]:
    """Return, for each independent unit, the indices of its values."""
    if data.ndim != 1 or not np.isfinite(data).all():
        raise ValueError(f"values must be finite and 1-D, got shape {data.shape}")
    labels = np.arange(data.size) if groups is None else np.asarray(groups)
    if labels.shape != data.shape:
        raise ValueError(f"groups have shape {labels.shape}, values {data.shape}")
    _, inverse = np.unique(labels, return_inverse=True)
    count = int(inverse.max()) + 1 if inverse.size else 0
    if count < 2:
        raise ValueError(f"an interval needs at least two independent units, got {count}")
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.cumsum(np.bincount(inverse))[:-1])


def _resampled(
    data: NDArray[np.float64],
    members: list[NDArray[np.intp]],
    statistic: Callable[..., np.floating | NDArray[np.floating]],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the statistic of each resample, ``(resamples,)``."""
    units = len(members)
    sizes = np.array([len(m) for m in members])
    sums = np.array([data[m].sum() for m in members])
    rectangular = np.stack(members) if (sizes == sizes[0]).all() else None
    chunk = max(1, _CHUNK_ELEMENTS // data.size)
    parts = []
    for start in range(0, resamples, chunk):
        drawn = rng.integers(units, size=(min(chunk, resamples - start), units))
        if statistic is np.mean:
            parts.append(sums[drawn].sum(-1) / sizes[drawn].sum(-1))
        elif rectangular is not None:
            pooled = data[rectangular[drawn]].reshape(len(drawn), -1)
            parts.append(np.asarray(statistic(pooled, axis=-1)))
        else:
            # Resamples of ragged groups differ in length, so a general statistic needs a loop.
            pools = (np.concatenate([members[u] for u in row]) for row in drawn)
            parts.append(np.array([statistic(data[pool], axis=-1) for pool in pools]))
    return np.concatenate(parts)
