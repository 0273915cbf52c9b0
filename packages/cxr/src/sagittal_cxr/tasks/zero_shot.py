"""Zero-shot classification: is an image nearer to a text for a finding or to one against it?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_cxr.tasks.features import encode_texts, image_rows
from sagittal_cxr.tasks.items import write_items
from sagittal_cxr.tasks.multilabel import TAIL, Scored, label_measures, mean_draws
from sagittal_cxr.tasks.prompts import PromptFamily, families
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable, Task, measured

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel

CRITERION = "probability 0.5: the positive prompt is the nearer one"


@dataclass
class ZeroShot(Task):
    """Findings by prompt pairs: ``softmax(scale * [cos(image, for), cos(image, against)])``.

    Images rank by the difference of the two cosines, which no temperature changes: so AUROC and
    AUPRC do not depend on it. Brier score and calibration error do: they are of the probabilities
    at the model's own logit scale. The released CheXficient code leaves the scale out, which gives
    the same AUROC and probabilities all near 0.5; the calibration error of those is reported too.

    Measures carry the first family; the others give a macro AUROC each and the spread.

    Attributes:
        name: Of the task.
        findings: Labels of the index to ask for; None: all that have one in the benchmark.
        families: Names of prompt families, the first one the main one; None: all there are.
        prompts: Families of your own by name, beside or instead of the built-in ones.
        tail: Findings with fewer positive images are pooled.
        bins: Of the calibration error.
        resamples: Of the patients.
        batch_size: Images at a time.
        num_workers: Processes that read images.
    """

    name: str = "zero-shot"
    findings: list[str] | None = None
    families: list[str] | None = None
    prompts: dict[str, PromptFamily] | None = None
    tail: int = TAIL
    bins: int = 15
    resamples: int = 1000
    batch_size: int = 32
    num_workers: int = 0
    wording: dict[str, Any] = field(init=False)

    headline: ClassVar[tuple[str, ...]] = (
        "macro AUROC",
        "head AUROC",
        "tail AUROC",
    )
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Look up the families, so that their texts are part of the settings."""
        self._families = families(self.families, self.prompts)
        self.wording = {name: asdict(one) for name, one in self._families.items()}

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
        if not hasattr(model, "encode_text"):
            raise NotApplicable("the model has no text encoder")
        rows = benchmark.rows()
        labels, truth = judged(benchmark, rows, self.findings)
        images = image_rows(
            model,
            benchmark,
            rows,
            "embedding",
            folder.parent,
            device=device,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        scale = float(model.logit_scale.detach().exp())
        patients = rows["patient"].to_numpy()
        found: dict[str, list[Measure]] = {}
        parts = []
        for family, texts in self._families.items():
            margins = images.astype(np.float64) @ prompt_directions(model, texts, labels, device).T
            likely = _sigmoid(scale * margins)
            scored = Scored(
                labels,
                truth,
                margins,
                patients,
                likely,
                dict.fromkeys(labels, 0.0),
                CRITERION,
                {"prompt family": family, "logit scale": scale},
            )
            main = family == next(iter(self._families))
            found[family] = self._measured(scored, seed, None if main else ("AUROC",))
            if main:
                bare = Scored(labels, truth, margins, patients, _sigmoid(margins))
                found[family] += self._bare(bare, seed, family)
            parts.append((family, truth, margins, likely))
        write_items(folder, rows.index.to_numpy(), labels, parts)
        return self._together(found)

    def _measured(self, scored: Scored, seed: int, only: tuple[str, ...] | None) -> list[Measure]:
        return label_measures(
            scored,
            tail=self.tail,
            resamples=self.resamples,
            seed=seed,
            bins=self.bins,
            only=only,
        )

    def _bare(self, scored: Scored, seed: int, family: str) -> list[Measure]:
        """Calibration of probabilities without the logit scale, as the released code has them."""
        return [
            measured(
                f"{one.name}, no logit scale",
                one.estimate,
                one.draws,
                one.n,
                **{"prompt family": family},
            )
            for one in self._measured(scored, seed, ("Brier", "ECE"))
            if one.label is None
        ]

    def _together(self, found: dict[str, list[Measure]]) -> list[Measure]:
        """The main family's measures, the others' macro AUROC, and how far families differ."""
        main, *others = found
        measures = list(found[main])
        for family in others:
            for one in found[family]:
                if one.name == "macro AUROC":
                    measures.append(
                        measured(
                            f"macro AUROC, {family} prompts",
                            one.estimate,
                            one.draws,
                            one.n,
                            **one.detail,
                        )
                    )
        if others:
            measures += _spread(found)
        return measures


def judged(
    benchmark: Benchmark, rows: pandas.DataFrame, findings: list[str] | None
) -> tuple[list[str], NDArray[np.float64]]:
    """Findings and their truth on rows, (n, C) with NaN for what does not count.

    Args:
        benchmark: Whose rows they are.
        rows: n rows.
        findings: None: those with any label on these rows.

    Raises:
        NotApplicable: No finding can be measured.
    """
    labels = list(findings) if findings is not None else benchmark.labels()
    truth = benchmark.truth(rows, labels)
    if findings is None:
        seen = np.flatnonzero(np.isfinite(truth).any(axis=0))
        labels, truth = [labels[column] for column in seen], truth[:, seen]
    both = (truth == 1).any(0) & (truth == 0).any(0)
    if not both.any():
        raise NotApplicable("no finding has both positive and negative images in the benchmark")
    return labels, truth


def prompt_directions(
    model: ImageTextModel, family: PromptFamily, labels: list[str], device: str
) -> NDArray[np.float64]:
    """For each finding, the unit row of its positive texts less that of its negative ones, (C, D).

    The product with an image's unit row is the difference of the two cosines. Several texts of a
    side are averaged as unit rows, and the mean brought to unit length.
    """
    model = model.to(device)
    directions = []
    for label in labels:
        sides = []
        for texts in family.texts(label):
            mean: Tensor = encode_texts(model, texts, device).double().mean(0)
            sides.append(torch.nn.functional.normalize(mean, dim=0).cpu().numpy())
        directions.append(sides[0] - sides[1])
    return np.stack(directions)


def _spread(found: dict[str, list[Measure]]) -> list[Measure]:
    """Largest less smallest AUROC over the families, for every finding and the mean."""
    by_key: dict[tuple[str, str | None], dict[str, Measure]] = {}
    for family, measures in found.items():
        for one in measures:
            if one.name in ("AUROC", "macro AUROC"):
                by_key.setdefault((one.name, one.label), {})[family] = one
    spread = []
    for (name, label), families_of in by_key.items():
        values = {family: one.estimate for family, one in families_of.items()}
        every = list(families_of.values())
        spread.append(
            measured(
                f"{name}, spread over prompts",
                max(values.values()) - min(values.values()),
                None,  # a range of maxima is biased upwards in every resample
                every[0].n,
                label,
                **{"by family": values},
            )
        )
    drawn = [one.draws for one in by_key["macro AUROC", None].values() if one.draws is not None]
    if len(drawn) == len(found):
        macros = [one.estimate for one in by_key["macro AUROC", None].values()]
        n = by_key["macro AUROC", None][next(iter(found))].n
        mean = measured(
            "macro AUROC, mean of prompts", float(np.mean(macros)), mean_draws(drawn), n
        )
        spread.append(mean)
    return spread


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
