"""``sagittal-genai evaluate``: do sparse features mean something, and more than random ones?"""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.store import EmbeddingStore
from sagittal_genai.evaluation import summary
from sagittal_genai.evaluation.cache import Cache
from sagittal_genai.evaluation.page import write_page
from sagittal_genai.evaluation.rows import Chooser, Limits, Rows, read_rows, usable_targets
from sagittal_genai.evaluation.study import Settings, Study
from sagittal_genai.metrics.probes import Solver


@dataclass
class Source:
    """Embeddings of one encoder and the autoencoders trained on them.

    Attributes:
        store: Folder of the embedding store.
        runs: Run folders, or their paths without the hash; several are seeds of one configuration.
    """

    store: str
    runs: list[str]


def evaluate(
    sources: dict[str, Source],
    out: Path = Path("outputs/evaluate"),
    control: str | None = None,
    concepts: str | None = "organs",
    categories: list[str] | None = None,
    age: str | None = None,
    pseudo_concepts: bool = False,
    tokens: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    choose_on: Chooser = "val",
    n_min: int = 10,
    max_targets: int = 30,
    least_auc: float = 0.55,
    probe: Solver = "l2",
    queries: int = 1000,
    correlation: bool = True,
    resamples: int = 500,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Evaluate sparse autoencoders beside a random encoder; write report.html and results.json.

    Fidelity, linear probes with few features, monosemanticity, retrieval, density and stability,
    with 95 % bootstrap intervals over subjects. C, features and targets are chosen on val
    or train, figures are of test. The same command again goes on after an interruption.

    Args:
        sources: label of each encoder, with its store and autoencoders.
        out: folder of the results, the codes and the cache.
        control: label of the randomly initialised encoder that the others are compared with.
        concepts: multi-label column (lists of organs or findings), or null.
        categories: columns whose values become one-vs-rest targets, such as orientation or sex.
        age: column of years, grouped as SAIL groups them, or null.
        pseudo_concepts: count the categories' values as concepts in monosemanticity and retrieval.
        tokens: take rows of patches, not those of whole images.
        limits: rows of train, val and test at most, thinned at random.
        choose_on: val, or train: two in ten blocks of neighbouring images of each training scan,
            held back from the probes, where scans are too few for a val that holds all concepts.
        n_min: positives and negatives that a target needs in train and in test.
        max_targets: the most balanced targets are taken.
        least_auc: targets whose dense probe reaches less where C is chosen are left out and listed.
        probe: l2 (C chosen) or sail (the published elastic net, slow).
        queries: rows that retrieval is asked with.
        correlation: whether to take the mean correlation of features.
        resamples: bootstrap resamples.
        seed: of thinning, queries and the null of monosemanticity.
        device: cpu, cuda or auto.

    Raises:
        ConfigError: a label is missing or no row is left.
        DataError: a store, its index or a run is not what it should be.
    """
    settings, start = dict(locals()), time.monotonic()
    _expect_labels(sources, control)
    numbers = {"n_min": n_min, "max_targets": max_targets, "queries": queries}
    _expect_positive(numbers | {"resamples": resamples} | vars(limits))
    device = _device(device)
    stores = {label: EmbeddingStore(source.store) for label, source in sources.items()}
    every_rows = {
        label: read_rows(
            Path(sources[label].store),
            store,
            concepts=concepts,
            categories=categories or [],
            age=age,
            tokens=tokens,
            limits=limits,
            seed=seed,
            choose_on=choose_on,
        )
        for label, store in stores.items()
    }
    _expect_same_targets(sources, every_rows)
    rows = next(iter(every_rows.values()))
    targets, left = usable_targets(rows, n_min, max_targets)
    decided = Settings(targets, probe, queries, correlation, resamples, seed, device)
    cache = Cache(out / "cache", lambda line: print(line, flush=True))
    evaluated = []
    for label, source in sources.items():
        mine = every_rows[label]
        print(f"{label}: {len(mine.numbers)} rows, {len(targets)} targets", flush=True)
        sets, folder = _concept_sets(mine, pseudo_concepts), out / "codes" / _file_name(label)
        study = Study(label, stores[label], mine, sets, decided, cache, folder)
        evaluated.append(study.evaluate(source.runs, label == control))
    kept = summary.kept_targets(evaluated, targets, least_auc)
    left |= {
        name: f"dense AUROC below {least_auc} on {rows.chooser}"
        for name in targets
        if name not in kept
    }
    for text in write_page(out, evaluated, rows, targets, kept, left, _plain(settings)):
        print(text, flush=True)
    print(f"evaluated in {time.monotonic() - start:.0f} s: {out / 'report.html'}", flush=True)


def _expect_labels(sources: dict[str, Source], control: str | None) -> None:
    if control is not None and control not in sources:
        raise ConfigError(f"evaluate: control {control!r} is none of {', '.join(sources)}")
    if not sources or not all(source.runs for source in sources.values()):
        raise ConfigError("evaluate: every label needs a store and at least one run")
    names = [_file_name(label) for label in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluate: labels are too much alike: {', '.join(sources)}")


def _expect_positive(numbers: dict[str, int]) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"evaluate: {name} must be at least 1, found {value}")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        said = str(error).partition("\n")[0][:200]
        raise ConfigError(f"evaluate: device {name!r} cannot be used: {said}") from None
    return name


def _expect_same_targets(sources: dict[str, Source], found: dict[str, Rows]) -> None:
    first, *others = found
    for label in others:
        missing = sorted(set(found[first].targets) - set(found[label].targets))
        if missing:
            raise DataError(
                sources[label].store,
                key="concepts, categories",
                expected=f"the targets of {first}",
                found=f"none called {', '.join(missing[:5])}",
            )


def _concept_sets(rows: Rows, pseudo: bool) -> NDArray[np.uint8]:
    """(n, C) concepts for monosemanticity and retrieval."""
    if not pseudo:
        return rows.sets
    if not rows.concepts:
        rows.labelled[:] = True
    return np.column_stack([rows.sets, *rows.categories.values()]).astype(np.uint8)


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", label)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The verb's arguments as plain values."""
    sources = {label: vars(source) for label, source in settings["sources"].items()}
    return settings | {
        "sources": sources,
        "limits": vars(settings["limits"]),
        "out": str(settings["out"]),
    }
