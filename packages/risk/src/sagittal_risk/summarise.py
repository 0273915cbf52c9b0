"""``sagittal-risk summarise``: a language model tells each patient in words (AdaCVD's texts)."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.llm import LanguageModel, Prices, Reply
from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.results import Table, write_results
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
from sagittal_risk.fidelity import Fidelity, fidelity, told_numbers
from sagittal_risk.job import begin_job
from sagittal_risk.prompts import SUMMARISE
from sagittal_risk.records.description import Group
from sagittal_risk.records.table import read_frame

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "summary", "summary_outcome", "summary_values_told", "summary_values_found",
    "summary_values_with_unit", "summary_numbers", "summary_numbers_invented",
)  # fmt: skip


def summarise(
    patients: Path,
    groups: list[Group] | None = None,
    text_column: str | None = None,
    model: LanguageModel | None = None,
    instruction: str = SUMMARISE,
    out: Path = Path("outputs/summaries"),
    limit: int | None = None,
    max_tokens: int = 400,
    concurrency: int | None = None,
    stop_after: int = 50,
    cache: Path | None = None,
    prices: Prices | None = None,
    seed: int = 0,
) -> None:
    """Let a language model write a summary of every patient, and check the numbers in it.

    Writes summaries.csv (or .parquet, as the table is): the table's own columns, the summary, its
    outcome and the check; report.html and results.json. The same command goes on after a kill.
    AdaCVD trains on it with `text_column: summary`.

    Args:
        patients: a table, one row a patient (.csv, .tsv, .parquet).
        groups: features in the order of telling, as of AdaCVD's data.
        text_column: column of free text that follows the listed features.
        model: LocalModel or OpenAIChat, or another LanguageModel.
        instruction: what the model is to do.
        out: folder of the summaries; a new one for another table, model or choice.
        limit: patients at most, the first rows.
        max_tokens: of a summary.
        concurrency: requests under way; 8 for a server by default, 1 for a model on this machine.
        stop_after: requests in a row without an answer after which the server counts as down.
        cache: folder of replies that jobs may share; by default `replies` in `out`.
        prices: of a million tokens, for the cost.
        seed: of the model's sampling.

    Raises:
        ConfigError: settings that do not fit, a folder with other answers, a server that is down.
        DataError: a table that is not usable.
    """
    begun = time.monotonic()
    if model is None:
        raise ConfigError("summarise: give a model (class_path: LocalModel or OpenAIChat)")
    described = groups or []
    people = patients_of(patients, described, text_column, None, limit)
    taken = [name for name in COLUMNS if name in people[0].record]
    if taken:
        raise ConfigError(f"summarise: {patients} has columns {', '.join(taken)} already; rename")
    at_a_time = workers(model, concurrency)
    request = {"max_tokens": max_tokens, "seed": seed}
    settings = {
        "instruction": instruction, "text_column": text_column, "limit": limit, **request,
    }  # fmt: skip
    begin_job(out, identity_of("summarise", patients, described, model, **settings), "answers")
    tally, replies = put(
        model, people, instruction, out,
        cache=cache, concurrency=at_a_time, stop_after=stop_after, **request,
    )  # fmt: skip
    checks = [_checked(one, replies.get(one.key), described) for one in people]
    written = _write(out, patients, people, replies, checks)
    outcomes = [replies[o.key].outcome if o.key in replies else NOT_ASKED for o in people]
    tables = {
        "outcomes": outcome_table(outcomes),
        "numbers": _number_table([check for check in checks if check is not None]),
        "usage": usage_table(tally, replies, prices),
    }
    _report(out, model.name, len(people), tables, settings)
    for line in [*_sentences(tables["numbers"]), *spoken(tables)]:
        print(line)
    print(f"{written}: {len(people)} patients in {time.monotonic() - begun:.0f} s")


def _checked(one: Patient, reply: Reply | None, groups: Sequence[Group]) -> Fidelity | None:
    """The check of a whole summary; None without one."""
    if reply is None or not reply.ok:
        return None
    return fidelity(reply.text, one.description, told_numbers(one.record, groups))


def _write(
    out: Path,
    table: Path,
    people: Sequence[Patient],
    replies: Mapping[str, Reply],
    checks: Sequence[Fidelity | None],
) -> Path:
    """The table with its summaries, in one step; cells of a CSV file stay as they are."""
    frame: pandas.DataFrame = read_frame(table, True).head(len(people)).copy()
    found = [replies.get(one.key) for one in people]
    # A summary that was cut short is none: it stands in answers.jsonl.
    frame["summary"] = [reply.text if reply and reply.ok else None for reply in found]
    frame["summary_outcome"] = [reply.outcome if reply else NOT_ASKED for reply in found]
    for column, name in zip(
        COLUMNS[2:], ("told", "found", "found_with_unit", "numbers", "invented"), strict=True
    ):
        values = [None if check is None else getattr(check, name) for check in checks]
        frame[column] = np.array(values, dtype=object)
        frame[column] = frame[column].astype("Int64")
    parquet = table.suffix.lower() == ".parquet"
    file = out / ("summaries.parquet" if parquet else "summaries.csv")
    temporary = file.with_name(f".{file.name}.tmp")
    if parquet:
        frame.to_parquet(temporary, index=False)
    else:
        frame.to_csv(temporary, index=False)
    temporary.replace(file)
    return file


def _number_table(checks: Sequence[Fidelity]) -> Table:
    """Means over patients of whom the model was told a number, with their count."""
    told = [check for check in checks if check.told]
    units = [check for check in checks if check.units]
    rows: list[list[str | int | float]] = []
    if told:
        rows.append(
            ["told values in the summary, mean share",
             f"{100 * np.mean([c.found / c.told for c in told]):.1f} %", len(told)]
        )  # fmt: skip
        complete = sum(check.found == check.told for check in told)
        rows.append(
            ["summaries with every told value", f"{100 * complete / len(told):.1f} %", len(told)]
        )
    if units:
        share = np.mean([check.found_with_unit / check.units for check in units])
        rows.append(["told values with their unit, mean share", f"{100 * share:.1f} %", len(units)])
    if checks:
        invented = [check.invented for check in checks]
        rows += [
            ["numbers that the description does not have, mean a summary",
             f"{np.mean(invented):.2f}", len(checks)],
            ["summaries with such a number",
             f"{100 * np.mean(np.array(invented) > 0):.1f} %", len(checks)],
        ]  # fmt: skip
    return ["number check", "value", "patients"], rows


def _sentences(table: Table) -> list[str]:
    return [f"{row[0]}: {row[1]} (n = {row[2]})" for row in table[1]]


def _report(
    out: Path, name: str, patients: int, tables: dict[str, Table], settings: dict[str, Any]
) -> None:
    """``report.html`` and ``results.json``: counts only."""
    report = Report(f"Summaries by {name}")
    report.text("Research software, not a medical device. Summaries stay in this folder.")
    report.text(
        "The check compares numbers alone: a summary may say every value and still be wrong in its"
        " words, and a number that stands in the description may be said of the wrong thing."
    )
    captions = {
        "outcomes": "Every patient has one; only whole summaries are written.",
        "numbers": "A value counts where the summary has the same number, with the unit where it"
        " stands right behind. Over whole summaries.",
        "usage": "Tokens and cost are those of all answers here, attempts that failed left out.",
    }
    for title, (columns, rows) in tables.items():
        if rows:
            report.table(title, columns, rows, captions[title])
    report.config(without_paths(settings))
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-risk", sys.argv[1:]),
        seeds=[settings["seed"]],
        n={"patients": patients},
        tables=without_paths(tables),
    )
