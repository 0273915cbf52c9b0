"""Performance against the share of fields that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples
from sagittal_core.seeds import counter_seed
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Estimate, Measured

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Known:
    """One point of a missingness curve.

    Attributes:
        share: Of the fields that may be hidden, how many of each person were left.
        coverage: Share of people who got a risk.
        estimates: Measures of those who did; empty with fewer than five people or one class.
    """

    share: float
    coverage: float
    estimates: Mapping[str, Estimate]


def hide(
    columns: Columns, keep: float, always: Sequence[str] = (), seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Columns with NaN where a field is hidden, each person's fields drawn independently.

    A larger ``keep`` shows a superset of what a smaller one shows (the same draws), so that a curve
    has no noise from the choice of fields.

    Args:
        columns: Name to (n,).
        keep: Share of the fields that stay, in [0, 1].
        always: Fields that are never hidden.
        seed: Of the draws.
    """
    names = [name for name in columns if name not in always]
    count = len(next(iter(columns.values())))
    rng = np.random.default_rng(counter_seed(seed, "hidden fields"))
    rank = np.argsort(np.argsort(rng.random((count, len(names))), axis=1), axis=1)
    shown = rank < round(keep * len(names))
    hidden = {
        name: np.where(shown[:, place], columns[name], np.nan) for place, name in enumerate(names)
    }
    return {name: hidden.get(name, column) for name, column in columns.items()}


def missingness_curve(
    predict: Callable[[dict[str, NDArray[np.float64]]], NDArray[np.float64]],
    columns: Columns,
    follow_up: FollowUp,
    person: NDArray[np.str_],
    *,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    always: Sequence[str] = ("age", "sex"),
    resamples: int = 200,
    seed: int = 0,
) -> list[Known]:
    """Measures as fields are hidden.

    Args:
        predict: From columns to (n,) risks; NaN where it gives none, which counts against coverage.
        columns: Name to (n,).
        follow_up: Of the (n,) people.
        person: (n,) independent unit.
        shares: Of fields shown.
        always: Fields never hidden.
        resamples: Bootstrap resamples.
        seed: Of hiding and of the bootstrap.
    """
    found = []
    for share in shares:
        risk = predict(hide(columns, share, always, seed))
        got = ~np.isnan(risk)
        estimates: dict[str, Estimate] = {}
        part = follow_up.take(got)
        if got.sum() >= 5 and 0 < part.event.sum() < len(part):
            drawn = Resamples(person[got], resamples, seed)
            estimates = Measured(part, risk[got]).estimate(drawn)
        found.append(Known(float(share), float(got.mean()), estimates))
    return found
