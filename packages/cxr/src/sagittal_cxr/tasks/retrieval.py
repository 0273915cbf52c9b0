"""Cross-modal retrieval: the report of an image among all reports, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples
from sagittal_cxr.metrics import retrieval as ranks_of
from sagittal_cxr.tasks.features import image_rows, text_rows
from sagittal_cxr.tasks.items import write_frame
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable, Task, measured

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel


@dataclass
class Retrieval(Task):
    """Recall at k, mean and median rank, in both directions, over rows with a report.

    Texts that differ in white space only are one text. Image to text ranks each image's own text
    among the distinct texts, as the released CheXficient code does. Text to image asks with every
    distinct text once; any of its images is a hit, where the released code asks for one image of
    several with the same report. Intervals draw whole patients as queries; what is ranked stays the
    same, and a text of several images counts as the share of its images that were drawn.

    Attributes:
        name: Of the task.
        at: Values of k.
        templates: Take texts made from labels too, not only those of reports. They repeat.
        resamples: Of the patients.
        batch_size: Images or texts at a time.
        num_workers: Processes that read images.
    """

    name: str = "retrieval"
    at: list[int] = field(default_factory=lambda: [1, 5, 10])
    templates: bool = False
    resamples: int = 1000
    batch_size: int = 32
    num_workers: int = 0

    headline: ClassVar[tuple[str, ...]] = ("image to text R@5", "text to image R@5")
    version: ClassVar[int] = 1

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
        rows = self._with_text(benchmark)
        texts, own = ranks_of.distinct(rows["text"].tolist())
        if len(texts) < 2:
            raise NotApplicable("the benchmark has fewer than two distinct reports")
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
        of_texts = text_rows(model, texts, folder.parent, device=device, batch_size=self.batch_size)
        to_text = ranks_of.image_to_text_ranks(images, of_texts, own)
        to_image = ranks_of.text_to_image_ranks(images, of_texts, own)
        items = {
            "row": rows.index.to_numpy(),
            "text": own,
            "image to text rank": to_text,
            "text to image rank": to_image[own],
        }
        write_frame(folder, pandas.DataFrame(items))
        sampled = Resamples(rows["patient"].to_numpy(), self.resamples, seed)
        counts: dict[str, Any] = {"images": len(rows), "distinct texts": len(texts)}
        once = np.ones(len(rows))
        share = 1 / np.bincount(own)[own]
        return [
            *self._direction(
                "image to text",
                to_text,
                once,
                lambda k: ranks_of.chance_image_to_text(len(texts), k),
                sampled,
                counts,
            ),
            *self._direction(
                "text to image",
                to_image[own],
                share,
                lambda k: ranks_of.chance_text_to_image(own, k),
                sampled,
                counts,
            ),
        ]

    def _with_text(self, benchmark: Benchmark) -> pandas.DataFrame:
        rows = benchmark.rows()
        wanted = ["report", "template"] if self.templates else ["report"]
        rows = rows[rows["text_source"].isin(wanted) & (rows["text"].str.strip() != "")]
        if not len(rows):
            raise NotApplicable("the benchmark has no reports")
        return rows

    def _direction(
        self,
        name: str,
        ranks: NDArray[np.float64],
        weights: NDArray[np.float64],
        chance: Callable[[int], float],
        sampled: Resamples,
        counts: dict[str, Any],
    ) -> list[Measure]:
        """Recalls and ranks of one direction; (N,) ranks and weights of the queries."""
        found = []
        for k in self.at:
            hits = weights * (ranks <= k)
            found.append(
                measured(
                    f"{name} R@{k}",
                    float(hits.sum() / weights.sum()),
                    sampled.ratio(hits, weights),
                    sampled.units,
                    **counts,
                    chance=chance(k),
                )
            )
        mean = float((weights * ranks).sum() / weights.sum())
        draws = sampled.ratio(weights * ranks, weights)
        found.append(measured(f"{name} mean rank", mean, draws, sampled.units, **counts))
        every = np.ones((1, sampled.units), dtype=np.int32)
        median = float(_medians(ranks, weights, sampled.unit, every)[0])
        drawn = _medians(ranks, weights, sampled.unit, sampled.counts)
        found.append(measured(f"{name} median rank", median, drawn, sampled.units, **counts))
        return found


def _medians(
    ranks: NDArray[np.float64],
    weights: NDArray[np.float64],
    unit: NDArray[np.int64],
    counts: NDArray[np.int32],
) -> NDArray[np.float64]:
    """The least rank that half of the weight does not exceed, in each resample, (R,)."""
    order = np.argsort(ranks, kind="stable")
    ordered, heavy, of = ranks[order], weights[order], unit[order]
    found = np.empty(len(counts))
    for number, drawn in enumerate(counts):
        reached = np.cumsum(heavy * drawn[of])
        found[number] = ordered[np.searchsorted(reached, reached[-1] / 2 * (1 - 1e-12))]
    return found
