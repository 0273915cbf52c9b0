"""The report and the result file of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.resampling import LEAST_SUBJECTS
from sagittal_core.results import Table, write_results
from sagittal_genai.evaluation import figures, summary
from sagittal_genai.evaluation.rows import SPLITS, Rows
from sagittal_genai.evaluation.summary import Evaluated

CAPTIONS = {
    "differences": "Paired over the same subjects; 95 % bootstrap intervals.",
    "recovery": "AUROC on test rows, mean over the targets kept; the N features rank first in the"
    " probe on all, and are refitted. Recovery as published divides by the dense AUROC, and is"
    " high wherever both are near 0.5, as on random features; above"
    " chance, 0.5 is subtracted from both; not defined where the dense probes are at chance.",
    "targets": "AUROC on test rows.",
    "features": "On test rows.",
    "monosemanticity": "The ten features with the largest M where C is chosen, judged on test; as"
    " published, chosen and judged on the same rows, which favours chance.",
    "retrieval": "Five rows of other subjects, one of each scan. A random encoder agrees with its"
    " own dense space as well; shared concepts tell meaning.",
    "stability": "Decoder rows of features in use, matched between seeds. No interval: the runs are"
    " the units.",
    "rows": "Figures are of test. Intervals resample subjects.",
    "left out": "Targets that do not count.",
}


def write_page(
    out: Path,
    evaluated: Sequence[Evaluated],
    rows: Rows,
    targets: Sequence[str],
    kept: Sequence[str],
    left: Mapping[str, str],
    settings: Mapping[str, Any],
) -> list[str]:
    """Write ``report.html`` and ``results.json``.

    Args:
        out: Their folder.
        evaluated: Every label.
        rows: Of the first label.
        targets: Probed.
        kept: Those that count.
        left: Name and reason of the others.
        settings: Of the verb, paths included; they are hidden.

    Returns:
        The sentences that the report begins with.
    """
    texts, tables = _differences(evaluated, kept)
    texts = [*texts, *_notes(evaluated, rows, targets, kept)]
    if kept:
        tables["recovery"] = summary.recovery_table(evaluated, kept)
    if targets:
        tables["targets"] = summary.target_table(evaluated, targets, kept)
    tables["features"] = summary.feature_table(evaluated)
    tables["monosemanticity"] = summary.monosemanticity_table(evaluated, rows.chooser)
    tables["retrieval"] = summary.retrieval_table(evaluated)
    if any(one.stability for one in evaluated):
        tables["stability"] = summary.stability_table(evaluated)
    tables["rows"] = _row_table(rows)
    if left:
        tables["left out"] = (["target", "reason"], [list(pair) for pair in left.items()])

    report = Report("Sparse features: what they mean, and whether random ones mean as much")
    for text in texts:
        report.text(text)
    if kept:
        picture = figures.recovery_curves(evaluated, kept)
        report.picture("Few features", picture, f"Mean over {len(kept)} targets, test rows.")
    if any(one.runs[0]["monosemanticity"].get("values") for one in evaluated):
        picture = figures.monosemanticity_curves(evaluated)
        report.picture("Monosemanticity", picture, "M of every feature judged, test rows.")
    picture = figures.density_histogram(evaluated)
    report.picture("Density", picture, "Share of the test rows that a feature is active in.")
    for name, (columns, body) in tables.items():
        report.table(name, columns, body, CAPTIONS[name.partition(":")[0]])
    report.config(without_paths(settings))
    report.write(out / "report.html")

    write_results(
        out / "results.json",
        command=command_line("sagittal-genai", sys.argv[1:]),
        seeds=[int(settings["seed"])],
        n={"test subjects": rows.counts("test")[1], "test rows": rows.counts("test")[0]},
        tables={"summary": (["finding"], [[text] for text in texts]), **tables},
    )
    return texts


def _differences(
    evaluated: Sequence[Evaluated], kept: Sequence[str]
) -> tuple[list[str], dict[str, Table]]:
    control = next((one for one in evaluated if one.control), None)
    if control is None:
        return [
            "Warning: no random encoder was given (control). R2, retrieval by cosine and part of"
            " the probes' AUROC are as high on random features: without it these figures do not"
            " show that the features mean anything."
        ], {}
    texts, tables = [], {}
    for one in evaluated:
        if not one.control:
            found = summary.differences(one, control, kept)
            texts.append(summary.sentence(one.label, control.label, found))
            if found:
                name = f"differences: {one.label}"
                tables[name] = summary.difference_table(one.label, found)
    return texts, tables


def _notes(
    evaluated: Sequence[Evaluated], rows: Rows, targets: Sequence[str], kept: Sequence[str]
) -> list[str]:
    """What limits the figures: units, thinned rows, relaxed rules, probes that did not end."""
    notes = []
    subjects = rows.counts("test")[1]
    if subjects < LEAST_SUBJECTS:
        notes.append(
            f"Independent units in test: {subjects}, fewer than {LEAST_SUBJECTS} subjects: there"
            " are no intervals."
        )
    if rows.held_back is not None:
        notes.append(
            "C, features and targets were chosen on blocks of the training scans, held back from"
            " the probes: no scan of val was needed. Test holds other scans."
        )
    elif not (rows.split == "val").any():
        notes.append("The store has no val rows: C, features and targets were chosen on train.")
    notes.append(f"{len(kept)} targets count, of {len(targets)} probed.")
    for one in evaluated:
        found = one.runs[0]["monosemanticity"]
        for place, number in found.get("per unit", {}).items():
            if number > 1:
                notes.append(
                    f"{one.label}: monosemanticity takes up to {number} rows of one"
                    f" {found['unit']} in {place}, where fewer than ten have concepts; rows of one"
                    " resemble each other, so M is too high."
                )
        l0 = one.runs[0]["features"]["mean l0"]
        if l0["test"] > 1.5 * l0["train"]:
            notes.append(
                f"{one.label}: {l0['train']:.1f} features are active in a row of train and"
                f" {l0['test']:.1f} in one of test: the autoencoder knows its training rows by"
                " heart; fewer features, or more rows, would generalise better."
            )
        active = one.runs[0]["fidelity"]["l0"]
        if active < 1:
            notes.append(
                f"{one.label}: {active:.2f} features are active in a row on average. Was the"
                " autoencoder trained on rows of another kind, patches instead of whole images?"
            )
        if found.get("gone in test"):
            notes.append(
                f"{one.label}: {found['gone in test']} of the ten features chosen on"
                f" {rows.chooser} have fewer than five rows in test and count as M = 0."
            )
        if found.get("left out"):
            reasons = ", ".join(f"{count} {why}" for why, count in found["left out"].items())
            notes.append(f"{one.label}: features without M: {reasons}.")
        stopped = sum(not probe["converged"] for probe in _probes(one))
        if stopped:
            notes.append(
                f"{one.label}: {stopped} of {len(_probes(one))} probes reached the solver's"
                " limit of iterations."
            )
    return notes


def _probes(one: Evaluated) -> list[dict[str, Any]]:
    few = one.runs[0]["probes"]["targets"].values()
    return [*one.dense["targets"].values(), *(probe for probes in few for probe in probes.values())]


def _row_table(rows: Rows) -> Table:
    columns = ["split", "rows", "of", "subjects", "with concepts"]
    body = []
    for name in SPLITS:
        count, subjects = rows.counts(name)
        labelled = int((rows.labelled & rows.mask(name)).sum())
        body.append([name, str(count), str(rows.available[name]), str(subjects), str(labelled)])
    return columns, body
