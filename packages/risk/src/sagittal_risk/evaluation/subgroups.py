"""The same measures in parts of the people, and whether they differ from the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Estimate, Measured

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
        holm: The same, adjusted by Holm over all subgroups and measures.
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
    found = []
    for name, levels in columns.items():
        for level in sorted(set(levels.tolist())):
            inside = levels == level
            found.append(
                _one(follow_up, risk, person, inside, name, level or "(missing)", resamples, seed)
            )
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
    follow_up: FollowUp,
    risk: NDArray[np.float64],
    person: NDArray[np.str_],
    inside: NDArray[np.bool_],
    name: str,
    level: str,
    resamples: int,
    seed: int,
) -> Subgroup:
    events = int(follow_up.event[inside].sum())
    people = int(inside.sum())
    estimates, differences, p = {}, {}, {}
    if _enough(follow_up, inside):
        estimates = _estimates(follow_up, risk, person, inside, resamples, seed)
        if _enough(follow_up, ~inside):
            rest = _estimates(follow_up, risk, person, ~inside, resamples, seed + 1)
            for measure, one in estimates.items():
                gap = Estimate(one.value - rest[measure].value, one.draws - rest[measure].draws)
                differences[measure] = gap
                spread = float(np.nanstd(gap.draws)) if len(gap.draws) else 0.0
                if spread > 0 and np.isfinite(gap.value):
                    p[measure] = erfc(abs(gap.value) / spread / sqrt(2))
    return Subgroup(name, level, people, events, estimates, differences, p, {}, {})


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
    drawn = Resamples(person[rows], resamples, seed)
    every = Measured(follow_up.take(rows), risk[rows]).estimate(drawn)
    return {name: every[name] for name in MEASURED}


def _adjusted(found: list[Subgroup]) -> list[Subgroup]:
    places = [(n, measure) for n, one in enumerate(found) for measure in one.p]
    if not places:
        return found
    raw = np.array([found[n].p[measure] for n, measure in places])
    adjusted = []
    for n, one in enumerate(found):
        mine = [k for k, (place, _) in enumerate(places) if place == n]
        by = {
            kind: {places[k][1]: float(values[k]) for k in mine}
            for kind, values in (("holm", holm(raw)), ("bh", benjamini_hochberg(raw)))
        }
        adjusted.append(replace(one, holm=by["holm"], bh=by["bh"]))
    return adjusted
