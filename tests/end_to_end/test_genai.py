"""Every configuration of sagittal-genai, through the command that a user types, on tiny sizes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml

from sagittal_core.results import read_results
from sagittal_core.run_logger import read_metrics
from sagittal_core.store import ShardWriter
from sagittal_genai.cli import run
from sagittal_genai.runs import load_autoencoder

pytestmark = pytest.mark.e2e
CONFIGS = sorted((Path(__file__).parents[2] / "packages" / "genai" / "configs").glob("sae_*.yaml"))
DIM, FEATURES, ATOMS = 16, 64, 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of three of forty directions each, so that a sparse autoencoder can find something."""
    folder = tmp_path_factory.mktemp("store") / "s"
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(ATOMS, DIM, generator=generator)
    writer = ShardWriter(folder, dim=DIM, dtype=torch.float16, shards=2, identity={"made": "test"})
    for number in writer.missing():
        chosen = torch.rand(800, ATOMS, generator=generator).topk(3).indices
        values = (1 + torch.rand(800, 3, 1, generator=generator)) * atoms[chosen]
        split = np.repeat(["train", "val", "test"], [600, 100, 100])
        writer.write(number, values.sum(1), pandas.DataFrame({"split": split}))
    return folder


def tiny(config: Path, store: Path, folder: Path) -> Path:
    settings = yaml.safe_load(config.read_text())
    network = settings["model"]["init_args"]["network"]["init_args"]
    network["input_dim"] = DIM
    if "prefixes" in network:
        network["prefixes"] = [16, FEATURES]
    if "k_values" in network:
        network["k_values"] = [2, 4]
    else:
        network["n_features"] = FEATURES
        activation = network["activation"]["init_args"]
        activation["k"] = 4
        if "n_features" in activation:
            activation["n_features"] = FEATURES
    settings["model"]["init_args"] |= {"dead_after": 2000, "learning_rate": 1e-2}
    settings["data"]["init_args"] |= {"store": str(store), "batch_size": 100}
    settings["runs_dir"] = str(folder / "runs")
    settings["trainer"] |= {"accelerator": "cpu", "max_epochs": 20, "log_every_n_steps": 1}
    file = folder / config.name
    file.write_text(yaml.safe_dump(settings))
    return file


def last(file: Path) -> dict[str, float]:
    rows = read_metrics(file)
    return {key: float(value) for row in rows for key, value in row.items() if value}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_configs_train_and_explain_held_out_rows(config: Path, store: Path, tmp_path: Path) -> None:
    file = tiny(config, store, tmp_path)
    assert run(["fit", "-c", str(file)]) == 0
    assert run(["test", "-c", str(file)]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    tested = last(folder / "test.csv")
    # SAIL's released code trains no decoder and shrinks what it reconstructs.
    assert tested["test/r2"] > (0.2 if "compat" in config.stem else 0.5)
    assert 1 < tested["test/l0"] < 12
    assert (folder / "report.html").is_file()


def test_a_run_is_exported_and_read_back(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(next(c for c in CONFIGS if c.stem == "sae_batchtopk"), store, tmp_path)
    assert run(["fit", "-c", str(config), "--trainer.max_epochs=2"]) == 0
    prefix, x = tmp_path / "runs" / "sae_batchtopk", torch.randn(50, DIM)
    sae = load_autoencoder(prefix)
    wanted = sae.decode(sae.encode(x))
    for kind in ("sagittal", "saelens"):
        out = tmp_path / kind
        assert run(["export", str(prefix), str(out), f"--format={kind}"]) == 0
        again = load_autoencoder(out)
        torch.testing.assert_close(again.decode(again.encode(x)), wanted, atol=1e-5, rtol=1e-5)
    assert run(["export", str(prefix), str(tmp_path / "sagittal")]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("length", ["--epochs 1", "--steps 3 --batch-size 10"])
def test_the_study_trains_and_measures_all_splits(
    length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, results = tmp_path / "s", tmp_path / "r.json"
    writer = ShardWriter(folder, dim=DIM, dtype=torch.float16, shards=1, identity={"made": "test"})
    x = torch.randn(60, DIM, generator=torch.Generator().manual_seed(0))
    index = {"split": np.repeat(["train", "val", "test"], 20), "subject": np.arange(60) // 2}
    writer.write(0, x, pandas.DataFrame(index))
    script = str(Path(__file__).parents[2] / "benchmarks" / "study_sae.py")
    command = [script, "--store", str(folder), *length.split(), "--only"]
    command += ["sae_topk", "--runs", str(tmp_path / "runs"), "--results", str(results)]
    network = "--model.init_args.network.init_args."
    command += [f"{network}input_dim={DIM}", f"{network}n_features=1024"]
    monkeypatch.setattr(sys, "argv", command)
    for _ in range(2):  # the second time nothing is trained again
        runpy.run_path(script, run_name="__main__")
    found = read_results(results)
    assert f"--store FOLDER {length} --only sae_topk" in found["command"]
    assert found["n"] == {"subjects": 30, "train rows": 20, "val rows": 20, "test rows": 20}
    table = found["tables"]["held-out-rows"]
    (row,) = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert (row["config"], row["active a row"]) == ("sae_topk", "32.0")
    assert float(row["R2"]) < 1
    assert 37 < float(row["unused, train"].rstrip(" %")) < 100  # 20 rows use 640 at most
    used = int(row["in use, 2,048 of val"])  # all 20 rows are one batch
    assert row["unused, val"] == f"{100 * (1 - used / 1024):.1f} %"
    (last,) = (tmp_path / "runs").glob("sae_topk-*/checkpoints/last.ckpt")
    steps = torch.load(last, weights_only=True)["global_step"]
    assert steps == {"--epochs 1": 1}.get(length, 3)


def test_a_store_without_the_split_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(tiny(CONFIGS[0], store, tmp_path).read_text())
    config["data"]["init_args"]["split_column"] = "fold"
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(config))
    assert run(["fit", "-c", str(file)]) == 2
    message = capsys.readouterr().err
    assert "fold" in message
    assert "split" in message


def test_two_processes_train_as_one_with_the_joined_batch(store: Path, tmp_path: Path) -> None:
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        file = tiny(next(c for c in CONFIGS if c.stem == "sae_topk"), store, folder)
        config = yaml.safe_load(file.read_text())
        config["data"]["init_args"]["batch_size"] = 100 // devices
        config["model"]["init_args"] |= {"dead_after": 300, "k_aux": 4}
        config["trainer"] |= {"devices": devices, "max_epochs": 1}
        config["trainer"] |= {"check_val_every_n_epoch": 1, "strategy": "auto"}
        if devices == 2:
            config["trainer"]["strategy"] = "ddp"
        file.write_text(yaml.safe_dump(config))
        script = folder / "main.py"
        script.write_text("from sagittal_genai.cli import main\n\nmain()\n")
        command = [sys.executable, str(script), "fit", "-c", str(file)]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr
        (run_folder,) = (folder / "runs").iterdir()
        state = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
        found.append((state["state_dict"], last(run_folder / "metrics.csv")))
    (one, alone), (two, together) = found
    assert torch.equal(one["network.idle"], two["network.idle"])
    for name in ("W_e", "W_d", "b_e", "b_d"):
        torch.testing.assert_close(
            one[f"network.{name}"], two[f"network.{name}"], atol=1e-4, rtol=1e-3
        )
    for name in ("val/r2", "val/l0", "val/unused_share"):
        assert together[name] == pytest.approx(alone[name], rel=1e-3)


def test_rows_of_another_width_are_named_before_training(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tiny(next(c for c in CONFIGS if c.stem == "sae_topk"), store, tmp_path)
    assert run(["fit", "-c", str(file), "--model.init_args.network.init_args.input_dim=7"]) == 2
    said = capsys.readouterr().err
    assert f"its rows are {DIM} wide" in said
    assert f"input_dim to {DIM}" in said
    wrong = "--model.init_args.network.init_args.activation.init_args.k=9999"
    assert run(["fit", "-c", str(file), wrong, "--run_name=many"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"sagittal-genai: fit: k must be between 1 and n_features = {FEATURES}, got 9999"
    )
