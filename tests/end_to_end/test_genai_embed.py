"""Slices to embeddings through the commands that a user types, on tiny sizes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "genai"))

from slice_folders import write_slices

from sagittal_core.store import EmbeddingStore
from sagittal_genai.cli import run
from sagittal_genai.slices import SliceFolder

pytestmark = pytest.mark.e2e
CONFIGS = sorted((Path(__file__).parents[2] / "packages/genai/configs").glob("embed_*.yaml"))
# Written out, so that a run of several ranks starts each of them anew.
MAIN = "from sagittal_genai.cli import main\n\nif __name__ == '__main__':\n    main()\n"


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("slices") / "s")


def settings(config: Path, slices: Path, out: Path, **changes: object) -> Path:
    found = yaml.safe_load(config.read_text())
    found |= {"slices": str(slices), "out": str(out), "batch_size": 3, "shard_slices": 5}
    found["encoder"]["image_size"] = 96
    found["trainer"]["accelerator"] = "cpu"
    found |= changes
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(found))
    return file


def config(name: str) -> Path:
    return next(c for c in CONFIGS if c.stem == name)


def contents(folder: Path) -> tuple[torch.Tensor, pandas.DataFrame]:
    store = EmbeddingStore(folder)
    return store.rows(np.arange(len(store))), store.index()


def same(one: Path, other: Path) -> None:
    """The same files of the same content, bit for bit."""
    names = sorted(file.name for file in one.glob("*-0*"))
    assert names == sorted(file.name for file in other.glob("*-0*"))
    for name in names:
        if name.endswith(".safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    pandas.testing.assert_frame_equal(contents(one)[1], contents(other)[1])


@pytest.mark.parametrize("chosen", CONFIGS, ids=lambda chosen: chosen.stem)
def test_configs_make_stores_of_encoder_and_twin(
    chosen: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings(chosen, slices, tmp_path / "store")
    assert run(["embed", "-c", str(file)]) == 0
    assert "rows/s" in capsys.readouterr().out
    rows, index = contents(tmp_path / "store")
    twins, twin_index = contents(tmp_path / "store-random")
    pandas.testing.assert_frame_equal(index, twin_index)
    assert rows.shape[1] == 1280
    assert not torch.allclose(rows, twins)
    known = SliceFolder(slices).index()
    assert list(dict.fromkeys(index["image"])) == known["image"].tolist()
    if chosen.stem == "embed_tokens":
        assert ((index["token"] >= 0) & (index["token"] < 9)).all()
        assert (index["grid_h"] == 3).all()
        assert not index.duplicated(["image", "token"]).any()
        assert index["organs"].isna().sum() == (index["scan"] == "scan2").sum() > 0
    else:
        assert len(index) == 12
        assert (index["token"] == -1).all()
    assert "path" not in (tmp_path / "store" / "report.html").read_text().split("<img")[0]
    described = EmbeddingStore(tmp_path / "store-random").description["identity"]
    assert described["twin_seed"] == 0
    # Finished: nothing to do, and other settings are refused.
    assert run(["embed", "-c", str(file)]) == 0
    assert "rows/s" not in capsys.readouterr().out
    assert run(["embed", "-c", str(file), "--dtype", "bfloat16"]) == 2
    assert "another dtype" in capsys.readouterr().err


def test_plan_is_measured_and_writes_no_store(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings(config("embed_radiographs"), slices, tmp_path / "store")
    figures = tmp_path / "plan.json"
    command = ["embed", "-c", str(file), "--plan", "10000000", "--plan_results", str(figures)]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "23.8 GiB of rows" in out  # 1e7 * 1280 * 2 bytes
    assert "10,000,000" in out
    assert "2,000,000" in out  # shards of five slices, a row each
    assert "hours on one cpu" in out
    assert figures.is_file()
    assert not (tmp_path / "store").exists()


def test_a_damaged_picture_is_listed_and_left_out(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "slices")
    damaged = folder / "images" / "scan1" / "axial-0002.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    file = settings(config("embed_radiographs"), folder, tmp_path / "store", random_twin=False)
    assert run(["embed", "-c", str(file)]) == 0
    _, index = contents(tmp_path / "store")
    assert len(index) == 11
    assert "images/scan1/axial-0002.png" not in set(index["image"])
    with (tmp_path / "store" / "refused.csv").open() as opened:
        (refused,) = csv.DictReader(opened)
    assert refused["image"] == "images/scan1/axial-0002.png"
    assert not (tmp_path / "store-random").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_killed_and_begun_again_loses_and_doubles_nothing(
    kind: signal.Signals, slices: Path, tmp_path: Path
) -> None:
    """Killed amid the shards; the store finished afterwards equals an undisturbed one."""
    chosen = config("embed_tokens")
    whole = settings(chosen, slices, tmp_path / "whole", shard_slices=1, batch_size=1)
    assert run(["embed", "-c", str(whole)]) == 0
    file = settings(chosen, slices, tmp_path / "killed", shard_slices=1, batch_size=1)
    script = tmp_path / "main.py"
    # In the eighth write: encoder and twin have three shards, the encoder a fourth.
    script.write_text(
        "import os\nfrom sagittal_core.store import ShardWriter\n"
        "write, count = ShardWriter.write, []\n"
        "def deadly(self, *given):\n    count.append(self)\n    if len(count) == 8:\n"
        f"        os.kill(os.getpid(), {int(kind)})\n    write(self, *given)\n"
        f"ShardWriter.write = deadly\n{MAIN}"
    )
    command = [sys.executable, str(script), "embed", "-c", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=240)
    assert done.returncode == (-kind if kind == signal.SIGKILL else 143)
    there = [len(list((tmp_path / name).glob("shard-*"))) for name in ("killed", "killed-random")]
    assert there == ([4, 3] if kind == signal.SIGKILL else [4, 4])
    assert run(["embed", "-c", str(file)]) == 0
    same(tmp_path / "killed", tmp_path / "whole")
    same(tmp_path / "killed-random", tmp_path / "whole-random")


@pytest.mark.slow
def test_two_processes_write_the_store_of_one(slices: Path, tmp_path: Path) -> None:
    chosen = config("embed_tokens")
    one = settings(chosen, slices, tmp_path / "one")
    assert run(["embed", "-c", str(one)]) == 0
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    two = settings(chosen, slices, tmp_path / "two", trainer=trainer)
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    done = subprocess.run(
        [sys.executable, str(script), "embed", "-c", str(two)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "of 2" in done.stdout
    same(tmp_path / "two", tmp_path / "one")
    same(tmp_path / "two-random", tmp_path / "one-random")


def test_mistakes_are_named(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(settings(config("embed_radiographs"), slices, tmp_path / "store"))
    for change, message in (
        (["--encoder.name", "resnet"], "expected efficientnet_lite0"),
        (["--encoder.image_size", "100"], "multiple of 32"),
        (["--batch_size", "0"], "batch_size"),
        (["--trainer", "{devicez: 1}"], "devicez"),
        (["--trainer", "{logger: true}"], "trainer.logger is set"),
        (["--what", "patches"], "patches"),
    ):
        assert run(["embed", "-c", file, *change]) == 2, change
        assert message in capsys.readouterr().err
