"""The fields of a patient record: unit, plausible range, coding; conversion happens here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.errors import DataError

MMOL_PER_MG = 0.02586
"""mmol/L of cholesterol in one mg/dL, as the PREVENT equations have it."""

UMOL_PER_MG = 88.4
"""umol/L of creatinine in one mg/dL."""

Conversion: TypeAlias = float | tuple[float, float]
"""A factor, or a factor and what is added afterwards."""


@dataclass(frozen=True)
class Field:
    """One field of a patient record.

    Attributes:
        name: Its name everywhere in this package.
        unit: The unit that values are kept in; empty for flags and categories.
        units: Other units that a table may be in, with what converts them.
        plausible: Lowest and highest value that a living patient can have, in ``unit``.
        codes: Categories and their numbers; empty for numbers and flags.
        flag: Whether it is 0 or 1.
        whole: Whether other than whole numbers are implausible.
    """

    name: str
    unit: str = ""
    units: Mapping[str, Conversion] = field(default_factory=dict)
    plausible: tuple[float, float] = (0.0, 1.0)
    codes: Mapping[str, int] = field(default_factory=dict)
    flag: bool = False
    whole: bool = False


_CHOLESTEROL = {"mmol/L": 1 / MMOL_PER_MG}

FIELDS: dict[str, Field] = {
    one.name: one
    for one in (
        Field("age", "years", plausible=(0, 120)),
        Field("sex", codes={"female": 0, "male": 1}),
        Field("race", codes={"white": 0, "black": 1, "other": 2}, plausible=(0, 2)),
        Field("total_cholesterol", "mg/dL", _CHOLESTEROL, (40, 1000)),
        Field("hdl_cholesterol", "mg/dL", _CHOLESTEROL, (5, 200)),
        Field("systolic", "mmHg", {"kPa": 7.50062}, (50, 300)),
        Field("bmi", "kg/m2", plausible=(10, 100)),
        Field("egfr", "mL/min/1.73m2", {"mL/s/1.73m2": 60.0}, (3, 250)),
        Field("diabetes", flag=True),
        Field("smoker", flag=True),
        Field("bp_treated", flag=True),
        Field("statin", flag=True),
        Field("creatinine", "mg/dL", {"umol/L": 1 / UMOL_PER_MG}, (0.1, 30)),
        Field("uacr", "mg/g", {"mg/mmol": UMOL_PER_MG / 10}, (0, 100_000)),
        # IFCC to NGSP by the master equation of the networks.
        Field("hba1c", "%", {"mmol/mol": (0.0915, 2.15)}, (3, 25)),
        Field("sdi", "decile", plausible=(1, 10), whole=True),
    )
}
"""Every field, by name; the position is its bit in :class:`Patients`."""

BIT: dict[str, int] = {name: 1 << place for place, name in enumerate(FIELDS)}


def names_of(bits: int) -> list[str]:
    """Names of the fields whose bits are set."""
    return [name for name, bit in BIT.items() if bits & bit]


def to_numbers(
    name: str,
    values: ArrayLike,
    unit: str | None = None,
    source: str = "patients",
    *,
    expect_unit: bool = True,
) -> NDArray[np.float64]:
    """Values of a field in its own unit, NaN where missing.

    Args:
        name: A key of :data:`FIELDS`.
        values: (n,) numbers; of flags also booleans; of categories their names, or NaN or None.
        unit: What numbers are in; None: the field's own unit.
        source: Named in errors.
        expect_unit: Refuse a column that looks like one in another unit; without it such values are
            implausible, one by one.

    Raises:
        DataError: An unknown field, unit, category or flag; or at least half of the known values
            cannot be in the unit given and another unit fits, with the number of rows and the unit.
    """
    if name not in FIELDS:
        raise DataError(source, key=name, expected=f"one of {', '.join(FIELDS)}", found="no field")
    one = FIELDS[name]
    if one.codes:
        return _coded(one, values, unit, source)
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(source, key=name, expected="numbers", found="text") from None
    if numbers.ndim != 1:
        raise DataError(source, key=name, expected="(n,) values", found=str(numbers.shape))
    if one.flag:
        wrong = int(np.sum(~np.isnan(numbers) & (numbers != 0) & (numbers != 1)))
        if wrong or unit is not None:
            found = f"{wrong} rows with other values" if wrong else f"unit {unit!r}"
            raise DataError(source, key=name, expected="0, 1 or missing, no unit", found=found)
        return numbers
    converted = _converted(numbers, _conversion(one, unit, source))
    if expect_unit:
        _expect_unit(one, numbers, converted, unit or one.unit, source)
    return converted


def implausible(name: str, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Known values that no patient can have, (n,)."""
    low, high = FIELDS[name].plausible
    wrong = (numbers < low) | (numbers > high)
    if FIELDS[name].whole:
        wrong |= ~np.isnan(numbers) & (numbers != np.floor(numbers))
    return wrong


def _converted(numbers: NDArray[np.float64], conversion: Conversion) -> NDArray[np.float64]:
    if conversion == 1:
        return numbers
    factor, added = conversion if isinstance(conversion, tuple) else (conversion, 0.0)
    return numbers * factor + added if added else numbers * factor


def _conversion(one: Field, unit: str | None, source: str) -> Conversion:
    if unit is None or unit == one.unit:
        return 1.0
    if unit not in one.units:
        allowed = ", ".join([one.unit, *one.units])
        raise DataError(source, key=one.name, expected=f"a unit of {allowed}", found=repr(unit))
    return one.units[unit]


def _expect_unit(
    one: Field,
    raw: NDArray[np.float64],
    converted: NDArray[np.float64],
    unit: str,
    source: str,
) -> None:
    """A column in another unit than stated has most of its values out of the plausible range."""
    known = int(np.isfinite(raw).sum())
    wrong = int(implausible(one.name, converted).sum())
    if not known or wrong * 2 < known:
        return
    fits = [
        other
        for other, way in {one.unit: 1.0, **one.units}.items()
        if other != unit and int(implausible(one.name, _converted(raw, way)).sum()) * 2 < known
    ]
    if not fits:  # not a matter of units: those rows are flagged, one by one
        return
    low, high = one.plausible
    raise DataError(
        source,
        key=one.name,
        expected=f"{unit}, that is {low:g} to {high:g} {one.unit}",
        found=f"{wrong} of {known} rows outside",
        hint=f"the values look like {' or '.join(fits)}: state that unit",
    )


def _coded(one: Field, values: ArrayLike, unit: str | None, source: str) -> NDArray[np.float64]:
    if unit is not None:
        raise DataError(source, key=one.name, expected="no unit", found=repr(unit))
    given: Sequence[object] = np.asarray(values, dtype=object).tolist()
    numbers = np.full(len(given), np.nan)
    wrong = 0
    for row, value in enumerate(given):
        if isinstance(value, str) and value in one.codes:
            numbers[row] = one.codes[value]
        elif not (value is None or value != value):
            wrong += 1
    if wrong:
        raise DataError(
            source,
            key=one.name,
            expected=f"{', '.join(one.codes)} or missing",
            found=f"{wrong} rows with other values",
        )
    return numbers
