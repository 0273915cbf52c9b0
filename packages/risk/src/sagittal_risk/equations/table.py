"""Coefficient tables: one YAML file for each family of equations, read and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_risk.fields import BIT, FIELDS

FOLDER = Path(__file__).parent / "tables"
_KEYS = {
    *("title", "source", "checked", "horizon", "strata", "columns", "link"),
    *("basis", "ranges", "refuse", "equations"),
}


@dataclass(frozen=True)
class Basis:
    """A transformed field: ``(clip(value - less) * times - minus) / over``, or its logarithm.

    Attributes:
        field: Which.
        less: A field that is subtracted first; empty: none.
        log: Natural logarithm before anything else.
        times: Factor, for another unit.
        least: Values below count as this one.
        most: Values above count as this one.
        minus: Subtracted.
        over: Divisor.
        between: 1 from the first to the second value and 0 elsewhere, instead of all that.
        absent: 1 where the field is missing and 0 elsewhere, instead of all that.
    """

    field: str
    less: str = ""
    log: bool = False
    times: float = 1.0
    least: float | None = None
    most: float | None = None
    minus: float = 0.0
    over: float = 1.0
    between: tuple[float, float] | None = None
    absent: bool = False


@dataclass(frozen=True)
class Equation:
    """One risk: coefficients of terms for each stratum, and what comes after their sum.

    Attributes:
        name: Such as ``prevent_cvd_10y`` or ``score2_low``.
        family: Name of its table.
        outcome: In words.
        horizon: In years.
        needs: Fields without which there is no risk, in the order of ``FIELDS``.
        needs_bits: The same as bits.
        optional: Fields with a published term for a missing value, in the order of ``FIELDS``.
        optional_bits: The same as bits.
        coefficients: (strata, terms of the table).
        log_survival: (strata,) ln of baseline survival; None: logistic.
        mean: (strata,) subtracted from the sum.
        scale: (strata, 2) A and B of a region; None: none.
    """

    name: str
    family: str
    outcome: str
    horizon: int
    needs: tuple[str, ...]
    needs_bits: int
    optional: tuple[str, ...]
    optional_bits: int
    coefficients: NDArray[np.float64]
    log_survival: NDArray[np.float64] | None
    mean: NDArray[np.float64]
    scale: NDArray[np.float64] | None


@dataclass(frozen=True)
class Table:
    """A family of equations on the same terms.

    Attributes:
        name: Of the file.
        title: In words.
        source: The publication.
        checked: Against what the numbers were checked.
        basis: By name.
        terms: Each a product of names in ``basis``; the empty product is the constant.
        strata: Categories that choose the column.
        column: For each combination of their codes, in row-major order, the column.
        ranges: Field to lowest and highest value of the derivation, as codes for categories.
        refuse: Fields whose values outside give no risk; the others are flagged.
        optional: Fields whose terms are 0 where they are missing, but those for a missing value.
        equations: By name.
    """

    name: str
    title: str
    source: str
    checked: str
    basis: dict[str, Basis]
    terms: tuple[tuple[str, ...], ...]
    strata: tuple[str, ...]
    column: NDArray[np.intp]
    ranges: dict[str, tuple[float, float]]
    refuse: tuple[str, ...]
    optional: tuple[str, ...]
    equations: dict[str, Equation]


@cache
def read_tables() -> dict[str, Table]:
    """Every table of the package, by name."""
    return {file.stem: read_table(file) for file in sorted(FOLDER.glob("*.yaml"))}


@cache
def equations() -> dict[str, Equation]:
    """Every equation of the package, by name."""
    return {name: one for table in read_tables().values() for name, one in table.equations.items()}


def read_table(file: Path) -> Table:
    """Read one coefficient table.

    Raises:
        DataError: A key is missing, a term has no basis, a number of coefficients is wrong.
    """
    raw: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if _KEYS - set(raw):
        raise DataError(
            file, key=", ".join(_KEYS - set(raw)), expected="these keys", found="missing"
        )
    basis = {name: Basis(**given) for name, given in raw["basis"].items()}
    for name, one in basis.items():
        for used in filter(None, (one.field, one.less)):
            if used not in FIELDS:
                raise DataError(file, key=name, expected="a field", found=repr(used))
        if one.absent and one.field not in raw.get("optional", ()):
            raise DataError(file, key=name, expected="an optional field", found=repr(one.field))
    listed = dict.fromkeys(term for one in raw["equations"].values() for term in one["terms"])
    products = {term: _product(file, term, basis) for term in listed}
    made: dict[str, Equation] = {}
    for name, given in raw["equations"].items():
        for equation in _equations(file, name, given, raw, basis, products):
            made[equation.name] = equation
    return Table(
        name=file.stem,
        title=raw["title"],
        source=raw["source"].strip(),
        checked=raw["checked"].strip(),
        basis=basis,
        terms=tuple(products.values()),
        strata=tuple(raw["strata"]),
        column=_columns(file, raw),
        ranges={name: (low, high) for name, (low, high) in raw["ranges"].items()},
        refuse=tuple(raw["refuse"]),
        optional=tuple(raw.get("optional", ())),
        equations=made,
    )


def _product(file: Path, term: str, basis: dict[str, Basis]) -> tuple[str, ...]:
    if term == "constant":
        return ()
    names = tuple(name.strip() for name in term.split("*"))
    if set(names) - set(basis):
        raise DataError(file, key=term, expected=f"names of {', '.join(basis)}", found=term)
    return names


def _equations(
    file: Path,
    name: str,
    given: dict[str, Any],
    raw: dict[str, Any],
    basis: dict[str, Basis],
    products: dict[str, tuple[str, ...]],
) -> list[Equation]:
    """An equation, or one for each region and one without; all with the same coefficients."""
    width = len(raw["columns"])
    coefficients = np.zeros((width, len(products)))
    needs = set(raw["strata"])
    for place, (term, product) in enumerate(products.items()):
        if term in given["terms"]:
            coefficients[:, place] = _row(file, f"{name}: {term}", given["terms"][term], width)
            for used in (basis[part] for part in product):
                needs |= {used.field, used.less} - {""}
    may = [field for field in FIELDS if field in needs and field in raw.get("optional", ())]
    ordered = tuple(field for field in FIELDS if field in needs and field not in may)
    logistic = raw["link"] == "logistic"
    survival = None
    if not logistic:
        survival = np.log(_row(file, f"{name}: survival", given["survival"], width))
    mean = _row(file, f"{name}: mean", given.get("mean", [0] * width), width)

    def made(label: str, scale: NDArray[np.float64] | None) -> Equation:
        return Equation(
            name=label,
            family=file.stem,
            outcome=given["outcome"],
            horizon=raw["horizon"],
            needs=ordered,
            needs_bits=sum(BIT[field] for field in ordered),
            optional=tuple(may),
            optional_bits=sum(BIT[field] for field in may),
            coefficients=coefficients,
            log_survival=survival,
            mean=mean,
            scale=scale,
        )

    regions = given.get("regions", {})
    if not regions:
        return [made(name, None)]
    scaled = [made(f"{name}_{region}", np.array(pairs, float)) for region, pairs in regions.items()]
    return [*scaled, made(f"{name}_uncalibrated", None)]


def _row(file: Path, key: str, values: list[float], width: int) -> NDArray[np.float64]:
    if len(values) != width:
        raise DataError(file, key=key, expected=f"{width} numbers", found=str(values))
    return np.array(values, dtype=np.float64)


def _columns(file: Path, raw: dict[str, Any]) -> NDArray[np.intp]:
    """Column of each combination of categories; ``stand_in`` names whose column another takes."""
    stand_in = raw.get("stand_in", {})
    words: list[list[str]] = [[]]
    for category in raw["strata"]:
        codes = FIELDS[category].codes
        words = [[*w, stand_in.get(code, code)] for w in words for code in codes]
    try:
        return np.array([raw["columns"].index(" ".join(w)) for w in words])
    except ValueError as error:
        raise DataError(file, key="columns", expected="every stratum", found=str(error)) from None
