"""``sagittal-risk score``: a table of patients in, their risks by every equation out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.results import Table, write_results
from sagittal_risk import __version__
from sagittal_risk.egfr import DIFFERS
from sagittal_risk.equations import equations as known_equations
from sagittal_risk.equations import evaluate_many, family, informed
from sagittal_risk.records.schema import Column, Schema, read_schema
from sagittal_risk.records.table import frames_of, to_rows
from sagittal_risk.scoring import BINS, COLUMNS, Parts, added, counts_of, score_table, sha256

_REGIONS = ("low", "moderate", "high", "very_high", "uncalibrated")


def score(
    patients: Path,
    schema: Path | None = None,
    out: Path = Path("outputs/scores"),
    equations: list[str] | None = None,
    region: Literal["low", "moderate", "high", "very_high"] | None = None,
    extrapolate: bool = False,
    kind: Literal["csv", "json"] = "csv",
    part_rows: int = 50_000,
) -> None:
    """Write the risk of every patient by every equation, with what was missing and out of range.

    One row for each patient and equation in scores.csv or scores.json; nobody is left out: where
    there is no risk, the row says why. report.html and results.json have counts, no identifiers.
    The same command goes on after a kill.

    Args:
        patients: a table, one row a patient (.csv, .tsv, .parquet).
        schema: YAML that says which column is which field, in which unit.
        out: folder of the scores; a new one for another table, schema or choice.
        equations: names, such as prevent_cvd_10y, or families, such as prevent_full; without it
            all, but SCORE2 of the region given, and of PREVENT's extensions the one that takes what
            the schema has of UACR, HbA1c and SDI.
        region: risk region of SCORE2 and SCORE2-OP; without it both are left out.
        extrapolate: compute and flag a risk where the publication gives none.
        kind: csv or json.
        part_rows: patients that are scored, written and kept at a time.

    Raises:
        ConfigError: no schema, an unknown equation, or a folder with other scores.
        DataError: a table or schema that is not usable; the message says where.
    """
    from rich.progress import Progress

    begun = time.monotonic()
    if schema is None or part_rows < 1:
        raise ConfigError("score: give --schema FILE.yaml (columns and units), part_rows from 1")
    read = read_schema(schema)
    names = _chosen(equations, region, read)
    first = next(frames_of(patients, read, part_rows))[1]
    to_rows(first, read, patients)  # a mistake shows before a folder is made
    parts = Parts(out, _identity(patients, schema, names, extrapolate, kind, part_rows), kind)
    if parts.finished:
        parts.tidy()
        print(f"{parts.scores}: scored before; nothing to do")
        return
    number, done = 0, 0
    with Progress(transient=True) as bar:
        task = bar.add_task("scoring", total=_row_count(patients))
        for number, (start, frame) in enumerate(frames_of(patients, read, part_rows)):
            if not parts.has(number):
                rows = to_rows(frame, read, patients, start)
                risks = evaluate_many(names, rows.patients, extrapolate=extrapolate)
                parts.write(number, score_table(rows, start, risks), counts_of(risks, rows))
                done += 1
            bar.update(task, completed=start + len(frame))
    counts = added(parts.counts(number + 1))
    for line in _notes(counts, read, equations, region):
        print(line)
    _report(out, counts, read, names, equations, region, extrapolate)
    parts.join(number + 1)
    parts.tidy()
    seconds = time.monotonic() - begun
    print(
        f"{parts.scores}: {counts['patients']} patients by {len(names)} equations"
        f" ({number + 1 - done} of {number + 1} parts were there) in {seconds:.0f} s"
    )


def _chosen(equations: list[str] | None, region: str | None, schema: Schema) -> list[str]:
    known = known_equations()
    if equations is None:
        taken = informed(schema.fields)
        plain = [name for name, one in known.items() if not one.optional]
        return [*(name for name in plain if _region_of(name) in (None, region)), *taken]
    chosen: list[str] = []
    for name in equations:
        found = [name] if name in known else family(name)
        if not found:
            raise ConfigError(f"score: no equation {name!r}; there are {', '.join(known)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def _region_of(name: str) -> str | None:
    """Region of SCORE2's equations, None of the others."""
    if not name.startswith("score2"):
        return None
    return next(region for region in sorted(_REGIONS, key=len)[::-1] if name.endswith(region))


def _identity(
    patients: Path, schema: Path, names: list[str], extrapolate: bool, kind: str, part_rows: int
) -> dict[str, Any]:
    return {
        "patients": sha256(patients),
        "schema": sha256(schema),
        "equations": names,
        "extrapolate": extrapolate,
        "kind": kind,
        "part_rows": part_rows,
        "columns": list(COLUMNS),
        "version": __version__,
    }


def _row_count(file: Path) -> int:
    """Rows, for the progress bar (line breaks inside quotes count too)."""
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)
    with file.open("rb") as opened:
        return sum(block.count(b"\n") for block in iter(lambda: opened.read(1 << 20), b"")) - 1


def _notes(
    counts: dict[str, Any], schema: Schema, equations: list[str] | None, region: str | None
) -> list[str]:
    """What limits the scores, in sentences."""
    notes = []
    for name, count in counts["implausible"].items():
        # An eGFR that the table does not have comes from its creatinine.
        column = schema.fields.get(name, schema.fields.get("creatinine", Column())).column
        notes.append(
            f"{count} rows have a {name} (column {column}) that no patient has; they get no risk"
            " that needs it. Another unit in some rows?"
        )
    notes += _stand_ins(counts)
    if equations is None and region is None:
        notes.append("SCORE2 and SCORE2-OP are left out: no region was given (--region).")
    if equations is None and region == "low":
        notes.append("SCORE2-OP is left out: its publication gives two scales for the low region.")
    for name, one in counts["equations"].items():
        if one["risk"] == 0:
            most = max(
                [*one["missing fields"].items(), *one["outside fields"].items()],
                key=lambda pair: pair[1],
                default=("nothing", 0),
            )
            notes.append(f"{name}: no risk for anyone; most often for want of {most[0]}.")
    return notes


def _stand_ins(counts: dict[str, Any]) -> list[str]:
    """What was computed or supposed instead of known, in sentences."""
    notes = []
    if counts["egfr computed"]:
        notes.append(
            f"{counts['egfr computed']} rows have an eGFR computed from creatinine, age and sex"
            " (CKD-EPI 2021)."
        )
    if counts["egfr differs"]:
        notes.append(
            f"{counts['egfr differs']} rows have an eGFR that is more than {DIFFERS:.0%} off that"
            " of their creatinine; the one stated counts."
        )
    known = known_equations()
    unknown = {
        (known[name].family, field, count): None
        for name, one in counts["equations"].items()
        for field, count in one["unknown fields"].items()
    }
    for table, field, count in unknown:
        notes.append(
            f"{table}: {count} rows have no {field}; the model's published term for a missing value"
            " stands in (column missing_term)."
        )
    return notes


def _tables(counts: dict[str, Any], names: list[str]) -> dict[str, Table]:
    rows, reasons = [], []
    for name in names:
        one = counts["equations"][name]
        low, middle, high = (_quantile(one["histogram"], q) for q in (0.05, 0.5, 0.95))
        rows.append(
            [name, counts["patients"], one["risk"], one["applicable"], one["missing"],
             one["outside"], middle, f"{low} to {high}" if low else ""]
        )  # fmt: skip
        for why in ("missing", "outside"):
            reasons += [[name, why, field, n] for field, n in one[f"{why} fields"].items()]
        stood_in = one["unknown fields"].items()
        reasons += [[name, "term for a missing value", field, n] for field, n in stood_in]
    columns = ["equation", "patients", "with a risk", "applicable", "something missing",
               "something out of range", "median risk", "5 % to 95 %"]  # fmt: skip
    tables: dict[str, Table] = {"scores": (columns, rows)}
    if reasons:
        tables["reasons"] = (["equation", "what", "field", "patients"], reasons)
    return tables


def _quantile(histogram: list[int], share: float) -> str:
    total = np.cumsum(histogram)
    if not total[-1]:
        return ""
    place = int(np.searchsorted(total, share * total[-1]))
    return f"{100 * (BINS[place] + BINS[place + 1]) / 2:.1f} %"


def _report(
    out: Path,
    counts: dict[str, Any],
    schema: Schema,
    names: list[str],
    equations: list[str] | None,
    region: str | None,
    extrapolate: bool,
) -> None:
    """``report.html`` and ``results.json``: counts only."""
    from matplotlib.figure import Figure

    report = Report("Risk scores")
    report.text("Research software, not a medical device. Scores stay in this folder.")
    for note in _notes(counts, schema, equations, region):
        report.text(note)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in names:
        histogram = np.array(counts["equations"][name]["histogram"])
        if histogram.sum():
            shown = np.r_[0, np.cumsum(histogram)] / histogram.sum()
            axes.plot(100 * BINS, 100 * shown, lw=1, label=name)
    axes.set(xlabel="risk (%)", ylabel="patients with at most this risk (%)")
    if axes.lines:
        axes.legend(frameon=False, fontsize=6, ncols=2)
    report.picture("Distribution", figure, "Of patients with a risk, by equation.")
    captions = {
        "scores": "Applicable: nothing missing, everything in the range of the derivation.",
        "reasons": "A patient may count in several rows.",
    }
    tables = _tables(counts, names)
    for name, (columns, rows) in tables.items():
        report.table(name, columns, rows, captions[name])
    report.config({"equations": names, "region": region, "extrapolate": extrapolate})
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-risk", sys.argv[1:]),
        seeds=[],
        n={"patients": counts["patients"]},
        tables=without_paths(tables),
    )
