"""What ``ask`` and ``summarise`` share: patients of a table put to a language model one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sagittal_core.errors import ConfigError
from sagittal_core.llm import (
    CachedModel,
    LanguageModel,
    LocalModel,
    Message,
    Prices,
    Reply,
    ReplyCache,
    Request,
    Tally,
    answer_many,
    read_answers,
)
from sagittal_core.results import Table
from sagittal_risk import __version__
from sagittal_risk.choice import Scoring, scores_answers
from sagittal_risk.prompts import prompt
from sagittal_risk.records.description import Group, check_groups, describe
from sagittal_risk.records.table import read_frame
from sagittal_risk.scoring import sha256

NOT_ASKED = "not_asked"  # nothing at all is known of the patient
OUTCOMES = ("ok", "refusal", "truncated", "parse_failure", "transport", NOT_ASKED)
_AT_A_TIME = 8  # requests to a server


@dataclass(frozen=True)
class Patient:
    """A row of the table.

    Attributes:
        row: Number of the row, from 1.
        id: What names the patient in the user's own files.
        record: Values by column; missing ones are None.
        description: What the model is told; empty if nothing is known.
        missing: Columns of features without a value.
    """

    row: int
    id: str
    record: dict[str, Any]
    description: str
    missing: list[str]

    @property
    def key(self) -> str:
        """Names the patient's answer in a folder of answers."""
        return f"row-{self.row}"


def patients_of(
    file: Path,
    groups: Sequence[Group],
    text_column: str | None,
    id_column: str | None,
    limit: int | None,
    others: Sequence[str] = (),
) -> list[Patient]:
    """Patients of a table as a model is told of them.

    Args:
        file: See :func:`~sagittal_risk.records.table.read_frame`.
        groups: Features in the order of telling.
        text_column: Free text that follows them.
        id_column: What names a patient; None: the number of the row.
        limit: The first rows at most; None: all.
        others: Further columns that must be there.

    Raises:
        ConfigError: A column is missing, or there is nothing to tell.
        DataError: A table or value that is not usable.
    """
    if not groups and text_column is None:
        raise ConfigError("give groups of features, a text_column, or both")
    if limit is not None and limit < 1:
        raise ConfigError("limit: at least 1")
    frame = read_frame(file, [id_column] if id_column else []).head(limit)
    check_groups(groups, frame.columns)
    for column in (text_column, id_column, *others):
        if column is not None and column not in frame.columns:
            raise ConfigError(f"{file}: there is no column {column!r}")
    frame = frame.astype(object).where(frame.notna(), None)
    features = [f for group in groups for f in group.features]
    patients = []
    for row, record in enumerate(frame.to_dict("records"), 1):
        free = record[text_column] if text_column else None
        parts = [describe(record, groups), free.strip() if isinstance(free, str) else ""]
        patients.append(
            Patient(
                row=row,
                id=str(row) if id_column is None else str(record[id_column]),
                record={str(column): value for column, value in record.items()},
                description="\n\n".join(part for part in parts if part),
                missing=[f.column for f in features if f.told(record[f.column]) is None],
            )
        )
    return patients


def identity_of(
    verb: str, patients: Path, groups: Sequence[Group], model: LanguageModel, **settings: Any
) -> dict[str, Any]:
    """Plain values that decide the answers of a job."""
    return {
        "verb": verb,
        "patients": sha256(patients),
        "groups": [asdict(group) for group in groups],
        "model": model.identity,
        **settings,
        "version": __version__,
    }


def workers(model: LanguageModel, concurrency: int | None) -> int:
    """Requests under way at a time.

    Raises:
        ConfigError: Several to a model on this machine, or none.
    """
    local = isinstance(model, LocalModel) or scores_answers(model)
    chosen = concurrency if concurrency is not None else (1 if local else _AT_A_TIME)
    if chosen < 1 or (local and chosen > 1):
        raise ConfigError(
            "concurrency: 1 or more for a server, 1 for a model on this machine, which answers one"
            " request at a time"
        )
    return chosen


def put(
    model: LanguageModel,
    patients: Iterable[Patient],
    question: str,
    out: Path,
    *,
    cache: Path | None,
    concurrency: int,
    stop_after: int,
    **settings: Any,
) -> tuple[Tally, dict[str, Reply]]:
    """Ask for every patient of whom something is known; an answer that is there is not asked for.

    Args:
        model: Whom to ask.
        patients: Of the table.
        question: Follows the description.
        out: Gets ``answers.jsonl``.
        cache: Folder of replies that jobs may share; None: ``replies`` in ``out``.
        concurrency: See :func:`workers`.
        stop_after: Requests in a row that a server may fail to answer.
        **settings: Of every :class:`~sagittal_core.llm.Request`.

    Returns:
        Counts of this call, and replies by the key of the patient.

    Raises:
        ConfigError: See :func:`~sagittal_core.llm.answer_many`.
    """
    asked = CachedModel(model, ReplyCache(out / "replies" if cache is None else cache))
    requests = [
        (one.key, Request((Message("user", prompt(one.description, question)),), **settings))
        for one in patients
        if one.description
    ]
    if isinstance(model, Scoring):
        requests.sort(key=lambda one: len(one[1].messages[0].text))
        model.expect([request for _, request in requests])
    if isinstance(model, (LocalModel, Scoring)):  # no server that could be down: prompts too long
        stop_after = max(stop_after, len(requests) + 1)
    try:
        tally = answer_many(asked, requests, out, concurrency=concurrency, stop_after=stop_after)
    finally:
        asked.close()
    return tally, dict(read_answers(out))


def hit_rate(tally: Tally) -> float:
    """Share of the requests of a call that needed no sending: answered earlier or by the cache."""
    known = tally.earlier + tally.cached
    return known / max(1, known + tally.sent)


def outcome_table(outcomes: Sequence[str]) -> Table:
    """How many patients ended in which outcome; all outcomes are listed."""
    counted = Counter(outcomes)
    rows: list[list[str | int | float]] = [
        [name.replace("_", " "), counted[name], f"{100 * counted[name] / len(outcomes):.1f} %"]
        for name in OUTCOMES
    ]
    return ["outcome", "patients", "share"], rows


def usage_table(tally: Tally, replies: Mapping[str, Reply], prices: Prices | None) -> Table:
    """Tokens of all answers in the folder, as the model told, what they cost, and this call."""
    arrived = [reply for reply in replies.values() if reply.outcome != "transport"]
    told = [r for r in arrived if r.prompt_tokens is not None and r.completion_tokens is not None]
    before = sum(reply.prompt_tokens or 0 for reply in told)
    after = sum(reply.completion_tokens or 0 for reply in told)
    rows: list[list[str | int | float]] = [
        ["tokens of prompts", before],
        ["tokens of answers", after],
        ["answers whose tokens the model did not tell", len(arrived) - len(told)],
    ]
    if prices is not None:
        rows.append([f"cost ({prices.currency})", f"{prices.cost(before, after):.4f}"])
        rows.append([f"cost of this call ({prices.currency})", f"{tally.cost(prices):.4f}"])
    rows += [
        ["requests sent by this call", tally.sent],
        ["cache hit rate of this call", f"{100 * hit_rate(tally):.1f} %"],
    ]
    return ["usage", "value"], rows


def spoken(tables: Mapping[str, Table]) -> list[str]:
    """The tables ``outcomes`` and ``usage`` as lines for the terminal."""
    outcomes = [f"{row[1]} {row[0]}" for row in tables["outcomes"][1] if row[1]]
    usage = [f"{row[0]} {row[1]}" for row in tables["usage"][1]]
    return [f"patients: {', '.join(outcomes)}", "; ".join(usage)]
