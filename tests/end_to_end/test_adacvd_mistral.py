"""The published configuration of AdaCVD with a tiny model in the place of Mistral-7B."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "risk"))
import tiny_lm

from sagittal_core.sampling import ItemKey
from sagittal_risk.adacvd import load_adacvd
from sagittal_risk.cli import run
from sagittal_risk.data import RiskRecords
from sagittal_risk.records.groups import groups_of
from sagittal_risk.records.sampling import GroupSampling

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "packages" / "risk" / "configs" / "adacvd_mistral.yaml"
SETTINGS = yaml.safe_load(CONFIG.read_text())
COUNT = 120


def participants() -> pandas.DataFrame:
    """A table as the config names it; a fifth of the values is missing."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for group in SETTINGS["data"]["init_args"]["groups"]:
        for feature in group["features"]:
            if "values" in feature:
                values = rng.choice([int(code) for code in feature["values"]], COUNT).astype(float)
            elif feature.get("yes_no"):
                values = rng.integers(0, 2, COUNT).astype(float)
            elif feature["column"].startswith("ICD"):
                columns[feature["column"]] = ["I10, E11" if odd else None for odd in range(COUNT)]
                continue
            else:
                values = rng.normal(50, 10, COUNT)
            columns[feature["column"]] = np.where(rng.random(COUNT) < 0.2, np.nan, values)
    columns["21003-0.0"] = rng.integers(40, 70, COUNT)
    return pandas.DataFrame({**columns, "MACE_ADO_EXTENDED_10y": np.arange(COUNT) % 2})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ukb") / "ukb.csv"
    participants().to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def records(table: Path) -> RiskRecords:
    settings = dict(SETTINGS["data"]["init_args"])
    groups = groups_of(settings.pop("groups"), str(CONFIG))
    sampling = GroupSampling(**settings.pop("sampling"))
    data = RiskRecords(**{**settings, "table": str(table)}, groups=groups, sampling=sampling)
    data.setup()
    return data


def test_it_is_tuned_in_bfloat16(table: Path, tmp_path: Path) -> None:
    # A tokenizer of few words: Yes and No have to be a token each.
    weights = tiny_lm.save_tiny(tmp_path / "lm", ["Age: 61 years;\n"], longest=4096)
    given = [
        *("fit", "-c", str(CONFIG)),
        f"--runs_dir={tmp_path / 'runs'}",
        f"--data.init_args.table={table}",
        f"--model.init_args.weights={weights}",
        "--trainer.max_epochs=1",
        *("--trainer.accelerator=cpu", "--trainer.devices=1"),
    ]
    assert run(given) == 0
    model = load_adacvd(tmp_path / "runs" / "adacvd_mistral")
    adapters = model.adapters()
    assert {value.dtype for value in adapters.values()} == {torch.bfloat16}
    assert {name.split(".")[-4] for name in adapters} == {"q_proj", "k_proj", "v_proj"}
    assert all(16 in value.shape for value in adapters.values())
    assert (model.learning_rate, model.decay_every, model.network.longest) == (1e-5, 25000, 4096)


def test_codes_that_say_nothing_are_not_told(records: RiskRecords) -> None:
    columns = {f.column: f for group in records.groups for f in group.features}
    smoking = columns["20116-0.0"]
    assert smoking.told(-3.0) is None
    assert smoking.told(2.0) == "Current"
    prompts = [records.sets["test"][ItemKey(i, 0)][0] for i in range(len(records.sets["test"]))]
    assert not any(": ;" in text or ": ." in text for text in prompts)


def test_the_base_is_always_told_and_some_of_the_rest(records: RiskRecords) -> None:
    chosen = records.sets["train"]
    many = [chosen[ItemKey(0, epoch)][0].count(";\n") for epoch in range(40)]
    assert min(many) < max(many)
    assert all("Age: " in chosen[ItemKey(0, epoch)][0] for epoch in range(40))
    assert len(records.groups) == 12
    assert sum(group.base for group in records.groups) == 3
