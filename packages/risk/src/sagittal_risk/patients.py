"""Patients as columns of numbers, with what is missing and what cannot be true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_core.errors import DataError
from sagittal_risk.fields import BIT, FIELDS, implausible, to_numbers

Given = ArrayLike | tuple[ArrayLike, str]


@dataclass(frozen=True)
class Patients:
    """Columns of one length; made by :meth:`of`, which checks and converts.

    Attributes:
        columns: Field to (n,) float64 in the field's unit, NaN where missing; categories as codes.
        missing: (n,) uint32, bit :data:`~sagittal_risk.fields.BIT` set where a field is missing.
        implausible: As ``missing``, where a value is one that no patient can have.
    """

    columns: Mapping[str, NDArray[np.float64]]
    missing: NDArray[np.uint32] = field(repr=False)
    implausible: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def of(cls, *, source: str = "patients", **fields: Given) -> Patients:
        """Patients from columns.

        Args:
            source: Named in errors.
            **fields: By the names of :data:`~sagittal_risk.fields.FIELDS`: (n,) values in the
                field's own unit, or a pair of values and unit such as ``([5.2, 6.1], "mmol/L")``.

        Raises:
            DataError: See :func:`~sagittal_risk.fields.to_numbers`; or lengths differ.
        """
        columns = {}
        for name, given in fields.items():
            values: Any = given
            unit = None
            if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str):
                values, unit = given
            columns[name] = to_numbers(name, values, unit, source)
        return cls.from_columns(columns, source)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, NDArray[np.float64]], source: str = "patients"
    ) -> Patients:
        """Patients from columns that are in the fields' units already."""
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(
                source, key="columns", expected="one length of all", found=str(lengths or "none")
            )
        count = next(iter(lengths.values()))
        every = sum(BIT[name] for name in FIELDS if name not in columns)
        missing = np.full(count, every, np.uint32)
        wrong = np.zeros(count, np.uint32)
        for name, column in columns.items():
            bit = np.uint32(BIT[name])
            missing |= np.isnan(column) * bit
            wrong |= implausible(name, column) * bit
        return cls(dict(columns), missing, wrong)

    def __len__(self) -> int:
        return len(self.missing)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Patients:
        """Some of the patients, in the order of ``rows``."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Patients(columns, self.missing[rows], self.implausible[rows])
