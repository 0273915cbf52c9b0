"""The protocols on the public cohorts; they need the sample data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

from sagittal_core import sample_data
from sagittal_core.errors import DataError
from sagittal_core.resampling import auroc
from sagittal_risk.baselines import CoxRisk, LogisticRisk, cross_fitted
from sagittal_risk.cli import run
from sagittal_risk.cohorts.framingham import framingham
from sagittal_risk.cohorts.heart_disease import heart_disease
from sagittal_risk.equations import framingham_2008, pce, score2

CONFIGS = Path(__file__).parents[2] / "packages" / "risk" / "configs"


def test_framingham_by_the_published_protocol() -> None:
    cohort = framingham(sample_data.path("framingham"))
    assert list(cohort.flow.values()) == [11627, 3263, 2578, 2342]
    assert len(cohort) == 2342
    assert cohort.event.sum() == 318
    assert len(set(cohort.person)) == 2342
    assert cohort.time is not None
    assert cohort.time.max() == pytest.approx(10, abs=0.01)
    assert cohort.time[cohort.event].min() > 0


@pytest.mark.parametrize(
    ("equation", "area", "mean"),
    [("frs", 0.744, 0.218), ("pce", 0.748, 0.132), ("score2", 0.733, 0.086)],
)
def test_equations_on_framingham(equation: str, area: float, mean: float) -> None:
    cohort = framingham(sample_data.path("framingham"))
    made = {
        "frs": framingham_2008,
        "pce": lambda p: pce(p, extrapolate=True),
        "score2": lambda p: score2(p, "moderate", extrapolate=True),
    }
    risk = made[equation](cohort.patients).risk
    assert not np.isnan(risk).any()
    assert auroc(cohort.event, risk) == pytest.approx(area, abs=0.001)
    assert risk.mean() == pytest.approx(mean, abs=0.001)


@pytest.mark.parametrize("make", [LogisticRisk, lambda: CoxRisk(10.0)])
def test_regressions_on_framingham(make) -> None:
    cohort = framingham(sample_data.path("framingham"))
    risk = cross_fitted(make, cohort.matrix(), cohort.event, cohort.time, cohort.person)
    assert auroc(cohort.event, risk) == pytest.approx(0.740, abs=0.005)
    assert np.mean((risk - cohort.event) ** 2) == pytest.approx(0.1077, abs=0.002)


def test_heart_disease_has_four_sites_and_zero_is_missing() -> None:
    cohort = heart_disease(sample_data.path("heart_disease_uci"))
    assert len(cohort) == 920
    assert len(set(cohort.site)) == 4
    assert cohort.event.sum() == 509
    assert np.nanmin(cohort.features["total_cholesterol"]) > 0
    assert np.isnan(cohort.features["total_cholesterol"]).sum() == 202


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n")
    for read in (framingham, heart_disease):
        with pytest.raises(DataError, match="columns"):
            read(file)
        with pytest.raises(DataError, match="CSV"):
            read(tmp_path / "none.csv")


def test_the_command_writes_a_table_that_training_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "framingham.csv"
    assert run(["cohort", "framingham", "--out", str(file)]) == 0
    assert "2342 people, 318 with CVD_10Y" in capsys.readouterr().out
    table = pandas.read_csv(file)
    assert table["split"].value_counts().to_dict() == {"test": 1171, "train": 1054, "val": 117}
    assert table["sex"].isin([0, 1]).all()
    settings = yaml.safe_load((CONFIGS / "adacvd_framingham.yaml").read_text())["data"]["init_args"]
    told = {f["column"] for group in settings["groups"] for f in group["features"]}
    assert told <= set(table)
    before = file.read_bytes()
    assert run(["cohort", "framingham", "--out", str(file)]) == 0
    assert file.read_bytes() == before
    assert run(["cohort", "framingham", "--out", str(file), "--seed", "1"]) == 0
    assert pandas.read_csv(file)["split"].tolist() != table["split"].tolist()


def test_one_site_keeps_its_rows_of_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = tmp_path / "all.parquet", tmp_path / "hungary.csv"
    assert run(["cohort", "heart_disease", "--out", str(whole)]) == 0
    given = ["cohort", "heart_disease", "--out", str(part), "--site"]
    assert run([*given, "Hungary"]) == 0
    table, alone = pandas.read_parquet(whole), pandas.read_csv(part)
    expected = table[table["site"] == "Hungary"].set_index("person")["split"]
    assert alone.set_index("person")["split"].tolist() == expected.tolist()
    assert (alone["split"] == "test").sum() == pytest.approx(len(alone) / 2, abs=1)
    settings = yaml.safe_load((CONFIGS / "adacvd_heart_disease.yaml").read_text())
    groups = settings["data"]["init_args"]["groups"]
    assert {f["column"] for group in groups for f in group["features"]} <= set(alone)
    assert run([*given, "Boston"]) == 2
    assert "no site 'Boston'" in capsys.readouterr().err
    assert run(["cohort", "framingham", "--out", str(tmp_path / "x.json")]) == 2
