"""Pictures of an evaluation: reliability, decision curves, subgroups, missingness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sagittal_core.resampling import Resamples
from sagittal_risk.evaluation.calibration import Smooth, grouped
from sagittal_risk.evaluation.decision import net_benefit, treat_all
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.missingness import Known
from sagittal_risk.evaluation.subgroups import Subgroup

COLORS = ("#2563a8", "#c2571a", "#2e8b57", "#7b4ba0", "#9a7d0a", "#5f6873", "#b03060", "#157a7a")


def reliability(
    follow_up: FollowUp, risks: Mapping[str, NDArray[np.float64]], resamples: Resamples
) -> Figure:
    """Observed frequency against the risk, one panel a column: smooth with its band, and tenths."""
    columns = min(len(risks), 3)
    lines = -(-len(risks) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    weights = follow_up.weights()
    for axes, (name, risk) in zip(panels, risks.items(), strict=False):
        _reliability(axes, name, follow_up, risk, weights, resamples)
    for axes in panels[len(risks) :]:
        axes.set_axis_off()
    return figure


def _reliability(
    axes: Axes,
    name: str,
    follow_up: FollowUp,
    risk: NDArray[np.float64],
    weights: NDArray[np.float64],
    resamples: Resamples,
) -> None:
    smooth = Smooth(follow_up.event, risk)
    most = float(np.quantile(risk, 0.99))  # beyond it the curve rests on very few
    shown = smooth.at <= most
    axes.plot([0, 1], [0, 1], c="#999999", lw=0.8, ls="--")
    if len(resamples.counts):
        draws = [
            smooth.curve(follow_up.weights(counts[resamples.unit].astype(float)))
            for counts in resamples.counts[:200]
        ]
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
        axes.fill_between(
            smooth.at[shown], low[shown], high[shown], color=COLORS[0], alpha=0.18, lw=0
        )
    axes.plot(smooth.at[shown], smooth.curve(weights)[shown], c=COLORS[0])
    mean, observed, _ = grouped(follow_up.event, risk, weights)
    axes.plot(mean, observed, "o", ms=3.5, c=COLORS[1])
    top = max(most, float(np.nanmax(observed)), 0.02) * 1.08
    heights, edges = np.histogram(risk, bins=40, range=(0, top))
    axes.bar(
        edges[:-1], heights / heights.max() * top * 0.12, np.diff(edges), align="edge",
        color="#999999", alpha=0.5, lw=0,
    )  # fmt: skip
    axes.set(xlim=(0, top), ylim=(0, top), title=name, xlabel="risk", ylabel="observed")
    axes.set_aspect("equal")


def decision_curves(
    follow_up: FollowUp,
    risks: Mapping[str, NDArray[np.float64]],
    thresholds: NDArray[np.float64],
) -> Figure:
    """Net benefit against the threshold, beside treating all and none."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    weights, people = follow_up.weights(), len(follow_up)
    best = 0.0
    for place, (name, risk) in enumerate(risks.items()):
        curve = net_benefit(follow_up.event, risk, weights, people, thresholds)
        best = max(best, float(curve.max()))
        axes.plot(thresholds, curve, c=COLORS[place % len(COLORS)], lw=1.3, label=name)
    everyone = treat_all(follow_up.event, weights, people, thresholds)
    axes.plot(thresholds, everyone, c="#999999", lw=1, label="treat all")
    axes.axhline(0, c="#444444", lw=1, ls=":", label="treat none")
    axes.set(ylim=(-0.25 * best - 1e-3, 1.1 * best + 1e-3), xlabel="threshold of the risk")
    axes.set(ylabel="net benefit")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def forest(found: Sequence[Subgroup], whole: Mapping[str, float]) -> Figure:
    """AUROC and O:E of every subgroup with intervals; the line is of everyone."""
    shown = [one for one in found if one.estimates]
    figure = Figure(figsize=(8, 0.9 + 0.28 * max(len(shown), 1)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    labels = [f"{one.column}: {one.level} ({one.events}/{one.people})" for one in shown]
    places = np.arange(len(shown))[::-1]
    for axes, (name, title) in zip(panels, (("auroc", "AUROC"), ("oe", "O:E")), strict=True):
        for place, one in zip(places, shown, strict=True):
            estimate = one.estimates[name]
            axes.plot([estimate.value], [place], "s", ms=4, c=COLORS[0])
            if estimate.ends is not None:
                axes.plot(estimate.ends, [place, place], c=COLORS[0], lw=1.2)
        axes.axvline(whole[name], c="#999999", lw=0.8)
        axes.set_title(title)
        axes.grid(alpha=0.25, axis="x")
    panels[0].set_yticks(places, labels, fontsize=8)
    return figure


def missingness(curves: Mapping[str, Sequence[Known]], measure: str, title: str) -> Figure:
    """A measure against the share of fields known, with intervals, and coverage below it."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for place, (name, curve) in enumerate(curves.items()):
        color = COLORS[place % len(COLORS)]
        points = [one for one in curve if one.estimates]
        share = [100 * one.share for one in points]
        upper.plot(
            share, [p.estimates[measure].value for p in points], "o-", ms=3, c=color, label=name
        )
        ends = [p.estimates[measure].ends for p in points]
        if ends and all(ends):
            low, high = zip(*(end for end in ends if end), strict=True)
            upper.fill_between(share, low, high, color=color, alpha=0.15, lw=0)
        lower.plot([100 * one.share for one in curve], [100 * o.coverage for o in curve], c=color)
    upper.set_ylabel(title)
    upper.grid(alpha=0.25)
    upper.legend(frameon=False, fontsize=8)
    lower.set(xlabel="fields known (%)", ylabel="with a risk (%)", ylim=(-5, 105))
    return figure
