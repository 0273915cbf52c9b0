"""``sagittal-genai evaluate`` through the command that a user types, where the truth is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "genai"))
from evaluation_data import DIM, NAMES, atoms, write_run, write_store

from sagittal_core.results import read_results
from sagittal_genai.cli import run

pytestmark = pytest.mark.e2e
CONFIGS = sorted(
    (Path(__file__).parents[2] / "packages" / "genai" / "configs").glob("evaluate_*.yaml")
)


def random_directions(seed: int, count: int = 12) -> torch.Tensor:
    rows = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def prepared(config: Path, folder: Path, one_subject: bool = False) -> Path:
    """The configuration with features that are the concepts, beside a random encoder."""
    settings = yaml.safe_load(config.read_text())
    tokens = settings["tokens"]
    stores = [
        write_store(folder / name, name == "real", tokens, one_subject)
        for name in ("real", "random")
    ]
    # Two seeds with the same features in another order, and one that shares nothing with them.
    spare = random_directions(9, 4)
    features = torch.cat([atoms(), spare])
    runs = [
        write_run(folder / "seed-1", features),
        write_run(folder / "seed-2", features.flip(0)),
    ]
    twin = write_run(folder / "random-run", random_directions(1))
    labels = list(settings["sources"])
    settings["sources"] = {
        labels[0]: {"store": str(stores[0]), "runs": [str(one) for one in runs]},
        labels[1]: {"store": str(stores[1]), "runs": [str(twin)]},
    }
    settings |= {"out": str(folder / "out"), "resamples": 60, "queries": 40, "n_min": 10}
    file = folder / "evaluate.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def table(folder: Path, name: str) -> list[dict[str, str]]:
    found = read_results(folder / "out" / "results.json")["tables"][name]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def number(text: str) -> float:
    return float(text.split()[0])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_features_that_are_concepts_are_told_from_random_ones(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = prepared(config, tmp_path)
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    results = read_results(tmp_path / "out" / "results.json")
    assert results["n"] == {"test subjects": 15, "test rows": 120}

    curve = {(row["label"], row["features"]): row for row in table(tmp_path, "recovery")}
    assert number(curve["encoder", "1"]["recovery above chance"]) > 0.95
    assert number(curve["random twin", "10"]["AUROC"]) < 0.6
    for row in table(tmp_path, "targets"):
        if row["target"] in NAMES:
            assert number(row["encoder: 10"]) > 0.97
            assert number(row["random twin: 10"]) < 0.7

    m = {row["label"]: row for row in table(tmp_path, "monosemanticity")}
    chooser = "blocks of train" if config.stem == "evaluate_tokens" else "val"
    for key in (f"M of 10, chosen on {chooser}", "M of 10, as published"):
        assert number(m["encoder, run 1"][key]) > 0.3
        assert number(m["random twin"][key]) < 0.1
    assert m["encoder, run 1"]["one row a"] == "subject"

    shared = {
        (row["label"], row["by"]): row["shared concepts (Jaccard)"]
        for row in table(tmp_path, "retrieval")
    }
    assert number(shared["encoder", "10 features"]) > 0.8
    assert number(shared["random twin", "10 features"]) < 0.5

    (pair,) = table(tmp_path, "stability")
    assert number(pair["mean cosine"]) == pytest.approx(1, abs=1e-3)
    assert number(pair["random directions"]) < 0.9

    verdicts = {
        row["measure"]: row["this label is"] for row in table(tmp_path, "differences: encoder")
    }
    for name in ("AUROC, 10 features", "monosemanticity M", "retrieval @10, shared concepts"):
        assert verdicts[name] == "higher", verdicts
    assert "encoder is above random twin" in printed
    assert all(name in str(results["tables"]["targets"]) for name in NAMES)
    everything = json.dumps(results)
    assert "patient-" not in everything
    assert str(tmp_path) not in everything
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 3
    assert str(tmp_path) not in page

    start = time.monotonic()
    assert run(["evaluate", "-c", str(file)]) == 0
    assert "probes in" not in capsys.readouterr().out  # everything came from the cache
    assert time.monotonic() - start < 10


def test_without_a_control_the_report_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(prepared(CONFIGS[0], tmp_path).read_text())
    settings["sources"].pop("random twin")
    settings["control"] = None
    settings["max_targets"] = 2
    file = tmp_path / "alone.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert run(["evaluate", "-c", str(file)]) == 0
    assert "Warning: no random encoder" in capsys.readouterr().out
    assert "Warning: no random encoder" in (tmp_path / "out" / "report.html").read_text()
    assert "beyond the 2 most balanced" in {row["reason"] for row in table(tmp_path, "left out")}


def test_one_subject_gives_no_interval_and_the_report_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = prepared(CONFIGS[0], tmp_path, one_subject=True)
    assert run(["evaluate", "-c", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "Independent units in test: 1, fewer than 5 subjects: there are no intervals" in printed
    assert "With so few subjects in test no difference can be judged" in printed
    assert "up to 4 rows of one scan in test" in printed
    tables = read_results(tmp_path / "out" / "results.json")["tables"]
    assert not [cell for row in tables["recovery"]["rows"] for cell in row if "[" in cell]
    assert "test has one subject" in str(tables["retrieval"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "nobody"}, ["control", "nobody", "random twin"]),
        ({"concepts": "lesions"}, ["lesions", "findings"]),
        ({"tokens": True}, ["no patch", "train"]),
        ({"queries": 0}, ["queries must be at least 1"]),
        ({"limits": {"train": 0}}, ["train must be at least 1"]),
        ({"device": "tpu"}, ["device 'tpu' cannot be used"]),
    ],
)
def test_mistakes_are_named(
    change: dict, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(prepared(CONFIGS[0], tmp_path).read_text()) | change
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert run(["evaluate", "-c", str(file)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    file = prepared(CONFIGS[0], tmp_path)
    script = tmp_path / "main.py"
    script.write_text("from sagittal_genai.cli import main\n\nmain()\n")
    command = [sys.executable, "-u", str(script), "evaluate", "-c", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "dense-probes in" in line:
                process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "report.html").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "encoder: dense-probes in" not in done.stdout
    assert "random twin: dense-probes in" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
