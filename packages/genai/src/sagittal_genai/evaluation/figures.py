"""Figures of an evaluation's report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sagittal_core.resampling import interval
from sagittal_genai.evaluation.summary import Evaluated, probe_scores
from sagittal_genai.metrics.probes import FEATURE_COUNTS

COLORS = ("#2563a8", "#c2571a", "#2e8b57", "#7b4ba0", "#9a7d0a", "#5f6873")


def recovery_curves(evaluated: Sequence[Evaluated], kept: Sequence[str]) -> Figure:
    """AUROC and recovery above chance by number of features, with intervals."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, one in enumerate(evaluated):
        scores, color = probe_scores(one, one.runs[0], kept), COLORS[place % len(COLORS)]
        for axes, prefix in ((left, ""), (right, "above chance @")):
            found = [scores[f"{prefix}{count}"] for count in FEATURE_COUNTS]
            axes.plot(
                FEATURE_COUNTS, [f.value for f in found], "o-", ms=3, c=color, label=one.label
            )
            ends = [interval(f.draws) for f in found]
            if all(ends):
                low, high = zip(*(end for end in ends if end), strict=True)
                axes.fill_between(FEATURE_COUNTS, low, high, color=color, alpha=0.15, lw=0)
        left.axhline(scores["dense"].value, c=color, ls=":", lw=1)
    for axes, title in ((left, "AUROC (dotted: dense)"), (right, "recovery above chance")):
        axes.set(xscale="log", xlabel="features", title=title)
        axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        axes.grid(alpha=0.25)
    left.legend(frameon=False)
    return figure


def density_histogram(evaluated: Sequence[Evaluated]) -> Figure:
    """How many features are active in which share of the test rows."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(evaluated):
        use = one.runs[0]["features"]
        if use["histogram"]:
            axes.stairs(
                use["histogram"],
                use["edges"],
                color=COLORS[place % len(COLORS)],
                label=f"{one.label} ({use['alive']} of {use['features']} active)",
            )
    axes.set(xlabel="log10 of the share of rows", ylabel="features")
    axes.legend(frameon=False)
    return figure


def monosemanticity_curves(evaluated: Sequence[Evaluated]) -> Figure:
    """M of all features, in falling order."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(evaluated):
        values = one.runs[0]["monosemanticity"].get("values", [])
        if values:
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                c=COLORS[place % len(COLORS)],
                label=one.label,
            )
    axes.set(xscale="log", xlabel="rank of the feature", ylabel="M")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
