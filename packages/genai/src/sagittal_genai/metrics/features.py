"""How the features of a sparse autoencoder are used: density, dead ones, correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def densities(codes: csr_matrix) -> NDArray[np.float64]:
    """Share of the rows that each feature is active in, (F,)."""
    active = np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1])
    return active / max(1, codes.shape[0])


def active_per_row(codes: csr_matrix) -> NDArray[np.int64]:
    """L0 of each row, (n,)."""
    kept = codes.copy()
    kept.eliminate_zeros()
    return np.diff(kept.indptr).astype(np.int64)


def mean_correlation(codes: csr_matrix, most: int = 2048) -> float | None:
    """Mean |Pearson correlation| between pairs of features that vary.

    Args:
        codes: (n, F).
        most: Features to take at most, evenly spaced among those that vary.

    Returns:
        The mean over pairs; None with fewer than two varying features.
    """
    mean = np.asarray(codes.mean(0)).ravel()
    variance = np.asarray(codes.multiply(codes).mean(0)).ravel() - mean**2
    varying = np.flatnonzero(variance > 1e-12)
    if len(varying) < 2:
        return None
    if len(varying) > most:
        varying = varying[np.linspace(0, len(varying) - 1, most).astype(int)]
    dense = codes[:, varying].toarray().astype(np.float64)
    dense -= dense.mean(0)
    dense /= np.sqrt((dense**2).sum(0))
    correlation = np.abs(dense.T @ dense)
    pairs = len(varying) * (len(varying) - 1)
    return float((correlation.sum() - np.trace(correlation)) / pairs)


def quantiles(values: NDArray) -> dict[str, float]:
    """The 5 %, 25 %, 50 %, 75 % and 95 % quantiles of (n,) values, by name."""
    shares = (5, 25, 50, 75, 95)
    found = np.percentile(values, shares)
    return {f"{share} %": float(value) for share, value in zip(shares, found, strict=True)}
