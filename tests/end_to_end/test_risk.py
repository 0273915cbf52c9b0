"""``sagittal-risk`` through the commands that a user types, on made patients."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

from sagittal_core.results import read_results
from sagittal_risk.cli import run
from sagittal_risk.equations import equations, family, prevent
from sagittal_risk.patients import Patients

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "risk" / "configs"


def patients(folder: Path, count: int = 40, name: str = "patients.csv") -> Path:
    """A table as configs/schema.yaml describes it; row 2 lacks HDL, row 3 is too old."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "patient": f"secret-{row}",
            "age_years": round(float(rng.uniform(45, 65)), 1),
            "sex": "FM"[row % 2],
            "race": "WBO"[row % 3],
            "chol": round(float(rng.uniform(4, 7)), 2),
            "hdl": round(float(rng.uniform(0.9, 2)), 2),
            "sbp": int(rng.uniform(100, 170)),
            "bmi": round(float(rng.uniform(20, 35)), 1),
            "egfr": int(rng.uniform(60, 100)),
            "dm": ["no", "yes"][row % 5 == 0],
            "smoking": ["never", "former", "current"][row % 3],
            "antihypertensives": row % 2,
            "ward": "A",
        }
        for row in range(count)
    ]
    rows[1]["hdl"], rows[2]["age_years"] = "NA", 85
    file = folder / name
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def score(table: Path, out: Path, *options: str) -> int:
    schema, config = str(CONFIGS / "schema.yaml"), str(CONFIGS / "score.yaml")
    given = ["score", str(table), "--schema", schema, "-c", config, "--out", str(out), *options]
    return run(given)


def test_every_patient_gets_a_row_by_every_equation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = patients(tmp_path), tmp_path / "out"
    assert score(table, out, "--part_rows", "16") == 0
    scores = pandas.read_csv(out / "scores.csv", keep_default_na=False)
    plain = [name for name, one in equations().items() if not one.optional]
    chosen = [n for n in plain if not n.startswith("score2") or n.endswith("_moderate")]
    assert len(scores) == 40 * len(chosen)
    assert set(scores["equation"]) == set(chosen)
    assert scores["row"].drop_duplicates().tolist() == list(range(1, 41))

    by = scores.set_index(["id", "equation"])
    assert by.loc[("secret-1", "prevent_cvd_10y"), "missing"] == "hdl_cholesterol"
    assert by.loc[("secret-1", "prevent_hf_10y"), "risk"] != ""  # takes no cholesterol
    old = by.loc[("secret-2", "prevent_cvd_10y")]
    assert (old["risk"], old["out_of_range"], str(old["applicable"])) == ("", "age", "False")
    assert by.loc[("secret-2", "score2_op_moderate"), "risk"] != ""

    with table.open() as opened:
        first = next(csv.DictReader(opened))
    alone = Patients.of(
        age=[float(first["age_years"])],
        sex=["female"],
        total_cholesterol=([float(first["chol"])], "mmol/L"),
        hdl_cholesterol=([float(first["hdl"])], "mmol/L"),
        systolic=[float(first["sbp"])],
        egfr=[float(first["egfr"])],
        diabetes=[1],
        smoker=[0],
        bp_treated=[0],
        statin=[0],
    )
    found = float(by.loc[("secret-0", "prevent_cvd_10y"), "risk"])
    assert found == pytest.approx(prevent(alone).risk[0], abs=1e-7)

    results = read_results(out / "results.json")
    assert results["n"] == {"patients": 40}
    for file in (out / "results.json", out / "report.html"):
        text = file.read_text()
        assert "secret" not in text
        assert str(tmp_path) not in text
    assert "40 patients by 14 equations" in capsys.readouterr().out
    assert not (out / "parts").exists()


def test_extensions_of_prevent_and_egfr_from_creatinine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path)
    frame = pandas.read_csv(table, dtype=str, keep_default_na=False)
    frame["crea"], frame["a1c"] = "88.4", "53"
    frame.loc[0, "egfr"] = ""
    frame.loc[4, "crea"] = "400"  # its stated eGFR is far off
    frame.loc[5, "a1c"] = ""
    frame.loc[6, "a1c"] = "190"  # 19.5 %
    frame.to_csv(table, index=False)
    read = yaml.safe_load((CONFIGS / "schema.yaml").read_text())
    read["fields"]["creatinine"] = {"column": "crea", "unit": "umol/L"}
    read["fields"]["hba1c"] = {"column": "a1c", "unit": "mmol/mol"}
    schema, out = tmp_path / "schema.yaml", tmp_path / "out"
    schema.write_text(yaml.safe_dump(read))
    given = ["score", str(table), "--schema", str(schema), "--out"]
    assert run([*given, str(out)]) == 0
    said = capsys.readouterr().out
    differ = int(re.search(r"(\d+) rows have an eGFR that is more than 20% off", said)[1])
    assert 1 <= differ < 40
    assert "1 rows have an eGFR computed from creatinine, age and sex" in said
    assert "prevent_hba1c_10y: 1 rows have no hba1c" in said
    text = (out / "report.html").read_text()
    assert "1 rows have an eGFR computed from creatinine" in text
    assert "term for a missing value" in text
    scores = pandas.read_csv(out / "scores.csv", keep_default_na=False)
    added = {n for n in scores["equation"] if any(m in n for m in ("uacr", "hba1c", "sdi", "full"))}
    assert added == set(family("prevent_hba1c"))
    assert set(family("prevent")) <= set(scores["equation"])
    by = scores.set_index(["id", "equation"])
    assert str(by.loc[("secret-0", "prevent_cvd_10y"), "egfr_computed"]) == "True"
    assert str(by.loc[("secret-0", "pce"), "egfr_computed"]) == "False"  # does not take it
    assert str(by.loc[("secret-4", "prevent_cvd_10y"), "egfr_computed"]) == "False"
    one = by.loc[("secret-5", "prevent_hba1c_cvd_10y")]
    assert (one["missing_term"], one["missing"], str(one["applicable"])) == ("hba1c", "", "True")
    assert float(one["risk"]) > 0
    assert by.loc[("secret-5", "prevent_cvd_10y"), "missing_term"] == ""
    high = by.loc[("secret-6", "prevent_hba1c_cvd_10y")]
    assert (high["risk"], high["out_of_range"]) == ("", "hba1c")

    assert run([*given, str(tmp_path / "full"), "--equations", "[prevent_full,pce]"]) == 0
    scores = pandas.read_csv(tmp_path / "full" / "scores.csv", keep_default_na=False)
    assert set(scores["equation"]) == {*family("prevent_full"), "pce"}
    unknown = scores[scores["equation"] == "prevent_full_hf_10y"]["missing_term"]
    assert unknown.tolist() == ["uacr;sdi"] * 5 + ["uacr;hba1c;sdi"] + ["uacr;sdi"] * 34


def test_a_computed_egfr_that_no_patient_has_is_named_with_its_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path)
    frame = pandas.read_csv(table, dtype=str, keep_default_na=False)
    frame["egfr"] = "1.0"
    frame.loc[0, "egfr"], frame.loc[0, "age_years"] = "30", "95"
    frame.to_csv(table, index=False)
    read = yaml.safe_load((CONFIGS / "schema.yaml").read_text())
    del read["fields"]["egfr"]
    read["fields"]["creatinine"] = {"column": "egfr", "unit": "mg/dL"}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(read))
    given = ["score", str(table), "--schema", str(tmp_path / "schema.yaml")]
    assert run([*given, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "40 rows have an eGFR computed from creatinine" in said
    assert "1 rows have a egfr (column egfr) that no patient has" in said


def test_scoring_again_does_nothing_and_other_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = patients(tmp_path), tmp_path / "out"
    assert score(table, out) == 0
    before = (out / "scores.csv").read_bytes()
    assert score(table, out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (out / "scores.csv").read_bytes() == before
    assert score(table, out, "--extrapolate", "true") == 2
    assert "another extrapolate" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    assert score(table, other) == 2
    assert "not empty" in capsys.readouterr().err


def test_json_and_parquet_say_the_same(tmp_path: Path) -> None:
    table = patients(tmp_path)
    frame = pandas.read_csv(table, dtype={"hdl": float}, na_values=["NA"])
    frame.to_parquet(tmp_path / "patients.parquet")
    assert score(table, tmp_path / "csv", "--equations", "[prevent_cvd_10y,pce]") == 0
    options = ("--kind", "json", "--part_rows", "7", "--equations", "[prevent_cvd_10y,pce]")
    assert score(tmp_path / "patients.parquet", tmp_path / "json", *options) == 0
    one = pandas.read_csv(tmp_path / "csv" / "scores.csv")
    other = json.loads((tmp_path / "json" / "scores.json").read_text())
    assert len(other) == len(one) == 80
    for a, b in zip(one.to_dict("records"), other, strict=True):
        assert a["id"] == b["id"]
        assert a["equation"] == b["equation"]
        assert (b["risk"] is None) == np.isnan(a["risk"])
        if b["risk"] is not None:
            assert a["risk"] == pytest.approx(b["risk"], abs=1e-7)


def test_a_killed_job_goes_on_and_scores_nobody_twice(tmp_path: Path) -> None:
    table, out = patients(tmp_path, 4000), tmp_path / "out"
    script = tmp_path / "main.py"
    # Dies by the signal in the middle of the third part, after its counts were written.
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sagittal_risk import scoring\n"
        "from sagittal_risk.cli import main\n"
        "whole = Path.replace\n"
        "def replace(self, target):\n"
        "    if 'KILL' in os.environ and self.name == '.part-000002':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(self, target)\n"
        "Path.replace = replace\n"
        "main()\n"
    )
    command = [sys.executable, str(script), "score", str(table), "--schema",
               str(CONFIGS / "schema.yaml"), "--out", str(out), "--part_rows", "1000"]  # fmt: skip
    killed = subprocess.run(command, env=os.environ | {"KILL": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "scores.csv").exists()
    parts = sorted(file.name for file in (out / "parts").glob("part-*"))
    assert parts == ["part-000000", "part-000001"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(2 of 4 parts were there)" in done.stdout
    scores = pandas.read_csv(out / "scores.csv")
    assert not scores.duplicated(["id", "equation"]).any()
    assert scores["id"].nunique() == 4000
    assert read_results(out / "results.json")["n"] == {"patients": 4000}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("chol", "cholesterol"), ["chol", "columns"]),
        (lambda text: text.replace("never", "cigar"), ["smoking", "current, former, never"]),
        (lambda text: text.splitlines()[0], ["at least one row"]),
    ],
)
def test_mistakes_in_a_table_are_named(
    change, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path)
    table.write_text(change(table.read_text()))
    assert score(table, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "secret" not in message
    assert not (tmp_path / "out").exists()


def test_score_needs_a_schema_and_known_equations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path)
    assert run(["score", str(table), "--out", str(tmp_path / "out")]) == 2
    assert "--schema" in capsys.readouterr().err
    assert score(table, tmp_path / "out", "--equations", "[qrisk3]") == 2
    assert "prevent_cvd_10y" in capsys.readouterr().err


def test_other_units_in_some_rows_are_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path)
    frame = pandas.read_csv(table, dtype=str, keep_default_na=False)
    frame.loc[5:9, "chol"] = "200"
    frame.to_csv(table, index=False)
    assert score(table, tmp_path / "out") == 0
    assert "5 rows have a total_cholesterol (column chol)" in capsys.readouterr().out
    frame["chol"] = "200"
    frame.to_csv(table, index=False)
    assert score(table, tmp_path / "all") == 2
    assert "look like mg/dL" in capsys.readouterr().err


def predictions(folder: Path, count: int = 500) -> Path:
    """As configs/evaluate.yaml names the columns: true risks, double ones and noise."""
    rng = np.random.default_rng(1)
    true = rng.beta(2, 8, count)
    event_time = np.where(rng.random(count) < true, rng.uniform(0, 10, count), 30)
    leave = rng.uniform(2, 40, count)
    frame = pandas.DataFrame(
        {
            "patient": [f"secret-{n}" for n in range(count)],
            "event": (event_time <= leave).astype(int),
            "years": np.minimum(event_time, leave),
            "framingham_2008": np.minimum(2 * true, 0.99),
            "pce": true,
            "model": rng.permutation(true),
            "sex": rng.choice(["female", "male"], count),
            "age_group": np.where(np.arange(count) < 12, "90+", "below 90"),
        }
    )
    frame.loc[3, "pce"] = np.nan
    file = folder / "predictions.csv"
    frame.to_csv(file, index=False)
    return file


def cells(folder: Path, name: str) -> list[dict[str, str]]:
    table = read_results(folder / "results.json")["tables"][name]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def number(text: str) -> float:
    return float(text.split()[0])


def test_evaluation_tells_good_risks_from_bad_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = predictions(tmp_path), tmp_path / "out"
    given = ["evaluate", str(table), "-c", str(CONFIGS / "evaluate.yaml")]
    assert run([*given, "--out", str(out), "--resamples", "60"]) == 0
    measures = {row["measure"]: row for row in cells(out, "measures")}
    assert number(measures["AUROC"]["pce"]) > 0.65
    assert number(measures["AUROC"]["framingham_2008"]) == pytest.approx(
        number(measures["AUROC"]["pce"]), abs=0.01
    )
    assert number(measures["observed / expected"]["framingham_2008"]) < 0.7
    assert 0.75 < number(measures["observed / expected"]["pce"]) < 1.25
    assert number(measures["ICI"]["framingham_2008"]) > 2 * number(measures["ICI"]["pce"])
    assert number(measures["calibration slope"]["model"]) < 0.5
    assert number(measures["C-index (Harrell)"]["pce"]) > 0.6
    gaps = {row["difference"]: row for row in cells(out, "differences")}
    assert number(gaps["model - framingham_2008"]["AUROC"]) < -0.1
    assert "too few events" in {row["AUROC"] for row in cells(out, "subgroups")}
    people = {row["people"]: row["number"] for row in cells(out, "people")}
    assert people["rows of the table"] == 500
    assert people["no pce"] == 1
    assert people["compared"] == 499
    assert people["censored before the horizon"] > 50
    page = (out / "report.html").read_text()
    assert page.count("<img") == 5
    text = page + (out / "results.json").read_text()
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "the risks are too high" in capsys.readouterr().out


def test_evaluation_without_times_and_with_repeated_people(tmp_path: Path) -> None:
    table, out = predictions(tmp_path, 200), tmp_path / "out"
    frame = pandas.concat([pandas.read_csv(table)] * 2)
    frame.to_csv(table, index=False)
    given = ["evaluate", str(table), "--risks", "[pce,model]", "--person", "patient"]
    assert run([*given, "--out", str(out), "--resamples", "30"]) == 0
    people = {row["people"]: row["number"] for row in cells(out, "people")}
    assert people["compared"] == 398
    assert people["independent people"] == 199
    assert "C-index (Harrell)" not in {row["measure"] for row in cells(out, "measures")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--risks", "[pce,none]"], "none"),
        (["--risks", "[years]"], "per cent"),
        (["--risks", "[pce]", "--outcome", "years"], "0 or 1"),
        (["--risks", "[pce]", "--time", "years"], "both or neither"),
        (["--risks", "[pce]", "--reference", "model"], "reference"),
        (["--risks", "[pce]", "--thresholds", "[0, 0.1]"], "between 0 and 1"),
        (["--risks", "[sex]"], "numbers"),
        (["--risks", "[pce]", "--subgroups", "[patient]"], "at most 30 subgroups"),
        ([], "--risks"),
    ],
)
def test_mistakes_in_an_evaluation_are_named(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = predictions(tmp_path, 50)
    assert run(["evaluate", str(table), *options, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_help_is_light() -> None:
    code = (
        "import sys; from sagittal_risk.cli import run\n"
        "for verb in ('score', 'evaluate'): assert run([verb, '--help']) == 0\n"
        "assert not {'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_configs_are_read(tmp_path: Path) -> None:
    names = {file.name for file in CONFIGS.glob("*.yaml")}
    names -= {"adacvd_framingham.yaml", "adacvd_heart_disease.yaml"}  # test_adacvd.py
    names -= {"adacvd_mistral.yaml"}  # test_adacvd_mistral.py
    names -= {"ask.yaml", "summarise.yaml"}  # test_ask.py
    assert names == {"schema.yaml", "score.yaml", "evaluate.yaml", "groups.yaml"}
    assert set(yaml.safe_load((CONFIGS / "evaluate.yaml").read_text())) >= {"risks", "outcome"}
