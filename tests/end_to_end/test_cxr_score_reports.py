"""``sagittal-cxr score-reports`` through the command that a user types."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from sagittal_core.results import read_results
from sagittal_cxr.cli import run

pytestmark = pytest.mark.e2e

REPORTS = [
    "No pleural effusion. The lungs are clear.",
    "Small left pleural effusion.",
    "Mild cardiomegaly. No pneumothorax.",
    "Right lower lobe pneumonia.",
    "No acute cardiopulmonary abnormality.",
    "Moderate pulmonary edema and cardiomegaly.",
    "Stable appearance of the chest.",
]


def write_csv(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return file


@pytest.fixture
def references(tmp_path: Path) -> Path:
    rows = [
        {"id": str(n), "report": text, "patient": f"secret-{n // 2 if n < 4 else n}"}
        for n, text in enumerate([*REPORTS, ""])
    ]
    return write_csv(tmp_path / "references.csv", rows)


def table(folder: Path, name: str) -> dict[str, list]:
    found = read_results(folder / "results.json")["tables"][name]
    return {row[0]: row[1:] for row in found["rows"]}


def value(cell: str) -> float:
    return float(cell.split()[0])


def score(references: Path, candidates: Path, *options: str) -> int:
    words = ["score-reports", str(references), str(candidates), "--out", "out", *options]
    return run([*words, "--sentence_encoder", "null", "--resamples", "100"])


def test_the_same_reports_are_perfect_and_nothing_is_skipped_unsaid(
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "report": text} for n, text in enumerate(REPORTS)]
    file = tmp_path / "candidates.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert score(references, file, "--patient", "patient") == 0
    printed = capsys.readouterr().out
    assert "reports scored: 7" in printed
    assert "empty references, left out: 1" in printed
    measures = table(tmp_path / "out", "measures")
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "rule_labels_f1 micro-14", "polarity_agreement"):
        assert measures[name][0] == "1.000 [1.000, 1.000]", name
    results = read_results(tmp_path / "out" / "results.json")
    assert results["n"] == {"patients": 5, "reports": 7}
    items = pandas.read_parquet(tmp_path / "out" / "reports.parquet")
    assert items["ROUGE-L"].tolist() == [1] * 7
    left = (tmp_path / "out" / "left_out.csv").read_text().splitlines()
    assert left == ["id,why", "7,the reference is empty"]
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (page, json.dumps(results)):
        assert "secret" not in text
        assert str(tmp_path) not in text


def test_missing_and_unknown_candidates_are_counted(
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "report": text} for n, text in enumerate(REPORTS[:5])]
    rows[1]["report"] = " "
    rows.append({"id": "99", "report": "Clear."})
    assert score(references, write_csv(tmp_path / "candidates.csv", rows)) == 0
    printed = capsys.readouterr().out
    assert "of them without a candidate, scored as empty: 2" in printed
    assert "of them with an empty candidate: 1" in printed
    assert "candidates without a reference, left out: 1" in printed
    items = pandas.read_parquet(tmp_path / "out" / "reports.parquet").set_index("id")
    assert items["ROUGE-L"].to_dict() == {
        "0": 1, "1": 0, "2": 1, "3": 1, "4": 1, "5": 0, "6": 0,
    }  # fmt: skip
    measures = table(tmp_path / "out", "measures")
    assert value(measures["ROUGE-L"][0]) == pytest.approx(4 / 7, abs=1e-3)
    # Two effusions, cardiomegalies, an edema, ... of which those of three reports are missed.
    assert value(measures["rule_labels_f1 micro-14"][0]) < 1
    findings = table(tmp_path / "out", "findings")
    assert findings["Pleural Effusion"][1:] == [1, 0]
    assert findings["Cardiomegaly"][1:] == [2, 1]


def test_few_patients_have_no_interval(
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = list(csv.DictReader(references.read_text().splitlines()))[:3]
    file = write_csv(tmp_path / "few.csv", rows)
    assert score(file, file, "--patient", "patient") == 0
    assert "Fewer than 5 patients: there are no intervals" in capsys.readouterr().out
    assert table(tmp_path / "out", "measures")["rule_labels_f1 macro-14"][0] == "1.000"


def test_one_report_for_all_is_said(
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "report": "No acute disease."} for n in range(7)]
    assert score(references, write_csv(tmp_path / "candidates.csv", rows)) == 0
    assert "all candidates are the same text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "id,text\n1,x\n", ["report", "id, text"]),
        ("a.csv", "id,report\n1,x\n1,y\n", ["every id once", "1 repeated"]),
        ("a.csv", "id,report\n,x\n", ["a value", "1 empty"]),
        ("a.csv", "id,report\nother,x\n", ["none in common"]),
        ("a.jsonl", '{"id": 1, "report": "x"}\n[1]\n', ["line 2", "an object", "list"]),
        ("a.jsonl", "{no\n", ["line 1", "no JSON"]),
        ("a.csv", "id,report\n1,No edema, no mass.\n", ["line 2", "2 cells", "3 cells"]),
        ("a.txt", "x", [".csv, .jsonl", ".txt"]),
    ],
)
def test_mistakes_are_named(
    name: str,
    content: str,
    words: list[str],
    references: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    assert score(references, tmp_path / name) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_help_is_light() -> None:
    code = (
        "import sys; from sagittal_cxr.cli import run; run(['score-reports', '--help']);"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout
