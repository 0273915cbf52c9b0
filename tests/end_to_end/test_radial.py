"""Radial scans from configuration to pictures: fit, test, compare, and a raw file reconstructed."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("nilearn")
sys.path.insert(0, str(Path(__file__).parents[1] / "mri"))

from raw_files import Line, header_xml, write_ismrmrd

from sagittal_core.ops import nufft_type2
from sagittal_mri.cli import run
from sagittal_mri.data.anatomy import simulate_coil_images
from sagittal_mri.physics.radial import golden_angle_trajectory
from sagittal_mri.runs import find_run

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "mri" / "configs"
TINY_DATA = {"image_shape": [96, 128], "acceleration": 3.0, "coils": 3}
TINY_NETWORK = {"iterations": 1, "channels": 4, "levels": 1, "cg_iterations": 3}
SHAPE, SPOKES = (48, 64), 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the radial run trained for three steps, and its configuration."""
    folder = tmp_path_factory.mktemp("radial")
    config = yaml.safe_load((CONFIGS / "radial_selfsupervised.yaml").read_text())
    config["data"]["init_args"] |= TINY_DATA
    config["model"]["init_args"]["network"]["init_args"] |= TINY_NETWORK
    config["runs_dir"] = str(folder / "runs")
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1}
    config["trainer"] |= {"limit_test_batches": 1, "check_val_every_n_epoch": 1}
    path = folder / "radial.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(["fit", "-c", str(path)]) == 0
    return folder


@pytest.fixture(scope="module")
def raw_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ISMRMRD file of two slices of a disc, with a trajectory in index units."""
    rows, columns = torch.linspace(-1, 1, SHAPE[0])[:, None], torch.linspace(-1, 1, SHAPE[1])
    disc = (rows**2 / 0.6 + columns**2 / 0.5 < 1).float()
    trajectory = golden_angle_trajectory(SPOKES, 128)
    index = (trajectory * torch.tensor(SHAPE) / (2 * math.pi)).numpy()
    lines = []
    for number in range(2):
        images = simulate_coil_images(disc, 90 + number, 3, torch.Generator().manual_seed(number))
        samples = nufft_type2(1000 * images, trajectory.flatten(0, 1)) / math.sqrt(48 * 64)
        spokes = samples.unflatten(-1, (SPOKES, -1)).numpy()
        lines += [Line(spokes[:, k], step=k, slice=number, traj=index[k]) for k in range(SPOKES)]
    fov = (48.0, 64.0, 5.0)
    xml = header_xml(
        (128, 128, 1), (*SHAPE, 1), encoded_fov=fov, recon_fov=fov, trajectory="radial"
    )
    return write_ismrmrd(tmp_path_factory.mktemp("raw") / "spokes.h5", xml, lines)


def test_test_measures_radial_scans(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", "-c", str(trained / "radial.yaml")]) == 0
    assert "test/psnr" in capsys.readouterr().out


def test_compare_serves_radial_runs(trained: Path) -> None:
    config = yaml.safe_load((CONFIGS / "radial_compare.yaml").read_text())
    volume = np.zeros((64, 80, 60), np.float32)  # the fewest slices that give every role some
    volume[8:-8, 8:-8] = np.linspace(0.5, 1, 64)[None, :, None]
    np.save(trained / "box.npy", volume)
    small = {"volume": str(trained / "box.npy"), "image_shape": [64, 80]}
    config["data"]["init_args"] |= TINY_DATA | small
    config["runs"] = {"self-supervised": str(trained / "runs" / "radial_selfsupervised")}
    config |= {"out": str(trained / "compared"), "other_anatomy": None}
    path = trained / "compare.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(["compare", "-c", str(path)]) == 0
    results = json.loads((trained / "compared" / "results.json").read_text())
    ((difference, gain),) = results["tables"]["held-out-slices-r-3-differences"]["rows"]
    assert difference == "self-supervised - CG-SENSE"
    mean, low, high = map(float, re.findall(r"-?[\d.]+", gain))
    assert low <= mean <= high


def test_reconstruct_a_radial_file(trained: Path, raw_file: Path, tmp_path: Path) -> None:
    prefix, out = trained / "runs" / "radial_selfsupervised", tmp_path / "out"
    options = ["--trajectory_units", "index", "--calibration", "16", "--cg_iterations", "4"]
    assert run(["reconstruct", str(raw_file), str(prefix), "--out", str(out), *options]) == 0
    with h5py.File(out / "spokes.h5") as written:
        images = np.asarray(written["reconstruction"])
    assert images.shape == (2, *SHAPE)
    assert images[:, 24, 32].mean() > 20 * np.median(images[:, :4])  # a disc, in its place
    assert nibabel.load(out / "spokes.nii.gz").header.get_zooms()[:2] == (1.0, 1.0)
    page = (out / "report.html").read_text()
    assert "lambda 0.003, 4 iterations" in page
    assert "SimulatedRadialMRI" in page
    assert find_run(prefix).name in page


def test_a_run_trained_on_columns_takes_spokes(
    trained: Path, raw_file: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((trained / "radial.yaml").read_text())
    data = {"image_shape": [48, 64], "accelerations": [2.0], "coils": 3, "calibration": 20}
    config["data"] = {"class_path": "SimulatedMRI", "init_args": data}
    config["trainer"] |= {"limit_train_batches": 1, "limit_val_batches": 0}
    path = tmp_path / "columns.yaml"
    path.write_text(yaml.safe_dump(config | {"run_name": "columns"}))
    assert run(["fit", "-c", str(path)]) == 0
    prefix, out = str(trained / "runs" / "columns"), tmp_path / "out"
    options = ["--trajectory_units", "index", "--out", str(out)]
    assert run(["reconstruct", str(raw_file), prefix, *options]) == 0
    page = (out / "report.html").read_text()
    assert "radial" in page
    assert "SimulatedMRI" in page


def test_reconstruct_takes_what_is_selected(
    trained: Path, raw_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["reconstruct", str(raw_file), str(trained / "runs" / "radial_selfsupervised")]
    asked += ["--trajectory_units", "index", "--out", str(tmp_path)]
    assert run([*asked, "--select.slice", "1"]) == 0
    with h5py.File(tmp_path / "spokes.h5") as written:
        assert written["reconstruction"].shape == (1, *SHAPE)
    assert run([*asked, "--select.repetition", "3"]) == 2
    assert "'repetition': 3" in capsys.readouterr().err


def test_reconstruct_says_what_a_radial_file_lacks(
    trained: Path, raw_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = str(trained / "runs" / "radial_selfsupervised")
    assert run(["reconstruct", str(raw_file), prefix]) == 2
    assert "trajectory_units" in capsys.readouterr().err
    few = ["--trajectory_units", "index", "--calibration", "4"]
    assert run(["reconstruct", str(raw_file), prefix, *few]) == 2
    error = capsys.readouterr().err
    assert "smaller than the kernel" in error
    assert "spokes.h5" in error
    assert run(["reconstruct", str(raw_file), prefix, "--cg_iterations", "0"]) == 2
    assert "cg_iterations >= 1" in capsys.readouterr().err
