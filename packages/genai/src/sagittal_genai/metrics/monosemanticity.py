r"""Monosemanticity of features, after SAIL: do the rows that excite one share few concepts?

:math:`M(f) = C(f) S(f)` over the rows that excite feature f most, ten of them. C is the mean
Jaccard similarity of their concept sets above that of random rows, not below 0. S is
:math:`1 - H(p) / \log n`, with the entropy of how often each of the n concepts occurs in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix


class TopRows(NamedTuple):
    """The rows that excite one feature most, by activation descending.

    Attributes:
        rows: Their numbers, one of each group (or more, see :func:`top_rows`).
        groups: The group of each.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int64]


def pairwise_jaccard(sets: NDArray) -> NDArray[np.float64]:
    """Jaccard similarity of (n, C) indicator rows, (n, n); two empty sets share nothing: 0."""
    flags = sets.astype(np.float64)
    shared = flags @ flags.T
    sizes = flags.sum(1)
    union = sizes[:, None] + sizes[None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 0.0)


def top_rows(
    column: NDArray, rows: NDArray, groups: NDArray, count: int = 10, per_group: int = 1
) -> TopRows:
    """The rows with the largest activations, at most ``per_group`` of one group.

    Args:
        column: Activations, (a,), positive.
        rows: The row of each, (a,).
        groups: Group (scan or subject) of every row of the data.
        count: Rows wanted; fewer are returned where there are no more.
        per_group: Rows of one group at most.
    """
    order = np.lexsort((rows, -column))
    members = groups[rows[order]]
    if per_group == 1:
        kept = np.sort(np.unique(members, return_index=True)[1])[:count]
    else:
        seen: dict[int, int] = {}
        kept_list = []
        for place, member in enumerate(members.tolist()):
            seen[member] = seen.get(member, 0) + 1
            if seen[member] <= per_group:
                kept_list.append(place)
            if len(kept_list) == count:
                break
        kept = np.array(kept_list, dtype=np.int64)
    return TopRows(rows[order][kept].astype(np.int64), members[kept].astype(np.int64))


def coherence(sets: NDArray, null: float) -> float:
    """C: mean Jaccard of pairs of (m, C) sets above ``null``, at least 0; 0 with one set."""
    if len(sets) < 2:
        return 0.0
    similar = pairwise_jaccard(sets)
    above = similar[np.triu_indices(len(sets), 1)]
    return max(0.0, float(above.mean()) - null)


def specificity(sets: NDArray) -> float:
    """S: 1 minus the entropy of (m, C) sets' concepts over log C; 0 without any concept."""
    counts = sets.sum(0).astype(np.float64)
    if counts.sum() == 0 or len(counts) < 2:
        return 0.0
    p = counts[counts > 0] / counts.sum()
    return float(1 + (p * np.log(p)).sum() / np.log(len(counts)))


def null_jaccard(
    sets: NDArray,
    groups: NDArray,
    rng: np.random.Generator,
    count: int = 10,
    per_group: int = 1,
    draws: int = 100,
) -> float:
    """Mean Jaccard of random rows, chosen by the rule that the top rows follow.

    Args:
        sets: (n, C) concepts of every row.
        groups: (n,).
        rng: Where the draws come from.
        count: Rows a draw.
        per_group: Rows of one group at most.
        draws: Monte Carlo draws.
    """
    found = []
    for _ in range(draws):
        chosen = top_rows(rng.random(len(sets)), np.arange(len(sets)), groups, count, per_group)
        similar = pairwise_jaccard(sets[chosen.rows])
        if len(chosen.rows) > 1:
            found.append(similar[np.triu_indices(len(chosen.rows), 1)].mean())
    return float(np.mean(found)) if found else 0.0


class Monosemanticity(NamedTuple):
    """M of the features that could be judged.

    Attributes:
        features: Their numbers, (m,).
        values: M, (m,).
        coherence: C, (m,).
        specificity: S, (m,).
        null: Jaccard of random rows, subtracted in C.
        per_group: Rows of one group that were allowed.
        counts: How many features were left out, by reason.
    """

    features: NDArray[np.int64]
    values: NDArray[np.float64]
    coherence: NDArray[np.float64]
    specificity: NDArray[np.float64]
    null: float
    per_group: int
    counts: dict[str, int]


def rows_per_group(groups: NDArray, count: int = 10) -> int:
    """1 where there are ``count`` groups; else the fewest rows of a group that can give so many."""
    return int(-(-count // max(1, min(count, len(np.unique(groups))))))


def monosemanticity(
    codes: csr_matrix,
    sets: NDArray,
    groups: NDArray,
    rng: np.random.Generator,
    count: int = 10,
) -> Monosemanticity:
    """M(f) of every feature that is active in enough groups and not in every row.

    Args:
        codes: (n, F).
        sets: (n, C) concepts of each row, 0 or 1.
        groups: (n,) integers: one row of a group is taken (scan, or subject). With fewer than
            ``count`` groups more rows of one are, so that there are ``count``.
        rng: For the null.
        count: Rows that excite a feature most.
    """
    per_group = rows_per_group(groups, count)
    null = null_jaccard(sets, groups, rng, count, per_group)
    columns: csc_matrix = codes.tocsc()
    kept: list[tuple[int, float, float]] = []
    left = {"never active": 0, "active in every row": 0, f"fewer than {count} top rows": 0}
    for feature in range(codes.shape[1]):
        part = slice(columns.indptr[feature], columns.indptr[feature + 1])
        positive = columns.data[part] > 0
        values, rows = columns.data[part][positive], columns.indices[part][positive]
        if not len(rows):
            left["never active"] += 1
        elif len(rows) == codes.shape[0]:
            left["active in every row"] += 1
        else:
            top = top_rows(values, rows, groups, count, per_group)
            if len(top.rows) < count:
                left[f"fewer than {count} top rows"] += 1
                continue
            chosen = sets[top.rows]
            kept.append((feature, coherence(chosen, null), specificity(chosen)))
    features = np.array([k[0] for k in kept], dtype=np.int64)
    c, s = (np.array([k[i] for k in kept], dtype=np.float64) for i in (1, 2))
    return Monosemanticity(features, c * s, c, s, null, per_group, left)


def m_of(
    codes: csr_matrix,
    features: NDArray[np.int64],
    sets: NDArray,
    groups: NDArray,
    null: float,
    count: int = 10,
    least: int = 5,
) -> NDArray[np.float64]:
    """M of given features on other rows than they were chosen on, (m,); NaN below ``least`` rows.

    Args:
        codes: (n, F).
        features: Which.
        sets: (n, C).
        groups: (n,).
        null: Jaccard of random rows.
        count: Rows that excite a feature most.
        least: Rows that will do where there are no more.
    """
    per_group = rows_per_group(groups, count)
    columns: csc_matrix = codes.tocsc()
    found = np.full(len(features), np.nan)
    for place, feature in enumerate(features):
        part = slice(columns.indptr[feature], columns.indptr[feature + 1])
        positive = columns.data[part] > 0
        values, rows = columns.data[part][positive], columns.indices[part][positive]
        top = top_rows(values, rows, groups, count, per_group)
        if len(top.rows) >= least:
            chosen = sets[top.rows]
            found[place] = coherence(chosen, null) * specificity(chosen)
    return found


def resampled_m(
    codes: csr_matrix,
    features: NDArray[np.int64],
    sets: NDArray,
    groups: NDArray,
    kept: NDArray[np.bool_],
    null: float,
    count: int = 10,
) -> NDArray[np.float64]:
    """Mean M of given features over halves of the subjects, (R,).

    Halves, not resamples with replacement: a row that counts twice makes ten rows look more alike
    than any ten rows are.

    Args:
        codes: (n, F).
        features: Which.
        sets: (n, C).
        groups: (n,).
        kept: (R, n) which rows are of the half.
        null: Jaccard of random rows.
        count: Rows that excite a feature most.
    """
    per_group = rows_per_group(groups, count)
    columns: csc_matrix = codes.tocsc()
    found = np.zeros((len(kept), len(features)))
    for place, feature in enumerate(features):
        part = slice(columns.indptr[feature], columns.indptr[feature + 1])
        rows, values = columns.indices[part], columns.data[part]
        for number, half in enumerate(kept[:, rows] & (values > 0)):
            top = top_rows(values[half], rows[half], groups, count, per_group)
            chosen = sets[top.rows]
            found[number, place] = coherence(chosen, null) * specificity(chosen)
    return found.mean(1) if len(features) else np.full(len(kept), np.nan)
