"""``sagittal-risk ask``: the risk of patients by a language model that was not trained on it."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.llm import LanguageModel, Prices, Reply, parse
from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.results import Table, write_results
from sagittal_core.run_folder import write_csv
from sagittal_risk.asking import (
    NOT_ASKED,
    Patient,
    identity_of,
    outcome_table,
    patients_of,
    put,
    spoken,
    usage_table,
    workers,
)
from sagittal_risk.choice import CANDIDATES, chooser, read_choice
from sagittal_risk.job import begin_job
from sagittal_risk.prompts import LOW_MASS, QUESTION, VERBALISED, read_percent
from sagittal_risk.records.description import Group

COLUMNS = (
    "id", "row", "outcome", "risk", "answer_mass", "risk_low", "risk_high", "missing",
)  # fmt: skip
_MODES = {"choice": (QUESTION, 1, CANDIDATES), "verbalised": (VERBALISED, 100, 0)}


class Answer(NamedTuple):
    """What came of asking about one patient.

    Attributes:
        outcome: One of :data:`sagittal_risk.asking.OUTCOMES`.
        risk: A probability where the outcome is ok, else None.
        mass: Probability of Yes and No together, in mode choice.
        low: Bounds of the risk, where one of the answers was not told.
        high: See ``low``.
    """

    outcome: str
    risk: float | None = None
    mass: float | None = None
    low: float | None = None
    high: float | None = None


def ask(
    patients: Path,
    groups: list[Group] | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    outcome: str | None = None,
    model: LanguageModel | None = None,
    mode: Literal["choice", "verbalised"] = "choice",
    question: str | None = None,
    out: Path = Path("outputs/ask"),
    limit: int | None = None,
    max_tokens: int | None = None,
    concurrency: int | None = None,
    stop_after: int = 50,
    cache: Path | None = None,
    prices: Prices | None = None,
    seed: int = 0,
) -> None:
    """Ask a language model for the risk of every patient of a table, without training it.

    Writes risks.csv (a row a patient, whatever came of it), report.html and results.json. Answers
    are kept one by one: the same command goes on after a kill and asks nothing twice.

    Args:
        patients: a table, one row a patient (.csv, .tsv, .parquet).
        groups: features in the order of telling, as of AdaCVD's data.
        text_column: column of free text that follows the listed features.
        id_column: column that names the patient in risks.csv; without it rows are numbered.
        outcome: column to keep in risks.csv for `evaluate`; the model is not told of it.
        model: LocalModel or OpenAIChat, or another LanguageModel.
        mode: choice: how probable Yes is beside No; verbalised: a number in words.
        question: what is asked, if not the question of the mode.
        out: folder of the answers; a new one for another table, model or choice.
        limit: patients at most, the first rows.
        max_tokens: of an answer; 1 in mode choice and 100 in mode verbalised by default.
        concurrency: requests under way; 8 for a server by default, 1 for a model on this machine.
        stop_after: requests in a row without an answer after which the server counts as down.
        cache: folder of replies that jobs may share; by default `replies` in `out`.
        prices: of a million tokens, for the cost.
        seed: of the model's sampling.

    Raises:
        ConfigError: settings that do not fit, a folder with other answers, or a server that is down
            or does not tell what mode choice needs.
        DataError: a table that is not usable.
    """
    begun = time.monotonic()
    if model is None:
        raise ConfigError("ask: give a model (class_path: LocalModel or OpenAIChat)")
    if outcome in COLUMNS:
        raise ConfigError(f"ask: risks.csv has a column {outcome!r} of its own; rename yours")
    default, tokens, candidates = _MODES[mode]
    asked = question or default
    people = patients_of(
        patients, groups or [], text_column, id_column, limit, [outcome] if outcome else []
    )
    at_a_time = workers(model, concurrency)
    request = {"max_tokens": max_tokens or tokens, "top_logprobs": candidates, "seed": seed}
    settings = {
        "mode": mode,
        "question": asked,
        "text_column": text_column,
        "id_column": id_column,
        "outcome": outcome,
        "limit": limit,
        **request,
    }
    begin_job(out, identity_of("ask", patients, groups or [], model, **settings), "answers")
    tally, replies = put(
        chooser(model) if mode == "choice" else model, people, asked, out,
        cache=cache, concurrency=at_a_time, stop_after=stop_after, **request,
    )  # fmt: skip
    answers = [_answer(replies.get(one.key), mode) for one in people]
    _write_risks(out / "risks.csv", people, answers, outcome)
    tables = {
        "outcomes": outcome_table([answer.outcome for answer in answers]),
        "risks": _risk_table(answers, mode),
        "usage": usage_table(tally, replies, prices),
    }
    notes = _notes(answers, mode)
    _report(out, model.name, notes, answers, tables, settings)
    for line in [*notes, *spoken(tables)]:
        print(line)
    print(f"{out / 'risks.csv'}: {len(people)} patients in {time.monotonic() - begun:.0f} s")
    if outcome:
        words = ["sagittal-risk", "evaluate", str(out / "risks.csv"), "--risks", "[risk]",
                 "--outcome", outcome, *(["--person", "id"] if id_column else [])]  # fmt: skip
        print(f"discrimination and calibration: {shlex.join(words)}")


def _answer(reply: Reply | None, mode: str) -> Answer:
    if reply is None:
        return Answer(NOT_ASKED)
    if mode == "verbalised":
        risk, read = parse(reply, read_percent)
        return Answer(read.outcome, risk)
    # Whether the answer goes on after its first token does not matter, only that there is one.
    if reply.outcome in ("ok", "truncated", "parse_failure") and reply.first_token:
        told = reply.first_token
        choice, read = parse(replace(reply, outcome="ok"), lambda _: read_choice(told))
        return Answer(read.outcome) if choice is None else Answer("ok", *choice)
    return Answer(reply.outcome)


def _write_risks(
    file: Path, people: Sequence[Patient], answers: Sequence[Answer], outcome: str | None
) -> None:
    rows = []
    for one, answer in zip(people, answers, strict=True):
        numbers = (answer.risk, answer.mass, answer.low, answer.high)
        cells: list[Any] = [one.id, one.row, answer.outcome]
        cells += ["" if value is None else f"{value:.8g}" for value in numbers]
        cells.append(";".join(one.missing))
        if outcome:
            value = one.record[outcome]
            cells.append("" if value is None else value)
        rows.append(cells)
    write_csv(file, [*COLUMNS, *([outcome] if outcome else [])], rows)


def _known(values: Sequence[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _notes(answers: Sequence[Answer], mode: str) -> list[str]:
    """What limits the risks, in sentences."""
    notes = []
    risks = _known([answer.risk for answer in answers])
    if len(risks) < len(answers):
        notes.append(
            f"{len(answers) - len(risks)} of {len(answers)} patients have no risk; the table of"
            " outcomes says why. None was made up."
        )
    values, counts = np.unique(risks, return_counts=True)
    if len(risks) > 4 and 2 * counts.max() > len(risks):
        notes.append(
            f"{counts.max()} of {len(risks)} patients got the same risk,"
            f" {100 * values[counts.argmax()]:.4g} %: the model hardly looked at them."
        )
    if mode == "choice" and len(risks):
        low = int((_known([answer.mass for answer in answers]) < LOW_MASS).sum())
        if low:
            notes.append(
                f"In {low} of {len(risks)} answers ({100 * low / len(risks):.1f} %) Yes and No"
                f" together have a probability below {LOW_MASS}: the model would hardly say either,"
                " and its risk is a ratio of two small numbers. Do not rely on it."
            )
        bounded = sum(answer.low is not None for answer in answers)
        if bounded:
            notes.append(
                f"For {bounded} patients the server told only one of Yes and No: their risk is the"
                " middle of risk_low and risk_high."
            )
    return notes


def _risk_table(answers: Sequence[Answer], mode: str) -> Table:
    risks = _known([answer.risk for answer in answers])
    rows: list[list[str | int | float]] = [["patients with a risk", len(risks)]]
    if len(risks):
        low, middle, high = 100 * np.quantile(risks, (0.05, 0.5, 0.95))
        rows += [
            ["mean risk", f"{100 * risks.mean():.1f} %"],
            ["median risk", f"{middle:.1f} %"],
            ["5 % to 95 % of risks", f"{low:.1f} % to {high:.1f} %"],
            ["different risks", len(np.unique(risks))],
        ]
    if mode == "choice" and len(risks):
        mass = _known([answer.mass for answer in answers])
        rows += [
            ["median answer mass", f"{np.median(mass):.3g}"],
            ["least and greatest answer mass", f"{mass.min():.3g} to {mass.max():.3g}"],
            [f"answer mass below {LOW_MASS}", f"{100 * (mass < LOW_MASS).mean():.1f} %"],
            ["risks with bounds", sum(answer.low is not None for answer in answers)],
        ]
    return ["risk", "value"], rows


def _report(
    out: Path,
    name: str,
    notes: Sequence[str],
    answers: Sequence[Answer],
    tables: dict[str, Table],
    settings: dict[str, Any],
) -> None:
    """``report.html`` and ``results.json``: counts only."""
    from matplotlib.figure import Figure

    risks = _known([answer.risk for answer in answers])
    mass = _known([answer.mass for answer in answers])
    report = Report(f"Risks by {name}, not trained")
    report.text("Research software, not a medical device. Risks stay in this folder.")
    for note in notes:
        report.text(note)
    if len(risks):
        figure = Figure(figsize=(7, 3), layout="constrained")
        parts = figure.subplots(1, 2 if len(mass) else 1, squeeze=False)[0]
        parts[0].hist(100 * risks, np.linspace(0, 100, 41))
        parts[0].set(xlabel="risk (%)", ylabel="patients")
        if len(mass):
            parts[1].hist(np.log10(np.maximum(mass, 1e-12)), 30)
            parts[1].axvline(np.log10(LOW_MASS), color="black", lw=1)
            parts[1].set(xlabel="log10 of the answer mass", ylabel="patients")
        report.picture("Distribution", figure, f"Of {len(risks)} patients with a risk.")
    captions = {
        "outcomes": "Every patient has one.",
        "risks": "Answer mass: probability of Yes and No together.",
        "usage": "Tokens and cost are those of all answers here, attempts that failed left out.",
    }
    for title, (columns, rows) in tables.items():
        report.table(title, columns, rows, captions[title])
    report.config(without_paths(settings))
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-risk", sys.argv[1:]),
        seeds=[settings["seed"]],
        n={"patients": len(answers)},
        tables=without_paths(tables),
    )
