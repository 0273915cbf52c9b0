"""``sagittal-cxr evaluate`` through the command that a user types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml
from filelock import FileLock, Timeout

sys.path.insert(0, str(Path(__file__).parents[1] / "cxr"))
from planted import FINDINGS, PlantedModel, write_index
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.encoders import VisionSpec
from sagittal_core.results import read_results
from sagittal_cxr.cli import run
from sagittal_cxr.evaluate import claimed
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.runs import save_image_text
from sagittal_cxr.tasks import models

pytestmark = pytest.mark.e2e
CONFIG = Path(__file__).parents[2] / "packages" / "cxr" / "configs" / "evaluate.yaml"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two image-text models and a vision checkpoint on disk."""
    folder = tmp_path_factory.mktemp("models")
    vision, text = vision_checkpoint(folder / "v"), text_checkpoint(folder / "t")
    found = {"vision": str(vision)}
    for seed, name in enumerate(("curated", "everything")):
        encoder = ImageEncoder(VisionSpec("transformers", str(vision)), twin_seed=seed)
        model = ImageTextModel(encoder, TextEncoder(str(text)), dim=8, seed=seed)
        save_image_text(model, folder / name)
        found[name] = str(folder / name)
    return found


def written(folder: Path, exported: dict[str, str], **changes: object) -> Path:
    """The configuration of the package with paths of this test, and few resamples."""
    settings = yaml.safe_load(CONFIG.read_text())
    for name in ("curated", "everything"):
        settings["models"][name]["path"] = exported[name]
    vision = {"name": "transformers", "weights": exported["vision"]}
    settings["models"]["ImageNet"] = {"vision": vision, "twin_seed": 3}
    if not (folder / "index").exists():
        write_index(folder / "index", patients=40)
    settings["benchmarks"][0]["index"] = str(folder / "index")
    for task in settings["tasks"]:
        task["init_args"]["resamples"] = 30
        if task["class_path"] == "LinearProbe":
            task["init_args"]["fractions"] = [0.5, 1.0]
        if task["class_path"] == "FineTuning":
            task["init_args"]["epochs"] = 1
    settings |= {"out": str(folder / "out")} | changes
    file = folder / "evaluate.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def table(folder: Path, name: str) -> list[dict[str, str]]:
    found = read_results(folder / "out" / "results.json")["tables"][name]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def written_at(folder: Path) -> dict[Path, int]:
    files = (file for file in (folder / "out" / "cells").rglob("*") if file.is_file())
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_the_configuration_evaluates_and_the_second_time_computes_nothing(
    exported: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, exported)
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "ImageNet, held-out patients, zero-shot: does not apply" in printed

    rows = {row["model"]: row for row in table(tmp_path, "overview")}
    assert list(rows) == ["curated", "everything", "ImageNet"]
    assert rows["curated"]["exposure"] == "not in training data"
    assert rows["curated"]["patients"] == "12"
    assert "[" in rows["curated"]["zero-shot: macro AUROC"]
    assert rows["ImageNet"]["retrieval: image to text R@5"] == "does not apply"
    pairs = {(row["task"], row["model"]) for row in table(tmp_path, "differences")}
    assert ("linear probe", "ImageNet - curated") in pairs
    assert ("zero-shot", "everything - curated") in pairs
    assert ("zero-shot", "ImageNet - curated") not in pairs
    assert len(table(tmp_path, "left out")) >= 2

    audit = {(row["model"], row["task"]): row for row in table(tmp_path, "audit")}
    one = audit["curated", "zero-shot"]
    assert one["prompt family"] == "published, sentence, report"
    assert one["criterion"].startswith("probability 0.5")
    assert "shorter edge 28 bicubic" in one["processor"]
    assert one["trained on index"] == "not recorded"
    assert len(one["index"]) == 12
    assert one["checkpoint"] != audit["everything", "zero-shot"]["checkpoint"]
    assert one["negatives"] == "images judged to be without the finding"
    assert " to " in one["prevalence"]
    assert " to " in audit["curated", "linear probe"]["threshold"]

    measures = pandas.read_parquet(tmp_path / "out" / "measures.parquet")
    chosen = measures[(measures["task"] == "fine-tuning") & (measures["measure"] == "AUROC")]
    assert set(chosen["label"]) <= set(FINDINGS)
    assert json.loads(chosen["detail"].iloc[0])["training patients"] == 20
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 6  # ROC and reliability of three tasks
    for text in (page, json.dumps(read_results(tmp_path / "out" / "results.json"))):
        assert "secret" not in text
        assert str(tmp_path) not in text
    items = list((tmp_path / "out" / "cells").rglob("items.parquet"))
    assert len(items) == 4 + 4 + 2
    assert not any("secret" in str(pandas.read_parquet(file).to_numpy()) for file in items)

    before = written_at(tmp_path)
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": kept") == 10
    assert "measured in" not in printed
    assert written_at(tmp_path) == before


def planted_config(folder: Path, names: list[str] | None = None, **changes: object) -> Path:
    """A configuration whose models :func:`planted_load` knows."""
    write_index(folder / "index", patients=60)
    settings = {
        "models": {"seeing": {"path": "1"}, "blind": {"path": "0"}},
        "reference": "blind",
        "benchmarks": [
            {
                "name": "planted",
                "index": str(folder / "index"),
                "exposure": {"seeing": "train", "blind": "none"},
                "cohort": "drawn",
            }
        ],
        "tasks": [
            {"class_path": name, "init_args": {"resamples": 200}}
            for name in names or ["ZeroShot", "Retrieval", "LinearProbe"]
        ],
        "out": str(folder / "out"),
    } | changes
    file = folder / "planted.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


@pytest.fixture
def planted_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models by skill in place of files."""
    monkeypatch.setattr(models, "load", lambda name, source: PlantedModel(float(str(source.path))))


@pytest.mark.usefixtures("planted_load")
def test_a_model_that_sees_is_told_from_one_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planted_config(tmp_path)
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "Warning: planted was in the training data of seeing" in printed
    assert "training data of blind" not in printed
    rows = {(row["task"], row["measure"]): row for row in table(tmp_path, "differences")}
    for key in (("zero-shot", "macro AUROC"), ("retrieval", "image to text R@5")):
        assert rows[key]["shown to be"] == "higher"
        assert float(rows[key]["difference"].split()[0]) > 0.3
    exposure = [row["exposure"] for row in table(tmp_path, "overview")]
    assert exposure == ["in training data", "not in training data"]
    results = read_results(tmp_path / "out" / "results.json")
    assert results["n"] == {"patients, planted": 18, "images, planted": 36}
    # Another exposure is another report, not another computation.
    changed = yaml.safe_load(file.read_text())
    changed["benchmarks"][0]["exposure"] = "unknown"
    file.write_text(yaml.safe_dump(changed))
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": kept") == 6
    assert "not known whether planted was in the training data of blind" in printed


@pytest.mark.usefixtures("planted_load")
def test_other_settings_are_another_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planted_config(tmp_path, ["ZeroShot"])
    assert run(["evaluate", "-c", str(file)]) == 0
    changed = yaml.safe_load(file.read_text())
    changed["benchmarks"][0]["negatives"] = "healthy"
    file.write_text(yaml.safe_dump(changed))
    capsys.readouterr()
    assert run(["evaluate", "-c", str(file)]) == 0
    assert capsys.readouterr().out.count("measured in") == 2
    assert "No Finding" in {row["left out"] for row in table(tmp_path, "left out")}
    changed["tasks"][0]["init_args"]["batch_size"] = 5
    file.write_text(yaml.safe_dump(changed))
    assert run(["evaluate", "-c", str(file)]) == 0
    assert capsys.readouterr().out.count(": kept") == 2


@pytest.mark.usefixtures("planted_load")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "nobody"}, ["reference", "nobody", "seeing, blind"]),
        ({"tasks": []}, ["no task"]),
        ({"tasks": [{"class_path": "ZeroShot"}] * 2}, ["task names", "zero-shot"]),
        ({"tasks": [{"class_path": "ZeroShat"}]}, ["ZeroShat"]),
        (
            {"tasks": [{"class_path": "ZeroShot", "init_args": {"findings": ["Gout"]}}]},
            ["Gout", "Edema", "planted"],
        ),
    ],
)
def test_mistakes_are_named(
    changes: dict, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "-c", str(planted_config(tmp_path, **changes))]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_a_model_needs_a_path_or_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, words in (
        ({}, "either path or vision"),
        ({"path": "x", "vision": {"name": "efficientnet_lite0"}}, "either path or vision"),
        ({"path": "x", "twin_seed": 1}, "twin_seed"),
        ({"path": str(tmp_path / "none")}, "train it first"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        file = planted_config(folder, models={"one": model}, reference=None)
        settings = yaml.safe_load(file.read_text())
        settings["benchmarks"][0]["exposure"] = "none"
        file.write_text(yaml.safe_dump(settings))
        assert run(["evaluate", "-c", str(file)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.usefixtures("planted_load")
def test_a_damaged_cell_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = planted_config(tmp_path, ["Retrieval"])
    assert run(["evaluate", "-c", str(file)]) == 0
    cell = next((tmp_path / "out" / "cells" / "seeing").rglob("cell.json"))
    cell.write_text(cell.read_text()[:50])
    assert run(["evaluate", "-c", str(file)]) == 2
    message = capsys.readouterr().err
    assert "cell.json" in message
    assert "remove this folder" in message


def planted_command(folder: Path, file: Path) -> list[str]:
    """The verb in a process of its own, with models by skill."""
    script = folder / "main.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1] / 'cxr')!r})\n"
        "from planted import PlantedModel\n"
        "from sagittal_cxr.cli import main\n"
        "from sagittal_cxr.tasks import models\n"
        "models.load = lambda name, source: PlantedModel(float(str(source.path)))\n"
        "main()\n"
    )
    return [sys.executable, "-u", str(script), "evaluate", "-c", str(file)]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    command = planted_command(tmp_path, planted_config(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "seeing, planted, retrieval: measured" in line:
                process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "report.html").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "seeing, planted, zero-shot: kept" in done.stdout
    assert "seeing, planted, retrieval: kept" in done.stdout
    assert "blind, planted, zero-shot: measured" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_another_process_holds_comes_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".locks").mkdir()
    other = FileLock(tmp_path / ".locks" / "first-one.lock")
    other.acquire()
    turns = claimed(tmp_path, ["first one", "second", "third"])
    assert next(turns) == "second"
    with pytest.raises(Timeout):
        FileLock(tmp_path / ".locks" / "second.lock").acquire(timeout=0)
    assert next(turns) == "third"
    FileLock(tmp_path / ".locks" / "second.lock").acquire(timeout=0)  # it is free again
    other.release()
    assert next(turns) == "first one"
    with pytest.raises(Timeout):
        other.acquire(timeout=0)
    assert list(turns) == []
    assert "first one: another process is at it" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("planted_load")
def test_two_processes_share_the_models_out(tmp_path: Path) -> None:
    file = planted_config(tmp_path, ["ZeroShot", "Retrieval"])
    command = planted_command(tmp_path, file)
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for model in ("seeing", "blind"):
        for task in ("zero-shot", "retrieval"):
            cell = f"{model}, planted, {task}: "
            assert sum(text.count(f"{cell}measured") for text in said) == 1
            assert sum(text.count(f"{cell}kept") for text in said) == 1
    shared = table(tmp_path, "overview")
    (tmp_path / "out").rename(tmp_path / "shared")
    assert run(["evaluate", "-c", str(file)]) == 0
    assert table(tmp_path, "overview") == shared
