"""Everything measured on one store or one autoencoder, as plain values for the cache.

What is chosen (C, features, targets) is chosen on train and val, or on train alone; what is
reported is of test. Lists named ``draws`` hold a value for each resample of the test subjects,
empty with too few subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sagittal_core.resampling import Resamples, auroc
from sagittal_core.seeds import counter_seed
from sagittal_genai.evaluation.rows import Rows
from sagittal_genai.metrics.features import (
    active_per_row,
    densities,
    mean_correlation,
    quantiles,
)
from sagittal_genai.metrics.fidelity import Fidelity
from sagittal_genai.metrics.monosemanticity import m_of, monosemanticity, resampled_m
from sagittal_genai.metrics.probes import (
    DENSE_STRENGTHS,
    FEATURE_COUNTS,
    STRENGTHS,
    Matrix,
    Probe,
    Solver,
    fit_few,
    fit_probe,
    rank_features,
    standardised,
)
from sagittal_genai.metrics.retrieval import Fingerprints, concept_agreement, cosines, nearest
from sagittal_genai.nn.sae import SparseAutoencoder

FINGERPRINTS = (1, 5, 10, 20)
TOP_FEATURES = 10
Track = Callable[[Iterable[Any], str], Iterable[Any]]


def rounded(values: NDArray) -> list[float]:
    """Numbers with five digits after the point: enough for an interval, small on disk."""
    return [round(float(value), 5) for value in np.asarray(values)]


def measure_dense(
    rows: Rows, x: NDArray, targets: list[str], sampled: Resamples, solver: Solver, track: Track
) -> dict[str, Any]:
    """Probes on the embeddings themselves, target by target.

    Args:
        rows: Of the evaluation.
        x: (n, D) float32.
        targets: Names.
        sampled: Of the test rows.
        solver: As in :mod:`~sagittal_genai.metrics.probes`.
        track: Shows progress over an iterable.
    """
    # SAIL's probes take the embeddings as they are.
    scaled = x if solver == "sail" else standardised(x, rows.mask("fit"))
    found = {}
    for name in track(targets, "dense probes"):
        parts = _parts(rows, name)
        truth = rows.targets[name]
        probe = _fit(scaled, truth, parts, solver, DENSE_STRENGTHS)
        found[name] = _judged(rows, probe, scaled, name, sampled)
    return {"targets": found}


def measure_probes(
    rows: Rows,
    codes: csr_matrix,
    targets: list[str],
    sampled: Resamples,
    solver: Solver,
    track: Track,
) -> dict[str, Any]:
    """Probes on all features, and on the N that rank first in them, target by target.

    Args:
        rows: Of the evaluation.
        codes: (n, F).
        targets: Names.
        sampled: Of the test rows.
        solver: As in :mod:`~sagittal_genai.metrics.probes`.
        track: Shows progress over an iterable.
    """
    found = {}
    for name in track(targets, "sparse probes"):
        train, select, _ = parts = _parts(rows, name)
        truth = rows.targets[name]
        full = _fit(codes, truth, parts, solver, STRENGTHS)
        fitted, labels = codes[train], truth[train]
        ranked = rank_features(full, fitted, solver)
        one = {"all": _judged(rows, full, codes, name, sampled)}
        for count in FEATURE_COUNTS:
            probe = fit_few(fitted, labels, ranked, count, solver)
            selected = auroc(truth[select], probe.scores(codes[select]))
            probe = probe._replace(selected=selected)
            one[str(count)] = _judged(rows, probe, codes, name, sampled)
        found[name] = one
    return {"targets": found}


def _parts(rows: Rows, name: str) -> tuple[NDArray, NDArray, NDArray]:
    """Places of the rows with a known label: fitted, where C is chosen, and in test."""
    known = rows.targets[name] >= 0
    train, select, test = (
        np.flatnonzero(known & rows.mask(part)) for part in ("fit", "select", "test")
    )
    return train, select, test


def _fit(
    x: Matrix,
    truth: NDArray,
    parts: tuple[NDArray, ...],
    solver: Solver,
    strengths: tuple[float, ...],
) -> Probe:
    train, select, _ = parts
    return fit_probe(x[train], truth[train], x[select], truth[select], solver, strengths)


def _judged(rows: Rows, probe: Probe, x: Matrix, name: str, sampled: Resamples) -> dict[str, Any]:
    places = np.flatnonzero(rows.mask("test"))
    truth, scores = rows.targets[name][places], probe.scores(x[places])
    known = truth >= 0
    # All test subjects are drawn, those without a label too: draws of all targets belong together.
    draws = sampled.auroc(truth == 1, scores, known)
    return {
        "auc": auroc(truth[known], scores[known]),
        "selected": probe.selected,
        "strength": probe.strength,
        "converged": probe.converged,
        "draws": rounded(draws),
    }


@torch.no_grad()
def measure_fidelity(
    rows: Rows, x: NDArray, network: SparseAutoencoder, sampled: Resamples, device: str
) -> dict[str, Any]:
    """R2 three ways and active features a row, on the test rows.

    Args:
        rows: Of the evaluation.
        x: (n, D) float32.
        network: In evaluation mode.
        sampled: Of the test rows.
        device: Where to run.
    """
    mask = rows.mask("test")
    network, tested = network.to(device), torch.from_numpy(x[mask])
    counter = Fidelity(network.W_d.shape[1], len(network.b_e)).to(device)
    units = torch.from_numpy(sampled.unit).split(2048)
    sums = torch.zeros(sampled.units, tested.shape[1], dtype=torch.float64)
    errors, squares, active = [], [], []
    for batch, unit in zip(tested.split(2048), units, strict=True):
        out = network(batch.to(device))
        counter.update(out.normalised, out.reconstructions[-1], out.codes)
        rows_in = out.normalised.double().cpu()
        errors.append((out.normalised - out.reconstructions[-1]).double().square().sum(1))
        squares.append(rows_in.square().sum(1))
        sums.index_add_(0, unit, rows_in)
        offsets = out.codes.to_csr().offsets
        assert offsets is not None
        active.append(offsets.diff().double())
    error, square, l0 = (torch.cat(part).cpu().numpy() for part in (errors, squares, active))
    found: dict[str, Any] = {name: float(v) for name, v in counter.compute().items()}
    found["r2 draws"] = rounded(sampled.explained(sums.numpy(), square, error))
    found["l0 draws"] = rounded(sampled.mean(l0))
    return found


def measure_features(rows: Rows, codes: csr_matrix, correlation: bool) -> dict[str, Any]:
    """Density, dead features and correlation on the test rows.

    Args:
        rows: Of the evaluation.
        codes: (n, F).
        correlation: Whether to take the mean |Pearson correlation|.
    """
    tested = codes[np.flatnonzero(rows.mask("test"))]
    density = densities(tested)
    alive = density[density > 0]
    edges = np.linspace(-5, 0, 26)
    return {
        "features": codes.shape[1],
        "alive": int((density > 0).sum()),
        "alive on any row": int((densities(codes) > 0).sum()),
        "in more than 10 % of rows": int((density > 0.1).sum()),
        "in every row": int((density == 1).sum()),
        "density": quantiles(alive) if len(alive) else {},
        "histogram": np.histogram(np.log10(alive), edges)[0].tolist() if len(alive) else [],
        "edges": rounded(edges),
        "l0": quantiles(active_per_row(tested)),
        "mean l0": {
            name: float(active_per_row(codes[np.flatnonzero(rows.mask(name))]).mean())
            for name in ("train", "test")
        },
        "correlation": mean_correlation(tested) if correlation else None,
    }


def measure_monosemanticity(
    rows: Rows, codes: csr_matrix, sets: NDArray, sampled: Resamples, seed: int
) -> dict[str, Any]:
    """M of the ten best features, chosen where C is and judged on test; and as published.

    Args:
        rows: Of the evaluation.
        codes: (n, F).
        sets: (n, C) concepts.
        sampled: Of the test rows.
        seed: Of the null.
    """
    per_split = {}
    for name in ("select", "test"):
        places = np.flatnonzero(rows.mask(name) & rows.labelled)
        if not len(places):
            place = rows.chooser if name == "select" else name
            return {"missing": f"no row of {place} has concepts"}
        groups, unit = _groups(rows, places)
        rng = np.random.default_rng(counter_seed(seed, "monosemanticity", name))
        judged = monosemanticity(codes[places], sets[places], groups, rng)
        per_split[name] = (places, groups, unit, judged)
    chosen_by = per_split["select"][3]
    places, groups, unit, judged = per_split["test"]
    order = np.argsort(-chosen_by.values, kind="stable")[:TOP_FEATURES]
    chosen = chosen_by.features[order]
    values = m_of(codes[places], chosen, sets[places], groups, judged.null)
    subject = sampled.unit[np.searchsorted(np.flatnonzero(rows.mask("test")), places)]
    there, kept = chosen[np.isfinite(values)], sampled.halves[:, subject]
    halves = resampled_m(codes[places], there, sets[places], groups, kept, judged.null)
    halves = np.nan_to_num(halves) * (len(there) / max(1, len(chosen)))
    # Every feature counts, also one that is hardly active in test: it did not hold up, and in no
    # half either.
    m = float(np.nan_to_num(values).mean()) if len(values) else np.nan
    # A half has fewer rows to choose from: its spread is what is wanted, around the figure itself.
    draws = m + halves - halves.mean() if len(halves) else halves
    best = np.sort(judged.values)[::-1]
    found: dict[str, Any] = {"m": m, "draws": rounded(draws)} if len(values) else {}
    return found | {
        "published": float(best[:TOP_FEATURES].mean()) if len(best) else 0.0,
        "values": rounded(best),
        "coherence": float(judged.coherence.mean()) if len(best) else 0.0,
        "specificity": float(judged.specificity.mean()) if len(best) else 0.0,
        "null": judged.null,
        "concepts": sets.shape[1],
        "rows": len(places),
        "unit": unit,
        "per unit": {rows.chooser: chosen_by.per_group, "test": judged.per_group},
        "left out": judged.counts,
        "judged": len(best),
        "gone in test": int(np.isnan(values).sum()),
    }


def _groups(rows: Rows, places: NDArray) -> tuple[NDArray, str]:
    """One row of a subject where there are ten, else of a scan (see ``rows_per_group``)."""
    for name in ("subject", "scan"):
        groups = np.unique(getattr(rows, name)[places], return_inverse=True)[1]
        if groups.max() + 1 >= TOP_FEATURES:
            return groups, name
    return groups, "scan"


def measure_retrieval(
    rows: Rows,
    x: NDArray,
    codes: csr_matrix | None,
    sets: NDArray,
    queries: int,
    sampled: Resamples,
    seed: int,
    track: Track,
) -> dict[str, Any]:
    """Retrieval among the test rows: agreement with the dense space, and of concepts.

    Args:
        rows: Of the evaluation.
        x: (n, D) float32.
        codes: (n, F); None: retrieval in the dense space and at random.
        sets: (n, C) concepts.
        queries: Rows to ask with, drawn by the seed.
        sampled: Of the test rows.
        seed: Of the draw.
        track: Shows progress over an iterable.
    """
    places = np.flatnonzero(rows.mask("test"))
    subject, scan = (
        np.unique(names[places], return_inverse=True)[1] for names in (rows.subject, rows.scan)
    )
    if subject.max() == 0:
        return {"missing": "test has one subject, and a row of its own does not count"}
    rng = np.random.default_rng(counter_seed(seed, "queries"))
    asked = np.sort(rng.permutation(len(places))[:queries])
    dense = x[places] / np.maximum(np.linalg.norm(x[places], axis=1, keepdims=True), 1e-12)
    ways: dict[str, Callable[[int], NDArray]] = {
        "dense": lambda query: dense @ dense[query],
        "random": lambda query: np.zeros(len(places)),
    }
    if codes is not None:
        prints = Fingerprints(codes[places])
        ways = {f"{k}": partial(prints.by_strongest, k=k) for k in FINGERPRINTS}
        ways["all"] = prints.by_all
    labelled, shown = rows.labelled[places], sets[places]
    found: dict[str, Any] = {"queries": len(asked), "rows": len(places)}
    scores = {way: np.full((2, len(places)), np.nan) for way in ways}
    for query in track(asked.tolist(), "retrieval"):
        draw = np.random.default_rng(counter_seed(seed, "lots of a query", query))
        lots = draw.permutation(len(places))
        for way, similarity in ways.items():
            hits = nearest(similarity(query), subject, scan, query, lots)
            scores[way][0, query] = cosines(dense, query, hits)
            if labelled[query]:
                known = hits[labelled[hits]]
                scores[way][1, query] = concept_agreement(shown, query, known)
    for way, (cosine, agreement) in scores.items():
        found[way] = {
            "cosine": float(np.nanmean(cosine)),
            "cosine draws": rounded(sampled.mean(cosine)),
        }
        if np.isfinite(agreement).any():
            found[way]["agreement"] = float(np.nanmean(agreement))
            found[way]["agreement draws"] = rounded(sampled.mean(agreement))
        found["queries with concepts"] = int(np.isfinite(agreement).sum())
    return found
