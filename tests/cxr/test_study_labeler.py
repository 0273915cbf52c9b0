"""The labeler's study: its split, its mapping, its counts; and its committed results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sagittal_core import sample_data
from sagittal_core.results import read_results
from sagittal_cxr.reports.labeler import Labeler
from sagittal_cxr.reports.observations import CHEXPERT


@pytest.fixture(scope="module")
def study(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "study_labeler", repo_root / "benchmarks" / "study_labeler.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_labeler"] = module  # its NamedTuple asks for it
    spec.loader.exec_module(module)
    return module


def test_the_split_depends_on_names_alone(study: ModuleType) -> None:
    names = [f"synth_{number:04d}" for number in range(1, 1001)]
    chosen = study.development(names)
    assert len(chosen) == 300
    assert chosen == study.development(reversed(names))
    assert {"synth_0297", "synth_0482"} <= chosen
    assert "synth_0001" not in chosen


def test_every_finding_is_mapped_once_or_left(study: ModuleType) -> None:
    mapped = [finding for findings in study.RADLABELS.values() for finding in findings]
    assert len(set(mapped)) == len(mapped)
    assert not set(mapped) & set(study.RADLABELS_LEFT)
    assert len(mapped) + len(study.RADLABELS_LEFT) == 49
    assert set(study.RADLABELS) | {"No Finding"} == set(study.OPENI) == set(CHEXPERT)


def test_f1_of_counts_by_hand(study: ModuleType) -> None:
    truth = np.array([True, True, True, False, False])
    found = np.array([True, True, False, True, False])
    codes = study.outcomes(truth, found)
    assert codes.tolist() == [1, 1, 3, 2, 0]
    assert float(study.f1(codes)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert float(study.f1(np.zeros(3))) == 0.0


def test_headings_count_from_their_beginning(study: ModuleType) -> None:
    assert study._means("Cardiac Shadow/enlarged/mild", ("Cardiac Shadow/enlarged",))
    assert not study._means("Cardiac Shadow/borderline", ("Cardiac Shadow/enlarged",))
    assert not study._means("Massive", ("Mass",))


def test_what_is_read_of_radlabels(study: ModuleType) -> None:
    folder = sample_data.path("radlabels_reports")
    reference = study.read_radlabels(folder, "development")
    assert (len(reference.texts), reference.labels.shape) == (300, (300, 14))
    assert not any("INDICATION:" in text or "COMPARISON:" in text for text in reference.texts)
    lines = {
        line[0]: line for line in study.compare(reference, Labeler().label_many(reference.texts))
    }
    assert lines["Pneumothorax"][5] == 99
    assert float(lines["Pneumothorax"][6].split()[0]) > 0.9
    assert float(study.macro(list(lines.values()), 4)) > 0.9


def test_what_is_read_of_openi(study: ModuleType) -> None:
    reference, left = study.read_openi(sample_data.path("openi_reports"))
    assert len(reference.texts) + sum(left.values()) == 3955
    normal = reference.labels[:, 0] == 1
    assert 1300 < normal.sum() < 1391
    assert not reference.labels[normal, 1:].any(axis=1).mean() > 0.01


def test_committed_results_are_of_the_held_out_reports(repo_root: Path) -> None:
    document = read_results(repo_root / "results" / "study_labeler.json")
    assert document["n"]["held-out radlabels reports"] == 700
    assert len(document["tables"]["openi"]["rows"]) >= 14
