"""``sagittal-risk ask`` and ``summarise`` on a tiny local model and on a server that misbehaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

from sagittal_core.results import read_results
from sagittal_risk.cli import run

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "packages" / "risk" / "configs"
SERVER = ROOT / "tests" / "core" / "faulty_server.py"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
COUNT = 24
SAID = 'It is {"risk_percent": 12.5}.'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """As the configurations name the columns; row 2 lacks cholesterol, row 3 everything."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "RANDID": [f"secret-{row}" for row in range(COUNT)],
            "AGE": rng.integers(40, 80, COUNT).astype(float),
            "SEX": rng.integers(1, 3, COUNT).astype(float),
            "SYSBP": rng.normal(130, 15, COUNT).round(1),
            "BPMEDS": rng.integers(0, 2, COUNT).astype(float),
            "TOTCHOL": rng.normal(220, 30, COUNT).round(),
            "HDLC": rng.normal(50, 10, COUNT).round(),
            "CURSMOKE": rng.integers(0, 2, COUNT).astype(float),
            "BMI": rng.normal(26, 3, COUNT).round(1),
            "DIABETES": rng.integers(0, 2, COUNT).astype(float),
            "CVD_10Y": np.arange(COUNT) % 2,
        }
    )
    frame.loc[1, "TOTCHOL"] = np.nan
    frame.loc[2, frame.columns[1:-1]] = np.nan
    file = tmp_path / "patients.csv"
    frame.to_csv(file, index=False)
    return file


@contextmanager
def serving(share: float = 0.0, answer: str = SAID, **logprobs: float) -> Iterator[str]:
    command = [sys.executable, str(SERVER), "--share", str(share), "--answer", answer,
               "--logprobs", json.dumps(logprobs)]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def model_file(folder: Path, name: str, **arguments: object) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": name, "init_args": arguments}}))
    return file


def server_file(folder: Path, url: str) -> Path:
    file = model_file(
        folder, "OpenAIChat", base_url=url, model="tiny", timeout=0.3, attempts=8, backoff=0.001
    )
    prices = {"input_per_million": 1e4, "output_per_million": 1e6, "currency": "EUR"}
    file.write_text(file.read_text() + yaml.safe_dump({"prices": prices}))
    return file


def arguments(verb: str, table: Path, model: Path, out: Path, *options: str) -> list[str]:
    config = str(CONFIGS / f"{verb}.yaml")
    return [verb, str(table), "-c", config, "-c", str(model), "--out", str(out), *options]


def value(out: Path, table: str, name: str) -> str:
    rows = read_results(out / "results.json")["tables"][table]["rows"]
    return next(row[1] for row in rows if row[0] == name)


def is_private(out: Path, *others: str) -> bool:
    text = "".join((out / name).read_text() for name in ("report.html", "results.json"))
    return "secret" not in text + "".join(others)


@pytest.mark.parametrize("mode", ["choice", "verbalised"])
def test_a_fifth_of_the_exchanges_goes_wrong_and_every_patient_has_one_outcome(
    mode: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving(0.2, Yes=0.02, No=0.06, I=0.9) as url:
        model = server_file(tmp_path, url)
        assert run(arguments("ask", table, model, out, "--mode", mode)) == 0
    risks = pandas.read_csv(out / "risks.csv")
    assert risks["id"].tolist() == [f"secret-{row}" for row in range(COUNT)]
    assert risks["row"].tolist() == list(range(1, COUNT + 1))
    assert risks["outcome"].tolist() == ["ok", "ok", "not_asked"] + ["ok"] * (COUNT - 3)
    asked = risks[risks["outcome"] == "ok"]
    assert asked["risk"].to_numpy() == pytest.approx(0.25 if mode == "choice" else 0.125)
    assert np.isnan(risks["risk"][2])
    assert risks["missing"][1] == "TOTCHOL"
    assert risks["missing"][2].startswith("AGE;SEX;")
    assert risks["CVD_10Y"].tolist() == [row % 2 for row in range(COUNT)]
    said = capsys.readouterr().out
    assert f"patients: {COUNT - 1} ok, 1 not asked" in said
    assert "sagittal-risk evaluate" in said
    page = (out / "report.html").read_text()
    if mode == "choice":
        assert asked["answer_mass"].to_numpy() == pytest.approx(0.08)
        assert asked["risk_low"].isna().all()
        assert f"In {COUNT - 1} of {COUNT - 1} answers (100.0 %)" in said
        assert "below 0.1" in page
        assert value(out, "risks", "answer mass below 0.1") == "100.0 %"
    same = "25" if mode == "choice" else "12.5"
    assert f"{COUNT - 1} of {COUNT - 1} patients got the same risk, {same} %" in said
    assert value(out, "outcomes", "ok") == COUNT - 1
    assert is_private(out, said)
    tokens = int(value(out, "usage", "tokens of prompts"))
    cost = tokens / 100 + (COUNT - 1)  # each answer is one token
    assert float(value(out, "usage", "cost (EUR)")) == pytest.approx(cost)
    assert f"cost of this call (EUR) {cost:.4f}" in said

    # The server is gone: the same command sends nothing.
    before = (out / "risks.csv").read_bytes()
    assert run(arguments("ask", table, model, out, "--mode", mode)) == 0
    said = capsys.readouterr().out
    assert "requests sent by this call 0; cache hit rate of this call 100.0 %" in said
    assert (out / "risks.csv").read_bytes() == before
    # A job that shares the replies sends nothing either.
    again = [tmp_path / "again", "--mode", mode, "--cache", str(out / "replies")]
    assert run(arguments("ask", table, model, *again)) == 0
    assert "cache hit rate of this call 100.0 %" in capsys.readouterr().out
    # What evaluate is told to read can be read.
    assert (
        run(["evaluate", str(out / "risks.csv"), "--risks", "[risk]", "--outcome", "CVD_10Y",
             "--person", "id", "--resamples", "0", "--out", str(tmp_path / "evaluated")]) == 0
    )  # fmt: skip
    assert "no risk" in (tmp_path / "evaluated" / "report.html").read_text()


def test_answers_that_cannot_be_read_are_counted_and_no_number(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving(answer="About 12 per cent.") as url:
        model = server_file(tmp_path, url)
        assert run(arguments("ask", table, model, out, "--mode", "verbalised")) == 0
        assert value(out, "outcomes", "parse failure") == COUNT - 1
        assert pandas.read_csv(out / "risks.csv")["risk"].isna().all()
        assert f"{COUNT} of {COUNT} patients have no risk" in capsys.readouterr().out
        # Such a server tells no probabilities either, and says so before anything is kept.
        assert run(arguments("ask", table, model, tmp_path / "choice")) == 2
        assert "mode: verbalised" in capsys.readouterr().err
        # The folder holds another job now.
        assert run(arguments("ask", table, model, out)) == 2
        assert "another mode" in capsys.readouterr().err


def test_one_answer_that_is_not_told_gives_bounds(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(Yes=0.6, I=0.1, The=0.01) as url:
        assert run(arguments("ask", table, server_file(tmp_path, url), out, "--limit", "2")) == 0
    risks = pandas.read_csv(out / "risks.csv")
    assert risks["risk_low"].to_numpy() == pytest.approx(0.6 / 0.66)
    assert (risks["risk_high"] == 1).all()
    assert len(risks) == 2
    assert value(out, "risks", "risks with bounds") == 2


def test_a_killed_job_goes_on_and_asks_nothing_twice(table: Path, tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    # Dies by the signal when the tenth answer has come and is not written down yet.
    script.write_text(
        "import os, signal\n"
        "from sagittal_core.llm import many\n"
        "from sagittal_risk.cli import main\n"
        "keep, count = many._Work._keep, 0\n"
        "def dying(self, *given):\n"
        "    global count\n"
        "    count += 1\n"
        "    if 'KILL' in os.environ and count == 10:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    keep(self, *given)\n"
        "many._Work._keep = dying\n"
        "main()\n"
    )
    out = tmp_path / "out"
    with serving(0.2) as url:
        options = ["--mode", "verbalised", "--concurrency", "1"]
        given = arguments("ask", table, server_file(tmp_path, url), out, *options)
        command = [sys.executable, str(script), *given]
        killed = subprocess.run(
            command, env=os.environ | {"KILL": "1"}, check=False, capture_output=True
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (out / "risks.csv").exists()
        assert len((out / "answers.jsonl").read_text().splitlines()) == 9
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Nine were written down, the tenth was in the cache.
    assert f"requests sent by this call {COUNT - 1 - 10};" in done.stdout
    keys = [json.loads(line)["key"] for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == COUNT - 1
    assert (pandas.read_csv(out / "risks.csv")["outcome"] == "ok").sum() == COUNT - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    sys.path.insert(0, str(ROOT / "tests" / "risk"))
    try:
        from tiny_lm import save_tiny
    finally:
        sys.path.pop(0)
    features = [f for g in yaml.safe_load((CONFIGS / "ask.yaml").read_text())["groups"]
                for f in g["features"]]  # fmt: skip
    texts = [f"{f['name']}: 12.5 {f.get('unit', '')};\n" for f in features]
    folder = save_tiny(tmp_path_factory.mktemp("tiny") / "lm", texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_model_chooses_in_one_pass(
    weights: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sagittal_core.llm import LocalModel, Message
    from sagittal_risk.prompts import QUESTION, prompt

    out = tmp_path / "out"
    model = model_file(tmp_path, "LocalModel", path=str(weights), device="cpu")
    assert run(arguments("ask", table, model, out, "--limit", "5")) == 0
    risks = pandas.read_csv(out / "risks.csv")
    assert risks["outcome"].tolist() == ["ok", "ok", "not_asked", "ok", "ok"]
    # As the model itself finds the spellings that are one token each.
    first = json.loads((out / "answers.jsonl").read_text().splitlines()[0])["reply"]["first_token"]
    described = json.loads(next(iter((out / "replies").rglob("*.json"))).read_text())
    assert "Will this patient" in described["request"]["messages"][0]["text"]
    direct = LocalModel(str(weights), device="cpu")
    frame = pandas.read_csv(table)
    text = (
        f"Age: {frame['AGE'][0]:.0f} years;\nSex: {['', 'Male', 'Female'][int(frame['SEX'][0])]};"
    )
    asked = next(
        json.loads(file.read_text())["request"]["messages"][0]["text"]
        for file in (out / "replies").rglob("*.json")
        if text in json.loads(file.read_text())["request"]["messages"][0]["text"]
    )
    assert asked == prompt(asked.split("\n\n")[1], QUESTION)
    scores = direct.choose((Message("user", asked),), [token for token, _ in first])
    yes = [t.strip().lower() == "yes" for t, _ in first]
    chances = np.exp(scores.logprobs)
    assert risks["risk"][0] == pytest.approx(chances[yes].sum() / chances.sum(), rel=1e-4)
    assert risks["answer_mass"][0] == pytest.approx(chances.sum(), rel=1e-4)
    assert {t.strip().lower() for t, _ in first} == {"yes", "no"}
    capsys.readouterr()
    assert run(arguments("ask", table, model, out, "--limit", "5")) == 0
    assert "cache hit rate of this call 100.0 %" in capsys.readouterr().out
    assert run(arguments("ask", table, model, tmp_path / "x", "--concurrency", "4")) == 2


def test_a_local_model_that_never_ends_is_truncated(
    weights: Path, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = model_file(tmp_path, "LocalModel", path=str(weights), device="cpu")
    options = ["--mode", "verbalised", "--max_tokens", "2", "--limit", "2"]
    assert run(arguments("ask", table, model, out, *options)) == 0
    outcomes = pandas.read_csv(out / "risks.csv")["outcome"]
    assert set(outcomes) <= {"truncated", "parse_failure"}
    assert value(out, "usage", "tokens of prompts") > 100


def test_summaries_are_checked_and_can_be_trained_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sagittal_risk.data import RiskRecords

    out, frame = tmp_path / "out", pandas.read_csv(table)
    frame.loc[0, ["AGE", "BMI"]] = [63, 27.5]
    frame["split"] = np.where(np.arange(COUNT) == 0, "train", "val")
    frame.to_csv(table, index=False)
    with serving(0.2, answer="Aged 63 years, BMI 27.5, risk 99 %.") as url:
        model = server_file(tmp_path, url)
        assert run(arguments("summarise", table, model, out)) == 0
        said = capsys.readouterr().out
    found = pandas.read_csv(out / "summaries.csv")
    assert found.columns[: len(frame.columns)].tolist() == frame.columns.tolist()
    first = found.iloc[0]
    assert first["summary"] == "Aged 63 years, BMI 27.5, risk 99 %."
    # Age, pressure, two lipids and BMI are numbers; the BMI lacks its unit, 99 is invented.
    names = ("told", "found", "with_unit")
    assert [first[f"summary_values_{name}"] for name in names] == [5, 2, 1]
    assert (first["summary_numbers"], first["summary_numbers_invented"]) == (3, 1)
    assert found["summary_outcome"][2] == "not_asked"
    assert np.isnan(found["summary_values_told"][2])
    assert found["summary_values_told"][1] == 4
    assert value(out, "numbers", "summaries with such a number") == "100.0 %"
    assert f"(n = {COUNT - 1})" in said
    assert is_private(out, said)
    assert re.search(r"RANDID,AGE", (out / "summaries.csv").read_text())

    assert run(arguments("summarise", table, model, out)) == 0
    assert "requests sent by this call 0;" in capsys.readouterr().out
    data = RiskRecords(
        str(out / "summaries.csv"), groups=[], outcome="CVD_10Y", text_column="summary"
    )
    data.setup()
    assert "Aged 63 years" in next(iter(data.train_dataloader())).prompts[0]


def test_a_parquet_table_keeps_its_kind(table: Path, tmp_path: Path) -> None:
    parquet, out = tmp_path / "patients.parquet", tmp_path / "out"
    frame = pandas.read_csv(table)
    frame.to_parquet(parquet)
    with serving(answer="Nothing.") as url:
        model = server_file(tmp_path, url)
        assert run(arguments("summarise", parquet, model, out, "--limit", "3")) == 0
    found = pandas.read_parquet(out / "summaries.parquet")
    pandas.testing.assert_frame_equal(found[frame.columns], frame.head(3))
    assert found["summary"].tolist()[:2] == ["Nothing.", "Nothing."]
    assert found["summary"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        ("ask", ["--outcome", "risk"], "a column 'risk' of its own"),
        ("ask", ["--outcome", "CVD"], "CVD"),
        ("ask", ["--text_column", "note"], "note"),
        ("summarise", ["--limit", "0"], "limit"),
    ],
)
def test_mistakes_are_named_before_a_folder_is_made(
    verb: str,
    options: list[str],
    words: str,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = server_file(tmp_path, "http://127.0.0.1:9/v1")
    assert run(arguments(verb, table, model, tmp_path / "out", *options)) == 2
    assert words in capsys.readouterr().err
    assert run([verb, str(table)]) == 2
    assert "give a model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_is_light() -> None:
    code = (
        "import sys; from sagittal_risk.cli import run\n"
        "for verb in ('ask', 'summarise'): assert run([verb, '--help']) == 0\n"
        "assert not {'torch', 'pandas', 'transformers', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
