"""The report and the result file of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.resampling import LEAST_SUBJECTS, Resamples
from sagittal_core.results import Cell, Table, write_results
from sagittal_risk.evaluation import figures
from sagittal_risk.evaluation.decision import net_benefit, treat_all
from sagittal_risk.evaluation.measures import MEASURES, Estimate, difference
from sagittal_risk.evaluation.predictions import Predictions
from sagittal_risk.evaluation.subgroups import LEAST_EVENTS, Subgroup

Estimates = Mapping[str, Mapping[str, Estimate]]

CAPTIONS = {
    "measures": "95 % bootstrap intervals over people. Ideal: slope 1, calibration in the large 0,"
    " observed / expected 1; ICI, E50 and E90 are the mean, median and 90th percentile of the"
    " distance between the risk and the observed frequency (loess).",
    "differences": "Paired over the same people; an interval without 0 shows a difference.",
    "net benefit": "Per 1000 people, above treating none.",
    "subgroups": f"P of the difference to everyone else, adjusted over all of them. Fewer than"
    f" {LEAST_EVENTS} events, or people without one: no figures.",
    "people": "Who is compared.",
}


def measure_table(estimates: Estimates) -> Table:
    """Measures in rows, columns of risks in columns."""
    first = next(iter(estimates.values()))
    rows = []
    for name in (name for name in MEASURES if name in first):
        digits = 4 if "brier" in name else 3
        rows.append([MEASURES[name], *(one[name].text(digits) for one in estimates.values())])
    return ["measure", *estimates], rows


def difference_table(estimates: Estimates, reference: str) -> Table:
    """AUROC, Brier score and ICI of every column less those of the reference."""
    rows = []
    for name, one in estimates.items():
        if name != reference:
            other = estimates[reference]
            gaps = [
                difference(one[measure], other[measure]).text(digits)
                for measure, digits in (("auroc", 3), ("brier", 4), ("ici", 3))
            ]
            rows.append([f"{name} - {reference}", *gaps])
    return ["difference", "AUROC", "Brier score", "ICI"], rows


def benefit_table(found: Predictions, thresholds: NDArray[np.float64]) -> Table:
    """Net benefit per 1000 people at each threshold."""
    outcome = found.follow_up
    weights, people = outcome.weights(), len(outcome)
    curves = {
        name: net_benefit(outcome.event, risk, weights, people, thresholds)
        for name, risk in found.risks.items()
    }
    curves["treat all"] = treat_all(outcome.event, weights, people, thresholds)
    rows = [
        [f"{100 * t:g} %", *(f"{1000 * curve[place]:.1f}" for curve in curves.values())]
        for place, t in enumerate(thresholds)
    ]
    return ["threshold", *curves], rows


def subgroup_table(found: Mapping[str, Sequence[Subgroup]]) -> Table:
    """Every subgroup of every column of risks."""
    rows: list[list[Cell]] = []
    for name, parts in found.items():
        for one in parts:
            start: list[Cell] = [name, f"{one.column}: {one.level}", one.people, one.events]
            if not one.estimates:
                rows.append([*start, "too few events", "", "", "", ""])
                continue
            figures_of = [one.estimates[m].text() for m in ("auroc", "oe", "slope")]
            adjusted = [
                ", ".join(f"{m} {p[m]:.2g}" for m in ("auroc", "oe", "slope") if m in p)
                for p in (one.holm, one.bh)
            ]
            rows.append([*start, *figures_of, *adjusted])
    columns = ["risk", "subgroup", "people", "events", "AUROC", "O:E", "slope", "P (Holm)",
               "P (Benjamini-Hochberg)"]  # fmt: skip
    return columns, rows


def people_table(found: Predictions) -> Table:
    """Rows read, left out and compared."""
    outcome = found.follow_up
    rows: list[list[Any]] = [["rows of the table", found.rows]]
    rows += [[why, count] for why, count in found.left_out.items()]
    rows += [["compared", len(outcome)], ["independent people", len(set(found.person.tolist()))]]
    rows += [["events", int(outcome.event.sum())]]
    if outcome.time is not None:
        rows.append(["censored before the horizon", int((~outcome.known).sum())])
    return ["people", "number"], rows


def sentences(found: Predictions, estimates: Estimates) -> list[str]:
    """What the figures say, and what limits them."""
    texts = []
    for name, one in estimates.items():
        oe, ends = one["oe"], one["oe"].ends
        if ends is None:
            verdict = "no interval"
        elif ends[0] > 1:
            verdict = "the risks are too low"
        else:
            verdict = "the risks are too high" if ends[1] < 1 else "no deviation is shown"
        texts.append(
            f"{name}: AUROC {one['auroc'].text()}, observed / expected {oe.text(2)} ({verdict}),"
            f" slope {one['slope'].text(2)}."
        )
    people = len(set(found.person.tolist()))
    if people < LEAST_SUBJECTS:
        texts.append(f"Independent people: {people}, fewer than {LEAST_SUBJECTS}: no intervals.")
    lost = found.rows - len(found.follow_up)
    if lost:
        texts.append(
            f"{lost} of {found.rows} rows lack the outcome or a risk and are not compared: the"
            " figures are of the others, who may differ."
        )
    return texts


def write_page(
    out: Path,
    found: Predictions,
    estimates: Estimates,
    groups: Mapping[str, Sequence[Subgroup]],
    resamples: Resamples,
    thresholds: NDArray[np.float64],
    reference: str | None,
    settings: Mapping[str, Any],
) -> list[str]:
    """Write ``report.html`` and ``results.json``; return the sentences the report begins with."""
    texts = sentences(found, estimates)
    tables = {"measures": measure_table(estimates)}
    if reference is not None and len(estimates) > 1:
        tables["differences"] = difference_table(estimates, reference)
    tables["net benefit"] = benefit_table(found, thresholds)
    if any(groups.values()):
        tables["subgroups"] = subgroup_table(groups)
    tables["people"] = people_table(found)

    report = Report("Predicted risks: discrimination, calibration, usefulness")
    report.text("Research software, not a medical device.")
    for text in texts:
        report.text(text)
    report.picture(
        "Reliability",
        figures.reliability(found.follow_up, found.risks, resamples),
        "Line: smooth observed frequency with its 95 % band; points: tenths of people by risk;"
        " grey: how many have which risk.",
    )
    report.picture(
        "Decision curves",
        figures.decision_curves(found.follow_up, found.risks, thresholds),
        "Net benefit of treating those at or above the threshold.",
    )
    for name, parts in groups.items():
        if any(one.estimates for one in parts):
            whole = {key: estimates[name][key].value for key in ("auroc", "oe")}
            picture = figures.forest(parts, whole)
            report.picture(f"Subgroups, {name}", picture, "Events and people in brackets.")
    for name, (columns, rows) in tables.items():
        report.table(name, columns, rows, CAPTIONS[name])
    report.config(without_paths(settings))
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-risk", sys.argv[1:]),
        seeds=[int(settings["seed"])],
        n={"people": len(set(found.person.tolist())), "rows": len(found.follow_up)},
        tables={"summary": (["finding"], [[text] for text in texts]), **tables},
    )
    return texts
