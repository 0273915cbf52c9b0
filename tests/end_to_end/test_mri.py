"""Every MRI config and verb, through the same code path as a user's command, on tiny sizes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import pytest
import torch
import yaml

pytest.importorskip("nilearn")
from sagittal_mri.cli import run
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.data.simulate import SimulatedScans
from sagittal_mri.data.writers import write_kspace_h5
from sagittal_mri.runs import find_run

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "mri" / "configs"
TINY_DATA = {
    "image_shape": [48, 64],
    "accelerations": [2.0],
    "coils": 3,
    "calibration": 20,
    "readout_rows": 32,
}
TINY_NETWORK = {"iterations": 1, "channels": 4, "levels": 1, "cg_iterations": 3}


def tiny_config(name: str, folder: Path, **trainer: object) -> Path:
    """The shipped config with small sizes, as a file of its own."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    config["data"]["init_args"] |= TINY_DATA
    config["model"]["init_args"]["network"]["init_args"] |= TINY_NETWORK
    config["runs_dir"] = str(folder / "runs")
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1}
    config["trainer"] |= {"limit_test_batches": 1, "check_val_every_n_epoch": 1} | trainer
    path = folder / name
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both demo runs trained for three steps."""
    folder = tmp_path_factory.mktemp("mri")
    for kind in ("selfsupervised", "supervised"):
        assert run(["fit", "-c", str(tiny_config(f"demo_{kind}.yaml", folder))]) == 0
    return folder


def test_fit_leaves_a_complete_run_folder(trained: Path) -> None:
    folder = find_run(trained / "runs" / "selfsupervised")
    assert (folder / "checkpoints" / "last.ckpt").exists()
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["init_args"]["learning_rate"] == 2e-3
    page = (folder / "report.html").read_text()
    marks = ['alt="val/panel"', 'alt="learning curves"', "<td>val/psnr</td>", "<details>"]
    assert [page.index(mark) for mark in marks] == sorted(page.index(mark) for mark in marks)
    assert str(trained) not in page, "a path in the report"


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    assert run(["fit", "-c", str(trained / "demo_supervised.yaml")]) == 3


def test_test_uses_the_trained_checkpoint(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["test", "-c", str(trained / "demo_supervised.yaml")]) == 0
    assert "test/psnr" in capsys.readouterr().out
    page = (find_run(trained / "runs" / "supervised") / "report.html").read_text()
    assert 'alt="test/panel"' in page
    assert "<td>test/psnr</td>" in page


def test_a_typo_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(trained / "demo_supervised.yaml")
    assert run(["fit", "-c", config, "--model.init_args.lerning_rate", "1"]) == 2
    assert "lerning_rate" in capsys.readouterr().err


def test_compare_writes_report_and_results(trained: Path) -> None:
    config = yaml.safe_load((CONFIGS / "demo_compare.yaml").read_text())
    config["data"]["init_args"] |= {k: v for k, v in TINY_DATA.items() if k != "readout_rows"}
    config["runs"] = {k: str(trained / "runs" / k) for k in ("selfsupervised", "supervised")}
    config |= {"out": str(trained / "compared"), "other_anatomy": None}
    path = trained / "compare.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(["compare", "-c", str(path)]) == 0
    results = json.loads((trained / "compared" / "results.json").read_text())
    rows = results["tables"]["held-out-slices-r-2"]["rows"]
    assert [row[0] for row in rows] == ["zero-filled", "CG-SENSE", "selfsupervised", "supervised"]
    mean, low, high = map(float, re.findall(r"[\d.]+", rows[2][1]))
    assert low <= mean <= high
    page = (trained / "compared" / "report.html").read_text()
    assert "CG-SENSE" in page
    assert "Trained without fully sampled scans: selfsupervised." in page
    assert "PSNR is 20 log10 of the reference slice" in page
    assert "data:image/png;base64" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_reconstruct_a_file(trained: Path, tmp_path: Path) -> None:
    rows, columns = torch.linspace(-1, 1, 48)[:, None], torch.linspace(-1, 1, 64)[None]
    slices = torch.stack([((rows**2 + columns**2) < r).float() for r in (0.6, 0.8)])
    scans = SimulatedScans(slices, [1, 2], coils=3, calibration=20, accelerations=(2.0,))
    file = tmp_path / "scan.h5"
    mask = scans[0].acquired  # one protocol for the whole file
    kspace = torch.cat([scans[i].reference_kspace for i in range(2)]) * mask[:, None, None]
    record = KspaceRecord(kspace, mask, None, (48, 64), file, voxel_size_mm=(1.0, 1.0, 5.0))
    write_kspace_h5(file, record)
    prefix = trained / "runs" / "selfsupervised"
    assert run(["reconstruct", str(file), str(prefix), "--out", str(tmp_path / "out")]) == 0
    assert nibabel.load(tmp_path / "out" / "scan.nii.gz").shape[-3:] in ((2, 48, 64), (48, 64, 2))
    with h5py.File(tmp_path / "out" / "scan.h5") as written:
        assert "reconstruction" in list(written)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "slice 2 of 2; grey scale from 0" in page
    assert "trained on SimulatedMRI." in page


def test_reconstruct_names_a_bad_file(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.h5"
    file.write_text("not HDF5")
    assert run(["reconstruct", str(file), str(trained / "runs" / "supervised")]) == 2
    assert "notes.h5" in capsys.readouterr().err


def test_two_processes_average_to_the_gradient_of_the_joined_batch(tmp_path: Path) -> None:
    code = (
        "import sys, torch, torch.distributed as dist, torch.multiprocessing as mp\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from ddp_gradient import SAMPLINGS, work, gradient\n"
        "if __name__ == '__main__':\n"
        "    mp.spawn(work, (sys.argv[2],), nprocs=2)\n"
        "    two = torch.load(sys.argv[2] + '/two.pt', weights_only=True)\n"
        "    for sampling in SAMPLINGS:\n"
        "        one = gradient(sampling, [0, 1])\n"
        "        print(float((one - two[sampling]).norm() / one.norm()))\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    gaps = [float(line) for line in done.stdout.split()[-2:]]
    assert max(gaps) < 1e-10
