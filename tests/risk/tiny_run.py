"""A finished run of a tiny model with random adapters, as ``sagittal-risk fit`` leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import torch
import yaml

from sagittal_risk.cli import run
from sagittal_risk.records.groups import groups_of
from sagittal_risk.records.told import Telling

GROUPS: list[dict[str, Any]] = [
    {
        "name": "demographics",
        "base": True,
        "features": [
            {"column": "age", "name": "Age", "unit": "years", "decimals": 0},
            {"column": "sex", "name": "Sex", "values": {"0": "Female", "1": "Male"}},
        ],
    },
    {
        "name": "examination",
        "features": [
            {"column": "systolic", "name": "Systolic blood pressure", "unit": "mmHg"},
            {"column": "diabetes", "name": "Diabetes", "yes_no": True},
        ],
    },
]
QUESTION = "Will this patient have an event in the next 10 years? Reply with Yes or No."


def patients() -> pandas.DataFrame:
    """Ten people; the last but one is told as the first is, of the last nothing is known."""
    return pandas.DataFrame(
        {
            "person": [f"secret-{row}" for row in range(10)],
            "age": [61, 52, 45, 70, 66, 58, 49, 73, 61, None],
            "sex": [0, 1, 1, 0, 1, 0, None, 1, 0, None],
            "systolic": [124.04, 151, None, 133.26, 140, 118, 127.5, None, 124.01, None],
            "diabetes": [0, 1, 0, None, 1, 0, 0, None, 0, None],
        }
    )


def save_run(runs: Path, weights: Path, *, name: str = "tiny", seed: int = 0, **data: Any) -> Path:
    """Write the folder of a run and return its prefix.

    Args:
        runs: Parent of the folder.
        weights: Of :func:`tiny_lm.save_tiny`.
        name: Of the run.
        seed: Of the adapters.
        **data: Changes of the data section; ``longest`` is the model's.
    """
    from sagittal_risk.adacvd import AdaCVD
    from sagittal_risk.nn.answer_model import LoRASettings

    lora = {"rank": 2, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    settings = {"weights": str(weights), "lora": lora, "answers": ["No", "Yes"], "dtype": "auto"}
    settings["longest"] = data.pop("longest", None)
    model = AdaCVD(str(weights), LoRASettings(**{**lora, "targets": ("q_proj", "v_proj")}))
    noise = torch.Generator().manual_seed(seed)
    for _, value in model.network.trainable():
        value.data = torch.randn(value.shape, generator=noise)
    told = {"groups": GROUPS, "outcome": "CVD", "question": QUESTION, "text_column": None} | data
    folder = runs / f"{name}-{seed:010x}"
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "run_name": name,
        "model": {"class_path": "sagittal_risk.adacvd.AdaCVD", "init_args": settings},
        "data": {"class_path": "sagittal_risk.data.RiskRecords", "init_args": told},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "state.json").write_text(json.dumps({"status": "finished"}))
    torch.save({"state_dict": model.adapters()}, folder / "checkpoints" / "last.ckpt")
    return runs / name


TELLING = Telling(groups_of(GROUPS, "test"), QUESTION)


def written(frame: pandas.DataFrame, file: Path) -> Path:
    """Write a CSV file and return it."""
    frame.to_csv(file, index=False)
    return file


def score(table: Path, prefix: Path, out: Path, *more: str) -> int:
    """Run ``sagittal-risk score`` with the model alone, unless more says otherwise."""
    given = ["score", str(table), "--model", str(prefix), "--out", str(out), "--device", "cpu"]
    alone = () if "--equations" in more or "--schema" in more else ("--equations", "none")
    return run([*given, "--batch_size", "2", *alone, *more])


def scores(out: Path) -> pandas.DataFrame:
    """The table that it wrote."""
    return pandas.read_csv(out / "scores.csv", dtype={"missing": str, "out_of_range": str})
