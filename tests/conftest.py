"""Settings for every test: one thread a worker, exact arithmetic, no network."""

from __future__ import annotations

import os

# Before torch and numpy are imported: the thread pools read these once.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["MPLBACKEND"] = "Agg"

from pathlib import Path

import hypothesis
import pytest
import torch

TIERS = {"unit", "e2e", "study"}

torch.set_num_threads(1)
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False

# Derandomized in CI, so that a red run can be repeated; no deadline, two workers share two cores.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test without a tier is a unit test; without a CUDA device, cuda tests are skipped."""
    no_cuda = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        names = {mark.name for mark in item.iter_markers()}
        if not names & TIERS:
            item.add_marker(pytest.mark.unit)
        if "cuda" in names and not torch.cuda.is_available():
            item.add_marker(no_cuda)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout's root."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs; the working directory moves beside it, out of the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"
