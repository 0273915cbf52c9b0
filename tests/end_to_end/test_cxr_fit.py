"""Pretraining through the commands that a user types, on tiny checkpoints and a tiny index."""

from __future__ import annotations

import json
import os
import shutil
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

sys.path.insert(0, str(Path(__file__).parents[1] / "cxr"))

from tiny_models import text_checkpoint, vision_checkpoint, write_index

from sagittal_core.callbacks import read_checkpoint
from sagittal_core.encoders import VisionSpec
from sagittal_core.run_logger import read_metrics
from sagittal_core.runs import find_run
from sagittal_cxr.cli import run
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.runs import load_image_text, save_image_text

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "cxr" / "configs"
TRAIN = 20 - 2  # one pair without a text, one double


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    vision_checkpoint(folder / "vision")
    text_checkpoint(folder / "text")
    return write_index(folder)


def tiny(name: str, made: Path, folder: Path) -> dict[str, Any]:
    """A configuration of the package, its sizes alone made small."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model = config["model"]["init_args"]
    network = model["network"]["init_args"]
    vision, text = network["vision"]["init_args"], network["text"]["init_args"]
    network["dim"] = 8
    if vision["encoder"]["name"] == "transformers":
        vision["encoder"] |= {"weights": str(made / "vision"), "image_size": 28}
    else:
        vision["encoder"]["image_size"] = 32
        vision["twin_seed"] = 0
    text["path"] = str(made / "text")
    selector = model["selector"].setdefault("init_args", {})
    selector |= {"prototypes": 2, "cap": 1, "warmup_batches": 2}
    config["data"]["init_args"] |= {"index": str(made), "batch_size": 6, "num_workers": 0}
    if "cache" in config["data"]["init_args"]:
        config["data"]["init_args"]["cache"] = str(folder / "cache")
    config |= {"runs_dir": str(folder / "runs"), "checkpoint_every_n_steps": 2}
    config["trainer"] |= {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    config["trainer"] |= {"precision": "32-true", "max_epochs": 3, "log_every_n_steps": 1}
    config["trainer"] |= {"enable_model_summary": False, "enable_progress_bar": False}
    return config


def write(config: dict[str, Any], folder: Path) -> str:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def column(run_folder: Path, name: str) -> dict[int, float]:
    rows = read_metrics(run_folder / "metrics.csv")
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def only(folder: Path) -> Path:
    (found,) = (f for f in folder.iterdir() if ".old-" not in f.name)
    return found


@pytest.mark.parametrize("name", ["chexficient_published", "chexficient_small"])
def test_configs_curate_train_on_what_was_kept_and_are_exported(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(name, made, tmp_path)
    file = write(config, tmp_path)
    assert run(["fit", "-c", file]) == 0
    said = capsys.readouterr().out
    assert f"train: {TRAIN} pairs (left out: 1 without text, 1 duplicates)" in said
    folder = only(tmp_path / "runs")
    ledger = Ledger(folder / "curation")
    decisions, kept = ledger.decisions(), ledger.kept()
    assert sorted(decisions["row"]) == [0, *range(3, 20)]
    assert 0 < len(kept) < TRAIN
    assert ledger.state()["prototypes"].shape == (2, 16)
    # Three steps over everything, then only what was kept.
    steps = -(-len(kept) // 6)
    loaded = column(folder, "spent/pairs_loaded")
    assert len(column(folder, "train/loss")) == 3 + 2 * steps
    assert loaded[max(loaded)] == TRAIN + 2 * len(kept)
    trained = column(folder, "spent/pairs_trained")
    assert trained[max(trained)] == 3 * len(kept)
    # Each epoch has an equal share of the fall of the rate.
    rates = column(folder, "train/learning_rate")
    high = config["model"]["init_args"]["learning_rate"]
    assert rates[0] == pytest.approx(high)
    assert rates[3] == pytest.approx(high * (0.1 + 0.9 * 0.75))
    assert f"training on {len(kept)} of {TRAIN} pairs" in said
    assert column(folder, "data/train_duplicates") == {0: 1}
    assert {"val/loss", "val/r1_image_to_text"} <= set(read_metrics(folder / "metrics.csv")[0])
    assert run(["test", "-c", file]) == 0
    tested = read_metrics(folder / "test.csv")[-1]
    assert 0 <= float(tested["test/r1_text_to_image"]) <= 1
    assert float(tested["test/loss"]) > 0
    out, prefix = tmp_path / "out", tmp_path / "runs" / config["run_name"]
    assert run(["export", str(prefix), str(out)]) == 0
    one, other = load_image_text(prefix), load_image_text(out)
    ids, mask = one.tokenize(["no acute finding"])
    assert torch.equal(one.encode_text(ids, mask), other.encode_text(ids, mask))


def test_a_run_belongs_to_the_index_that_it_was_begun_on(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def built(identity: str) -> None:
        described["identity"] = identity
        (index / "index.json").write_text(json.dumps(described))

    def refused(verb: str) -> str:
        assert run([verb, "-c", file]) == 2
        return capsys.readouterr().err

    index = shutil.copytree(made, tmp_path / "index")
    described = json.loads((index / "index.json").read_text())
    config = tiny("chexficient_small", made, tmp_path)
    config["data"]["init_args"] |= {"index": str(index), "cache": None}
    config["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0}
    file = write(config, tmp_path)
    assert run(["fit", "-c", file]) == 0
    folder, out = only(tmp_path / "runs"), tmp_path / "out"
    page = (folder / "report.html").read_text()
    assert "0" * 12 in page
    assert "train_pairs" in page
    assert load_image_text(folder).trained_on == "0" * 64
    assert run(["export", str(folder), str(out)]) == 0
    assert load_image_text(out).trained_on == "0" * 64
    capsys.readouterr()

    # The index is built anew under the same path: other rows may have the old numbers.
    built("1" * 64)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"status": "unfinished"}))
    for verb in ("fit", "test"):
        told = refused(verb)
        assert f"cannot use {folder / 'of_index.json'}" in told
        assert "key:      index" in told
        assert f"expected: the identity of {index}, 111111111111" in told
        assert "found:    000000000000" in told
        assert "--fresh" in told
    # The checkpoint says so itself, also where the folder's record was changed or lost.
    (folder / "of_index.json").write_text(json.dumps({"index": "1" * 64}))
    told = refused("fit")
    assert "last.ckpt" in told
    assert "key:      RadiographReports.index" in told
    (folder / "of_index.json").unlink()
    assert "no such file" in refused("fit")
    assert not (folder / "of_index.json").exists()

    built("0" * 64)
    (folder / "of_index.json").write_text(json.dumps({"index": "0" * 64}))
    assert run(["fit", "-c", file]) == 0
    built("1" * 64)
    assert run(["fit", "-c", file, "--fresh"]) == 0
    assert load_image_text(only(tmp_path / "runs")).trained_on == "1" * 64


def test_everything_in_chunks_with_a_limited_scale(made: Path, tmp_path: Path) -> None:
    config = tiny("chexficient_small", made, tmp_path)
    settings = config["model"]["init_args"]
    settings |= {"selector": None, "chunk": 4, "learning_rate": 0.1, "final_learning_rate": 0.01}
    settings["objective"] = {"class_path": "InfoNCE", "init_args": {"max_scale": 14.0}}
    config["trainer"] |= {"max_epochs": 2, "accumulate_grad_batches": 2}
    config["data"]["init_args"]["num_workers"] = 1
    assert run(["fit", "-c", write(config, tmp_path)]) == 0
    folder = only(tmp_path / "runs")
    assert not (folder / "curation").exists()
    scales = column(folder, "train/scale")
    assert scales[0] == pytest.approx(1 / 0.07)
    assert 0 < max(value for step, value in scales.items() if step) <= 14.0 + 1e-4
    loaded, again = (column(folder, f"spent/pairs_{n}") for n in ("trained", "recomputed"))
    assert loaded[max(loaded)] == again[max(again)] == 2 * TRAIN
    assert "train/kept_share" not in read_metrics(folder / "metrics.csv")[0]


@pytest.mark.parametrize("selector", ["RHOSelector", "JESTSelector"])
def test_selectors_compare_with_an_exported_reference(
    selector: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("chexficient_published", made, tmp_path)
    settings = config["model"]["init_args"]
    settings["selector"] = {"class_path": selector, "init_args": {"ratio": 0.5}}
    config["trainer"] |= {"max_epochs": 1}
    assert run(["fit", "-c", write(config, tmp_path)]) == 2
    assert "set model.reference" in capsys.readouterr().err
    network = settings["network"]["init_args"]
    options = dict(network["vision"]["init_args"])
    vision = ImageEncoder(VisionSpec(**options.pop("encoder")), **options)
    model = ImageTextModel(vision, TextEncoder(str(made / "text")), dim=8, seed=5)
    save_image_text(model, tmp_path / "reference")
    settings["reference"] = str(tmp_path / "reference")
    assert run(["fit", "-c", write(config, tmp_path), "--fresh"]) == 0
    folder = find_run(tmp_path / "runs" / config["run_name"])  # not the refused one
    assert len(Ledger(folder / "curation").kept()) == TRAIN // 2
    encoded = column(folder, "spent/pairs_reference")
    assert encoded[max(encoded)] == TRAIN
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert not any("reference" in name for name in state)


MAIN = """
import os, signal, sys
from pathlib import Path
import torch
from sagittal_cxr.chexficient import CheXficient
from sagittal_cxr.cli import main

torch.set_num_threads(1)
step = CheXficient.training_step

def killed(self, batch, index):
    flag, loss = Path(os.environ["KILL_FLAG"]), step(self, batch, index)
    if int(os.environ["KILL_AT"]) == self.global_step and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

CheXficient.training_step = killed
main()
"""


def command(file: str, folder: Path, kill_at: int, *options: str) -> Any:
    script = folder / "main.py"
    script.write_text(MAIN)
    environment = os.environ | {
        "KILL_AT": str(kill_at),
        "KILL_FLAG": str(folder / f"killed-{kill_at}"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(script), "fit", "-c", file, *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def resumable(made: Path, folder: Path) -> dict[str, Any]:
    config = tiny("chexficient_published", made, folder)
    config["checkpoint_every_n_steps"] = 1
    config["trainer"]["check_val_every_n_epoch"] = 3
    config["model"]["init_args"]["selector"]["init_args"] |= {"ratio": 0.5, "warmup_batches": 1}
    return config


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(["fit", "-c", write(resumable(made, folder), folder)]) == 0
    return only(folder / "runs")


@pytest.mark.slow
# Killed before the optimiser's step 2, in the curation epoch, after the ledger has its decision; at
# the end of that epoch, after the save of its last step or after that of its validation; and in the
# next epoch, whose rows are others.
@pytest.mark.parametrize(("kill_at", "validate_every"), [(2, 3), (3, 3), (3, 1), (4, 3)])
def test_killed_and_resumed_keeps_the_same_pairs_and_losses(
    kill_at: int, validate_every: int, undisturbed: Path, made: Path, tmp_path: Path
) -> None:
    config = resumable(made, tmp_path)
    config["trainer"]["check_val_every_n_epoch"] = validate_every
    file = write(config, tmp_path)
    assert command(file, tmp_path, kill_at).returncode == -signal.SIGKILL
    done = command(file, tmp_path, kill_at)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"at step {kill_at}" in done.stdout
    one, other = undisturbed, only(tmp_path / "runs")
    for name in ("train/loss", "spent/pairs_trained", "spent/pairs_forward_only"):
        assert column(one, name) == column(other, name), name
    assert len(column(one, "train/loss")) > 5
    pandas.testing.assert_frame_equal(
        Ledger(one / "curation").decisions(), Ledger(other / "curation").decisions()
    )
    states = [read_checkpoint(f / "checkpoints" / "last.ckpt") for f in (one, other)]
    torch.testing.assert_close(states[0]["state_dict"], states[1]["state_dict"], rtol=0, atol=0)
    curations = [state["chexficient"]["curation"] for state in states]
    torch.testing.assert_close(*curations, rtol=0, atol=0)
    assert np.array_equal(curations[0]["kept"].numpy(), Ledger(one / "curation").kept())


@pytest.mark.slow
def test_two_processes_decide_and_train_as_one(made: Path, tmp_path: Path) -> None:
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        config = tiny("chexficient_published", made, folder)
        # Dropout draws differ between ranks by design.
        text = config["model"]["init_args"]["network"]["init_args"]["text"]["init_args"]
        text["path"] = str(text_checkpoint(folder / "text", dropout=0.0))
        selector = config["model"]["init_args"]["selector"]["init_args"]
        # Eight of eighteen: an odd pair would be left out where there are two processes.
        selector |= {"ratio": 0.445, "warmup_batches": 1}
        config["data"]["init_args"]["batch_size"] = 6 // devices
        config["trainer"] |= {"devices": devices, "strategy": "ddp" if devices == 2 else "auto"}
        done = command(write(config, folder), folder, -1)
        assert done.returncode == 0, done.stderr[-3000:]
        run_folder = only(folder / "runs")
        state = read_checkpoint(run_folder / "checkpoints" / "last.ckpt")
        found.append((run_folder, state))
    (one, alone), (two, together) = found
    pandas.testing.assert_frame_equal(
        Ledger(one / "curation").decisions(), Ledger(two / "curation").decisions()
    )
    names = ("train/loss", "val/loss", "val/r1_image_to_text", "spent/pairs_trained")
    for name in (*names, "spent/pairs_forward_only"):
        before, after = column(one, name), column(two, name)
        assert before.keys() == after.keys()
        assert list(after.values()) == pytest.approx(list(before.values()), rel=1e-3), name
    # Adam's first steps are as large for a gradient of rounding errors as for any other.
    torch.testing.assert_close(alone["state_dict"], together["state_dict"], atol=1e-4, rtol=1e-3)
