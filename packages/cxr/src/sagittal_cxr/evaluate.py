"""``sagittal-cxr evaluate``: models on benchmarks, by tasks."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import sagittal_cxr.registry  # noqa: F401 - bare class names in YAML
from sagittal_core.errors import ConfigError
from sagittal_cxr.tasks import models as sources
from sagittal_cxr.tasks.cells import Cell, file_name, model_identity, run_cell
from sagittal_cxr.tasks.models import ModelSource
from sagittal_cxr.tasks.page import write_page
from sagittal_cxr.tasks.task import Benchmark, Task


def evaluate(
    models: dict[str, ModelSource],
    benchmarks: list[Benchmark],
    tasks: list[Task],
    out: Path = Path("outputs/evaluate"),
    reference: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Run models on benchmarks; write report.html, results.json and measures.parquet.

    Every combination of model, benchmark and task is computed once and kept in out/cells with the
    predictions of single images; the same command again goes on after an interruption. Several
    processes with the same command share the models out among them; each waits for the others'
    cells and writes the whole page. Intervals and differences resample patients.

    Args:
        models: name of each model, with its path or its vision encoder.
        benchmarks: parts of indexes, each with exposure, negatives and cohort.
        tasks: what is measured, by class_path.
        out: folder of the results.
        reference: model that the others are compared with; null for the first.
        seed: of resamples and of what tasks draw.
        device: cpu, cuda or auto.

    Raises:
        ConfigError: names are missing or not unique.
        DataError: a model or an index is not what it should be.
    """
    settings, start = dict(locals()), time.monotonic()
    reference = _checked(models, benchmarks, tasks, reference)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for benchmark in benchmarks:
        print(f"{benchmark.name}: {len(benchmark.frame)} rows in its index", flush=True)
    found: dict[str, list[Cell]] = {}
    for name in claimed(out, list(models)):
        model: Any = sources.load(name, models[name]).eval().to(device)  # tasks ask for their needs
        found[name] = _cells(out, name, model, benchmarks, tasks, device, seed)
    cells = [cell for name in models for cell in found[name]]
    with FileLock(out / ".lock"):
        texts = write_page(out, cells, reference, _plain(settings), seed)
    for text in texts:
        print(text, flush=True)
    print(f"evaluated in {time.monotonic() - start:.0f} s: {out / 'report.html'}", flush=True)


def claimed(out: Path, names: list[str]) -> Iterator[str]:
    """Each name, held against other processes until the next one is asked for.

    What another process holds comes last, once that process is done with it or has died: the
    system releases its lock then, however it died.

    Args:
        out: Folder of the evaluation.
        names: Of the models.
    """
    later = []
    for name in names:
        lock = _lock(out, name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{name}: another process is at it; its turn comes last", flush=True)
            later.append(name)
            continue
        try:
            yield name
        finally:
            lock.release()
    for name in later:
        with _lock(out, name):
            yield name


def _lock(out: Path, name: str) -> FileLock:
    folder = out / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{file_name(name)}.lock")


def _cells(
    out: Path,
    name: str,
    model: Any,
    benchmarks: list[Benchmark],
    tasks: list[Task],
    device: str,
    seed: int,
) -> list[Cell]:
    """Cells of one model, printed as they come."""
    identity, cells = model_identity(model), []
    for benchmark in benchmarks:
        for task in tasks:
            own = benchmark.for_model(name, getattr(model, "trained_on", None))
            cell = run_cell(out, name, model, identity, own, task, device=device, seed=seed)
            cells.append(cell)
            print(_line(cell), flush=True)
    return cells


def _line(cell: Cell) -> str:
    where = f"{cell.model}, {cell.benchmark}, {cell.task}"
    if cell.reason is not None:
        return f"{where}: does not apply ({cell.reason})"
    return f"{where}: {'kept' if cell.kept else f'measured in {cell.seconds:.1f} s'}"


def _checked(
    models: dict[str, ModelSource],
    benchmarks: list[Benchmark],
    tasks: list[Task],
    reference: str | None,
) -> str:
    for what, names in (
        ("model", list(models)),
        ("benchmark", [one.name for one in benchmarks]),
        ("task", [one.name for one in tasks]),
    ):
        if not names:
            raise ConfigError(f"evaluate: no {what} is given")
        if len({file_name(name) for name in names}) < len(names):
            raise ConfigError(f"evaluate: {what} names are too much alike: {', '.join(names)}")
    if reference is not None and reference not in models:
        raise ConfigError(f"evaluate: reference {reference!r} is none of {', '.join(models)}")
    for benchmark in benchmarks:
        if isinstance(benchmark.exposure, dict):
            unknown = sorted(set(benchmark.exposure) - set(models))
            if unknown:
                raise ConfigError(
                    f"benchmark {benchmark.name}: exposure of {', '.join(unknown)}, which is none"
                    f" of the models {', '.join(models)}"
                )
    return reference or next(iter(models))


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The verb's arguments as plain values."""
    return settings | {
        "models": {name: _as_plain(asdict(one)) for name, one in settings["models"].items()},
        "benchmarks": [_as_plain(asdict(one)) for one in settings["benchmarks"]],
        "tasks": [
            {"class": type(one).__name__}
            | {key: value for key, value in vars(one).items() if key[0] != "_" and key != "wording"}
            for one in settings["tasks"]
        ],
        "out": str(settings["out"]),
    }


def _as_plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(one) if isinstance(one, Path) else one for key, one in values.items()}
