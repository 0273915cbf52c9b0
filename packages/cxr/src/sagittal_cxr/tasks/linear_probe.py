"""Linear probes: logistic regression on frozen features, one for each finding."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import write_atomically
from sagittal_core.seeds import counter_seed
from sagittal_cxr.metrics.binary import auroc, youden_threshold
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.features import image_rows
from sagittal_cxr.tasks.items import write_items
from sagittal_cxr.tasks.multilabel import TAIL, Scored, label_measures, mean_draws
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable, Task, measured
from sagittal_cxr.tasks.zero_shot import judged

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel

CRITERION = "largest Youden's J on the rows that settings were chosen on"


@dataclass(frozen=True)
class Split:
    """Features and labels of the rows of one split.

    Attributes:
        x: (n, D) float32.
        truth: (n, C) 1, 0 or NaN.
        patients: (n,).
        rows: (n,) row numbers.
    """

    x: NDArray[np.float32]
    truth: NDArray[np.float64]
    patients: NDArray[Any]
    rows: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> Split:
        """Some of the rows."""
        parts = (self.x, self.truth, self.patients, self.rows)
        return Split(*(values[chosen] for values in parts))  # type: ignore[arg-type]


@dataclass
class LinearProbe(Task):
    """Logistic regression on pooled features before the projection, an l2 penalty, L-BFGS.

    Features are standardised over the training rows. C is chosen for every finding by the AUROC on
    val; where the index has no val rows, a fifth of the training patients takes their place. With
    ``fractions`` below 1 the probe sees the rows of that share of the training patients: they are
    drawn by patient and seed, smaller shares being part of larger ones, ``draws`` times. Figures
    are of the largest share, over the findings that both occur and are absent there; the others
    give macro AUROC over the same findings, mean over the draws, and a finding that a small share
    lacks has a constant score there (AUROC 0.5).

    Attributes:
        name: Of the task.
        findings: Labels of the index; None: all that have one in the benchmark.
        fractions: Shares of the training patients, in (0, 1].
        draws: How often a share below 1 is drawn.
        strengths: Values of C (inverse penalty) to choose from.
        iterations: Of the solver at most.
        tail: Findings with fewer positive images are pooled.
        bins: Of the calibration error.
        resamples: Of the patients.
        batch_size: Images at a time.
        num_workers: Processes that read images.
    """

    name: str = "linear probe"
    findings: list[str] | None = None
    fractions: list[float] = field(default_factory=lambda: [1.0])
    draws: int = 1
    strengths: list[float] = field(default_factory=lambda: [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    iterations: int = 300
    tail: int = TAIL
    bins: int = 15
    resamples: int = 1000
    batch_size: int = 32
    num_workers: int = 0

    headline: ClassVar[tuple[str, ...]] = (
        "macro AUROC",
        "head AUROC",
        "tail AUROC",
    )
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.fractions or not all(0 < one <= 1 for one in self.fractions):
            raise ConfigError(f"linear probe: fractions {self.fractions}; expected some in (0, 1]")
        if not self.strengths or min(self.strengths) <= 0 or self.draws < 1:
            raise ConfigError("linear probe: strengths must be positive, draws at least 1")

    def run(
        self,
        model: ImageTextModel,
        benchmark: Benchmark,
        folder: Path,
        *,
        device: str,
        seed: int,
    ) -> list[Measure]:
        """Measure; see :class:`~sagittal_cxr.tasks.task.Task`."""
        if benchmark.split == "train":
            raise NotApplicable("the benchmark is the training split")
        labels, _ = judged(benchmark, benchmark.rows(), self.findings)
        splits = {
            name: self._split(model, benchmark, name, labels, folder, device)
            for name in dict.fromkeys(("train", "val", benchmark.split))
        }
        train, chosen_on, where = choice_rows(splits, benchmark.split, seed)
        test = splits[benchmark.split]
        assert test is not None
        largest, *smaller = sorted(set(self.fractions), reverse=True)
        whole = train.part(patient_share(train.patients, largest, seed, 0))
        missing = {label: _missing(whole.truth[:, c]) for c, label in enumerate(labels)}
        left = {label: f"{why} images in training" for label, why in missing.items() if why}
        unfit = [column for column, label in enumerate(labels) if label in left]
        test.truth[:, unfit] = np.nan
        if len(left) == len(labels):
            raise NotApplicable("no finding has both positive and negative images in training")
        found: list[Measure] = []
        for fraction in (largest, *smaller):
            every = []
            for draw in range(self.draws if fraction < 1 else 1):
                some = train.part(patient_share(train.patients, fraction, seed, draw))
                scored = self._fitted(some, chosen_on, test, labels, folder, (fraction, draw))
                scored.detail |= {
                    "share of training patients": fraction,
                    "training patients": len(np.unique(some.patients)),
                    "chosen on": where,
                    "not fitted": left,
                }
                every.append(scored)
            main = fraction == largest
            if main:
                likely = every[0].probabilities
                part = (f"{100 * fraction:g} %", test.truth, every[0].scores, likely)
                write_items(folder, test.rows, labels, [part])
            found += self._measures(every, fraction, main, seed)
        return found

    def _split(
        self,
        model: ImageTextModel,
        benchmark: Benchmark,
        split: str,
        labels: list[str],
        folder: Path,
        device: str,
    ) -> Split | None:
        try:
            rows = benchmark.rows(split)  # type: ignore[arg-type]
        except NotApplicable:
            if split == "val":
                return None
            raise
        x = image_rows(
            model,
            benchmark,
            rows,
            "features",
            folder.parent,
            device=device,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        truth = benchmark.truth(rows, labels)
        return Split(x, truth, rows["patient"].to_numpy(), rows.index.to_numpy())

    def _fitted(
        self,
        train: Split,
        chosen_on: Split,
        test: Split,
        labels: list[str],
        folder: Path,
        which: tuple[float, int],
    ) -> Scored:
        """Scores of the benchmark's rows by probes that are fitted now unless they are on disk."""
        mean, deviation = train.x.mean(0), train.x.std(0)
        deviation = np.where(deviation > 1e-12, deviation, 1)
        scores = np.zeros((len(test.x), len(labels)))
        thresholds, settings = {}, {}
        kept = folder / "probes"
        kept.mkdir(exist_ok=True)
        for column in track(range(len(labels)), "probes"):
            label = labels[column]
            if _missing(train.truth[:, column]):
                scores[:, column] = 0
                continue
            file = kept / f"{column:03d}-{which[0]:g}-{which[1]}.json"
            if not file.is_file():
                probe = self._fit(train, chosen_on, column, mean, deviation)
                write_atomically(file, json.dumps(probe))
            probe = json.loads(file.read_text(encoding="utf-8"))
            weights = np.array(probe["weights"])
            scores[:, column] = ((test.x - mean) / deviation) @ weights + probe["bias"]
            settings[label] = {"C": probe["C"], "converged": probe["converged"]}
            if probe["threshold"] is not None:
                thresholds[label] = probe["threshold"]
        with np.errstate(over="ignore"):
            likely = 1 / (1 + np.exp(-scores))
        return Scored(
            labels,
            test.truth,
            scores,
            test.patients,
            likely,
            thresholds,
            CRITERION,
            {"probes": settings},
        )

    def _fit(
        self,
        train: Split,
        chosen_on: Split,
        column: int,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
    ) -> dict[str, Any]:
        """One finding's probe as plain values; C by the AUROC on ``chosen_on``."""
        known = np.isfinite(train.truth[:, column])
        x, truth = (train.x[known] - mean) / deviation, train.truth[known, column]
        asked = np.isfinite(chosen_on.truth[:, column])
        other = (chosen_on.x[asked] - mean) / deviation
        other_truth = chosen_on.truth[asked, column]
        judged_there = _missing(chosen_on.truth[:, column]) is None
        strengths = sorted(self.strengths)
        if not judged_there:  # nothing to choose by: the middle one
            strengths = [strengths[len(strengths) // 2]]
        model = LogisticRegression(max_iter=self.iterations, warm_start=True)
        best: dict[str, Any] | None = None
        for strength in strengths:  # weaker penalties start from the stronger ones' end
            model.set_params(C=strength)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # reported instead
                model.fit(x, truth)
            weights, bias = model.coef_[0].astype(np.float64), float(model.intercept_[0])
            scores = other @ weights + bias
            value = auroc(other_truth, scores) if judged_there else 0.5
            if best is None or value > best["auroc"]:
                best = {
                    "weights": weights.tolist(),
                    "bias": bias,
                    "C": strength,
                    "converged": bool(model.n_iter_[0] < model.max_iter),
                    "auroc": value,
                    "threshold": youden_threshold(other_truth, scores) if judged_there else None,
                }
        assert best is not None
        return best

    def _measures(
        self, every: Sequence[Scored], fraction: float, main: bool, seed: int
    ) -> list[Measure]:
        """All measures of the largest share; the macro AUROC of any other."""
        drawn = [
            label_measures(one, tail=self.tail, resamples=self.resamples, seed=seed, bins=self.bins)
            for one in every
        ]
        if main and len(every) == 1:
            return drawn[0]
        macros = [one for found in drawn for one in found if one.name == "macro AUROC"]
        draws = [one.draws for one in macros if one.draws is not None]
        values = [one.estimate for one in macros]
        together = measured(
            f"macro AUROC, {100 * fraction:g} % of patients",
            float(np.mean(values)),
            mean_draws(draws) if len(draws) == len(values) else None,
            macros[0].n,
            **macros[0].detail | {"each": values},
        )
        return [*drawn[0], together] if main else [together]


def _missing(truth: NDArray[np.float64]) -> str | None:
    """Counts of both values if one is absent; None: a probe can be fitted."""
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    return None if positives and negatives else f"{positives} positive and {negatives} negative"


def choice_rows(
    splits: dict[str, Split | None], tested: str, seed: int
) -> tuple[Split, Split, str]:
    """Training rows, the rows that settings are chosen on, and what those are in words.

    They are the val rows; where there are none, or the benchmark is of val, a fifth of the training
    patients, drawn by the seed, which training then does without.
    """
    train = splits["train"]
    assert train is not None
    if tested != "val" and (val := splits.get("val")) is not None:
        return train, val, "val"
    if len(np.unique(train.patients)) < 2:
        raise NotApplicable("training has one patient and there are no val rows to choose C on")
    held = patient_share(train.patients, 0.2, seed, -1)
    return train.part(~held), train.part(held), "a fifth of the training patients"


def patient_share(
    patients: NDArray[Any], fraction: float, seed: int, draw: int
) -> NDArray[np.bool_]:
    """Rows of a share of the patients, (n,) bool; a smaller share is part of a larger one.

    At least one patient; the order of patients is that of a hash of seed, draw and name.
    """
    names, inverse = np.unique(patients.astype(str), return_inverse=True)
    order = np.argsort([counter_seed(seed, draw, str(name), "share") for name in names])
    taken = np.zeros(len(names), dtype=bool)
    taken[order[: max(1, round(fraction * len(names)))]] = True
    return taken[inverse]
