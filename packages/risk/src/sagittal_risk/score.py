"""``sagittal-risk score``: a table of patients in, their risks by equations and a model out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sagittal_core.errors import ConfigError
from sagittal_risk import __version__
from sagittal_risk.equations import equations as known_equations
from sagittal_risk.equations import evaluate_many, family, informed
from sagittal_risk.records.schema import Schema, read_schema
from sagittal_risk.records.table import frames_of, ids_of, to_rows
from sagittal_risk.score_report import Choice, notes, write_report
from sagittal_risk.scoring import (
    COLUMNS,
    Names,
    Parts,
    added,
    counts_of,
    of_equation,
    score_table,
    sha256,
)

if TYPE_CHECKING:
    import pandas

    from sagittal_risk.answers import AnswerStore
    from sagittal_risk.records.told import ToldTable
    from sagittal_risk.tuned import TunedModel

_REGIONS = ("low", "moderate", "high", "very_high", "uncalibrated")


def score(
    patients: Path,
    schema: Path | None = None,
    out: Path = Path("outputs/scores"),
    equations: list[str] | Literal["none"] | None = None,
    region: Literal["low", "moderate", "high", "very_high"] | None = None,
    extrapolate: bool = False,
    model: Path | None = None,
    groups: Path | None = None,
    bfloat16: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    answers: Path | None = None,
    kind: Literal["csv", "json"] = "csv",
    part_rows: int = 50_000,
) -> None:
    """Write the risk of every patient by every equation, with what was missing and out of range.

    With --model a language model tuned by `sagittal-risk fit` is asked as well, and how probable
    its two answers are together stands in answer_mass. One row for each patient and equation or
    model in scores.csv or scores.json; nobody is left out: where there is no risk, the row says
    why. report.html and results.json have counts, no identifiers. The same command goes on after a
    kill: the model repeats one batch at most.

    Args:
        patients: a table, one row a patient (.csv, .tsv, .parquet).
        schema: YAML that says which column is which field, in which unit; needed by equations.
        out: folder of the scores; a new one for another table, schema or choice.
        equations: names, such as prevent_cvd_10y, or families, such as prevent_full; without it
            all, but SCORE2 of the region given, and of PREVENT's extensions the one that takes what
            the schema has of UACR, HbA1c and SDI; none asks the model alone.
        region: risk region of SCORE2 and SCORE2-OP; without it both are left out.
        extrapolate: compute and flag a risk where the publication gives none.
        model: run folder of a finished fit, or its prefix such as outputs/adacvd/adacvd_framingham.
        groups: YAML list of groups that says how this table is told, in the form of
            data.init_args.groups; without it as the run's own table.
        bfloat16: compute the model in bfloat16: faster on many machines, other numbers.
        batch_size: prompts that the model is asked at a time.
        device: auto, cpu, cuda, ... for the model.
        answers: file of the model's answers, which later jobs may use too; by default
            answers.jsonl in the folder of the scores.
        kind: csv or json.
        part_rows: patients that are written and kept at a time.

    Raises:
        ConfigError: no schema, an unknown equation, no such run, or a folder with other scores.
        DataError: a table, schema or model that is not usable; the message says where.
    """
    from rich.progress import Progress

    begun = time.monotonic()
    if part_rows < 1 or batch_size < 1:
        raise ConfigError("score: part_rows and batch_size are 1 or more")
    if model is None and (groups or bfloat16 or answers):
        raise ConfigError("score: groups, bfloat16 and answers go with --model RUN")
    read = _schema(schema, equations, model)
    names = _chosen(equations, region, read)
    choice = Choice(read, names, equations is None, region, extrapolate)
    if model is not None:
        choice = _with_model(choice, model, groups, patients, bfloat16, device)
    job = _Job(patients, choice, part_rows, batch_size)
    job.check(out)
    parts = Parts(out, _identity(job, schema, kind), kind)
    if parts.finished:
        parts.tidy()
        print(f"{parts.scores}: scored before; nothing to do")
        return
    number, done, named = 0, 0, Names(read.id)
    with ExitStack() as stack:
        store = job.store(answers or out / "answers.jsonl", stack)
        bar = stack.enter_context(Progress(transient=True))
        task = bar.add_task("scoring", total=_row_count(patients))
        for number, (start, frame) in enumerate(job.frames()):
            if not parts.has(number):
                parts.write(number, *job.scores(start, frame, store, _mover(bar, task, start)))
                done += 1
            named.see(frame)
            bar.update(task, completed=start + len(frame))
    counts = added(parts.counts(number + 1)) | named.counts
    for line in notes(counts, choice):
        print(line)
    write_report(out, counts, choice)
    parts.join(number + 1)
    parts.tidy()
    print(
        f"{parts.scores}: {counts['patients']} patients by {_said(choice)}"
        f" ({number + 1 - done} of {number + 1} parts were there) in"
        f" {time.monotonic() - begun:.0f} s"
    )
    if choice.tuned is not None:
        _say_answers(counts["equations"][choice.tuned.name]["risk"], job.computed, store)


@dataclass
class _Job:
    """What is scored, part by part.

    Attributes:
        computed: Prompts that the model answered in this process.
    """

    patients: Path
    choice: Choice
    part_rows: int
    batch_size: int
    computed: int = 0

    def check(self, out: Path) -> None:
        """Let a mistake show before a folder is made."""
        first = next(self.frames())[1]
        if self.choice.equations:
            to_rows(first, self.choice.schema, self.patients)
        if self.choice.tuned is not None and not (out / "job.json").is_file():
            _ = self.choice.tuned.network

    def frames(self) -> Iterator[tuple[int, pandas.DataFrame]]:
        """Parts of the table; without a column to read they have rows alone."""
        if self.choice.schema.columns():
            yield from frames_of(self.patients, self.choice.schema, self.part_rows)
            return
        import pandas

        assert self.choice.told is not None
        whole = pandas.DataFrame(index=range(len(self.choice.told)))
        for start in range(0, len(whole), self.part_rows):
            yield start, whole.iloc[start : start + self.part_rows]

    def store(self, file: Path, stack: ExitStack) -> AnswerStore | None:
        """The model's answers, open until the job ends; None without a model."""
        if self.choice.tuned is None:
            return None
        from sagittal_risk.answers import AnswerStore

        return stack.enter_context(AnswerStore(file))

    def scores(
        self,
        start: int,
        frame: pandas.DataFrame,
        store: AnswerStore | None,
        step: Callable[[int], None],
    ) -> tuple[pandas.DataFrame, dict[str, Any]]:
        """Scores of one part and their counts."""
        choice, every, rows = self.choice, [], None
        if choice.equations:
            rows = to_rows(frame, choice.schema, self.patients, start)
            risks = evaluate_many(choice.equations, rows.patients, extrapolate=choice.extrapolate)
            egfr = rows.egfr_computed
            every = [of_equation(name, found, egfr) for name, found in risks.items()]
        if choice.tuned is not None and choice.told is not None and store is not None:
            from sagittal_risk.model_scores import ask, scored

            told = choice.told.tell(start, start + len(frame))
            prompts = [one.prompt for one in told]
            asked = ask(choice.tuned, prompts, store, self.batch_size, step)
            self.computed += asked.computed
            every.append(scored(choice.tuned, told, asked))
        ids = ids_of(frame, choice.schema, start)
        return score_table(ids, start, every), counts_of(len(frame), every, rows)


def _none(equations: list[str] | Literal["none"] | None) -> bool:
    """Whether the model alone is asked."""
    return equations is not None and (equations == "none" or not equations)


def _chosen(
    equations: list[str] | Literal["none"] | None, region: str | None, schema: Schema
) -> list[str]:
    known = known_equations()
    if equations is None:
        taken = informed(schema.fields)
        plain = [name for name, one in known.items() if not one.optional]
        return [*(name for name in plain if _region_of(name) in (None, region)), *taken]
    chosen: list[str] = []
    for name in () if _none(equations) else equations:
        found = [name] if name in known else family(name)
        if not found:
            raise ConfigError(f"score: no equation {name!r}; there are {', '.join(known)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def _schema(
    schema: Path | None, equations: list[str] | Literal["none"] | None, model: Path | None
) -> Schema:
    """The schema; without equations only its identifiers and missing texts count."""
    if _none(equations) and model is None:
        raise ConfigError("score: no equation and no model; give --model RUN, or equations")
    if schema is None:
        if not _none(equations):
            raise ConfigError(
                "score: the equations need --schema FILE.yaml (columns and units); --equations none"
                " asks a --model alone"
            )
        return Schema({})
    read = read_schema(schema)
    return replace(read, fields={}) if _none(equations) else read


def _with_model(
    choice: Choice,
    model: Path,
    groups: Path | None,
    patients: Path,
    bfloat16: bool,
    device: str,
) -> Choice:
    from sagittal_risk.records.groups import read_groups
    from sagittal_risk.records.told import ToldTable
    from sagittal_risk.tuned import TunedModel

    given = None if groups is None else read_groups(groups)
    tuned: TunedModel = TunedModel(model, bfloat16, device)
    told: ToldTable = ToldTable(patients, tuned.telling(given), choice.schema.missing)
    return replace(choice, tuned=tuned, told=told)


def _region_of(name: str) -> str | None:
    """Region of SCORE2's equations, None of the others."""
    if not name.startswith("score2"):
        return None
    return next(region for region in sorted(_REGIONS, key=len)[::-1] if name.endswith(region))


def _identity(job: _Job, schema: Path | None, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "patients": sha256(job.patients),
        "schema": None if schema is None else sha256(schema),
        "equations": job.choice.equations,
        "extrapolate": job.choice.extrapolate,
        "kind": kind,
        "part_rows": job.part_rows,
        "version": __version__,
        "columns": list(COLUMNS),
    }
    if job.choice.tuned is not None and job.choice.told is not None:
        told = json.dumps(asdict(job.choice.told.telling), sort_keys=True)
        found["model"] = f"{job.choice.tuned.name} {job.choice.tuned.identity}"
        found["groups"] = hashlib.sha256(told.encode()).hexdigest()
        found["batch_size"] = job.batch_size
    return found


def _row_count(file: Path) -> int:
    """Rows, for the progress bar (line breaks inside quotes count too)."""
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)
    with file.open("rb") as opened:
        return sum(block.count(b"\n") for block in iter(lambda: opened.read(1 << 20), b"")) - 1


def _mover(bar: Any, task: Any, start: int) -> Callable[[int], None]:
    """Moves the bar to the patients of a part that have their answer."""
    return lambda patients: bar.update(task, completed=start + patients)


def _said(choice: Choice) -> str:
    count = len(choice.equations)
    equations = [f"{count} equations"] if count else []
    return " and ".join(equations + ([choice.tuned.name] if choice.tuned else []))


def _say_answers(total: int, computed: int, store: AnswerStore | None) -> None:
    there = total - computed
    share = f" ({100 * there / total:.1f} %)" if total else ""
    print(f"answers: {total:,}, of which {there:,} were there{share}")
    if store is not None and store.damaged:
        print(f"{store.damaged} damaged lines of {store.file} were left out and asked again")
