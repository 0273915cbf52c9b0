"""Every measure of one label, computed once and kept."""

# ruff: noqa: T201 - progress of a verb

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as rich_track
from scipy.sparse import csr_matrix

from sagittal_core.resampling import Resamples
from sagittal_core.seeds import counter_seed
from sagittal_core.store import EmbeddingStore
from sagittal_genai.codes import CodeStore, store_hash, write_codes
from sagittal_genai.evaluation import measure
from sagittal_genai.evaluation.cache import Cache
from sagittal_genai.evaluation.rows import Rows
from sagittal_genai.evaluation.summary import Evaluated
from sagittal_genai.metrics.probes import Solver
from sagittal_genai.metrics.stability import match_cosines, random_cosines
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.runs import autoencoder_hash, load_autoencoder


@dataclass(frozen=True)
class Settings:
    """What decides the figures, beside rows, stores and autoencoders.

    Attributes:
        targets: Names of the probes' targets.
        probe: As in :mod:`sagittal_genai.metrics.probes`.
        queries: Rows that retrieval is asked with.
        correlation: Whether features are correlated.
        resamples: Of the subjects.
        seed: Of queries and nulls.
        device: Where autoencoders run.
    """

    targets: list[str]
    probe: Solver
    queries: int
    correlation: bool
    resamples: int
    seed: int
    device: str


class Study:
    """One encoder's embeddings and the autoencoders trained on them.

    Args:
        label: Name in the report.
        store: The embeddings.
        rows: Which of them, and what is known of each.
        sets: (n, C) concepts of each.
        settings: The rest.
        cache: Where results are kept.
        folder: Of the codes.
    """

    def __init__(
        self,
        label: str,
        store: EmbeddingStore,
        rows: Rows,
        sets: NDArray[np.uint8],
        settings: Settings,
        cache: Cache,
        folder: Path,
    ) -> None:
        self.label, self.store, self.rows, self.sets = label, store, rows, sets
        self.settings, self.cache, self.folder = settings, cache, folder
        self.x = store.rows(rows.numbers).numpy()
        self.sampled = Resamples(rows.subject[rows.mask("test")], settings.resamples)
        self.known: dict[str, Any] = {
            "store": store_hash(store),
            "rows": rows.identity,
            "resamples": settings.resamples,
            "seed": settings.seed,
        }
        sets_hash = hashlib.sha256(np.ascontiguousarray(sets).tobytes()).hexdigest()
        self.of_concepts = {"sets": sets_hash}
        self.of_retrieval = {"sets": sets_hash, "queries": settings.queries}
        self.of_probes = {"targets": settings.targets, "probe": settings.probe}

    def evaluate(self, paths: list[str], control: bool) -> Evaluated:
        """Measure the embeddings and every autoencoder.

        Args:
            paths: Of the autoencoders; probes and retrieval are of the first one.
            control: Whether this is the random encoder.
        """
        texts = [*self.rows.split, *self.rows.subject, *self.rows.scan, *self.of_concepts.values()]
        same = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        dense = self.cache.get(
            "dense-probes", self.label, self.known | self.of_probes, self._dense_probes
        )
        found = self.cache.get(
            "dense-retrieval", self.label, self.known | self.of_retrieval, self._dense_retrieval
        )
        networks = [load_autoencoder(path) for path in paths]
        runs = []
        for number, network in enumerate(networks):
            name = self.label if len(paths) == 1 else f"{self.label}, run {number + 1}"
            runs.append(self._run(name, network, whole=number == 0))
        return Evaluated(self.label, control, same, dense, found, runs, self._stability(networks))

    def _run(self, name: str, network: SparseAutoencoder, whole: bool) -> dict[str, Any]:
        weights = autoencoder_hash(network)
        codes = self._codes(name, network, weights).csr(self.rows.numbers)
        known = self.known | {"autoencoder": weights}
        run = {
            "fidelity": self.cache.get("fidelity", name, known, lambda: self._fidelity(network)),
            "features": self.cache.get(
                "features",
                name,
                known | {"correlation": self.settings.correlation},
                lambda: measure.measure_features(self.rows, codes, self.settings.correlation),
            ),
            "monosemanticity": self.cache.get(
                "monosemanticity",
                name,
                known | self.of_concepts,
                lambda: measure.measure_monosemanticity(
                    self.rows, codes, self.sets, self.sampled, self.settings.seed
                ),
            ),
        }
        if whole:
            run["probes"] = self.cache.get(
                "probes", name, known | self.of_probes, lambda: self._probes(codes)
            )
            run["retrieval"] = self.cache.get(
                "retrieval", name, known | self.of_retrieval, lambda: self._retrieval(codes)
            )
        return run

    def _codes(self, name: str, network: SparseAutoencoder, weights: str) -> CodeStore:
        def show(done: int, shards: int) -> None:
            if sys.stdout.isatty():
                print(f"\r{name}: codes of {done} of {shards} shards", end="", flush=True)

        codes = write_codes(
            network,
            self.store,
            self.folder / weights[:16],
            device=self.settings.device,
            progress=show,
        )
        print(f"\r{name}: codes of {len(codes)} rows in {len(codes.sizes)} shards", flush=True)
        return codes

    def _dense_probes(self) -> dict[str, Any]:
        settings = self.settings
        return measure.measure_dense(
            self.rows, self.x, settings.targets, self.sampled, settings.probe, track
        )

    def _probes(self, codes: csr_matrix) -> dict[str, Any]:
        settings = self.settings
        return measure.measure_probes(
            self.rows, codes, settings.targets, self.sampled, settings.probe, track
        )

    def _dense_retrieval(self) -> dict[str, Any]:
        return self._retrieval(None)

    def _retrieval(self, codes: csr_matrix | None) -> dict[str, Any]:
        settings = self.settings
        return measure.measure_retrieval(
            self.rows,
            self.x,
            codes,
            self.sets,
            settings.queries,
            self.sampled,
            settings.seed,
            track,
        )

    def _fidelity(self, network: SparseAutoencoder) -> dict[str, Any]:
        return measure.measure_fidelity(
            self.rows, self.x, network, self.sampled, self.settings.device
        )

    def _stability(self, networks: list[SparseAutoencoder]) -> dict[str, Any]:
        """Between every pair of runs, over the decoder rows of features used in any row."""
        decoders = {}
        for number, network in enumerate(networks, 1):
            codes = CodeStore(self.folder / autoencoder_hash(network)[:16]).csr(self.rows.numbers)
            used = np.flatnonzero(np.bincount(codes.indices, minlength=codes.shape[1]))
            decoders[number] = network.W_d.detach().cpu().numpy()[used]
        found = {}
        for a, b in combinations(decoders, 2):
            identity = {"pair": [autoencoder_hash(networks[n - 1]) for n in (a, b)]}
            found[f"{a} and {b}"] = self.cache.get(
                "stability",
                f"{self.label}, runs {a} and {b}",
                self.known | identity,
                partial(self._matched, decoders[a], decoders[b]),
            )
        return found

    def _matched(self, first: NDArray, second: NDArray) -> dict[str, Any]:
        cosines, partners = match_cosines(first, second)
        rng = np.random.default_rng(counter_seed(self.settings.seed, "random directions"))
        return {
            "mean": float(cosines.mean()),
            "above 0.7": float((cosines > 0.7).mean()),
            "random": float(random_cosines(first, second, rng).mean()),
            "features": [len(first), len(second)],
            "partners": partners,
        }


def track(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Show progress on the terminal's error stream, and leave no line behind."""
    console = Console(stderr=True)
    return rich_track(
        list(items), what, console=console, transient=True, disable=not console.is_terminal
    )
