"""Fine-tuning on radiographs whose truth is known, and what it does after a kill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from planted import PlantedModel, benchmark, found, run, write_index

from sagittal_cxr.tasks.fine_tuning import FineTuned, FineTuning


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index"), patients=60)


def test_fine_tuning_learns_findings_that_frozen_features_hide(index: Path, tmp_path: Path) -> None:
    options = {"epochs": 12, "step_images": 16, "learning_rate": 0.02, "head_learning_rate": 0.05}
    task = FineTuning(**options, patience=12, resamples=20)
    model = PlantedModel(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measures = run(task, model, benchmark(index), tmp_path)
    assert found(measures, "macro AUROC").estimate > 0.8
    assert found(measures, "macro AUROC").detail["epochs"] == 12
    assert all((model.state_dict()[name] == value).all() for name, value in before.items())
    assert found(measures, "sensitivity", "Mass").detail["criterion"]


def test_fine_tuning_stops_early_and_keeps_the_best(index: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "resamples": 5}
    task = FineTuning(epochs=9, patience=2, **options)
    measures = run(task, PlantedModel(1), benchmark(index), tmp_path)
    # The first epoch is the best, two more are no better.
    assert found(measures, "macro AUROC").detail["epochs"] == 3
    # A kill after that and before the cell is written trains no more epochs.
    (tmp_path / "cell" / "trained.json").unlink()
    again = run(task, PlantedModel(1), benchmark(index), tmp_path)
    assert found(again, "macro AUROC").detail["epochs"] == 3
    assert [m.estimate for m in again] == pytest.approx([m.estimate for m in measures])


def test_killed_fine_tuning_ends_as_if_it_had_not_been(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FineTuning(
        epochs=3,
        step_images=8,
        learning_rate=0.01,
        checkpoint_every_n_steps=1,
        patience=5,
        resamples=5,
    )
    whole = run(task, PlantedModel(0.2), benchmark(index), tmp_path)
    steps = []
    original = FineTuned.training_step

    def killed(self, batch, number):
        steps.append(number)
        if len(steps) == 11:  # in the second epoch of eight steps
            raise MemoryError
        return original(self, batch, number)

    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(FineTuned, "training_step", killed)
    with pytest.raises(MemoryError):
        run(task, PlantedModel(0.2), benchmark(index), other)
    resumed = run(task, PlantedModel(0.2), benchmark(index), other)
    assert len(steps) == 11 + 24 - 10
    assert [m.estimate for m in resumed] == [m.estimate for m in whole]
