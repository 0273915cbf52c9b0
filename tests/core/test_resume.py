"""A killed fit goes on exactly; a run folder is never overwritten."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sagittal_core.callbacks import AtomicCheckpointIO, read_checkpoint, total_steps
from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import RunFinished, RunFolder, config_hash, find_run, open_run
from sagittal_core.run_logger import RunLogger

pytestmark = pytest.mark.filterwarnings("ignore")

Main = Callable[..., int]
Toy = Callable[..., "subprocess.CompletedProcess[str]"]
CONFIG = {"model": {"a": 1, "b": [1, 2]}, "data": {}, "trainer": {"max_epochs": 1}}


def losses(runs: str) -> dict[int, str]:
    (file,) = Path(runs).glob("run-*/metrics.csv")
    rows = [row for row in csv.DictReader(file.read_text().splitlines()) if row["train_loss"]]
    assert len({row["step"] for row in rows}) == len(rows), "a step is there twice"
    return {int(row["step"]): row["train_loss"] for row in rows}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.e2e)])
def test_killed_in_mid_epoch_equals_undisturbed(
    toy: Toy, toy_main: Main, config: dict, workers: int
) -> None:
    config["data"]["init_args"]["num_workers"] = workers
    assert toy_main("fit", config, "--runs_dir", "whole") == 0
    # Ten batches an epoch; killed at step 14, the last checkpoint is that of step 12.
    environment = {"TOY_KILL_AT": 14, "TOY_FLAG": "killed"}
    assert toy("fit", config, **environment).returncode == -9
    (run,) = Path("runs").iterdir()
    assert json.loads((run / "state.json").read_text())["status"] == "unfinished"
    again = toy("fit", config, **environment)
    assert again.returncode == 0, again.stderr
    assert f"resuming {run} at step 12" in again.stdout
    assert losses("runs") == losses("whole")
    assert sorted(losses("runs")) == list(range(30))
    weights = [
        read_checkpoint(next(Path(d).glob("run-*/checkpoints/last.ckpt")))["state_dict"]
        for d in ("runs", "whole")
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_finished_changed_and_fresh(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    config["trainer"]["max_epochs"] = 1
    assert toy_main("fit", config) == 0
    assert toy_main("fit", config) == 3
    assert "--fresh" in capsys.readouterr().err
    config["trainer"]["log_every_n_steps"] = 2  # shown only: the same run
    assert toy_main("fit", config) == 3
    assert toy_main("fit", config, "--fresh") == 0
    assert sorted(p.name.partition(".")[2] for p in Path("runs").iterdir()) == ["", "old-1"]
    # Evaluation finds the run of the same model and data, whatever the trainer.
    config["trainer"]["max_epochs"] = 9
    assert toy_main("test", config) == 0
    config["model"]["init_args"]["learning_rate"] = 0.5
    assert toy_main("test", config) == 2
    assert "fit it first" in capsys.readouterr().err


def test_another_unfinished_run_of_the_name_lists_the_changed_keys(tmp_path: Path) -> None:
    first = open_run(tmp_path, "run", CONFIG)
    first.last.touch()
    changed = {**CONFIG, "model": {"a": 2, "b": [1, 2]}}
    with pytest.raises(ConfigError, match=r"(?s)model\.a: 1 -> 2.*--fresh") as error:
        open_run(tmp_path, "run", changed)
    assert "model.b" not in str(error.value)
    open_run(tmp_path, "other", changed)
    open_run(tmp_path, "run", changed, fresh=True)
    assert not first.path.exists()
    assert first.path.with_name(first.path.name + ".old-1").is_dir()


def test_a_run_that_saved_nothing_stands_in_no_way(tmp_path: Path) -> None:
    first = open_run(tmp_path, "run", CONFIG)
    second = open_run(tmp_path, "run", {**CONFIG, "model": {"a": 2}})
    assert first.path.is_dir()
    assert second.path.is_dir()
    assert first.path != second.path


def test_one_process_a_folder(tmp_path: Path) -> None:
    run = open_run(tmp_path, "run", CONFIG)
    with pytest.raises(ConfigError, match="another process"):
        open_run(tmp_path, "run", CONFIG)
    assert run.lock is not None
    run.lock.release()
    again = open_run(tmp_path, "run", CONFIG)
    again.mark("finished", CONFIG)
    assert again.lock is not None
    again.lock.release()
    with pytest.raises(RunFinished):
        open_run(tmp_path, "run", CONFIG)


def test_hash_ignores_the_order_of_keys_and_sees_that_of_lists() -> None:
    swapped = {k: CONFIG[k] for k in reversed(CONFIG)}
    assert config_hash(CONFIG) == config_hash(swapped)
    assert config_hash(CONFIG) == config_hash(CONFIG | {"run_name": "x", "ckpt_path": "y"})
    assert config_hash(CONFIG) == config_hash(CONFIG | {"trainer": {"max_epochs": 1, "logger": 0}})
    assert config_hash(CONFIG) != config_hash(CONFIG | {"model": {"a": 1, "b": [2, 1]}})


def test_no_run_to_evaluate(tmp_path: Path) -> None:
    assert find_run(tmp_path, "run", CONFIG) is None
    assert RunFolder(tmp_path).status() is None


@pytest.mark.parametrize("name", ["a/b", "", "../x"])
def test_bad_run_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run_name"):
        open_run(tmp_path, name, CONFIG)


def test_kill_while_a_checkpoint_is_written_keeps_the_previous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plugin = tmp_path / "last.ckpt", AtomicCheckpointIO()
    plugin.save_checkpoint({"step": 1}, file)

    def killed(checkpoint: dict, target: object) -> None:
        target.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        plugin.save_checkpoint({"step": 2}, file)
    assert plugin.load_checkpoint(file) == {"step": 1}


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_damaged_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged"):
        read_checkpoint(file)
    with pytest.raises(ConfigError, match="no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_metrics_table_keeps_earlier_rows_and_drops_later_ones(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    first = RunLogger(file, 0)
    for step in range(4):
        first.log_metrics({"loss": step}, step)
    first.log_metrics({"val": 0.5}, 3)
    second = RunLogger(file, 2)
    second.log_metrics({"loss": 9.0}, 2)
    second.log_metrics({"new": 1.0}, 3)
    rows = [
        {k: v for k, v in row.items() if v} for row in csv.DictReader(file.read_text().splitlines())
    ]
    assert rows == [
        {"step": "0", "loss": "0.0"},
        {"step": "1", "loss": "1.0"},
        {"step": "2", "loss": "9.0"},
        {"step": "3", "new": "1.0"},
    ]


def test_nan_loss_stops_and_keeps_a_good_checkpoint(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    config["model"]["init_args"]["diverge_at"] = 8
    assert toy_main("fit", config) == 1
    assert "learning rate" in capsys.readouterr().err
    (last,) = Path("runs").glob("*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["global_step"] == 6


@pytest.mark.e2e
def test_interrupt_says_how_to_resume(toy: Toy, config: dict) -> None:
    import os
    import signal
    import sys
    import time

    import yaml

    config["model"]["init_args"]["pause"] = 0.05
    config["trainer"]["max_epochs"] = 100
    Path("config.yaml").write_text(yaml.safe_dump(config))
    main = Path(__file__).with_name("toy_main.py")
    with subprocess.Popen(
        [sys.executable, str(main), "fit", "-c", "config.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A shell's background job ignores SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            for _ in range(600):
                if list(Path("runs").glob("*/checkpoints/last.ckpt")):
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "same command" in err


def test_terminated_is_no_success_and_says_how_to_resume(
    toy_main: Main,
    config: dict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os
    import signal

    import toy

    step = toy.ToyModel.training_step

    def terminated(self: toy.ToyModel, *args: object) -> torch.Tensor:
        if self.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(toy.ToyModel, "training_step", terminated)
        assert toy_main("fit", config) == 143
    assert "the same command goes on" in capsys.readouterr().err
    (run,) = Path("runs").iterdir()
    assert json.loads((run / "state.json").read_text())["status"] == "unfinished"
    assert toy_main("fit", config) == 0
    assert sorted(losses("runs")) == list(range(30))


@pytest.mark.e2e
def test_two_processes_equal_one_with_twice_the_batch(toy: Toy, config: dict) -> None:
    config["trainer"].update(max_epochs=2, strategy="ddp", devices=2)
    # Dropout draws differ between ranks by design; the joined batch is compared without it.
    config["model"]["class_path"] = "PlainToyModel"
    done = toy("fit", config)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(Path("runs").iterdir())) == 1
    assert done.stdout.count("run folder") == 1
    config["trainer"].update(strategy="auto", devices=1)
    config["data"]["init_args"]["batch_size"] = 4
    assert toy("fit", config, "--runs_dir", "one").returncode == 0
    states = [
        read_checkpoint(next(Path(d).glob("run-*/checkpoints/last.ckpt")))["state_dict"]
        for d in ("runs", "one")
    ]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)


def test_steps_to_come_are_those_of_epochs_like_this_one() -> None:
    def trainer(epoch: int, step: int, ready: int, batches: float, **changes: object) -> Any:
        progress = SimpleNamespace(current=SimpleNamespace(ready=ready))
        known = {"max_epochs": 3, "max_steps": -1, "accumulate_grad_batches": 1} | changes
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        given = {"current_epoch": epoch, "global_step": step, "num_training_batches": batches}
        return SimpleNamespace(fit_loop=loop, **known, **given)

    # Four batches in the first of three epochs, one in the others.
    assert total_steps(trainer(0, 1, 1, 4)) == 12
    assert total_steps(trainer(1, 5, 1, 1)) == 6
    assert total_steps(trainer(2, 6, 1, 1)) == 6
    assert total_steps(trainer(0, 1, 2, 5, accumulate_grad_batches=2)) == 9
    assert total_steps(trainer(0, 1, 1, 4, max_steps=5)) == 5
    assert total_steps(trainer(0, 1, 1, 4, max_steps=5, max_epochs=-1)) == 5
    assert total_steps(trainer(0, 1, 1, math.inf)) == math.inf
