"""Estimated glomerular filtration rate from serum creatinine: CKD-EPI 2021, without race.

Inker LA, Eneanya ND, Coresh J, et al. New creatinine- and cystatin C-based equations to estimate
GFR without race. N Engl J Med 2021;385:1737-1749, doi 10.1056/NEJMoa2102953.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagittal_risk.fields import implausible

TAKES = ("age", "sex", "creatinine")
DIFFERS = 0.2
"""A stated eGFR that is further from the computed one, as a share of it, is counted."""


def ckd_epi_2021(
    creatinine: NDArray[np.float64], age: NDArray[np.float64], sex: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Estimate eGFR in mL/min/1.73m2, (n,).

    Args:
        creatinine: (n,) mg/dL in serum, by a method that is standardised (traceable to IDMS).
        age: (n,) years.
        sex: (n,) 0 female, 1 male.

    Returns:
        NaN where one of them is missing or none that a patient can have, and below 18 years, for
        whom the equation was not made.
    """
    female = sex == 0
    ratio = creatinine / np.where(female, 0.7, 0.9)
    with np.errstate(all="ignore"):  # implausible values; they become NaN
        found = (
            142
            * np.minimum(ratio, 1) ** np.where(female, -0.241, -0.302)
            * np.maximum(ratio, 1) ** -1.2
            * 0.9938**age
            * np.where(female, 1.012, 1.0)
        )
    none = np.isnan(sex) | (age < 18) | implausible("age", age)
    none |= implausible("creatinine", creatinine)
    return np.where(none, np.nan, found)


@dataclass(frozen=True)
class Completed:
    """Columns with eGFR wherever it is known or can be computed.

    Attributes:
        columns: As given, eGFR completed.
        computed: (n,) whether eGFR was computed.
        differs: (n,) whether eGFR was stated and is more than :data:`DIFFERS` off the computed one.
    """

    columns: Mapping[str, NDArray[np.float64]]
    computed: NDArray[np.bool_]
    differs: NDArray[np.bool_]


def complete(columns: Mapping[str, NDArray[np.float64]]) -> Completed:
    """Compute eGFR where it is missing and creatinine, age and sex are known.

    A stated eGFR counts, also where creatinine says another one.

    Args:
        columns: Field to (n,) values in the fields' units; not changed.
    """
    count = len(next(iter(columns.values()), ()))
    if any(name not in columns for name in TAKES):
        return Completed(columns, np.zeros(count, bool), np.zeros(count, bool))
    age, sex, creatinine = (columns[name] for name in TAKES)
    estimate = ckd_epi_2021(creatinine, age, sex)
    stated = columns.get("egfr", np.full(count, np.nan))
    computed = np.isnan(stated) & ~np.isnan(estimate)
    differs = np.abs(stated - estimate) > DIFFERS * estimate
    filled = np.where(computed, estimate, stated)
    return Completed({**columns, "egfr": filled}, computed, differs)
