"""Published risk equations: coefficient tables and one evaluator.

======================  ===========================================  =====  ========================
equations               outcome                                      years  outside the derivation
======================  ===========================================  =====  ========================
``prevent_*_10y``       cvd, ascvd, hf, chd, stroke                  10     no risk
``prevent_*_30y``       the same; ages 30 to 59                      30     no risk
``prevent_<model>_*``   the same with UACR, HbA1c, SDI or all three  both   no risk
``score2_<region>``     fatal and non-fatal cardiovascular disease   10     ages: none; diabetes:
                                                                            flagged
``score2_op_<region>``  the same, from 70 years                      10     ages: none
``framingham_2008``     general cardiovascular disease               10     flagged
``pce``                 hard ASCVD                                   10     ages: none; else flagged
======================  ===========================================  =====  ========================

Regions are low, moderate, high and very_high, and ``uncalibrated`` for the risk before any of
them; SCORE2-OP has no low region (its table says why). PREVENT's extensions have a published term
for a missing value of what they add, so they give a risk without it, and say so. QRISK3 is not
here: its source is under LGPL-3 with a notice that would bind this package.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from sagittal_core.errors import ConfigError
from sagittal_risk.equations.evaluator import Risks, evaluate, evaluate_many
from sagittal_risk.equations.table import Equation, Table, equations, read_table, read_tables
from sagittal_risk.patients import Patients

Outcome = Literal["cvd", "ascvd", "hf", "chd", "stroke"]
Model = Literal["base", "uacr", "hba1c", "sdi", "full"]
Region = Literal["low", "moderate", "high", "very_high", "uncalibrated"]


def prevent(
    patients: Patients,
    outcome: Outcome = "cvd",
    years: Literal[10, 30] = 10,
    model: Model = "base",
    *,
    extrapolate: bool = False,
) -> Risks:
    """PREVENT (Khan et al. 2024); ``model`` names what it takes beside the base model's fields."""
    added = "" if model == "base" else f"{model}_"
    return evaluate(f"prevent_{added}{outcome}_{years}y", patients, extrapolate=extrapolate)


def family(name: str) -> list[str]:
    """Equations of a family such as ``prevent_full``, over all its outcomes and years."""
    found = []
    for key, one in equations().items():
        if name in (one.family, one.family.removesuffix(f"_{one.horizon}y")):
            found.append(key)
    return found


def informed(fields: Collection[str]) -> list[str]:
    """Extensions that take all that is known: of several that do, those that ask for least.

    Args:
        fields: Which are known, or have a column.

    Returns:
        Names; none where no optional field is known.
    """
    extensions = {name: one for name, one in equations().items() if one.optional}
    known = {name for one in extensions.values() for name in one.optional} & set(fields)
    fits = {name: len(one.optional) for name, one in extensions.items() if known <= {*one.optional}}
    return [name for name, count in fits.items() if known and count == min(fits.values())]


def score2(patients: Patients, region: Region, *, extrapolate: bool = False) -> Risks:
    """SCORE2 (2021), for 40 to 69 years and people without diabetes."""
    return evaluate(f"score2_{region}", patients, extrapolate=extrapolate)


def score2_op(patients: Patients, region: Region, *, extrapolate: bool = False) -> Risks:
    """SCORE2-OP (2021), for 70 to 89 years.

    Raises:
        ConfigError: The low region: the publication gives two scales for it.
    """
    if region == "low":
        raise ConfigError(
            "score2_op: no low region: the supplement's list and its worked example give two scales"
        )
    return evaluate(f"score2_op_{region}", patients, extrapolate=extrapolate)


def framingham_2008(patients: Patients) -> Risks:
    """Framingham general cardiovascular disease (D'Agostino et al. 2008), with cholesterol."""
    return evaluate("framingham_2008", patients)


def pce(patients: Patients, *, extrapolate: bool = False) -> Risks:
    """Pooled Cohort Equations (Goff et al. 2013)."""
    return evaluate("pce", patients, extrapolate=extrapolate)


__all__ = [
    "Equation",
    "Model",
    "Outcome",
    "Region",
    "Risks",
    "Table",
    "equations",
    "evaluate",
    "evaluate_many",
    "family",
    "framingham_2008",
    "informed",
    "pce",
    "prevent",
    "read_table",
    "read_tables",
    "score2",
    "score2_op",
]
