"""Facts about features: which to explain, what excites them, on training and on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sagittal_core.errors import DataError
from sagittal_core.seeds import counter_seed
from sagittal_genai.concepts.table import ConceptTable
from sagittal_genai.metrics.monosemanticity import monosemanticity

if TYPE_CHECKING:
    import pandas


Unit: TypeAlias = Literal["subject", "image"]


@dataclass(frozen=True)
class Top:
    """Rows that excite a feature most, by activation descending; one of each image.

    Attributes:
        rows: Row numbers in the store, (m,).
        values: Activations, (m,).
        units: Number of distinct subjects among them, or of images where these count.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    units: int


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        number: In the autoencoder.
        density: Share of the training rows in which it is active.
        mean: Mean activation over those.
        largest: Largest activation on the training rows.
        subjects: Training subjects in which it is active.
        monosemanticity: M on training rows.
        top: The candidates for naming, of training rows.
        shown: Those of ``top`` that differ most from each other.
        held_out: The rows that the judge sees.
    """

    number: int
    density: float
    mean: float
    largest: float
    subjects: int
    monosemanticity: float
    top: Top
    shown: Top
    held_out: Top


class Rows:
    """Codes of a store with who and which image each row belongs to.

    Args:
        codes: (n, F).
        index: Metadata, n rows, with ``image``, ``subject`` and ``split``.
        held_out: Split that the judge and the search see.
        source: Where the index comes from, for messages.
        unit: What rows are taken of in turn and counted by: subjects or images.

    Raises:
        DataError: Numbers of rows differ, a column is missing, or a split is empty.
    """

    def __init__(
        self,
        codes: csr_matrix,
        index: pandas.DataFrame,
        held_out: str,
        source: object,
        unit: Unit = "subject",
    ) -> None:
        for column in ("image", "subject", "split"):
            if column not in index:
                _refuse(source, column, "a column", ", ".join(map(str, index.columns)))
            if missing := int(index[column].isna().sum()):
                _refuse(source, column, "a value in every row", f"none in {missing} rows")
        if codes.shape[0] != len(index):
            _refuse(source, "rows", f"{codes.shape[0]} as the codes", str(len(index)))
        self.codes = codes
        self.image = np.unique(index["image"].astype(str), return_inverse=True)[1]
        self.subject = np.unique(index["subject"].astype(str), return_inverse=True)[1]
        self.unit = self.image if unit == "image" else self.subject
        split = index["split"].astype(str).to_numpy()
        self.train = np.flatnonzero(split == "train")
        self.held_out = np.flatnonzero(split == held_out)
        for name, rows in (("train", self.train), (held_out, self.held_out)):
            if not len(rows):
                _refuse(source, "split", f"rows of {name}", ", ".join(sorted(set(split))))
        shared = set(self.subject[self.train]) & set(self.subject[self.held_out])
        if shared:
            _refuse(source, "split", "no subject in two splits", f"{len(shared)} subjects in both")

    def shuffled(self, seed: int) -> Rows:
        """The same with the training rows' codes dealt out anew: features that mean nothing."""
        dealt = np.arange(self.codes.shape[0])
        rng = np.random.default_rng(counter_seed(seed, "shuffled codes"))
        dealt[self.train] = rng.permutation(self.train)
        other = copy(self)
        other.codes = self.codes[dealt]
        return other

    def top(self, values: NDArray, rows: NDArray, count: int) -> Top:
        """The ``count`` images of the largest values, of as many units as possible.

        Args:
            values: (a,), positive.
            rows: The row of each, (a,).
            count: Images wanted.
        """
        # Of an image's tokens, the most active one stands for it.
        order = np.lexsort((rows, -values))
        kept = order[np.sort(np.unique(self.image[rows[order]], return_index=True)[1])]
        chosen = kept[spread(values[kept], self.unit[rows[kept]], count)]
        found = rows[chosen].astype(np.int64)
        return Top(found, values[chosen].astype(np.float64), len(np.unique(self.unit[found])))


def spread(values: NDArray, groups: NDArray, count: int) -> NDArray[np.int64]:
    """Places of the largest values of every group, then of the second largest, and so on.

    Args:
        values: (a,).
        groups: (a,) integers.
        count: Places wanted; fewer are returned where there are no more.

    Returns:
        Places by value descending, of equal values the first ones first.
    """
    order = np.lexsort((np.arange(len(values)), -values))
    by_group = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    turn = np.empty(len(values), dtype=np.int64)
    lengths = np.diff(np.append(starts, len(values)))
    turn[by_group] = np.arange(len(values)) - np.repeat(starts, lengths)
    taken = order[np.argsort(turn[order], kind="stable")][:count]
    return taken[np.lexsort((taken, -values[taken]))].astype(np.int64)


def choose(
    rows: Rows,
    table: ConceptTable,
    count: int,
    *,
    candidates: int = 20,
    shown: int = 5,
    judged: int = 5,
    min_subjects: int = 10,
    max_density: float = 0.5,
    seed: int = 0,
    wanted: Callable[[Feature], bool] | None = None,
) -> tuple[list[Feature], dict[str, int]]:
    """The features of highest monosemanticity among those that can be explained.

    Rows of which the table knows nothing have no part in monosemanticity and are shown to no judge;
    among a feature's top rows they count, so that it is not named by a few that are known.

    Args:
        rows: Codes and who they belong to.
        table: Concepts of all rows.
        count: Features wanted.
        candidates: Training images of a feature to consider, one of a unit where possible.
        shown: Of them, those to name it by.
        judged: Held-out images of a feature.
        min_subjects: Training subjects that a feature must be active in; all, where there are
            fewer.
        max_density: Share of training rows above which a feature says too little.
        seed: Of the chance level that monosemanticity subtracts.
        wanted: Asked of each feature in turn whether to take it; None: take all.

    Returns:
        Features by monosemanticity descending, and how many were left out for which reason.
    """
    train, told = rows.codes[rows.train], table.told()
    describable = rows.train[told[rows.train]]
    if not len(describable):
        return [], {"there without a training row that any column describes": train.shape[1]}
    needed = min(min_subjects, len(np.unique(rows.subject[rows.train])))
    # What every row shows tells none of them apart.
    telling = np.flatnonzero(table.shares(rows.train)[0] < 1)
    sets = table.flags[describable][:, telling].astype(np.uint8).toarray()
    rng = np.random.default_rng(counter_seed(seed, "monosemanticity"))
    scored = monosemanticity(rows.codes[describable], sets, rows.unit[describable], rng)
    columns, held_out = train.tocsc(), rows.codes[rows.held_out].tocsc()
    left = dict(scored.counts)
    left |= {"too dense": 0, f"active in fewer than {needed} subjects": 0, "not wanted": 0}
    left |= {} if wanted is None else {"of a name that has enough": 0}
    found: list[Feature] = []
    for place in np.lexsort((scored.features, -scored.values)):
        number = int(scored.features[place])
        part = slice(columns.indptr[number], columns.indptr[number + 1])
        positive = columns.data[part] > 0
        values = columns.data[part][positive].astype(np.float64)
        active = rows.train[columns.indices[part][positive]]
        subjects = len(np.unique(rows.subject[active]))
        if len(active) > max_density * len(rows.train):
            left["too dense"] += 1
        elif subjects < needed:
            left[f"active in fewer than {needed} subjects"] += 1
        elif len(found) == count:
            left["not wanted"] += 1
        else:
            top = rows.top(values, active, candidates)
            part = slice(held_out.indptr[number], held_out.indptr[number + 1])
            positive = (held_out.data[part] > 0) & told[rows.held_out[held_out.indices[part]]]
            others = rows.held_out[held_out.indices[part][positive]]
            feature = Feature(
                number=number,
                density=len(active) / len(rows.train),
                mean=float(values.mean()),
                largest=float(values.max()),
                subjects=subjects,
                monosemanticity=float(scored.values[place]),
                top=top,
                shown=diverse(rows, top, shown),
                held_out=rows.top(held_out.data[part][positive].astype(np.float64), others, judged),
            )
            if wanted is None or wanted(feature):
                found.append(feature)
            else:
                left["of a name that has enough"] += 1
    return found, left


def diverse(rows: Rows, top: Top, count: int) -> Top:
    """The most active row, then each time the one least similar to those taken (SAIL's rule).

    Similarity is the cosine of whole rows of codes, the largest one to any row taken.
    """
    if len(top.rows) <= count:
        return top
    codes = rows.codes[top.rows]
    norms = np.sqrt(np.asarray(codes.multiply(codes).sum(1)).ravel())
    cosine = (codes @ codes.T).toarray() / np.maximum(np.outer(norms, norms), 1e-12)
    taken = [0]
    while len(taken) < count:
        nearest = cosine[:, taken].max(1)
        nearest[taken] = np.inf
        taken.append(int(nearest.argmin()))
    chosen = np.sort(np.array(taken))
    units = len(np.unique(rows.unit[top.rows[chosen]]))
    return Top(top.rows[chosen], top.values[chosen], units)


def _refuse(source: object, key: str, expected: str, found: str) -> None:
    raise DataError(str(source), key=key, expected=expected, found=found)
