"""From cells to tables: the overview, paired differences, and what an audit asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from sagittal_core.resampling import interval
from sagittal_core.results import Table
from sagittal_cxr.tasks.cells import Cell
from sagittal_cxr.tasks.task import Measure

EXPOSURE = {
    "train": "in training data",
    "none": "not in training data",
    "unknown": "unknown",
}


def shown(value: float, low: float | None, high: float | None) -> str:
    """``0.812 [0.790, 0.834]``, or the figure alone; three digits, or one for large figures."""
    if not np.isfinite(value):
        return "not defined"
    digits = 3 if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def overview_table(cells: Sequence[Cell]) -> Table:
    """Model x task: a row for each model and benchmark with its exposure, a column a measure."""
    columns = list(dict.fromkeys(_heading(c, m) for c in cells for m in c.headline))
    rows = []
    for model, benchmark in dict.fromkeys((c.model, c.benchmark) for c in cells):
        mine = [c for c in cells if (c.model, c.benchmark) == (model, benchmark)]
        values = dict.fromkeys(columns, "")
        for cell in mine:
            for name in cell.headline:
                one = find(cell.measures, name)
                text = "does not apply" if cell.reason else ""
                values[_heading(cell, name)] = (
                    text if one is None else shown(one.estimate, one.low, one.high)
                )
        record = mine[0].record
        exposure = EXPOSURE[record["exposure"]]
        rows.append([model, benchmark, exposure, str(record["patients"]), *values.values()])
    return ["model", "benchmark", "exposure", "patients", *columns], rows


def difference_table(cells: Sequence[Cell], reference: str) -> Table:
    """Headline measures of every other model less those of the reference, paired by patient."""
    columns = ["benchmark", "task", "measure", "model", "difference", "shown to be"]
    rows = []
    for cell, other in _pairs(cells, reference):
        for name in cell.headline:
            one, two = find(cell.measures, name), find(other.measures, name)
            if one is None or two is None:
                continue
            value, draws = difference(one, two)
            ends = interval(draws)
            rows.append(
                [
                    cell.benchmark,
                    cell.task,
                    name,
                    f"{cell.model} - {reference}",
                    shown(value, *(ends or (None, None))),
                    verdict(ends),
                ]
            )
    return columns, rows


def difference(one: Measure, two: Measure) -> tuple[float, NDArray[np.float64]]:
    """Of two figures, and of their resamples; the latter is empty where either has no interval."""
    value, draws = one.estimate - two.estimate, np.empty(0)
    if one.low is None or two.low is None or one.draws is None or two.draws is None:
        return value, draws
    return value, one.draws - two.draws if len(one.draws) == len(two.draws) else draws


def verdict(ends: tuple[float, float] | None) -> str:
    """What the interval of a difference says."""
    if ends is None:
        return "no interval"
    return "higher" if ends[0] > 0 else "lower" if ends[1] < 0 else "no difference shown"


def whole_table(cells: Sequence[Cell]) -> Table:
    """Every measure that is of a whole benchmark, with what chance gives where it is known."""
    columns = ["model", "benchmark", "exposure", "task", "measure", "value", "patients", "chance"]
    rows = []
    for cell in cells:
        for one in cell.measures:
            if one.label is None:
                chance = one.detail.get("chance")
                rows.append(
                    [
                        cell.model,
                        cell.benchmark,
                        cell.record["exposure"],
                        cell.task,
                        one.name,
                        shown(one.estimate, one.low, one.high),
                        str(one.n),
                        "" if chance is None else f"{chance:.3f}",
                    ]
                )
    return columns, rows


def finding_table(cells: Sequence[Cell], benchmark: str, task: str) -> Table:
    """AUROC of every finding on one benchmark by one task, a column a model."""
    mine = [c for c in cells if (c.benchmark, c.task) == (benchmark, task) and not c.reason]
    models = [c.model for c in mine]
    labels = dict.fromkeys(m.label for c in mine for m in c.measures if m.name == "AUROC")
    rows = []
    for label in labels:
        every = [find(c.measures, "AUROC", label) for c in mine]
        first = next(one for one in every if one is not None)
        counts = first.detail
        rows.append(
            [
                str(label),
                str(counts["positives"]),
                str(counts["negatives"]),
                f"{counts['prevalence']:.3f}",
                *("" if m is None else shown(m.estimate, m.low, m.high) for m in every),
            ]
        )
    return ["finding", "positive", "negative", "prevalence", *models], rows


def audit_table(cells: Sequence[Cell]) -> Table:
    """What every figure depends on, one row a cell."""
    columns = [
        "model",
        "benchmark",
        "task",
        "exposure",
        "index",
        "checkpoint",
        "trained on index",
        "processor",
        "prompt family",
        "cohort",
        "negatives",
        "images",
        "patients",
        "prevalence",
        "threshold",
        "criterion",
    ]
    rows = []
    for cell in cells:
        if cell.reason:
            continue
        record, details = cell.record, [one.detail for one in cell.measures]
        rows.append(
            [
                cell.model,
                cell.benchmark,
                cell.task,
                EXPOSURE[record["exposure"]],
                record["index"],
                record["checkpoint"],
                record["trained on"],
                record["processor"],
                _values(details, "prompt family"),
                f"{record['split']}: {record['cohort']}",
                record["negatives"],
                str(record["images"]),
                str(record["patients"]),
                _values(details, "prevalence"),
                _values(details, "threshold"),
                _values(details, "criterion"),
            ]
        )
    return columns, rows


def left_out_table(cells: Sequence[Cell]) -> Table:
    """Tasks that do not apply, and findings that do not count, with the reason."""
    rows = []
    for cell in cells:
        where = [cell.model, cell.benchmark, cell.task]
        if cell.reason:
            rows.append([*where, "everything", cell.reason])
        left: dict[str, str] = {}
        for one in cell.measures:
            left |= one.detail.get("left out", {}) | one.detail.get("not fitted", {})
        rows += [[*where, name, why] for name, why in left.items()]
    return ["model", "benchmark", "task", "left out", "why"], rows


def measure_frame(cells: Iterable[Cell]) -> pandas.DataFrame:
    """Every measure of every cell, one a row; details and the cell's record as JSON."""
    rows = []
    for cell in cells:
        for one in cell.measures:
            rows.append(
                {
                    "model": cell.model,
                    "benchmark": cell.benchmark,
                    "task": cell.task,
                    "exposure": cell.record["exposure"],
                    "checkpoint": cell.record["checkpoint"],
                    "measure": one.name,
                    "label": one.label,
                    "estimate": one.estimate,
                    "low": np.nan if one.low is None else one.low,
                    "high": np.nan if one.high is None else one.high,
                    "patients": one.n,
                    "detail": json.dumps(one.detail, default=str),
                    "record": json.dumps(cell.record),
                }
            )
    columns = ["model", "benchmark", "task", "exposure", "checkpoint", "measure", "label"]
    numbers = ["estimate", "low", "high", "patients", "detail", "record"]
    return pandas.DataFrame(rows, columns=[*columns, *numbers])


def write_parquet(frame: pandas.DataFrame, file: Path) -> None:
    """Write a table, the old or the new one at any moment."""
    temporary = file.with_name(f".{file.name}.tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(file)


def find(measures: Sequence[Measure], name: str, label: str | None = None) -> Measure | None:
    """A measure by name and label."""
    return next((m for m in measures if (m.name, m.label) == (name, label)), None)


def _pairs(cells: Sequence[Cell], reference: str) -> list[tuple[Cell, Cell]]:
    """Cells of other models, each with the reference's cell of the same rows and settings."""
    of_reference = {
        (c.benchmark, c.task, c.paired): c for c in cells if c.model == reference and not c.reason
    }
    found = []
    for cell in cells:
        other = of_reference.get((cell.benchmark, cell.task, cell.paired))
        if cell.model != reference and not cell.reason and other is not None:
            found.append((cell, other))
    return found


def _heading(cell: Cell, name: str) -> str:
    return name if name.startswith(cell.task) else f"{cell.task}: {name}"


def _values(details: Sequence[dict[str, Any]], key: str) -> str:
    """The values of a detail over a cell's measures: one, or the range of several numbers."""
    found = list(dict.fromkeys(d[key] for d in details if key in d))
    if not found:
        return "none"
    if all(isinstance(value, (int, float)) for value in found):
        ends = sorted({f"{min(found):.3g}", f"{max(found):.3g}"}, key=float)
        return " to ".join(ends)
    return ", ".join(map(str, found))
