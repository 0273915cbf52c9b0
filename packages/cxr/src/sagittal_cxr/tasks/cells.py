"""One (model, benchmark, task) cell of an evaluation: computed once, kept whole or not at all.

A cell is a folder ``<out>/cells/<model>/<benchmark>/<task>-<hash>``; the hash is over all that
decides its figures. ``cell.json`` is written last, in one step: a cell without it goes on where its
task had got to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically
from sagittal_cxr import lineage
from sagittal_cxr.tasks.task import NEGATIVES, Benchmark, Measure, NotApplicable, Task

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel

VERSION = 1
CELL, DRAWS = "cell.json", "draws.safetensors"
_SPEED_ONLY = ("batch_size", "num_workers")


@dataclass(frozen=True)
class Cell:
    """A cell with its figures, or the reason why there are none.

    Attributes:
        model: Name.
        benchmark: Name.
        task: Name.
        headline: Names of the measures that the overview shows.
        folder: Where it is kept.
        measures: Of the task; empty where it does not apply.
        record: What a reader has to know to judge them: checkpoint, preprocessing, cohort, ...
        paired: Cells of two models with equal values were measured on the same rows in the same
            way, so that their draws can be subtracted.
        reason: Why the task does not apply; None: it does.
        seconds: That it took.
        kept: Whether it was there already.
    """

    model: str
    benchmark: str
    task: str
    headline: tuple[str, ...]
    folder: Path
    measures: list[Measure]
    record: dict[str, Any]
    paired: str
    reason: str | None = None
    seconds: float = 0.0
    kept: bool = False


def model_identity(model: ImageTextModel) -> dict[str, Any]:
    """Hash of a model's weights, and what images go through."""
    return {
        "weights": weights_sha256(model),
        "preprocessing": model.preprocessing.described(),
    }


def run_cell(
    out: Path,
    name: str,
    model: ImageTextModel,
    identity: Mapping[str, Any],
    benchmark: Benchmark,
    task: Task,
    *,
    device: str,
    seed: int,
) -> Cell:
    """Take a cell from disk, or compute it.

    Args:
        out: Folder of the evaluation.
        name: Of the model.
        model: In evaluation mode.
        identity: Of :func:`model_identity`.
        benchmark: With the exposure of this model.
        task: What is measured.
        device: cpu or cuda.
        seed: Of everything drawn.
    """
    asked = {
        "version": VERSION,
        "task": f"{type(task).__module__}.{type(task).__qualname__}",
        "task version": task.version,
        "settings": _settings(task),
        "benchmark": benchmark.described(),
        "seed": seed,
    }
    paired, whole = _digest(asked), _digest({**asked, "model": dict(identity)})
    parent = out / "cells" / file_name(name) / file_name(benchmark.name)
    folder = parent / f"{file_name(task.name)}-{whole}"
    record = _record(benchmark, identity, getattr(model, "trained_on", None))
    known = (name, benchmark.name, task.name, task.headline, folder)
    if (folder / CELL).is_file():
        measures, seconds = _read(folder)
        return Cell(*known, measures, record, paired, None, seconds, True)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        measures = task.run(model, benchmark, folder, device=device, seed=seed)
    except NotApplicable as reason:
        with contextlib.suppress(OSError):  # what the task has begun stays
            folder.rmdir()
        return Cell(*known, [], record, paired, str(reason))
    seconds = time.monotonic() - start
    _write(folder, measures, asked, identity, seconds)
    return Cell(*known, measures, record, paired, None, seconds)


def file_name(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^\w.+-]+", "-", name)


def _settings(task: Task) -> dict[str, Any]:
    found = {}
    for key, value in vars(task).items():
        if not key.startswith("_") and key not in _SPEED_ONLY:
            found[key] = value
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return str(value)


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _record(
    benchmark: Benchmark, identity: Mapping[str, Any], trained_on: str | None
) -> dict[str, Any]:
    """What must stand beside the figures, apart from what the measures carry themselves."""
    size = identity["preprocessing"]
    try:
        rows = benchmark.rows()
        images, patients = len(rows), int(rows["patient"].nunique())
    except NotApplicable:
        images = patients = 0
    return {
        "exposure": benchmark.exposure,
        "images": images,
        "patients": patients,
        "checkpoint": identity["weights"][:12],
        "processor": _in_words(size),
        "split": benchmark.split,
        "cohort": benchmark.cohort or "not described",
        "negatives": NEGATIVES[benchmark.negatives],
        "index": lineage.shown(benchmark.opened.identity),
        "trained on": lineage.shown(trained_on) if trained_on else "not recorded",
    }


def _in_words(preprocessing: Mapping[str, Any]) -> str:
    """Size, resampling and normalisation of images in a line."""
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    shown = f"shorter edge {resize}" if isinstance(resize, int) else f"{resize[0]}x{resize[1]}"
    cut = "" if crop is None else f", centre {crop[0]}x{crop[1]}"
    numbers = ("mean", "std")
    mean, std = (" ".join(f"{v:.4g}" for v in preprocessing[key]) for key in numbers)
    return (
        f"{shown} {preprocessing['resample']}{cut}, scale {preprocessing['scale']:.4g},"
        f" mean {mean}, std {std}"
    )


def _write(
    folder: Path,
    measures: list[Measure],
    asked: Mapping[str, Any],
    identity: Mapping[str, Any],
    seconds: float,
) -> None:
    from safetensors.torch import save_file

    draws = {
        f"{number:05d}": torch.from_numpy(np.ascontiguousarray(one.draws, dtype=np.float64))
        for number, one in enumerate(measures)
        if one.draws is not None
    }
    temporary = folder / f".{DRAWS}.tmp"
    save_file(draws, temporary)
    temporary.replace(folder / DRAWS)
    document = {
        "identity": {**asked, "model": dict(identity)},
        "seconds": seconds,
        "measures": [
            {key: value for key, value in vars(one).items() if key != "draws"} for one in measures
        ],
    }
    # Python's JSON writes and reads NaN: a figure that is not defined.
    write_atomically(folder / CELL, json.dumps(document, default=_plain))


def _read(folder: Path) -> tuple[list[Measure], float]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        document = json.loads((folder / CELL).read_text(encoding="utf-8"))
        draws = load_file(folder / DRAWS)
        measures = [Measure(**one) for one in document["measures"]]
        seconds = float(document["seconds"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            folder / CELL,
            key="measures",
            expected="a finished cell",
            found=str(error)[:200],
            hint="remove this folder and run the same command again",
        ) from None
    whole = []
    for number, one in enumerate(measures):
        drawn = draws.get(f"{number:05d}")
        values = {key: value for key, value in vars(one).items() if key != "draws"}
        whole.append(Measure(**values, draws=None if drawn is None else drawn.numpy()))
    return whole, seconds
