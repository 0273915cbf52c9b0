"""``sagittal-cxr score-reports``: generated reports beside the reports that radiologists wrote."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sagittal_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas

    from sagittal_core.results import Table
    from sagittal_cxr.metrics.summed import Estimate, Score


def score_reports(
    references: Path,
    candidates: Path,
    out: Path = Path("outputs/scores"),
    id: str = "id",
    report: str = "report",
    patient: str | None = None,
    sentence_encoder: str | None = "minilm",
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Score reports against references; write report.html, results.json and reports.parquet.

    BLEU, ROUGE-L, CIDEr-D, F1 and polarity of findings by the rule labeler, and likeness of
    sentences, with 95 % bootstrap intervals over patients. A reference without a candidate counts
    as one with an empty candidate; rows that cannot be scored are listed in left_out.csv.

    Args:
        references: CSV or JSON lines, one report a row.
        candidates: CSV or JSON lines, with the same ids.
        out: folder of the results.
        id: column that both files have, which names a report.
        report: column of the text, in both files.
        patient: column of the references that names the patient; null takes every report as one.
        sentence_encoder: folder or sample data for likeness by embedding; null leaves it out.
        resamples: bootstrap resamples of the patients.
        seed: of the resamples.

    Raises:
        ConfigError: settings out of range.
        DataError: a file, a column or an id cannot be used, or nothing is left to score.
    """
    import numpy as np

    from sagittal_cxr.metrics.reports import ReportScorer
    from sagittal_cxr.metrics.summed import Patients
    from sagittal_cxr.reports.labeler import Labeler

    start = time.monotonic()
    if resamples < 1:
        raise ConfigError("score-reports: resamples must be 1 or more")
    matched = match(
        read_reports(references, id, report, patient),
        read_reports(candidates, id, report, None),
        references,
    )
    encoder = None
    if sentence_encoder is not None:
        from sagittal_core.encoders import SentenceEncoder

        encoder = SentenceEncoder(sentence_encoder)
    wanted, given = list(matched.table["reference"]), list(matched.table["candidate"])
    scorer = ReportScorer(wanted, Labeler(), encoder, Path(sentence_encoder or "").name)
    sampled = Patients(matched.table["patient"], resamples, seed)
    scores, findings = scorer.score(given), scorer.findings(given)
    out.mkdir(parents=True, exist_ok=True)
    table = matched.table.assign(**{score.name: score.each for score in scores})
    temporary = out / ".reports.parquet.tmp"
    table.to_parquet(temporary, index=False)
    temporary.replace(out / "reports.parquet")
    _write_left_out(out / "left_out.csv", matched.left_out)
    estimates = [sampled.estimate(score) for score in scores]
    by_finding = [(one, sampled.estimate(one)) for one in findings if np.any(one.parts)]
    for text in _write_page(out, scores, estimates, by_finding, matched, seed):
        print(text, flush=True)
    for score, found in zip(scores, estimates, strict=True):
        print(f"  {score.name:<28} {found}", flush=True)
    print(f"scored in {time.monotonic() - start:.1f} s: {out / 'report.html'}", flush=True)


class Matched(NamedTuple):
    """References with their candidates.

    Attributes:
        table: id, patient, reference, candidate; of what is scored.
        left_out: (id, why) of what is not.
        counts: In words.
    """

    table: pandas.DataFrame
    left_out: list[tuple[str, str]]
    counts: dict[str, int]


def read_reports(file: Path, id: str, report: str, patient: str | None) -> pandas.DataFrame:
    """Columns id, report and patient of a table of reports, all text.

    Args:
        file: ``.csv``, ``.jsonl`` or ``.ndjson``.
        id: Name of the column in the file.
        report: As ``id``.
        patient: As ``id``; None: the id is the patient.

    Raises:
        DataError: If the file, a column or an id is missing, an id is there twice, or a patient is
            not given.
    """
    import pandas

    if not file.is_file():
        raise DataError(
            file, key="(file)", expected="a CSV or JSON lines file", found="no such file"
        )
    if file.suffix.lower() == ".csv":
        rows = _csv_rows(file)
    elif file.suffix.lower() in (".jsonl", ".ndjson"):
        rows = _json_rows(file)
    else:
        raise DataError(
            file, key="(file)", expected=".csv, .jsonl or .ndjson", found=file.suffix or "no suffix"
        )
    wanted = {"id": id, "report": report, "patient": id if patient is None else patient}
    for number, row in enumerate(rows, 1):
        for key, column in wanted.items():
            if column not in row:
                raise DataError(
                    file,
                    key=f"row {number}, {column}",
                    expected=f"the {key} of every row",
                    found=", ".join(map(str, row)) or "nothing",
                )
    table = pandas.DataFrame(
        {key: ["" if r[c] is None else str(r[c]) for r in rows] for key, c in wanted.items()},
        dtype=str,
    )
    for key in ("id", "patient"):
        if (table[key].str.strip() == "").any():
            count = int((table[key].str.strip() == "").sum())
            raise DataError(file, key=wanted[key], expected="a value", found=f"{count} empty")
    if table["id"].duplicated().any():
        count = int(table["id"].duplicated().sum())
        raise DataError(file, key=id, expected="every id once", found=f"{count} repeated")
    return table


def _csv_rows(file: Path) -> list[dict[str, Any]]:
    from sagittal_cxr.readers.tables import expect_no_surplus

    try:
        expect_no_surplus(file)
        with file.open(newline="", encoding="utf-8-sig") as opened:
            return list(csv.DictReader(opened, restval="", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(file, key="(file)", expected="CSV in UTF-8", found=str(error)) from None


def _json_rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(file, key="(file)", expected="UTF-8", found=str(error)) from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            row = error
        if not isinstance(row, dict):
            found = "no JSON" if isinstance(row, Exception) else type(row).__name__
            raise DataError(file, key=f"line {number}", expected="an object", found=found)
        rows.append(row)
    return rows


def match(references: pandas.DataFrame, candidates: pandas.DataFrame, file: Path) -> Matched:
    """Put candidates beside references.

    A reference that is empty cannot be scored, nor a candidate without a reference; a missing or
    empty candidate is scored, as an empty text.

    Raises:
        DataError: If no id is in both files, or every reference is empty.
    """
    given = dict(zip(candidates["id"], candidates["report"], strict=True))
    if not set(given) & set(references["id"]):
        raise DataError(
            file, key="id", expected="ids that the candidates have as well", found="none in common"
        )
    empty = references["report"].str.strip() == ""
    table = references[~empty].rename(columns={"report": "reference"})
    if table.empty:
        raise DataError(file, key="report", expected="a text", found="every reference is empty")
    missing = ~table["id"].isin(set(given))
    table["candidate"] = [given.get(key, "").strip() for key in table["id"]]
    left = [(key, "the reference is empty") for key in references["id"][empty]]
    known = set(references["id"])
    left += [(key, "no reference has this id") for key in candidates["id"] if key not in known]
    counts = {
        "reports scored": len(table),
        "of them without a candidate, scored as empty": int(missing.sum()),
        "of them with an empty candidate": int((table["candidate"] == "").sum() - missing.sum()),
        "distinct candidates": int(table["candidate"].nunique()),
        "empty references, left out": int(empty.sum()),
        "candidates without a reference, left out": len(left) - int(empty.sum()),
    }
    return Matched(table.reset_index(drop=True), left, counts)


def _write_left_out(file: Path, rows: list[tuple[str, str]]) -> None:
    from sagittal_core.run_folder import write_atomically

    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("id", "why"), *rows])
    write_atomically(file, text.getvalue())


def _write_page(
    out: Path,
    scores: list[Score],
    estimates: list[Estimate],
    by_finding: list[tuple[Score, Estimate]],
    matched: Matched,
    seed: int,
) -> list[str]:
    """Write report.html and results.json; returns the sentences that the page begins with."""
    from sagittal_core.privacy import command_line
    from sagittal_core.report import Report
    from sagittal_core.resampling import LEAST_SUBJECTS
    from sagittal_core.results import write_results

    patients = estimates[0].patients
    texts = [f"{name}: {count}" for name, count in matched.counts.items() if count]
    if patients < LEAST_SUBJECTS:
        texts.append(f"Fewer than {LEAST_SUBJECTS} patients: there are no intervals.")
    if matched.counts["distinct candidates"] == 1 < len(matched.table):
        texts.append("Warning: all candidates are the same text.")
    measures: Table = (
        ["measure", "value", "what it is"],
        [[s.name, str(e), s.note] for s, e in zip(scores, estimates, strict=True)],
    )
    findings: Table = (
        ["finding", "F1", "in references", "in candidates"],
        [
            [
                score.name,
                str(found),
                int(score.parts[:, [0, 2]].sum()),
                int(score.parts[:, [0, 1]].sum()),
            ]
            for score, found in by_finding
        ],
    )
    report = Report("Generated reports against references")
    for text in texts:
        report.text(text)
    report.text(
        "BLEU, ROUGE-L and CIDEr-D compare words and hardly see a negation that is turned over;"
        " labels by rule see presence and absence, not severity or place."
    )
    report.table("Measures", *measures, f"95 % bootstrap intervals over {patients} patients.")
    if by_finding:
        report.table("Findings by label", *findings, "As this package's rule labeler reads them.")
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-cxr", sys.argv[1:]),
        seeds=[seed],
        n={"patients": patients, "reports": len(matched.table)},
        tables={"measures": measures, "findings": findings},
    )
    return texts
