"""Linear probes on dense rows and sparse codes, and how much of them few features recover.

A probe is a logistic regression with balanced class weights. The published protocol ("sail") is an
elastic net by the saga solver, C = 1 and l1_ratio 0.5, on embeddings and codes as they are, with
1000 iterations and 200 for few features; it takes minutes a target on thousands of features.
Ours ("l2") is an l2 penalty by L-BFGS whose C is chosen on the validation rows, with each feature
scaled by the root mean square of its active training values, so that coefficients can be compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sagittal_core.resampling import auroc

FEATURE_COUNTS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100)
STRENGTHS = (0.001, 0.03, 1.0, 30.0)
DENSE_STRENGTHS = (0.0001, 0.001, 0.03, 1.0)
REFIT_ROWS = 5000
SAIL_REFIT = 200  # iterations

Solver = Literal["l2", "sail"]
Matrix: TypeAlias = NDArray | csr_matrix


class Probe(NamedTuple):
    """A fitted probe.

    Attributes:
        weights: One a feature, (F,), for the features as they were given.
        bias: Scalar.
        strength: C, the inverse of the penalty.
        selected: AUROC on the rows that C was chosen on.
        converged: Whether the solver came to its end.
    """

    weights: NDArray[np.float64]
    bias: float
    strength: float
    selected: float
    converged: bool

    def scores(self, rows: Matrix) -> NDArray[np.float64]:
        """Log odds of (n, F) rows, (n,)."""
        return np.asarray(rows @ self.weights).ravel() + self.bias


def fit_probe(
    train: Matrix,
    truth: NDArray,
    chosen_on: Matrix,
    chosen_truth: NDArray,
    solver: Solver = "l2",
    strengths: Sequence[float] = STRENGTHS,
    iterations: int = 1000,
) -> Probe:
    """Fit a probe for one target.

    Args:
        train: (n, F), dense or CSR.
        truth: (n,) 0 or 1, both there.
        chosen_on: (m, F) rows that decide on C.
        chosen_truth: (m,) 0 or 1, both there.
        solver: See the module.
        strengths: Values of C to try, for ``"l2"``.
        iterations: At most, for ``"sail"``.
    """
    if solver == "sail":
        strengths, scale = (1.0,), np.ones(train.shape[1])
        options: dict[str, Any] = {"solver": "saga", "l1_ratio": 0.5, "max_iter": iterations}
        if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8):
            options["penalty"] = "elasticnet"
    else:
        scale = _scale(train)
        options = {"max_iter": 200, "warm_start": True, "tol": 1e-4}
    model = LogisticRegression(class_weight="balanced", random_state=0, **options)
    scaled = train @ diags(scale) if isinstance(train, csr_matrix) else train * scale
    best: Probe | None = None
    for strength in sorted(strengths):  # weaker penalties start from the stronger ones' end
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
            model.fit(scaled, truth)
        converged = bool(model.n_iter_[0] < model.max_iter)
        weights, bias = model.coef_[0] * scale, float(model.intercept_[0])
        found = Probe(weights.astype(np.float64), bias, strength, 0.0, converged)
        found = found._replace(selected=auroc(chosen_truth, found.scores(chosen_on)))
        if best is None or found.selected > best.selected:
            best = found
    assert best is not None
    return best


def standardised(rows: NDArray, train: NDArray) -> NDArray:
    """Dense (n, D) rows with zero mean and unit deviation over the training rows (bool (n,))."""
    mean, deviation = rows[train].mean(0), rows[train].std(0)
    return ((rows - mean) / np.where(deviation > 1e-12, deviation, 1)).astype(np.float32)


def rank_features(probe: Probe, train: csr_matrix, solver: Solver = "l2") -> NDArray[np.int64]:
    """Features by |coefficient| descending, of features scaled as the probe saw them."""
    scale = np.ones(train.shape[1]) if solver == "sail" else _scale(train)
    return np.argsort(-np.abs(probe.weights) / scale, kind="stable").astype(np.int64)


def fit_few(
    train: csr_matrix, truth: NDArray, ranked: NDArray[np.int64], count: int, solver: Solver = "l2"
) -> Probe:
    """Refit with the ``count`` features that rank first alone, C = 1, on at most 5000 rows.

    Args:
        train: (n, F).
        truth: (n,) 0 or 1.
        ranked: Features, the most important first.
        count: N.
        solver: See the module.
    """
    some = np.linspace(0, len(truth) - 1, min(len(truth), REFIT_ROWS)).astype(int)
    if truth[some].min() == truth[some].max():
        some = np.arange(len(truth))
    chosen = ranked[:count]
    rows = train[some][:, chosen].toarray()
    probe = fit_probe(rows, truth[some], rows, truth[some], solver, (1.0,), SAIL_REFIT)
    weights = np.zeros(train.shape[1])
    weights[chosen] = probe.weights
    return probe._replace(weights=weights)


def recovery(few: float, dense: float) -> float:
    """Share of a dense probe's AUROC that few features reach, as published: AUC_N / AUC_dense."""
    return few / dense


def recovery_above_chance(few: float, dense: float) -> float:
    """The same without what a coin gives: (AUC_N - 1/2) / (AUC_dense - 1/2).

    NaN where the dense probe is not above chance.
    """
    return (few - 0.5) / (dense - 0.5) if dense > 0.5 else float("nan")


def _scale(rows: Matrix) -> NDArray[np.float64]:
    """One over the root mean square of each feature's entries that are not 0, (F,); 1 without."""
    if isinstance(rows, csr_matrix):
        squares = np.bincount(rows.indices, rows.data.astype(np.float64) ** 2, rows.shape[1])
        active = np.bincount(rows.indices[rows.data != 0], minlength=rows.shape[1])
    else:
        squares, active = (rows.astype(np.float64) ** 2).sum(0), (rows != 0).sum(0)
    rms = np.sqrt(squares / np.maximum(active, 1))
    return 1 / np.where(rms > 0, rms, 1.0)
