"""AdaCVD through its command line on a tiny model and table: fit, test, adapt, load."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml

from sagittal_core.errors import ConfigError
from sagittal_risk.adacvd import load_adacvd
from sagittal_risk.cli import run
from sagittal_risk.data import RiskRecords

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "packages" / "risk" / "configs" / "adacvd_framingham.yaml"

_spec = importlib.util.spec_from_file_location("tiny_lm", ROOT / "tests" / "risk" / "tiny_lm.py")
tiny_lm = importlib.util.module_from_spec(_spec)
sys.modules["tiny_lm"] = tiny_lm
_spec.loader.exec_module(tiny_lm)


def patients(count: int = 48) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "age": rng.integers(40, 80, count),
            "sex": rng.integers(0, 2, count),
            "systolic": rng.normal(130, 15, count),
            "bp_treated": np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 2, count)),
            "total_cholesterol": rng.normal(220, 30, count),
            "hdl_cholesterol": rng.normal(50, 10, count),
            "smoker": rng.integers(0, 2, count),
            "bmi": rng.normal(26, 3, count),
            "diabetes": rng.integers(0, 2, count),
            "CVD_10Y": np.arange(count) % 2,
            "split": np.array(["train", "train", "val", "test"])[np.arange(count) // 2 % 4],
        }
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("risk")
    patients().to_csv(folder / "patients.csv", index=False)
    settings = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    data = RiskRecords(**{**parsed(settings), "table": str(folder / "patients.csv")})
    data.setup()
    texts = [data.sets["train"][key_of(i)][0] for i in range(len(data.sets["train"]))]
    tiny_lm.save_tiny(folder / "lm", texts)
    return {"table": str(folder / "patients.csv"), "weights": str(folder / "lm")}


def key_of(index: int) -> Any:
    from sagittal_core.sampling import ItemKey

    return ItemKey(index, 0)


def parsed(settings: dict[str, Any]) -> dict[str, Any]:
    from sagittal_risk.records.description import Feature, Group

    groups = [
        Group(g["name"], [Feature(**f) for f in g["features"]], g.get("base", False))
        for g in settings["groups"]
    ]
    return {**settings, "groups": groups}


def command(verb: str, inputs: dict[str, str], runs: Path, *more: str) -> int:
    return run(
        [
            verb,
            *("-c", str(CONFIG)),
            f"--runs_dir={runs}",
            f"--data.init_args.table={inputs['table']}",
            f"--model.init_args.weights={inputs['weights']}",
            "--trainer.max_epochs=2",
            "--trainer.accelerator=cpu",
            *more,
        ]
    )


def only_run(runs: Path, name: str = "adacvd_framingham") -> Path:
    (found,) = runs.glob(f"{name}-*")
    return found


def test_fit_and_test_write_risks_and_small_checkpoints(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert command("fit", inputs, runs) == 0
    folder = only_run(runs)
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)
    assert command("test", inputs, runs) == 0
    (file,) = runs.rglob("risks.csv")
    risks = pandas.read_csv(file)
    table = patients()
    assert risks["row"].tolist() == np.flatnonzero(table["split"] == "test").tolist()
    assert risks["outcome"].tolist() == table["CVD_10Y"][risks["row"]].tolist()
    assert risks["risk"].between(0, 1).all()

    model = load_adacvd(runs / "adacvd_framingham")
    data = RiskRecords(
        **{
            **parsed(yaml.safe_load(CONFIG.read_text())["data"]["init_args"]),
            "table": inputs["table"],
        }
    )
    data.setup()
    with torch.no_grad():
        again = model.network([data.sets["test"][key_of(0)][0]]).risk
    assert float(again) == pytest.approx(risks["risk"][0], abs=1e-5)


def test_adaptation_goes_on_from_a_run(inputs: dict[str, str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert command("fit", inputs, runs) == 0
    start = f"--model.init_args.start={runs / 'adacvd_framingham'}"
    more = ("--run_name=adapted", start, "--data.init_args.limit=4", "--trainer.max_epochs=1")
    few = [*more, "--model.init_args.learning_rate=0"]
    assert command("fit", inputs, runs, *few) == 0
    before, after = (load_adacvd(runs / name) for name in ("adacvd_framingham", "adapted"))
    for name, value in before.adapters().items():
        torch.testing.assert_close(after.adapters()[name], value, rtol=0, atol=0)


def test_a_few_patients_of_another_site_by_its_config(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    config = CONFIG.with_name("adacvd_heart_disease.yaml")
    settings = yaml.safe_load(config.read_text())["data"]["init_args"]
    columns = [f["column"] for group in settings["groups"] for f in group["features"]]
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({name: rng.integers(0, 2, 24) for name in columns})
    table["disease"] = np.arange(24) % 2
    table["split"] = np.array(["train", "train", "val", "test"])[np.arange(24) // 2 % 4]
    table.to_csv(tmp_path / "site.csv", index=False)
    given = [
        *("fit", "-c", str(config)),
        f"--runs_dir={tmp_path / 'runs'}",
        f"--data.init_args.table={tmp_path / 'site.csv'}",
        "--data.init_args.limit=4",
        f"--model.init_args.weights={inputs['weights']}",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
    ]
    assert run(given) == 0
    assert load_adacvd(tmp_path / "runs" / "adacvd_hungary").network.identity["model"] == "lm"


KILLED = """
import os, signal, sys
from sagittal_risk.adacvd import AdaCVD
from sagittal_risk.cli import main

step = AdaCVD.training_step

def killed(self, batch, index):
    loss = step(self, batch, index)
    if self.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

AdaCVD.training_step = killed
main()
"""


def test_killed_in_the_second_epoch_it_ends_with_the_same_adapters(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    """Dropout and the draw of fields are the same after a kill as without one, to the bit."""
    sampling = "--data.init_args.sampling={keep_base: 1.0, only_base: 0.1}"
    given = [
        "fit",
        *("-c", str(CONFIG)),
        f"--data.init_args.table={inputs['table']}",
        f"--model.init_args.weights={inputs['weights']}",
        "--model.init_args.lora.dropout=0.3",
        "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu",
        "--checkpoint_every_n_steps=1",
        sampling,
    ]
    assert run([*given, f"--runs_dir={tmp_path / 'whole'}"]) == 0
    there = f"--runs_dir={tmp_path / 'killed'}"
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *given, there], env=alone, capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert run([*given, there]) == 0
    one, other = (load_adacvd(tmp_path / f / "adacvd_framingham") for f in ("whole", "killed"))
    for name, value in one.adapters().items():
        torch.testing.assert_close(other.adapters()[name], value, rtol=0, atol=0)


def test_another_model_cannot_be_gone_on_from(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert command("fit", inputs, runs) == 0
    other = tiny_lm.save_tiny(tmp_path / "other", ["Age: 61"], seed=1)
    start = f"--model.init_args.start={runs / 'adacvd_framingham'}"
    more = ("--run_name=adapted", start, f"--model.init_args.weights={other}")
    assert command("fit", inputs, runs, *more) == 2
    assert "was trained on" in capsys.readouterr().err


def test_bad_tables_are_named(tmp_path: Path) -> None:
    settings = parsed(yaml.safe_load(CONFIG.read_text())["data"]["init_args"])
    file = tmp_path / "t.csv"
    for change, message in (
        ({"CVD_10Y": 2}, "0 or 1"),
        ({"split": "dev"}, "only train, val, test"),
    ):
        patients().assign(**change).to_csv(file, index=False)
        with pytest.raises(Exception, match=message):
            RiskRecords(**{**settings, "table": str(file)}).setup()
    patients().drop(columns="bmi").to_csv(file, index=False)
    with pytest.raises(ConfigError, match="no column 'bmi'"):
        RiskRecords(**{**settings, "table": str(file)}).setup()


def test_a_limit_takes_the_same_few_and_known_share_leaves_fields_out(
    inputs: dict[str, str],
) -> None:
    settings = parsed(yaml.safe_load(CONFIG.read_text())["data"]["init_args"])
    settings["table"] = inputs["table"]
    few, more = (RiskRecords(**settings, limit=n) for n in (4, 8))
    half = RiskRecords(**settings, known_share=0.5)
    spoken = RiskRecords(**settings, narrated=1.0)
    whole = RiskRecords(**settings)
    for data in (few, more, half, spoken, whole):
        data.setup()
    assert set(few.sets["train"].rows) < set(more.sets["train"].rows)
    text = whole.sets["test"][key_of(0)][0]
    assert 0 < half.sets["test"][key_of(0)][0].count(";\n") < text.count(";\n")
    assert ";\n" not in spoken.sets["test"][key_of(0)][0]
    assert "mmHg" in spoken.sets["test"][key_of(0)][0]
