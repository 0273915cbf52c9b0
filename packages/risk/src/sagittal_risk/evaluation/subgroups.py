"""The same measures in parts of the people, and whether they differ from the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Estimate, Measured, difference

MEASURED = ("auroc", "oe", "slope")
LEAST_EVENTS = 10
"""Fewer events, or fewer people without one, and a subgroup is listed without figures."""


@dataclass(frozen=True)
class Subgroup:
    """One level of one column.

    Attributes:
        column: Which.
        level: Its value, as text.
        people: How many.
        events: Of them by the horizon.
        estimates: Of :data:`MEASURED`; empty with too few events.
        differences: The subgroup less everyone else, by measure.
        p: Two-sided, of the difference by its bootstrap standard error (normal), by measure.
        holm: The same, adjusted by Holm over all subgroups and measures; in a column of two levels
            the second makes the same comparison as the first, which counts once.
        bh: Adjusted by Benjamini and Hochberg.
    """

    column: str
    level: str
    people: int
    events: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    p: Mapping[str, float]
    holm: Mapping[str, float]
    bh: Mapping[str, float]


def subgroups(
    follow_up: FollowUp,
    risk: NDArray[np.float64],
    columns: Mapping[str, NDArray[np.str_]],
    person: NDArray[np.str_],
    *,
    resamples: int = 500,
    seed: int = 0,
) -> list[Subgroup]:
    """Measures in every level of every column.

    Args:
        follow_up: Of (n,) people.
        risk: (n,).
        columns: Name to (n,) levels as text; empty text is a level of its own, ``(missing)``.
        person: (n,) independent unit.
        resamples: Bootstrap resamples.
        seed: Of them.
    """
    found: list[Subgroup] = []
    for name, values in columns.items():
        levels = sorted(set(values.tolist()))
        parts = []
        for place, level in enumerate(levels):
            inside = values == level
            estimates = _estimates(follow_up, risk, person, inside, resamples, seed + place)
            parts.append((level, inside, estimates))
        for place, (level, inside, estimates) in enumerate(parts):
            if len(parts) == 2:  # the rest is the other one: the same comparison from both sides
                rest = parts[1 - place][2]
            else:
                rest = _estimates(follow_up, risk, person, ~inside, resamples, seed + len(levels))
            found.append(_one(name, level, inside, follow_up, estimates, rest))
    return _adjusted(found)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) p values adjusted by Holm's step-down procedure (family-wise error)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1)
    return out


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) p values adjusted by Benjamini and Hochberg's procedure (false discovery rate)."""
    order = np.argsort(p)[::-1]
    ratio = len(p) / (len(p) - np.arange(len(p)))
    steps = np.minimum.accumulate(ratio * p[order])
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1)
    return out


def _one(
    name: str,
    level: str,
    inside: NDArray[np.bool_],
    follow_up: FollowUp,
    estimates: dict[str, Estimate],
    rest: dict[str, Estimate],
) -> Subgroup:
    differences, p = {}, {}
    for measure in estimates if rest else ():
        gap = difference(estimates[measure], rest[measure])
        differences[measure] = gap
        spread = float(np.nanstd(gap.draws)) if len(gap.draws) else 0.0
        if spread > 0 and np.isfinite(gap.value):
            p[measure] = erfc(abs(gap.value) / spread / sqrt(2))
    events, people = int(follow_up.event[inside].sum()), int(inside.sum())
    shown = level or "(missing)"
    return Subgroup(name, shown, people, events, estimates, differences, p, {}, {})


def _enough(follow_up: FollowUp, inside: NDArray[np.bool_]) -> bool:
    known = follow_up.event[inside & follow_up.known]
    return bool(min(known.sum(), (~known).sum()) >= LEAST_EVENTS)


def _estimates(
    follow_up: FollowUp,
    risk: NDArray[np.float64],
    person: NDArray[np.str_],
    rows: NDArray[np.bool_],
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    if not _enough(follow_up, rows):
        return {}
    drawn = Resamples(person[rows], resamples, seed)
    every = Measured(follow_up.take(rows), risk[rows]).estimate(drawn)
    return {name: every[name] for name in MEASURED}


def _adjusted(found: list[Subgroup]) -> list[Subgroup]:
    """With adjusted P values; the two sides of a column of two levels count once."""
    levels = Counter(one.column for one in found)
    keys = {
        n: one.column if levels[one.column] == 2 else f"{one.column}: {one.level}"
        for n, one in enumerate(found)
    }
    raw = {(keys[n], measure): p for n, one in enumerate(found) for measure, p in one.p.items()}
    if not raw:
        return found
    values = np.array(list(raw.values()))
    by_holm = dict(zip(raw, holm(values).tolist(), strict=True))
    by_bh = dict(zip(raw, benjamini_hochberg(values).tolist(), strict=True))
    return [
        replace(
            one,
            holm={measure: by_holm[keys[n], measure] for measure in one.p},
            bh={measure: by_bh[keys[n], measure] for measure in one.p},
        )
        for n, one in enumerate(found)
    ]
