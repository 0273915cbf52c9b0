"""A cohort: patients, what happened to them, and how they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagittal_risk.patients import Patients


@dataclass(frozen=True)
class Cohort:
    """People at a baseline.

    Attributes:
        name: In words.
        patients: Their fields, for the equations.
        features: Name to (n,) numbers, NaN where missing: what models are trained on.
        event: (n,) whether the outcome came within the horizon.
        time: (n,) years to the event or the end of observation, at most the horizon; None: the
            outcome has no time.
        horizon: In years; None: none.
        person: (n,) the independent unit.
        site: (n,) where they were seen; empty: one place.
        flow: How many were left after each step of the protocol, in order.
    """

    name: str
    patients: Patients
    features: Mapping[str, NDArray[np.float64]]
    event: NDArray[np.bool_]
    time: NDArray[np.float64] | None
    horizon: float | None
    person: NDArray[np.str_]
    site: NDArray[np.str_]
    flow: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.event)

    def matrix(self) -> NDArray[np.float64]:
        """(n, features) for models."""
        return np.column_stack(list(self.features.values()))
