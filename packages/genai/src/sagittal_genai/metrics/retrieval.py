"""Retrieval by sparse fingerprints, judged in the dense space and by shared concepts.

After SAIL: a query's fingerprint is its k strongest features, and two rows are as similar as the
cosine of their codes at those k coordinates; at k = 1 it is 1 / (1 + |difference|). Agreement with
the dense space does not tell an encoder's meaning from chance, since a random encoder agrees with
itself as well; agreement of concepts does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix


class Fingerprints:
    """Similarity of rows by fingerprints; features active in every row are left out.

    Args:
        codes: (n, F), not negative.
    """

    def __init__(self, codes: csr_matrix) -> None:
        always = np.bincount(codes.indices, minlength=codes.shape[1]) == codes.shape[0]
        self.codes: csr_matrix = codes[:, np.flatnonzero(~always)]
        self.columns: csc_matrix = self.codes.tocsc()
        length = np.sqrt(np.asarray(self.codes.multiply(self.codes).sum(1)).ravel())
        self.length = np.maximum(length, 1e-12)

    def by_strongest(self, query: int, k: int) -> NDArray[np.float64]:
        """Similarity of every row to a query at the query's k strongest features, (n,).

        Rows without any of them get 0; a query without active features gives zeros.
        """
        part = slice(self.codes.indptr[query], self.codes.indptr[query + 1])
        strength, features = self.codes.data[part], self.codes.indices[part]
        chosen = np.lexsort((features, -strength))[:k]
        if not len(chosen):
            return np.zeros(self.codes.shape[0])
        theirs = self.columns[:, features[chosen]].toarray().astype(np.float64)
        own = strength[chosen].astype(np.float64)
        if k == 1:
            return 1 / (1 + np.abs(theirs[:, 0] - own[0]))
        lengths = np.maximum(np.linalg.norm(theirs, axis=1), 1e-12)
        return theirs @ own / (lengths * np.linalg.norm(own))

    def by_all(self, query: int) -> NDArray[np.float64]:
        """Cosine of every row's whole code with a query's, (n,)."""
        shared = np.asarray((self.codes @ self.codes[query].T).todense()).ravel()
        return shared / (self.length * self.length[query])


def nearest(
    similarity: NDArray,
    subjects: NDArray,
    scans: NDArray,
    query: int,
    lots: NDArray,
    count: int = 5,
) -> NDArray[np.int64]:
    """The most similar rows of other subjects, one of each scan; equal ones by lot.

    Many rows are equally similar by few features, and neighbours in a store are often alike: by
    row number a tie would find them without any feature's help.

    Args:
        similarity: (n,).
        subjects: (n,) integers.
        scans: (n,) integers.
        query: Row number.
        lots: A permutation, (n,): the lower one wins a tie.
        count: Rows wanted; fewer where there are fewer scans of others.
    """
    order = np.lexsort((lots, -similarity))
    order = order[subjects[order] != subjects[query]]
    first = np.sort(np.unique(scans[order], return_index=True)[1])[:count]
    return order[first].astype(np.int64)


def concept_agreement(sets: NDArray, query: int, found: NDArray[np.int64]) -> float:
    """Mean Jaccard of a query's concepts with those of found rows; NaN if it has none.

    Args:
        sets: (n, C), 0 or 1.
        query: Row number.
        found: Rows, at least one.
    """
    own = sets[query].astype(bool)
    if not own.any() or not len(found):
        return float("nan")
    theirs = sets[found].astype(bool)
    return float(((own & theirs).sum(1) / (own | theirs).sum(1)).mean())


def cosines(rows: NDArray, query: int, found: NDArray[np.int64]) -> float:
    """Mean cosine of a query's dense row with those of found rows; rows are of unit length."""
    return float((rows[found] @ rows[query]).mean()) if len(found) else float("nan")
