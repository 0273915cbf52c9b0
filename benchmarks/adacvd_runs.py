"""Runs and risks of ``study_adacvd.py``: each is made once, so that a killed study goes on."""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import yaml
from rich.progress import track

from sagittal_core.run_folder import write_atomically
from sagittal_core.runs import find_run
from sagittal_core.sampling import ItemKey
from sagittal_risk.adacvd import load_adacvd
from sagittal_risk.cli import run
from sagittal_risk.data import RiskRecords
from sagittal_risk.nn.answer_model import AnswerModel
from sagittal_risk.records.description import Feature, Group

CONFIGS = Path(__file__).resolve().parents[1] / "packages" / "risk" / "configs"
BATCH = 16
Risks = pandas.DataFrame
"""Columns row, outcome, risk and answer_mass, one row a test patient."""


def command(verb: str, *args: str) -> None:
    """Run a verb of ``sagittal-risk``; a finished run counts as done.

    Raises:
        SystemExit: It failed.
    """
    print("== sagittal-risk", verb, *args, flush=True)
    if (status := run([verb, *args])) not in (0, 3):
        raise SystemExit(status)


def settings_of(name: str) -> dict[str, Any]:
    """One of the package's configs."""
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def tune(
    config: str,
    name: str,
    table: Path,
    args: argparse.Namespace,
    *,
    seed: int = 0,
    start: str | None = None,
    **data: Any,
) -> Path:
    """Train a run by ``sagittal-risk fit``, or go on with it, and return its folder.

    Args:
        config: Of the package.
        name: Of the run.
        table: Of patients.
        args: Of the study.
        seed: Of adapters, order and sampling.
        start: Name of the run to go on from.
        data: Settings of ``RiskRecords`` that differ; ``epochs`` is the trainer's.
    """
    settings = settings_of(config)
    runs = args.out / "runs"
    settings |= {"run_name": name, "runs_dir": str(runs), "seed_everything": seed}
    trainer = settings["trainer"] | {"precision": args.precision, "enable_model_summary": False}
    if "epochs" in data:
        trainer["max_epochs"] = data.pop("epochs")
    settings["trainer"] = trainer | {"limit_val_batches": 0 if start else 1.0}
    settings["data"]["init_args"] |= {"table": str(table), "seed": seed, **data}
    settings["model"]["init_args"]["start"] = str(runs / start) if start else None
    file = args.out / "settings" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    command("fit", "-c", str(file))
    return find_run(runs / name)


def risks(
    folder: Path | None, config: str, table: Path, args: argparse.Namespace, **data: Any
) -> Risks:
    """Risks of a table's test patients by a run, or by the model before any tuning.

    Args:
        folder: Of the run; None: the model as it is.
        config: That says how a patient is told.
        table: Of patients.
        args: Of the study.
        data: Settings of ``RiskRecords`` that differ.
    """
    told = settings_of(config)["data"]["init_args"] | data
    told.pop("table")
    identity = {
        "run": folder.name if folder else None,
        "told": told,
        "table": hashlib.sha256(table.read_bytes()).hexdigest(),
        "precision": args.precision,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    file = args.out / "risks" / f"{key}.csv"
    if not file.is_file():
        found = _read_answers(
            _network(folder, config), _records(told, table), args.precision, file.stem
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, found.to_csv(index=False))
    return pandas.read_csv(file)


@lru_cache(maxsize=1)
def _network(folder: Path | None, config: str) -> AnswerModel:
    """The network in evaluation mode; the last one is kept."""
    if folder is not None:
        return load_adacvd(folder).network
    return AnswerModel(settings_of(config)["model"]["init_args"]["weights"]).eval()


def _records(told: dict[str, Any], table: Path) -> RiskRecords:
    groups = [
        Group(g["name"], [Feature(**f) for f in g["features"]], g.get("base", False))
        for g in told["groups"]
    ]
    records = RiskRecords(str(table), **{**told, "groups": groups})
    records.setup()
    return records


def _read_answers(network: AnswerModel, records: RiskRecords, precision: str, name: str) -> Risks:
    chosen = records.sets["test"]
    items = [chosen[ItemKey(index, 0)] for index in range(len(chosen))]
    order = sorted(range(len(items)), key=lambda index: len(items[index][0]))
    risk, mass = np.empty(len(items)), np.empty(len(items))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), autocast:
        for first in track(range(0, len(order), BATCH), f"risks {name}", transient=True):
            part = order[first : first + BATCH]
            answers = network([items[index][0] for index in part])
            risk[part], mass[part] = answers.risk.numpy(), answers.mass.numpy()
    return pandas.DataFrame(
        {
            "row": [row for _, _, row in items],
            "outcome": [int(label) for _, label, _ in items],
            "risk": risk,
            "answer_mass": mass,
        }
    )
