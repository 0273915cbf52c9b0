"""Pictures of an evaluation's report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

COLORS = ("#2563a8", "#c2571a", "#2e8b57", "#7b4ba0", "#9a7d0a", "#5f6873")
Items = Sequence[tuple[str, pandas.DataFrame]]


def reliability(items: Items, bins: int = 10) -> Figure:
    """How often findings are present where a model gives a probability, all findings together.

    Args:
        items: Model and its items of one benchmark and task.
        bins: Of equal width; a bin with fewer than ten images and findings is not shown.
    """
    figure = Figure(figsize=(4.2, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axes.plot([0, 1], [0, 1], c="#5f6873", lw=0.8, ls=":")
    for place, (model, frame) in enumerate(items):
        known = frame[np.isfinite(frame["truth"]) & np.isfinite(frame["probability"])]
        likely, truth = known["probability"].to_numpy(), known["truth"].to_numpy()
        which = np.minimum((likely * bins).astype(int), bins - 1)
        count = np.bincount(which, minlength=bins)
        often = np.bincount(which, truth, bins) / np.maximum(count, 1)
        mean = np.bincount(which, likely, bins) / np.maximum(count, 1)
        enough = count >= 10
        color = COLORS[place % len(COLORS)]
        axes.plot(mean[enough], often[enough], "o-", ms=3, c=color, label=model)
        below.stairs(count, np.linspace(0, 1, bins + 1), color=color)
    axes.set(ylabel="share present", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="probability", ylabel="count", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure


def roc_multiples(items: Items, columns: int = 5) -> Figure:
    """ROC curves, one small panel a finding with both values, a line a model."""
    labels = sorted({str(label) for _, frame in items for label in _measurable(frame)})
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(1.75 * columns, 1.95 * lines), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).ravel()
    for axes in panels[len(labels) :]:
        axes.axis("off")
    for axes, label in zip(panels, labels, strict=False):
        axes.plot([0, 1], [0, 1], c="#5f6873", lw=0.6, ls=":")
        for place, (_, frame) in enumerate(items):
            mine = frame[(frame["label"] == label) & np.isfinite(frame["truth"])]
            if mine["truth"].nunique() == 2:
                false, true = roc(mine["truth"].to_numpy(), mine["score"].to_numpy())
                axes.plot(false, true, c=COLORS[place % len(COLORS)], lw=1.2)
        axes.set_title(label, fontsize=7)
        axes.set(xticks=[0, 1], yticks=[0, 1], aspect="equal")
        axes.tick_params(labelsize=6)
    handles = [_line(place) for place in range(len(items))]
    figure.legend(
        handles,
        [model for model, _ in items],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _line(place: int) -> Line2D:
    """A line in the colour of a model, for a legend."""
    return Line2D([], [], color=COLORS[place % len(COLORS)])


def roc(truth: NDArray, scores: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates over all thresholds, from (0, 0) to (1, 1).

    Args:
        truth: 0 or 1, both there, (n,).
        scores: (n,).
    """
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], truth[order] == 1
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    true = np.r_[0, np.cumsum(positive)[last]] / positive.sum()
    false = np.r_[0, np.cumsum(~positive)[last]] / (~positive).sum()
    return false, true


def _measurable(frame: pandas.DataFrame) -> list[str]:
    known = frame[np.isfinite(frame["truth"])]
    both = known.groupby("label", observed=True)["truth"].nunique() == 2
    return list(both.index[both])
