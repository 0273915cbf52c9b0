"""A model tuned, tested and asked about a table through the commands that a user types."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "risk"))
import tiny_lm
import tiny_run

from sagittal_risk.cli import run
from sagittal_risk.records.groups import groups_of, read_groups
from sagittal_risk.records.schema import read_schema
from sagittal_risk.records.told import Telling

pytestmark = pytest.mark.e2e


def people(count: int) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "age": rng.integers(40, 80, count),
            "sex": rng.integers(0, 2, count),
            "systolic": rng.normal(130, 15, count).round(2),
            "diabetes": np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 2, count)),
            "CVD": np.arange(count) % 2,
            "split": np.array(["train", "val", "test"])[np.arange(count) // 2 % 3],
        }
    )


def weights(folder: Path) -> Path:
    telling = Telling(groups_of(tiny_run.GROUPS, "test"), tiny_run.QUESTION)
    texts = [telling.tell(record).prompt for record in people(40).to_dict("records")]
    return tiny_lm.save_tiny(folder / "lm", texts)


def test_scores_of_the_test_patients_are_those_of_the_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "patients.csv"
    people(24).to_csv(table, index=False)
    config = tmp_path / "tune.yaml"
    model = {"weights": str(weights(tmp_path)), "lora": {"rank": 2}, "learning_rate": 1e-2}
    data = {"table": str(table), "outcome": "CVD", "groups": tiny_run.GROUPS, "batch_size": 4}
    trainer = {"max_epochs": 2, "accelerator": "cpu", "num_sanity_val_steps": 0}
    settings = {
        "seed_everything": 0,
        "run_name": "tuned",
        "runs_dir": str(tmp_path / "runs"),
        "model": {"class_path": "AdaCVD", "init_args": model},
        "data": {"class_path": "RiskRecords", "init_args": data},
        "trainer": trainer | {"log_every_n_steps": 1},
    }
    config.write_text(yaml.safe_dump(settings))
    assert run(["fit", "-c", str(config)]) == 0
    assert run(["test", "-c", str(config)]) == 0
    (file,) = (tmp_path / "runs").rglob("risks.csv")
    tested = pandas.read_csv(file)
    out = tmp_path / "scores"
    given = ["score", str(table), "--model", str(tmp_path / "runs" / "tuned"), "--out", str(out)]
    capsys.readouterr()
    assert run([*given, "--equations", "none", "--device", "cpu"]) == 0
    assert "24 patients by model:tuned" in capsys.readouterr().out
    scores = pandas.read_csv(out / "scores.csv").iloc[tested["row"]]
    np.testing.assert_allclose(scores["risk"], tested["risk"], atol=1e-5)
    np.testing.assert_allclose(scores["answer_mass"], tested["answer_mass"], rtol=1e-3)
    assert set(scores["years"]) == {10}


KILLED = """
import os, signal, sys
from sagittal_risk.cli import main
from sagittal_risk.tuned import TunedModel

answer, batches = TunedModel.answer, []

def killed(self, prompts):
    batches.append(prompts)
    if len(batches) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, prompts)

TunedModel.answer = killed
main()
"""


def test_killed_it_goes_on_with_the_next_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tiny_run.save_run(tmp_path / "runs", weights(tmp_path))
    table = tmp_path / "patients.csv"
    people(40).to_csv(table, index=False)
    given = ["score", str(table), "--model", str(prefix), "--equations", "none"]
    given += ["--batch_size", "5", "--device", "cpu", "--out"]
    assert run([*given, str(tmp_path / "whole")]) == 0
    out = str(tmp_path / "killed")
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *given, out], env=alone, capture_output=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len((tmp_path / "killed" / "answers.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert run([*given, out]) == 0
    assert "answers: 40, of which 15 were there (37.5 %)" in capsys.readouterr().out
    one, other = ((tmp_path / name / "scores.csv").read_text() for name in ("whole", "killed"))
    assert one == other


def test_the_groups_of_the_config_tell_the_table_of_the_schema() -> None:
    configs = Path(__file__).parents[2] / "packages" / "risk" / "configs"
    groups = read_groups(configs / "groups.yaml")
    there = {f.name: f.unit for group in groups for f in group.features}
    tuned = yaml.safe_load((configs / "adacvd_framingham.yaml").read_text())["data"]["init_args"]
    run_units = {f.name: f.unit for g in groups_of(tuned["groups"], "run") for f in g.features}
    assert there.items() <= run_units.items()
    assert {f.column for group in groups for f in group.features} < set(
        read_schema(configs / "schema.yaml").columns()
    )
    row = {"age_years": 61.2, "sex": "F", "sbp": 124, "smoking": "never", "dm": 0, "bmi": 24.04}
    told = Telling(groups).tell(row)
    assert told.missing == ("Blood pressure medication",)
    assert "Age: 61 years;\nSex: Female;" in str(told.prompt)
    assert "Current smoking: No;\nBody mass index: 24 kg/m2;\nDiabetes: No." in str(told.prompt)


def test_help_is_light() -> None:
    code = (
        "import sys; from sagittal_risk.cli import run\n"
        "for verb in ('score', 'page'): assert run([verb, '--help']) == 0\n"
        "assert not {'torch', 'pandas', 'sklearn', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--model" in done.stdout
    assert "--groups" in done.stdout
