"""The metadata of rows as concepts: which row shows what, and how common that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sagittal_core.errors import DataError

if TYPE_CHECKING:
    import pandas

LISTS = ("organs", "findings")
# Kept out on purpose: image, scan, subject and split identify a row, they do not describe it.
COLUMNS = ("modality", "orientation", "view", "study_type", "sex", "age", *LISTS)
_AGES = ((40, "under 40"), (60, "40 to 59"), (80, "60 to 79"), (1000, "80 or older"))
_NOTHING = "no finding"
_SEXES = {"F": "female", "M": "male"}


class Concept(NamedTuple):
    """One value of one column.

    Attributes:
        column: Where it stands.
        text: How one says it.
    """

    column: str
    text: str


class ConceptTable:
    """Concepts of n rows.

    Args:
        index: Metadata, n rows; columns of :data:`COLUMNS` that are not there are left out.
        columns: Which columns to read; None: those of :data:`COLUMNS` that exist.
        source: Where the index comes from, for messages.

    Attributes:
        concepts: All that occur, C of them, ordered by column and text.
        flags: (n, C) float32, 1 where the row shows the concept.
        known: (n, C) bool as columns: whether the row has a value in that column at all. A missing
            list is unknown, an empty one says that nothing is there.

    Raises:
        DataError: A column asked for is missing, or none is there.
    """

    def __init__(
        self,
        index: pandas.DataFrame,
        columns: Sequence[str] | None = None,
        source: str | Path = "index",
    ) -> None:
        wanted = [c for c in COLUMNS if c in index] if columns is None else list(columns)
        absent = [c for c in wanted if c not in index]
        if absent or not wanted:
            raise DataError(
                source,
                key=", ".join(absent or COLUMNS),
                expected="a column that describes the rows",
                found=", ".join(map(str, index.columns)),
                hint="`columns` says which ones to use",
            )
        self.columns = wanted
        rows: list[NDArray[np.int64]] = []
        places: list[NDArray[np.int64]] = []
        self._known: dict[str, NDArray[np.bool_]] = {}
        self.concepts: list[Concept] = []
        for column in wanted:
            row, text, known = _values(index[column], column)
            self._known[column] = known
            found, place = np.unique(text, return_inverse=True)
            rows.append(row)
            places.append(place.astype(np.int64) + len(self.concepts))
            self.concepts += [Concept(column, str(value)) for value in found]
        row, place = np.concatenate(rows), np.concatenate(places)
        shape = (len(index), len(self.concepts))
        flags = csr_matrix((np.ones(len(row), np.float32), (row, place)), shape=shape)
        flags.data[:] = 1  # a value named twice in one list
        self.flags = flags

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.flags.shape[0])

    def shares(self, rows: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Share of given rows that show each concept, among those where it is known.

        Args:
            rows: (m,) numbers.

        Returns:
            Shares (C,), 0 where nothing is known, and the number of rows known (C,).
        """
        known = {column: int(there[rows].sum()) for column, there in self._known.items()}
        counts = np.array([known[concept.column] for concept in self.concepts], dtype=np.int64)
        found = np.asarray(self.flags[rows].sum(0)).ravel().astype(np.float64)
        return found / np.maximum(counts, 1), counts

    def told(self) -> NDArray[np.bool_]:
        """Rows that have a value in any column, (n,)."""
        return np.logical_or.reduce(list(self._known.values()))

    def known(self, concept: int) -> NDArray[np.bool_]:
        """Rows that have a value in the concept's column, (n,)."""
        return self._known[self.concepts[concept].column]

    def of(self, row: int) -> list[Concept]:
        """Concepts of one row."""
        start, stop = self.flags.indptr[row : row + 2]
        return [self.concepts[i] for i in np.sort(self.flags.indices[start:stop])]

    def describe(self, row: int) -> str:
        """One row in words, such as ``modality: CT; organs: liver, spleen``."""
        parts: dict[str, list[str]] = {}
        for concept in self.of(row):
            said = concept.text.removeprefix(f"{concept.column.replace('_', ' ')} ")
            parts.setdefault(concept.column, []).append(said)
        for column, there in self._known.items():
            if column in LISTS and there[row]:
                parts.setdefault(column, ["none"])
        return "; ".join(
            f"{column.replace('_', ' ')}: {', '.join(parts[column])}"
            for column in self.columns
            if column in parts
        )


def _values(
    values: pandas.Series, column: str
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_]]:
    """Row numbers and texts of every value, and which rows have one."""
    flat = values.reset_index(drop=True)
    if column == "age" and flat.dtype.kind in "iuf":
        known = flat.notna().to_numpy()
        years = flat[known].to_numpy(dtype=np.float64)
        bands = np.array([f"age {name}" for _, name in _AGES])
        text = bands[np.searchsorted([limit for limit, _ in _AGES[:-1]], years, side="right")]
        return np.flatnonzero(known), text, known
    known = np.array([isinstance(value, (list, tuple, np.ndarray)) for value in flat], dtype=bool)
    if not known.any():
        known = flat.notna().to_numpy() & (flat.astype(str) != "").to_numpy()
    there = flat[known]
    if column == "findings":
        # Somebody looked and found nothing, which is worth a name; a slice without organs is not.
        there = there.map(lambda found: found if len(found) else [_NOTHING])
    exploded = there.explode().dropna()
    text = np.array([_said(column, str(value)) for value in exploded], dtype=np.str_)
    return exploded.index.to_numpy(dtype=np.int64), text, known


def _said(column: str, value: str) -> str:
    if column == "sex":
        return _SEXES.get(value.upper(), value)
    if column == "view":
        return f"{value} view"
    if column == "age":
        return f"age {value}"
    words = value.replace("_", " ").strip()
    known_alone = (*LISTS, "modality", "orientation")
    return words if column in known_alone else f"{column.replace('_', ' ')} {words}"
