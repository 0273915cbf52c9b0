"""Segmentation and report generation through ``sagittal-cxr evaluate``, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "cxr"))
from squares import write_index
from tiny_language import language_checkpoint
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.encoders import VisionSpec
from sagittal_core.results import read_results
from sagittal_cxr.cli import run
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.runs import save_image_text

pytestmark = pytest.mark.e2e
CONFIG = Path(__file__).parents[2] / "packages" / "cxr" / "configs" / "evaluate_dense.yaml"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    vision, text = vision_checkpoint(folder / "v"), text_checkpoint(folder / "t")
    encoder = ImageEncoder(VisionSpec("transformers", str(vision)))
    save_image_text(ImageTextModel(encoder, TextEncoder(str(text)), dim=8), folder / "model")
    return {
        "model": str(folder / "model"),
        "vision": str(vision),
        "language": str(language_checkpoint(folder / "language")),
        "index": str(write_index(folder / "index", patients=24)),
    }


def written(folder: Path, paths: dict[str, str]) -> Path:
    """The configuration of the package with paths of this test, and little training."""
    settings = yaml.safe_load(CONFIG.read_text())
    vision = {"name": "transformers", "weights": paths["vision"]}
    settings["models"] = {"trained": {"path": paths["model"]}, "alone": {"vision": vision}}
    for benchmark in settings["benchmarks"]:
        benchmark["index"] = paths["index"]
    segmentation, reports = (task["init_args"] for task in settings["tasks"])
    segmentation |= {"folds": 3, "width": 16, "epochs": 1, "resamples": 30}
    reports |= {
        "language": paths["language"], "sentence_encoder": None, "resamples": 30,
        "max_tokens": 8, "epochs": 1,
    }  # fmt: skip
    settings["out"] = str(folder / "out")
    file = folder / "evaluate.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def test_the_configuration_runs_on_both_kinds_of_model(
    paths: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, paths)
    assert run(["evaluate", "-c", str(file)]) == 0
    capsys.readouterr()
    results = read_results(tmp_path / "out" / "results.json")
    measures = pandas.read_parquet(tmp_path / "out" / "measures.parquet")
    for model in ("trained", "alone"):
        mine = measures[(measures["model"] == model) & (measures["benchmark"].str.contains("mask"))]
        names = set(mine[mine["task"] == "segmentation"]["measure"])
        assert {"Dice", "Dice, random twin", "Dice above mean mask"} <= names
        names = set(mine[mine["task"] == "report generation"]["measure"])
        assert {"BLEU-4", "ROUGE-L above shuffled images", "CIDEr-D, nearest report"} <= names
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Dice above random twin" in page
    for text in (page, str(results)):
        assert "secret" not in text
        assert str(tmp_path) not in text
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": kept") == 8


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_its_next_fold(
    paths: dict[str, str], tmp_path: Path
) -> None:
    file = written(tmp_path, paths)
    settings = yaml.safe_load(file.read_text())
    settings["models"].pop("alone")
    settings["benchmarks"].pop()
    settings["tasks"].pop()
    file.write_text(yaml.safe_dump(settings))
    # The process kills itself as soon as two folds are on disk.
    script = tmp_path / "main.py"
    script.write_text(
        "import os, signal, sys\n"
        "from sagittal_cxr.tasks import segmentation\n"
        "kept, count = segmentation._write, 0\n"
        "def write(table, file):\n"
        "    global count\n"
        "    kept(table, file)\n"
        "    count += 1\n"
        "    if count == 2 and sys.argv[-1] == 'die':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "segmentation._write = write\n"
        "from sagittal_cxr.cli import run\n"
        f"sys.exit(run(['evaluate', '-c', {str(file)!r}]))\n"
    )
    done = subprocess.run([sys.executable, str(script), "die"], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    folds = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("fold-*.parquet")}
    assert len(folds) == 2
    again = subprocess.run(
        [sys.executable, str(script), "go"], env=os.environ, check=False, capture_output=True
    )
    assert again.returncode == 0, again.stderr
    assert {f: f.stat().st_mtime_ns for f in folds} == folds
    assert len(list((tmp_path / "out").rglob("fold-*.parquet"))) == 6
