"""What a curation kept and dropped, in numbers: reasons, findings, duplicates, data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.resampling import LEAST_SUBJECTS, Resamples, interval

if TYPE_CHECKING:
    import pandas

TAIL = 20
"""A finding with fewer positive pairs is of the tail."""


@dataclass(frozen=True)
class Prevalence:
    """How common something is among kept pairs, relative to all.

    Attributes:
        name: The finding.
        positives: Pairs with it, of all.
        kept: Of those, kept.
        share: Of all pairs.
        share_kept: Of kept pairs; NaN: none is kept.
        ratio: ``share_kept / share``; NaN where either is not defined.
        low: Lower end of its 95 % bootstrap interval over patients; None: fewer than five patients
            have it, or fewer than five do not. Resamples of two patients are nearly all alike, and
            an interval of them would be far too narrow.
        high: Upper end.
    """

    name: str
    positives: int
    kept: int
    share: float
    share_kept: float
    ratio: float
    low: float | None
    high: float | None


def latest(decisions: pandas.DataFrame) -> pandas.DataFrame:
    """One line for each pair: kept if it was in any step, with the reason of that (latest) step.

    Args:
        decisions: As of :meth:`.ledger.Ledger.decisions`.

    Returns:
        row, kept and reason, in the order of row numbers.
    """
    ordered = decisions.sort_values(["row", "kept", "step"], kind="stable")
    last = ordered.drop_duplicates("row", keep="last")
    return last[["row", "kept", "reason"]].reset_index(drop=True)


def by_reason(decided: pandas.DataFrame) -> list[tuple[str, bool, int, float]]:
    """(reason, whether it means kept, pairs, share of all), kept ones first, the largest first."""
    counts = decided.groupby(["reason", "kept"]).size()
    rows = [(reason, bool(kept), int(n), n / len(decided)) for (reason, kept), n in counts.items()]
    return sorted(rows, key=lambda row: (not row[1], -row[2], row[0]))


def by_column(values: Sequence[object], kept: NDArray[np.bool_]) -> list[tuple[str, int, int]]:
    """(value, pairs, kept pairs) of each value of a column, the most common first."""
    names = np.array(["not known" if v is None or v != v else str(v) for v in values], dtype=object)
    found = [(n, int((names == n).sum()), int(kept[names == n].sum())) for n in sorted(set(names))]
    return sorted(found, key=lambda row: (-row[1], row[0]))


def prevalences(
    positive: Sequence[Sequence[str]],
    kept: NDArray[np.bool_],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    below: int = TAIL,
) -> list[Prevalence]:
    """Each finding, the rarest first, led by the tail: all findings of fewer than some positives.

    A pair with several findings of the tail counts once. Patients are resampled whole, and what is
    common among all pairs is resampled with them, so the interval is that of the ratio.

    Args:
        positive: Findings of each pair.
        kept: (n,) whether it is kept.
        patients: Of each pair.
        resamples: For the intervals.
        seed: Of the resampling.
        below: Positives that put a finding into the tail.
    """
    sets = [frozenset(one) for one in positive]
    counts = {name: sum(name in one for one in sets) for name in sorted(set().union(*sets))}
    sampled = Resamples(patients, resamples, seed) if len(sets) else None
    tail = {name for name, count in counts.items() if count < below}
    groups = [(f"findings under {below} positives ({len(tail)})", tail)] if tail else []
    groups += [(n, {n}) for n in sorted(counts, key=lambda n: (counts[n], n))]
    people = np.asarray(patients)
    return [_prevalence(name, group, sets, kept, people, sampled) for name, group in groups]


def _prevalence(
    name: str,
    group: set[str],
    sets: Sequence[frozenset[str]],
    kept: NDArray[np.bool_],
    patients: NDArray[np.str_],
    sampled: Resamples | None,
) -> Prevalence:
    assert sampled is not None
    has = np.array([bool(one & group) for one in sets])
    share = float(has.mean())
    share_kept = float(has[kept].mean()) if kept.any() else float("nan")
    both = (has & kept).astype(float)
    draws = sampled.ratio(both, kept.astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        # Resamples without a single positive pair say nothing of the ratio.
        ends = interval(draws / sampled.ratio(has.astype(float), np.ones(len(has))))
    having = len(np.unique(patients[has]))
    if min(having, len(np.unique(patients)) - having) < LEAST_SUBJECTS:
        ends = None
    low, high = ends or (None, None)
    return Prevalence(
        name, int(has.sum()), int(both.sum()), share, share_kept, share_kept / share, low, high
    )


def redundant(groups: ArrayLike, kept: NDArray[np.bool_]) -> tuple[int, int]:
    """Pairs that repeat another one: (of all, of the kept).

    A group of n equal pairs has n - 1 that repeat another, whichever of them is meant.

    Args:
        groups: (n,) the same number for pairs that are duplicates of each other.
        kept: (n,).
    """
    numbers = np.asarray(groups)
    mine = numbers[kept]
    return len(numbers) - len(np.unique(numbers)), len(mine) - len(np.unique(mine))
