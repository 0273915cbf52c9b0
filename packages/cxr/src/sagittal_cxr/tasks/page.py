"""The report, the result file and the table of all measures of an evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.resampling import LEAST_SUBJECTS
from sagittal_core.results import MAX_BYTES, Table, write_results
from sagittal_cxr.tasks import figures, summary
from sagittal_cxr.tasks.cells import Cell
from sagittal_cxr.tasks.items import read_items

CAPTIONS = {
    "overview": "95 % bootstrap intervals over patients. Exposure says whether the benchmark was in"
    " the model's training data: figures of such rows do not show what it does on new patients.",
    "differences": "Paired: the same resamples of the same patients. Not corrected for the number"
    " of differences.",
    "measures": "Of whole benchmarks. Tail AUROC pools the findings with few positive images: the"
    " share of pairs, within a finding, in the right order.",
    "findings": "AUROC.",
    "audit": "What the figures depend on.",
    "left out": "Nothing else was left out.",
}


def write_page(
    out: Path, cells: Sequence[Cell], reference: str, settings: Mapping[str, Any], seed: int
) -> list[str]:
    """Write ``report.html``, ``results.json`` and ``measures.parquet``.

    Args:
        out: Their folder.
        cells: Every cell, in the order of the configuration.
        reference: Model that the others are compared with.
        settings: Of the verb, paths included; they are hidden.
        seed: Of the resamples.

    Returns:
        The sentences that the report begins with.
    """
    texts = _notes(cells)
    tables: dict[str, Table] = {"overview": summary.overview_table(cells)}
    columns, rows = summary.difference_table(cells, reference)
    if rows:
        tables["differences"] = columns, rows
    tables["measures"] = summary.whole_table(cells)
    for benchmark, task in dict.fromkeys((c.benchmark, c.task) for c in cells):
        table = summary.finding_table(cells, benchmark, task)
        if table[1]:
            tables[f"findings: {benchmark}, {task}"] = table
    tables["audit"] = summary.audit_table(cells)
    if summary.left_out_table(cells)[1]:
        tables["left out"] = summary.left_out_table(cells)
    report = Report("Chest X-ray models on benchmarks")
    for text in texts:
        report.text(text)
    _pictures(report, cells)
    for name, (columns, rows) in tables.items():
        report.table(name, columns, rows, CAPTIONS[name.partition(":")[0]])
    report.config(without_paths(settings))
    summary.write_parquet(summary.measure_frame(cells), out / "measures.parquet")
    _write_results(out, cells, texts, tables, seed)
    report.write(out / "report.html")
    return texts


def _pictures(report: Report, cells: Sequence[Cell]) -> None:
    """Reliability and ROC curves of every benchmark and task that keeps scores for findings."""
    for benchmark, task in dict.fromkeys((c.benchmark, c.task) for c in cells):
        items = []
        for cell in cells:
            if (cell.benchmark, cell.task) == (benchmark, task) and not cell.reason:
                frame = _main_variant(read_items(cell.folder))
                if frame is not None:
                    items.append((cell.model, frame))
        if not items:
            continue
        where = f"{benchmark}, {task}"
        report.picture(f"ROC: {where}", figures.roc_multiples(items), "One panel a finding.")
        if any(frame["probability"].notna().any() for _, frame in items):
            picture = figures.reliability(items)
            report.picture(
                f"Reliability: {where}",
                picture,
                "All findings together, ten bins of equal width; below: images and findings a bin."
                " On the dotted line probabilities are right.",
            )


def _main_variant(frame: pandas.DataFrame | None) -> pandas.DataFrame | None:
    """The first variant's items, if they are scores for findings."""
    if frame is None or not {"label", "truth", "score", "variant"} <= set(frame.columns):
        return None
    return frame[frame["variant"] == frame["variant"].iloc[0]]


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What limits the figures."""
    notes = []
    exposed = dict.fromkeys(
        (c.model, c.benchmark) for c in cells if c.record["exposure"] == "train"
    )
    for model, benchmark in exposed:
        notes.append(
            f"Warning: {benchmark} was in the training data of {model}; its figures there do not"
            " show what the model does on new patients."
        )
    unknown = dict.fromkeys(
        (c.model, c.benchmark) for c in cells if c.record["exposure"] == "unknown"
    )
    for model, benchmark in unknown:
        notes.append(f"It is not known whether {benchmark} was in the training data of {model}.")
    few = dict.fromkeys(
        (c.benchmark, c.record["patients"]) for c in cells if c.record["patients"] < LEAST_SUBJECTS
    )
    for benchmark, patients in few:
        notes.append(
            f"{benchmark} has {patients} patients, fewer than {LEAST_SUBJECTS}: there are no"
            " intervals."
        )
    notes += _uncertain(cells)
    lacking = [cell for cell in cells if cell.reason]
    if lacking:
        notes.append(
            f"{len(lacking)} of {len(cells)} combinations of model, benchmark and task do not"
            " apply; they are listed under: left out."
        )
    return notes


def _uncertain(cells: Sequence[Cell]) -> list[str]:
    """Means over findings that hardly any patient has."""
    key, found = "findings with too few patients", {}
    for cell in cells:
        one = summary.find(cell.measures, "macro AUROC")
        if one is not None and one.detail.get(key):
            found[cell.benchmark, cell.task] = one.detail[key], one.detail["findings"]
    return [
        f"{benchmark}, {task}: {few} of {count} findings have fewer than {LEAST_SUBJECTS} patients"
        " with or without them. The macro AUROC counts them as much as any other and its interval"
        " is too narrow; head and tail AUROC say more."
        for (benchmark, task), (few, count) in found.items()
    ]


def _write_results(
    out: Path,
    cells: Sequence[Cell],
    texts: Sequence[str],
    tables: Mapping[str, Table],
    seed: int,
) -> None:
    """Write the result file; tables that would make it too large stay in the other two files."""
    kept: dict[str, Table] = {"summary": (["finding"], [[text] for text in texts])}
    left = []
    for name, table in tables.items():
        if len(json.dumps({**kept, name: table}, indent=1)) < MAX_BYTES * 0.9:
            kept[name] = table
        else:
            left.append([name])
    if left:
        kept["in report.html only"] = (["table"], left)
    benchmarks = {c.benchmark: c.record for c in cells}
    write_results(
        out / "results.json",
        command=command_line("sagittal-cxr", sys.argv[1:]),
        seeds=[seed],
        n={
            f"{kind}, {name}": record[kind]
            for name, record in benchmarks.items()
            for kind in ("patients", "images")
            if record[kind]
        },
        tables=kept,
    )
