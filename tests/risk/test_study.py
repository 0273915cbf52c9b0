"""The Framingham study from beginning to end, with few resamples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sagittal_core.results import read_results
from sagittal_risk.cli import run

ROOT = Path(__file__).parents[2]


@pytest.mark.study
def test_study_and_the_evaluation_of_what_it_writes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "study_framingham.py"),
        "--resamples",
        "20",
    ]
    places = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "study.json")]
    subprocess.run([*command, *places], check=True)
    measures = read_results(tmp_path / "study.json")["tables"]["measures"]["rows"]
    areas = {row[0]: float(row[1].split()[0]) for row in measures}
    expected = {"Framingham 2008": 0.744, "Pooled Cohort Equations": 0.748,
                "SCORE2, moderate region": 0.733, "logistic regression": 0.740}  # fmt: skip
    for label, area in expected.items():
        assert areas[label] == pytest.approx(area, abs=0.005)
    table = tmp_path / "out" / "predictions.csv"
    given = ["evaluate", str(table), "--risks", "[Framingham 2008,logistic regression]",
             "--time", "years", "--horizon", "10", "--person", "person", "--subgroups",
             "[sex_group,age_group]", "--resamples", "20"]  # fmt: skip
    assert run([*given, "--out", str(tmp_path / "e")]) == 0
    assert (tmp_path / "e" / "report.html").is_file()
