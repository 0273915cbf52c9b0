"""One vectorised evaluator for every coefficient table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError
from sagittal_risk.equations.table import Equation, Table, equations, read_tables
from sagittal_risk.fields import BIT, FIELDS, names_of
from sagittal_risk.patients import Patients

# A block's terms stay in a core's cache.
_BLOCK = 4096


@dataclass(frozen=True)
class Risks:
    """What one equation says of every patient; no patient is left out.

    Attributes:
        equation: Which.
        risk: (n,) probability over the equation's horizon; NaN where a field is missing, a value
            is none that a patient can have, or it is outside where the publication gives no risk.
            Where an optional field is missing, the published term for that stands in.
        missing: (n,) uint32, bits of the fields that the equation needs and that are missing.
        outside: (n,) uint32, bits of the fields outside the ranges of the derivation.
        absent: (n,) uint32, bits of every field that is missing.
    """

    equation: Equation
    risk: NDArray[np.float64]
    missing: NDArray[np.uint32]
    outside: NDArray[np.uint32]
    absent: NDArray[np.uint32]

    @property
    def applicable(self) -> NDArray[np.bool_]:
        """(n,) whether nothing needed is missing and everything inside the ranges."""
        return (self.missing | self.outside) == 0

    @property
    def unknown(self) -> NDArray[np.uint32]:
        """(n,) bits of the fields whose published term for a missing value stands in."""
        return self.absent & np.uint32(self.equation.optional_bits)

    def missing_fields(self, row: int) -> list[str]:
        """Names of what is missing of one patient."""
        return names_of(int(self.missing[row]))

    def unknown_fields(self, row: int) -> list[str]:
        """Names of what is not known of one patient and has a published term for that."""
        return names_of(int(self.absent[row]) & self.equation.optional_bits)

    def outside_fields(self, row: int) -> list[str]:
        """Names of what is out of range in one patient."""
        return names_of(int(self.outside[row]))


def evaluate_many(
    names: Sequence[str],
    patients: Patients,
    *,
    extrapolate: bool = False,
    threads: int | None = None,
) -> dict[str, Risks]:
    """Risks by several equations; those of one table share its terms.

    Args:
        names: Of :func:`~sagittal_risk.equations.table.equations`.
        patients: Any number, 0 included.
        extrapolate: Compute and flag where the publication gives no risk (never where a value is
            implausible). For studies of whole cohorts.
        threads: None: the cores of this process.

    Returns:
        By name, in the order given.

    Raises:
        ConfigError: An unknown name.
    """
    known = equations()
    for name in names:
        if name not in known:
            raise ConfigError(f"no equation {name!r}; there are {', '.join(known)}")
    by_family: dict[str, list[Equation]] = {}
    for name in dict.fromkeys(names):
        by_family.setdefault(known[name].family, []).append(known[name])
    found: dict[str, Risks] = {}
    for family, wanted in by_family.items():
        table = read_tables()[family]
        raw = _raw(table, wanted, patients, threads or _cores())
        outside, refused = _outside(table, patients)
        for equation, risk in zip(wanted, raw, strict=True):
            found[equation.name] = _flagged(
                table, equation, risk, patients, outside, None if extrapolate else refused
            )
    return {name: found[name] for name in dict.fromkeys(names)}


def evaluate(
    name: str, patients: Patients, *, extrapolate: bool = False, threads: int | None = None
) -> Risks:
    """Risks by one equation; see :func:`evaluate_many`."""
    return evaluate_many([name], patients, extrapolate=extrapolate, threads=threads)[name]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _raw(
    table: Table, wanted: Sequence[Equation], patients: Patients, threads: int
) -> NDArray[np.float64]:
    """Risks without a check, (equations, n); anything where a field is missing."""
    count = len(patients)
    out = np.empty((len(wanted), count))
    used = np.flatnonzero(
        [any(e.coefficients[:, t].any() for e in wanted) for t in range(len(table.terms))]
    )
    weights = np.concatenate([e.coefficients[:, used] for e in wanted])
    terms = [table.terms[t] for t in used]

    def block(start: int) -> None:
        rows = slice(start, min(start + _BLOCK, count))
        with np.errstate(all="ignore"):  # implausible values; their rows become NaN below
            sums = weights @ _terms(table, terms, patients, rows)
            stratum = _stratum(table, patients, rows)
            strata = len(wanted[0].coefficients)
            for place, equation in enumerate(wanted):
                mine = sums[place * strata : (place + 1) * strata]
                chosen = np.take_along_axis(mine, stratum[None], 0)[0]
                out[place, rows] = _risk(equation, chosen, stratum)

    starts = range(0, count, _BLOCK)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            block(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(block, starts))
    return out


def _terms(
    table: Table, terms: Sequence[tuple[str, ...]], patients: Patients, rows: slice
) -> NDArray[np.float64]:
    """(terms, rows) products of the basis."""
    count = rows.stop - rows.start
    basis: dict[str, NDArray[np.float64]] = {}
    out = np.empty((len(terms), count))
    for place, product in enumerate(terms):
        for name in product:
            if name not in basis:
                basis[name] = _transformed(table, name, patients, rows)
        if not product:
            out[place] = 1.0
            continue
        out[place] = basis[product[0]]
        for name in product[1:]:
            out[place] *= basis[name]
    return out


def _transformed(table: Table, name: str, patients: Patients, rows: slice) -> NDArray[np.float64]:
    one = table.basis[name]

    def values(field: str) -> NDArray[np.float64]:
        # A zero keeps the product finite for terms whose coefficient is zero in this equation.
        column = patients.columns.get(field)
        return np.zeros(rows.stop - rows.start) if column is None else np.nan_to_num(column[rows])

    unknown = _unknown(one.field, patients, rows) if one.field in table.optional else None
    if one.absent and unknown is not None:
        return unknown.astype(np.float64)
    value = values(one.field)
    if one.between is not None:
        value = ((value >= one.between[0]) & (value <= one.between[1])).astype(np.float64)
    if one.less:
        value = value - values(one.less)
    if one.log:
        value = np.log(np.maximum(value, 1e-9))
    if one.times != 1:
        value = value * one.times
    if one.least is not None or one.most is not None:
        value = np.clip(value, one.least, one.most)
    value = (value - one.minus) / one.over
    if unknown is not None:
        value[unknown] = 0.0
    return value


def _unknown(field: str, patients: Patients, rows: slice) -> NDArray[np.bool_]:
    """(rows,) where a field is missing."""
    return (patients.missing[rows] & np.uint32(BIT[field])) != 0


def _stratum(table: Table, patients: Patients, rows: slice) -> NDArray[np.intp]:
    """(rows,) column of each patient; the first where it is missing."""
    index = np.zeros(rows.stop - rows.start, np.intp)
    for category in table.strata:
        index *= len(FIELDS[category].codes)
        column = patients.columns.get(category)
        if column is not None:
            index += np.nan_to_num(column[rows]).astype(np.intp)
    return table.column[index]


def _risk(
    equation: Equation, total: NDArray[np.float64], stratum: NDArray[np.intp]
) -> NDArray[np.float64]:
    if equation.log_survival is None:
        return 1 / (1 + np.exp(-total))
    total = total - equation.mean[stratum]
    if equation.scale is None:
        return -np.expm1(np.exp(total) * equation.log_survival[stratum])
    # -ln(1 - r) = exp(total) (-ln S0), whose logarithm the region's line takes.
    log_hazard = total + np.log(-equation.log_survival)[stratum]
    a, b = equation.scale[stratum].T
    return -np.expm1(-np.exp(a + b * log_hazard))


def _outside(table: Table, patients: Patients) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Bits of fields outside the ranges, and of those that give no risk then."""
    outside = np.zeros(len(patients), np.uint32)
    for name, (low, high) in table.ranges.items():
        column = patients.columns.get(name)
        if column is not None:
            value = np.floor(column) if name == "age" else column  # completed years
            outside |= ((value < low) | (value > high)) * np.uint32(BIT[name])
    refuse = np.uint32(sum(BIT[name] for name in table.refuse))
    return outside, outside & refuse


def _flagged(
    table: Table,
    equation: Equation,
    risk: NDArray[np.float64],
    patients: Patients,
    outside: NDArray[np.uint32],
    refused: NDArray[np.uint32] | None,
) -> Risks:
    """The risk with NaN where there is none, and why."""
    needs = np.uint32(equation.needs_bits)
    taken = np.uint32(equation.needs_bits | equation.optional_bits)
    # A range may be of a field that the equation does not take, such as diabetes of SCORE2.
    extra = np.uint32(sum(BIT[n] for n in table.ranges if n not in _of_family(table)))
    missing = patients.missing & needs
    wrong = patients.implausible & taken
    none = (missing | wrong) != 0
    if refused is not None:
        none |= (refused & taken) != 0
    risk[none] = np.nan
    flagged = (outside & (taken | extra)) | wrong
    return Risks(equation, risk, missing, flagged, patients.missing)


def _of_family(table: Table) -> set[str]:
    every = table.equations.values()
    return {name for equation in every for name in (*equation.needs, *equation.optional)}
