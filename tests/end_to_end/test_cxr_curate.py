"""``sagittal-cxr curate`` through the command that a user types, on a tiny index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "cxr"))

from tiny_models import text_checkpoint, vision_checkpoint, write_index

from sagittal_core.encoders import VisionSpec
from sagittal_cxr.cli import run
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.runs import save_image_text

pytestmark = pytest.mark.e2e
CONFIG = Path(__file__).parents[2] / "packages" / "cxr" / "configs" / "curate.yaml"
PAIRS = 23  # 24 rows to train on, one of them without a text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with findings and a duplicate."""
    folder = write_index(tmp_path_factory.mktemp("made"), train=24)
    frame = pandas.read_parquet(folder / "rows-00000.parquet")
    frame["positive"] = [["Mass"] if row % 6 == 0 else ["No Finding"] for row in frame.index]
    frame["view"] = ["PA" if row % 2 else None for row in frame.index]
    frame.to_parquet(folder / "rows-00000.parquet", index=False)
    described = json.loads((folder / "index.json").read_text())
    described["counts"] |= {"files": 1, "labels": ["Mass", "No Finding"]}
    (folder / "index.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny model."""
    folder = tmp_path_factory.mktemp("trained")
    encoder = VisionSpec("transformers", weights=str(vision_checkpoint(folder / "vision")))
    text = TextEncoder(str(text_checkpoint(folder / "text")))
    save_image_text(ImageTextModel(ImageEncoder(encoder), text, dim=8), folder / "model")
    return folder / "model"


def settings(made: Path, folder: Path, **changes: Any) -> str:
    config = yaml.safe_load(CONFIG.read_text()) | {"index": str(made), "out": str(folder / "out")}
    config["vision"]["image_size"] = 32
    config["selector"]["init_args"] |= {"prototypes": 2, "warmup_batches": 2}
    config |= {"batch_size": 8} | changes
    file = folder / "curate.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_the_config_curates(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curate", "-c", settings(made, tmp_path)]) == 0
    out = tmp_path / "out"
    decisions = Ledger(out / "curation").decisions()
    assert len(decisions) == PAIRS
    assert 1 not in decisions["row"].tolist()  # it has no text
    assert int(decisions["kept"].sum()) == round(0.225 * PAIRS)
    kept = pandas.read_parquet(out / "kept.parquet")
    assert kept.attrs["index"] == "0" * 64
    assert kept["row"].tolist() == Ledger(out / "curation").kept().tolist()
    assert set(kept["reason"]) <= {"central", "support"}
    assert len(Ledger(out / "curation").state()["prototypes"]) == 2
    page = (out / "report.html").read_text()
    for words in ("Mass", "not known", "central", "1 rows without a text", "PrototypeSelector"):
        assert words in page
    assert str(made) not in page
    assert "row 0" not in page  # no example without log_images
    assert "kept 5 of 23 pairs (21.7%)" in capsys.readouterr().out


def test_pictures_and_texts_are_shown_if_asked_for(made: Path, tmp_path: Path) -> None:
    config = settings(made, tmp_path, log_images=True)
    assert run(["curate", "-c", config]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    row = Ledger(tmp_path / "out" / "curation").kept()[0]
    text = pandas.read_parquet(made / "rows-00000.parquet")["text"][row]
    assert text in page
    assert page.count("<figure>") >= 3


def test_a_killed_embedding_goes_on(made: Path, tmp_path: Path) -> None:
    config = settings(made, tmp_path, shard_pairs=3, encode_batch=1)
    out = tmp_path / "out"
    code = f"from sagittal_cxr.cli import run; run(['curate', '-c', {config!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    first = out / "embeddings" / "shard-00001.safetensors"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = first.stat().st_mtime_ns
    assert run(["curate", "-c", config]) == 0
    assert first.stat().st_mtime_ns == written
    killed = Ledger(out / "curation").decisions()
    (tmp_path / "whole").mkdir()
    whole = settings(made, tmp_path / "whole", shard_pairs=3, encode_batch=1)
    assert run(["curate", "-c", whole]) == 0
    expected = Ledger(tmp_path / "whole" / "out" / "curation").decisions()
    pandas.testing.assert_frame_equal(killed, expected)


@pytest.mark.parametrize(
    "selector",
    [
        {"class_path": "RandomSelector", "init_args": {"ratio": 0.5}},
        {"class_path": "CLIPScoreSelector", "init_args": {"ratio": 0.5}},
        {"class_path": "SemDeDupSelector", "init_args": {"ratio": 0.5}},
        {"class_path": "RHOSelector", "init_args": {"ratio": 0.5}},
        {"class_path": "JESTSelector", "init_args": {"ratio": 0.5}},
    ],
)
def test_every_selector_works_on_a_trained_model(
    made: Path, trained: Path, tmp_path: Path, selector: dict[str, Any]
) -> None:
    compares = selector["class_path"] in ("RHOSelector", "JESTSelector")
    changes = {"selector": selector, "model": str(trained), "vision": None, "passes": 2}
    changes |= {"reference": str(trained) if compares else None, "batch_size": None}
    assert run(["curate", "-c", settings(made, tmp_path, **changes)]) == 0
    decisions = Ledger(tmp_path / "out" / "curation").decisions()
    assert decisions["step"].unique().tolist() == [0]
    assert int(decisions["kept"].sum()) in (11, 12)  # half of 23


def test_an_image_that_cannot_be_read_is_counted(made: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    described = json.loads((copy / "index.json").read_text())
    described["datasets"][0]["root"] = str(copy)
    (copy / "index.json").write_text(json.dumps(described))
    (copy / "images" / "5.png").write_bytes(b"no picture")
    assert run(["curate", "-c", settings(copy, tmp_path)]) == 0
    assert len(Ledger(tmp_path / "out" / "curation").decisions()) == PAIRS - 1
    lines = (tmp_path / "out" / "refused.csv").read_text().splitlines()
    assert lines[0] == "row,image,why"
    assert lines[1].startswith("5,")
    assert len(lines) == 2
    assert "1 images could not be read" in (tmp_path / "out" / "report.html").read_text()


def test_the_page_of_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "pretrain-0123456789"
    ledger = Ledger(folder / "curation")
    ledger.begin("0" * 64)
    ledger.append(0, [0, 3, 4], [True, False, True], ["support", "outlier", "central"])
    ledger.append(1, [5, 0], [False, False], ["redundant", "redundant"])
    data = {"class_path": "RadiographReports", "init_args": {"index": str(made)}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data, "model": {}}))
    (folder / "state.json").write_text(json.dumps({"status": "finished"}))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()  # it is not read
    assert run(["curate", "--run", str(tmp_path / "runs" / "pretrain")]) == 0
    page = (folder / "curation" / "report.html").read_text()
    assert "2 of 4 pairs kept (50.0%)" in page
    assert "in 2 global batches" in page
    assert "not finished" not in page
    assert str(made) not in page
    assert "report.html" in capsys.readouterr().out
    assert "index 000000000000" in page
    # Decisions over another index, or over one that nobody knows, are shown with no index at all.
    for identity, said in (("1" * 64, "found:    111111111111"), (None, "no such file")):
        record = folder / "curation" / "of_index.json"
        record.unlink()
        if identity is not None:
            record.write_text(json.dumps({"index": identity}))
        (folder / "curation" / "report.html").unlink(missing_ok=True)
        assert run(["curate", "--run", str(folder)]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert "of_index.json" in told
        assert not (folder / "curation" / "report.html").exists()
    for file in (folder / "curation").glob("*.parquet"):
        file.unlink()
    assert run(["curate", "--run", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "decisions of a run with a selector" in said
    assert "it trained on everything" in said


def test_a_run_that_is_not_finished_says_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "pretrain-0123456789"
    data = {"class_path": "RadiographReports", "init_args": {"index": str(made)}}
    model = {"init_args": {"selector": {"class_path": "RandomSelector"}}}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data, "model": model}))
    (folder / "state.json").write_text(json.dumps({"status": "unfinished"}))
    assert run(["curate", "--run", str(folder)]) == 2
    assert "stopped before its first decision" in capsys.readouterr().err
    ledger = Ledger(folder / "curation")
    ledger.begin("0" * 64)
    ledger.append(0, [0, 3], [True, False], ["support", "outlier"])
    assert run(["curate", "--run", str(folder)]) == 0
    assert "The run is not finished" in (folder / "curation" / "report.html").read_text()


RHO = {"class_path": "RHOSelector", "init_args": {"ratio": 0.5}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": None}, "give an index"),
        ({"batch_size": 0}, "sizes from 1"),
        ({"selector": RHO}, "give `reference`"),
        ({"selector": RHO, "reference": "somewhere"}, "need a trained `model`"),
        ({"reference": "somewhere"}, "does not use a reference"),
        ({"model": "somewhere"}, "not both"),
        ({"batch_size": None}, "lower the selector's warmup_batches"),
        ({"split": "val", "batch_size": 2, "selector": {"class_path": "Nothing"}}, "Nothing"),
    ],
)
def test_what_does_not_fit_is_said(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, said: str
) -> None:
    config = settings(made, tmp_path, **changes)
    assert run(["curate", "-c", config]) == 2
    assert said in capsys.readouterr().err


def test_help_is_quick_to_say_what_each_option_is() -> None:
    code = (
        "import sys\nfrom sagittal_cxr.cli import run\nrun(['curate', '--help'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert "--batch_size" in done.stdout
    assert "(type: any" not in done.stdout
