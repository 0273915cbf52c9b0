"""Training, testing and comparing on folders of measured files, as a user's command does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "mri"))

from kspace_files import columns, full_kspace, write_file

from sagittal_core.run_logger import read_metrics
from sagittal_mri.cli import run
from sagittal_mri.runs import find_run

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:.*acquired by none")]
CONFIG = Path(__file__).parents[2] / "packages" / "mri" / "configs" / "measured_selfsupervised.yaml"
WIDTH = 64
pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of files of a real T1 volume's slices: fully sampled, and undersampled."""
    folder = tmp_path_factory.mktemp("measured")
    from nilearn.datasets import load_mni152_template

    volume = np.asarray(load_mni152_template(resolution=3).get_fdata())
    for number, role in enumerate(("train", "train", "val", "test")):
        slices = torch.from_numpy(volume[2:-1, :WIDTH, 26 + 4 * number : 28 + 4 * number]).float()
        kspace = full_kspace(slices.permute(2, 0, 1) / slices.max(), coils=4, seed=number)
        name = f"Jane_Doe_{number}.h5"
        write_file(folder / "full" / role / name, kspace)
        write_file(folder / "under" / role / name, kspace, columns(WIDTH, seed=number))
    return folder


def tiny(folder: Path, kind: str, **options: object) -> Path:
    """The shipped config on these folders with a small network, as a file of its own."""
    config = yaml.safe_load(CONFIG.read_text())
    config["data"]["init_args"] |= {
        **{role: str(folder / kind / role) for role in ("train", "val", "test")},
        "accelerations": [2.0],
        "calibration": 16,
        "cache_dir": str(folder / "maps"),
        "num_workers": 0,
        **options,
    }
    network = {"iterations": 1, "channels": 4, "levels": 1, "cg_iterations": 3}
    config["model"]["init_args"]["network"]["init_args"] |= network
    config["model"]["init_args"]["log_images"] = True
    config |= {"runs_dir": str(folder / "runs"), "run_name": kind}
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 2}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def last(file: Path) -> dict[str, str]:
    return {key: value for row in read_metrics(file) for key, value in row.items() if value}


def test_fully_sampled_files_train_test_and_compare(folder: Path) -> None:
    config = tiny(folder, "full")
    assert run(["fit", "-c", str(config)]) == 0
    assert run(["fit", "-c", str(config)]) == 3  # finished
    assert run(["test", "-c", str(config)]) == 0
    found = find_run(folder / "runs" / "full")
    assert float(last(found / "test.csv")["test/psnr"]) > 15
    assert len(list((folder / "maps").glob("*.npy"))) == 8
    report = (found / "report.html").read_text()
    assert "test/panel" in report
    assert "Jane_Doe" not in report

    settings = {
        "data": yaml.safe_load(config.read_text())["data"],
        "runs": {"self-supervised": str(folder / "runs" / "full")},
        "reference_run": "self-supervised",
        "out": str(folder / "compare"),
    }
    settings["data"]["init_args"]["train"] = str(folder / "full" / "train" / "Jane_Doe_0.h5")
    compare = folder / "compare.yaml"
    compare.write_text(yaml.safe_dump(settings))
    assert run(["compare", "-c", str(compare)]) == 0
    results = json.loads((folder / "compare" / "results.json").read_text())
    assert results["n"] == {"volumes": 1, "held-out slices": 2}
    for file in ("results.json", "report.html"):
        text = (folder / "compare" / file).read_text()
        assert "Jane_Doe" not in text
        assert str(folder) not in text


def test_undersampled_files_train_and_test_without_a_reference(folder: Path) -> None:
    config = tiny(folder, "under", accelerations=None)
    assert run(["fit", "-c", str(config)]) == 0
    assert run(["test", "-c", str(config)]) == 0
    found = find_run(folder / "runs" / "under")
    tested = last(found / "test.csv")
    assert np.isfinite(float(tested["test/loss"]))
    assert "test/psnr" not in tested
    assert (
        "without a network" in (found / "report.html").read_text()
        or (found / "pictures" / "test-panel.png").is_file()
    )


def test_supervised_training_needs_fully_sampled_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(folder, "under", accelerations=None)
    settings = yaml.safe_load(config.read_text())
    settings["model"]["init_args"]["partition"] = {"class_path": "Supervised"}
    settings["run_name"] = "supervised"
    config.write_text(yaml.safe_dump(settings))
    assert run(["fit", "-c", str(config)]) == 2
    assert "Supervised training needs fully sampled scans" in capsys.readouterr().err


def test_a_damaged_file_stops_with_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = next((folder / "full" / "train").iterdir()).read_bytes()
    broken = tmp_path / "train" / "broken.h5"
    broken.parent.mkdir()
    broken.write_bytes(whole[: len(whole) // 3])
    config = tiny(folder, "full", train=str(broken.parent))
    assert run(["fit", "-c", str(config)]) == 2
    assert "broken.h5" in capsys.readouterr().err
