"""``sagittal-cxr label``: folders and tables in, labels with their evidence out."""

from __future__ import annotations

import csv
import inspect
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sagittal_cxr.cli import run
from sagittal_cxr.label import label as verb
from sagittal_cxr.reports.observations import CHEXPERT

pytestmark = pytest.mark.e2e
REPORT = "HISTORY: edema?\n\nFINDINGS: No effusion.\n\nIMPRESSION: Likely atelectasis. ET tube.\n"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def label(*args: object) -> int:
    return run(["label", *map(str, args)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports = tmp_path / "reports"
    (reports / "p10").mkdir(parents=True)
    (reports / "p10" / "s1.txt").write_text(REPORT)
    (reports / "s2.txt").write_text("Chest.\n\nCardiomegaly.\n\nNo edema.")
    (reports / "s3.txt").write_bytes(b"\xff\xfe broken")
    (reports / "s4.txt").write_text("___\n")
    return reports


def test_folder_of_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(folder, "--out", tmp_path / "out", "--explain", "true") == 0
    first, second = rows(tmp_path / "out" / "labels.csv")
    assert list(first) == ["key", *CHEXPERT]
    assert first["key"] == "p10/s1.txt"
    said = {name: value for name, value in first.items() if value}
    assert said == {
        "key": "p10/s1.txt",
        "Atelectasis": "-1",
        "Pleural Effusion": "0",
        "Support Devices": "1",
    }
    assert (second["Cardiomegaly"], second["Edema"], second["No Finding"]) == ("1", "0", "")
    refused = {row["key"]: row["why"] for row in rows(tmp_path / "out" / "refused.csv")}
    assert set(refused) == {"s3.txt", "s4.txt"}
    assert "utf-8" in refused["s3.txt"]
    assert "findings+impression" in refused["s4.txt"]
    evidence = rows(tmp_path / "out" / "evidence.csv")
    assert {
        "key": "p10/s1.txt",
        "observation": "Atelectasis",
        "status": "uncertain",
        "phrase": "atelectasis",
        "rule": "likely",
        "sentence": "likely atelectasis",
    } in evidence
    assert "2 reports" in (said := capsys.readouterr().out)
    assert "2 refused" in said


def test_policies_reach_the_labels(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["--use", "impression", "--fallback", "last paragraph", "--likely", "positive"]
    assert label(folder, "--out", out, *args) == 0
    first, second = rows(out / "labels.csv")
    assert (first["Atelectasis"], first["Pleural Effusion"]) == ("1", "")
    assert (second["Cardiomegaly"], second["No Finding"]) == ("", "1")
    assert not (out / "evidence.csv").exists()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_tables_with_whole_reports(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"id": ["a", "b", "c"], "report": [REPORT, "No edema.", None]})
    file = tmp_path / f"table{suffix}"
    table.to_parquet(file) if suffix == ".parquet" else table.to_csv(file, index=False)
    assert label(file, "--out", tmp_path / "out", "--key", "id") == 0
    first, second = rows(tmp_path / "out" / "labels.csv")
    assert (first["key"], first["Pleural Effusion"]) == ("a", "0")
    assert (second["key"], second["Edema"]) == ("b", "0")
    assert [row["key"] for row in rows(tmp_path / "out" / "refused.csv")] == ["c"]


def test_tables_with_sections(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    text = {"f": ["No effusion.", "", "Nodule."], "i": ["Pneumonia.", "Edema.", ""]}
    pd.DataFrame(text).to_csv(file, index=False)
    out = tmp_path / "out"
    assert label(file, "--out", out, "--findings", "f", "--impression", "i") == 0
    first, second, third = rows(out / "labels.csv")
    assert (first["key"], first["Pneumonia"], first["Pleural Effusion"]) == ("0", "1", "0")
    assert (second["Edema"], third["Lung Lesion"]) == ("1", "1")
    assert label(file, "--out", out, "--impression", "i", "--use", "impression") == 0
    assert [row["key"] for row in rows(out / "labels.csv")] == ["0", "1"]
    assert [row["key"] for row in rows(out / "refused.csv")] == ["2"]


def test_help_names_every_option_without_torch() -> None:
    code = (
        "import sys; from sagittal_cxr.cli import run; status = run(['label', '--help'])\n"
        "assert not {'torch', 'pandas'} & set(sys.modules); raise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in inspect.signature(verb).parameters:
        assert option in done.stdout


def test_bad_input_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("text\nNo edema.\n")
    (tmp_path / "table.parquet").write_bytes(b"no parquet")
    (tmp_path / "table.json").write_text("{}")
    (tmp_path / "commas.csv").write_text("report,n\nNo edema, no mass.,1\n")
    for name, words in (
        ("empty", "files *.txt"),
        ("table.csv", "one of text"),
        ("table.parquet", "a readable table"),
        ("table.json", ".parquet"),
        ("commas.csv", "line 2"),
        ("missing.csv", "no such file"),
        ("missing", "no such file"),
    ):
        assert label(tmp_path / name, "--out", tmp_path / "out") == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert label(tmp_path / "table.csv", "--column", "text", "--use", "both") == 2
