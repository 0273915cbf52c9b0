"""What a task is, what it is run on, and what it says: the contract of all evaluation tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.resampling import interval
from sagittal_cxr import lineage

if TYPE_CHECKING:
    import pandas

    from sagittal_cxr.index import RadiographIndex
    from sagittal_cxr.nn.image_text import ImageTextModel

Split: TypeAlias = Literal["train", "val", "test"]
Exposure: TypeAlias = Literal["train", "none", "unknown"]
Negatives: TypeAlias = Literal["judged", "unjudged", "healthy", "sick"]

NEGATIVES: dict[str, str] = {
    "judged": "images judged to be without the finding",
    "unjudged": "images judged to be without the finding, or not judged for it",
    "healthy": "images judged to be without the finding that are labelled No Finding",
    "sick": "images judged to be without the finding that have another finding",
}
"""What :attr:`Benchmark.negatives` means, as reports say it."""

HEALTHY = "No Finding"


class NotApplicable(Exception):
    """A task cannot be run on a model or benchmark, for the reason given; listed in the report."""


@dataclass(frozen=True)
class Measure:
    """One figure with its interval.

    Attributes:
        name: What was measured, such as ``"AUROC"``; with ``label`` unique within a cell.
        label: Finding that it is of; None: of the whole benchmark.
        estimate: The figure; NaN where it is not defined.
        low: Lower end of the 95 % interval over patients; None: there is none, as with fewer than
            five patients.
        high: Its upper end.
        n: Number of independent units (patients) behind it.
        detail: Plain values: counts, prompt family, threshold, criterion, ...
        draws: (R,) the figure in each resample of the patients, by which differences between models
            are paired; None: no resamples.
    """

    name: str
    label: str | None
    estimate: float
    low: float | None
    high: float | None
    n: int
    detail: dict[str, Any] = field(default_factory=dict)
    draws: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


def measured(
    name: str,
    estimate: float,
    draws: NDArray[np.float64] | None,
    n: int,
    label: str | None = None,
    **detail: Any,
) -> Measure:
    """A measure whose interval is the 95 % percentile interval of its resamples.

    Args:
        name: As in :class:`Measure`.
        estimate: As in :class:`Measure`.
        draws: (R,), from :class:`sagittal_core.resampling.Resamples`; empty or None: no interval.
        n: Patients.
        label: As in :class:`Measure`.
        **detail: As in :class:`Measure`.
    """
    ends = None if draws is None or not np.isfinite(estimate) else interval(draws)
    low, high = ends or (None, None)
    kept = None if draws is None or not len(draws) else draws
    return Measure(name, label, float(estimate), low, high, n, detail, kept)


@dataclass(frozen=True)
class Benchmark:
    """Radiographs that models are evaluated on: part of an index, and what must be said of it.

    Attributes:
        name: In the report.
        index: Folder that ``sagittal-cxr index`` wrote.
        split: Rows that figures are of: train, val or test.
        exposure: Whether it was in a model's training data: train, none or unknown; or a mapping of
            the model's name to one of these.
        negatives: Which images a finding is told from: judged (absent by the labels), unjudged
            (those that were not judged for it too), healthy (only those labelled No Finding) or
            sick (only those with another finding).
        cohort: Who the patients are and how they were chosen, for the report.
        datasets: Only these data sets of the index; None: all.
        views: Only these views, such as PA and AP; None: all.
    """

    name: str
    index: Path
    split: Split = "test"
    exposure: Exposure | dict[str, Exposure] = "unknown"
    negatives: Negatives = "judged"
    cohort: str = ""
    datasets: list[str] | None = None
    views: list[str] | None = None

    @cached_property
    def opened(self) -> RadiographIndex:
        """The index, opened once."""
        from sagittal_cxr.index import RadiographIndex

        return RadiographIndex(self.index)

    @cached_property
    def frame(self) -> pandas.DataFrame:
        """All rows of the index, read once; the frame's index is their number."""
        return self.opened.frame()

    def for_model(self, name: str, trained_on: str | None = None) -> Benchmark:
        """The same with the exposure of one model.

        Where the model was trained on this very index and nothing else is said, its split decides:
        ``fit`` trains on train and on no other.

        Args:
            name: Of the model.
            trained_on: Identity of the index that it was trained on; None: not known.

        Raises:
            ConfigError: Rows that the model was trained on are said to be new to it.
        """
        said = self.exposure
        exposure: Exposure = said if isinstance(said, str) else said.get(name, "unknown")
        if trained_on is not None and trained_on == self.opened.identity:
            if self.split == "train" and exposure == "none":
                raise ConfigError(
                    f"benchmark {self.name}: exposure of {name}: expected train, as the model was"
                    f" trained on the split train of this index ({lineage.shown(trained_on)});"
                    " found none"
                )
            if exposure == "unknown":
                exposure = "train" if self.split == "train" else "none"
        copied = replace(self, exposure=exposure)
        vars(copied).update(opened=self.opened, frame=self.frame)
        return copied

    def rows(self, split: Split | None = None) -> pandas.DataFrame:
        """Rows of a split of the index; the frame's index is their row number.

        Args:
            split: None: the benchmark's own.

        Raises:
            ConfigError: A data set or view that the index does not have.
            NotApplicable: No row is left.
        """
        frame = self.frame
        chosen = frame["split"] == (split or self.split)
        for column, wanted in (("dataset", self.datasets), ("view", self.views)):
            if wanted is None:
                continue
            known = sorted(set(frame[column].dropna()))
            missing = sorted(set(wanted) - set(known))
            if missing:
                raise ConfigError(
                    f"benchmark {self.name}: no {column} {', '.join(missing)} in its index; it has"
                    f" {', '.join(known) or 'none'}"
                )
            chosen &= frame[column].isin(wanted)
        if not chosen.any():
            raise NotApplicable(f"the benchmark has no {split or self.split} rows")
        return frame[chosen]

    def image_path(self, row: int) -> Path:
        """Path of a row's image."""
        return self.opened.image_path(row)

    def labels(self) -> list[str]:
        """Findings that have a label in any row of the index."""
        return list(self.opened.labels())

    def truth(self, rows: pandas.DataFrame, labels: Sequence[str]) -> NDArray[np.float64]:
        """Labels of rows as numbers, the negatives as :attr:`negatives` says.

        Args:
            rows: n rows of the index.
            labels: C findings.

        Returns:
            (n, C): 1 present, 0 absent, NaN where the image does not count (uncertain, not judged,
            or no negative of the kind wanted).

        Raises:
            DataError: A finding that no row of the index has a label for.
        """
        unknown = sorted(set(labels) - set(self.labels()))
        if unknown:
            raise DataError(
                self.index,
                key="labels",
                expected=f"the findings of benchmark {self.name}: {', '.join(self.labels())}",
                found=", ".join(unknown),
            )
        start = 0.0 if self.negatives == "unjudged" else np.nan
        found = np.full((len(rows), len(labels)), start)
        place = {label: number for number, label in enumerate(labels)}
        for column, value in (("negative", 0.0), ("positive", 1.0), ("uncertain", np.nan)):
            for number, names in enumerate(rows[column]):
                for name in names:
                    if name in place:
                        found[number, place[name]] = value
        if self.negatives in ("healthy", "sick"):
            healthy = np.array([HEALTHY in names for names in rows["positive"]])
            sick = np.array([bool(set(names) - {HEALTHY}) for names in rows["positive"]])
            allowed = healthy if self.negatives == "healthy" else sick
            found[(found == 0) & ~allowed[:, None]] = np.nan
        return found

    def described(self) -> dict[str, Any]:
        """Plain values that decide what the rows and labels are."""
        return {
            "index": self.opened.identity,
            "split": self.split,
            "negatives": self.negatives,
            "datasets": self.datasets,
            "views": self.views,
        }


class Task(Protocol):
    """Something that models are measured by, chosen in YAML by ``class_path``.

    The public attributes of a task are plain values (dataclass fields, say) that, with model,
    benchmark and seed, decide its figures: they name its cell on disk. Those called ``batch_size``
    and ``num_workers`` must not change a figure, and do not count. Raise ``version`` when the same
    settings give other figures. Inherit from this class, so that YAML knows the bare class name.

    Attributes:
        name: In the report and in folder names; unique in a configuration.
        headline: Names of the measures, without label, that the overview shows.
        version: Of what it computes.
    """

    name: str
    headline: ClassVar[tuple[str, ...]]
    version: ClassVar[int]

    def run(
        self,
        model: ImageTextModel,
        benchmark: Benchmark,
        folder: Path,
        *,
        device: str,
        seed: int,
    ) -> list[Measure]:
        """Measure a model on a benchmark.

        Args:
            model: In evaluation mode, on the CPU or ``device``; left as it was.
            benchmark: What to run on; ``benchmark.exposure`` is that of this model.
            folder: Of this cell, made already. Predictions of single images go to
                ``items.parquet`` there (row numbers, no patient); work that takes long keeps what
                it has here and goes on from it. ``folder.parent`` is shared by the tasks of one
                model and benchmark.
            device: cpu or cuda.
            seed: Of everything drawn.

        Raises:
            NotApplicable: The model or the benchmark lacks what the task needs.
        """
        ...
