"""The report of a run folder, made from what lies in it: pictures, curves, metrics, config."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sagittal_core.privacy import without_paths
from sagittal_core.report import Report
from sagittal_core.run_logger import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3  # axes in a row of the learning curves
_FEW = 30  # up to here, points get a marker
_WIDE = 50.0  # a positive curve that spans more than this factor gets a logarithmic axis
_STAGES = re.compile(r"^(train|val|test)[/_]")

Curve = list[tuple[int, float]]


def write_run_report(
    folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> Path:
    """Write ``report.html`` into a run folder, in place of an earlier one.

    It holds the latest picture of each name (:func:`~sagittal_core.run_logger.log_picture`),
    learning curves and the range of each metric from ``metrics.csv``, the latest test's metrics
    from ``test.csv``, and the configuration.

    Args:
        folder: The run folder.
        config: The run's configuration, plain types. Paths in it are left out: they may hold
            patients' names, and a report is made to be passed on.
        facts: What a data module says of its data in its method ``facts``: plain values by name,
            no paths.

    Returns:
        The report's path.
    """
    report = Report(f"Run {folder.name}")
    for file in sorted((folder / "pictures").glob("*.png")):
        with Image.open(file) as image:
            notes = dict(image.info)
            report.picture(notes["Title"], image, notes["Description"])
    curves = read_curves(folder / "metrics.csv")
    if curves:
        report.picture("learning curves", draw_curves(curves), "against optimizer steps")
    tested = read_curves(folder / "test.csv")
    if tested:
        rows: list[list[object]] = [[name, curve[-1][1]] for name, curve in tested.items()]
        report.table("test", ["metric", "value"], rows)
    if curves:
        rows = [_summary(name, curve) for name, curve in curves.items()]
        report.table("training", ["metric", "step", "last", "lowest", "highest"], rows)
    if facts:
        report.table("data", ["what", "value"], [[name, value] for name, value in facts.items()])
    report.config(without_paths(config))
    return report.write(folder / "report.html")


def read_curves(file: Path) -> dict[str, Curve]:
    """Return (step, value) of each metric of a metrics table; empty if there is no file."""
    curves: dict[str, Curve] = {}
    for row in read_metrics(file):
        for name, text in row.items():
            if text and name not in ("step", "epoch"):
                curves.setdefault(name, []).append((int(row["step"]), float(text)))
    return curves


def draw_curves(curves: Mapping[str, Curve]) -> Figure:
    """Draw each metric against the step; ``train/loss`` and ``val/loss`` share their axes.

    What was logged once only, such as counts, is left to the table, unless there is nothing else.
    """
    from matplotlib.figure import Figure

    groups: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        groups.setdefault(_STAGES.sub("", name), {})[name] = curve
    several = {title: g for title, g in groups.items() if max(map(len, g.values())) > 1}
    groups = several or groups
    rows = math.ceil(len(groups) / _COLUMNS)
    columns = min(_COLUMNS, len(groups))
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, lines) in zip(axes, groups.items(), strict=False):
        for name, curve in lines.items():
            steps, values = zip(*curve, strict=True)
            marker = "." if len(curve) <= _FEW else ""
            axis.plot(steps, values, marker=marker, linewidth=1.0, label=name)
        finite = [v for curve in lines.values() for _, v in curve if math.isfinite(v)]
        if finite and min(finite) > 0 and max(finite) > _WIDE * min(finite):
            axis.set_yscale("log")
        axis.set(title=title, xlabel="step")
        if len(lines) > 1:
            axis.legend(fontsize="small")
    for axis in axes[len(groups) :]:
        axis.remove()
    return figure


def _summary(metric: str, curve: Curve) -> list[object]:
    values = [value for _, value in curve]
    return [metric, curve[-1][0], values[-1], min(values), max(values)]
