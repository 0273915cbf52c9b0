"""explain and search through the commands a user types, on slices whose concepts are known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "genai"))
sys.path.insert(0, str(TESTS / "core"))
from chat_server import completion, serving  # noqa: E402
from concept_data import NAMES, NOISE, Made, identity_network, make  # noqa: E402

from sagittal_core.store import EmbeddingStore, ShardWriter  # noqa: E402
from sagittal_genai.cli import run  # noqa: E402
from sagittal_genai.codes import write_codes  # noqa: E402

pytestmark = pytest.mark.e2e
CONFIGS = TESTS.parent / "packages" / "genai" / "configs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("slices"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("tokens"), tokens=True)


def settings(made: Made, out: Path, **changes: Any) -> list[str]:
    """A command line whose configuration is one file in ``out``'s parent."""
    values: dict[str, Any] = {
        "store": str(made.store),
        "codes": str(made.codes),
        "slices": str(made.slices),
        "out": str(out),
        "features": 20,
    }
    file = out.parent / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(values | changes))
    return ["explain", "-c", str(file)]


def names(out: Path) -> dict[int, str | None]:
    lines = (out / "names.jsonl").read_text().splitlines()
    return {record["feature"]: record["name"] for record in map(json.loads, lines)}


def table(out: Path, name: str) -> dict[str, list[Any]]:
    rows = json.loads((out / "results.json").read_text())["tables"][name]["rows"]
    return {row[0]: row[1:] for row in rows}


TRUTH: dict[int, str | None] = {**dict(enumerate(NAMES)), NOISE: None}


def test_features_get_the_names_of_what_they_are(made: Made, tmp_path: Path) -> None:
    assert run(settings(made, tmp_path / "out")) == 0
    assert names(tmp_path / "out") == TRUTH
    rules = table(tmp_path / "out", "named-by-rule")
    assert rules["features"] == [len(NAMES), len(TRUTH)]
    # Shuffled, 16 of 20 rows of different subjects share a concept of base rate 0.37 with p < 1e-4.
    assert rules["the same, codes shuffled among training rows"][0] == 0
    found = table(tmp_path / "out", "search")
    assert float(found["features"][0].split()[0]) > 0.95
    assert float(found["random choice"][0].split()[0]) < 0.45
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert page.count("data:image/jpeg") == 10 * len(TRUTH)
    for hidden in ("patient ", "case0", str(made.slices), str(tmp_path)):
        assert hidden not in page
        assert hidden not in (tmp_path / "out" / "results.json").read_text()
        assert hidden not in (tmp_path / "out" / "report.html").read_text()


def test_features_of_tokens_are_named_by_their_patches(tokens: Made, tmp_path: Path) -> None:
    assert run(settings(tokens, tmp_path / "out")) == 0
    assert names(tmp_path / "out") == TRUTH
    assert float(table(tmp_path / "out", "search")["features"][0].split()[0]) > 0.9


def test_what_no_held_out_image_shows_is_not_judged(made: Made, tmp_path: Path) -> None:
    """Livers are known of training images only, so that no judge can find the name right."""
    store = EmbeddingStore(made.store)
    index = store.index()
    held_out = index["split"] == "test"
    index["organs"] = [
        [organ for organ in organs if organ != "liver"] if tested else organs
        for organs, tested in zip(index["organs"], held_out, strict=True)
    ]
    writer = ShardWriter(tmp_path / "s", dim=store.dim, dtype=torch.float32, shards=1, identity={})
    writer.write(0, store.rows(np.arange(len(index))), index)
    write_codes(identity_network(store.dim), EmbeddingStore(tmp_path / "s"), tmp_path / "codes")
    other = Made(tmp_path / "s", tmp_path / "codes", made.slices, index)
    judge = {"class_path": "SentenceJudge", "init_args": {"encoder": "minilm"}}
    assert run(settings(other, tmp_path / "out", judge=judge)) == 0
    assert table(tmp_path / "out", "not-judged") == {
        "unnamed": [1],
        "no held-out image shows what it is named by": [1],
    }


def test_features_that_mean_nothing_get_no_names(tmp_path: Path, made: Made) -> None:
    scrambled = make(tmp_path / "data", scrambled=True)
    assert run(settings(scrambled, tmp_path / "twin", min_subjects=5)) == 0
    named = [name for name in names(tmp_path / "twin").values() if name]
    # A name needs 16 of 20 random rows to share a concept of base rate at most 0.37: p < 1e-4.
    assert named == []
    assert run(settings(made, tmp_path / "out", twin=str(tmp_path / "twin"))) == 0
    gain = table(tmp_path / "out", "search-differences")["features - twin's features"][0]
    assert float(gain.split()[0]) > 0.9
    assert table(tmp_path / "out", "search")["twin's features"][0].startswith("0")


def served(answers: Any, out: Path, made: Made, **changes: Any) -> tuple[int, list[dict]]:
    """Run with a model behind a server that answers by a function of what it is asked."""
    with serving() as server:
        server.answers = [answers]
        llm = {"class_path": "sagittal_core.llm.OpenAIChat"}
        llm["init_args"] = {"base_url": "http://127.0.0.1:1/v1", "model": "tiny", "backoff": 0}
        llm["init_args"]["base_url"] = server.url
        return run(settings(made, out, llm=llm, **changes)), server.received


def namer(body: dict[str, Any]) -> dict[str, Any]:
    """Names by the organ or plane that all the examples share; gives up on the noise."""
    text = body["messages"][1]["content"]
    lines = [line for line in text.splitlines() if re.match(r"\d\. activation", line)]
    words = [set(re.findall(r"kidney left|\w+", line.split(";", 1)[1])) for line in lines]
    shared = set.intersection(*words) & set(NAMES)
    return completion(f'Concept: "the {shared.pop()}."' if shared else "?")


def test_a_model_names_by_what_it_is_shown(made: Made, tmp_path: Path) -> None:
    status, received = served(namer, tmp_path / "out", made)
    assert status == 0
    assert len(received) == len(TRUTH)
    assert received[0]["temperature"] == 0.3
    found = names(tmp_path / "out")
    assert found[NOISE] is None
    assert {k: v.removeprefix("the ") for k, v in found.items() if v} == dict(enumerate(NAMES))
    assert table(tmp_path / "out", "names") == {"named": [len(NAMES)], "parse failure": [1]}


def test_pictures_are_sent_to_a_model_that_sees(made: Made, tmp_path: Path) -> None:
    answer = completion("a bright patch")
    with serving() as server:
        server.answers = [answer]
        init = {"base_url": server.url, "model": "tiny", "sees_images": True}
        llm = {"class_path": "sagittal_core.llm.OpenAIChat", "init_args": init}
        assert run(settings(made, tmp_path / "out", llm=llm, features=2)) == 0
        parts = server.received[0]["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 5 + ["text"]


def test_a_judge_that_ranks_is_asked_about_held_out_images(made: Made, tmp_path: Path) -> None:
    def verdict(body: dict[str, Any]) -> dict[str, Any]:
        """The candidate that most descriptions mention first."""
        text = body["messages"][0]["content"]
        shown, _, listed = text.partition("Candidates:")
        offered = dict(re.findall(r"^([A-E])\. (.+)$", listed, re.MULTILINE))
        order = sorted(offered, key=lambda x: -len(re.findall(offered[x], shown)))
        return completion(", ".join(order) if "kidney left" not in offered.values() else "hm")

    with serving() as server:
        server.answers = [verdict]
        init = {"base_url": server.url, "model": "tiny"}
        llm = {"class_path": "sagittal_core.llm.OpenAIChat", "init_args": init}
        judge = {"class_path": "RankingJudge", "init_args": {"llm": llm}}
        assert run(settings(made, tmp_path / "out", judge=judge)) == 0
    lines = (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()
    records = {r["feature"]: r for r in map(json.loads, lines)}
    assert records[NOISE]["detail"] == "unnamed"
    failed = [r for r in records.values() if r["outcome"] == "parse_failure"]
    assert all("kidney left" in r["candidates"] for r in failed)
    ranks = [r["rank"] for r in records.values() if r["outcome"] == "ok"]
    assert len(ranks) + len(failed) == len(NAMES)
    assert ranks
    assert set(ranks) == {1}
    assert table(tmp_path / "out", "judge")["rank <= 2"][1:] == ["40 %", len(ranks)]
    assert table(tmp_path / "out", "not-judged") == {"unnamed": [1], "parse failure": [len(failed)]}


def test_a_killed_run_asks_for_nothing_twice(made: Made, tmp_path: Path) -> None:
    process: list[subprocess.Popen] = []

    def fatal(body: dict[str, Any]) -> Any:
        if len(server.received) == 5:
            os.kill(process[0].pid, signal.SIGKILL)
            process[0].wait(30)
        return namer(body)

    with serving() as server:
        server.answers = [fatal]
        init = {"base_url": server.url, "model": "tiny"}
        llm = {"class_path": "sagittal_core.llm.OpenAIChat", "init_args": init}
        command = settings(made, tmp_path / "out", llm=llm)
        code = "import sys; from sagittal_genai.cli import run; sys.exit(run(sys.argv[1:]))"
        process.append(subprocess.Popen([sys.executable, "-c", code, *command]))
        assert process[0].wait(timeout=60) == -signal.SIGKILL
        before = names(tmp_path / "out")
        assert len(before) == 4
        with (tmp_path / "out" / "names.jsonl").open("a") as opened:
            opened.write('{"feature": 3, "na')  # as a kill in the middle of a line leaves it
        server.answers = [namer]
        assert run(command) == 0
        # The fifth one was asked and its answer lost.
        assert len(server.received) == len(TRUTH) + 1
    after = names(tmp_path / "out")
    assert set(after) == set(TRUTH)
    assert {k: after[k] for k in before} == before


def test_answers_that_do_not_arrive_end_the_run_and_are_asked_again(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving() as server:
        server.answers = [(400, "{}", {})]
        init = {"base_url": server.url, "model": "tiny"}
        llm = {"class_path": "sagittal_core.llm.OpenAIChat", "init_args": init}
        assert run(settings(made, out, llm=llm)) == 2
        assert "5 answers did not arrive" in capsys.readouterr().err
        assert len(server.received) == 5
        server.answers = [namer]
        assert run(settings(made, out, llm=llm)) == 0
    assert len(names(out)) == len(TRUTH)


def test_other_settings_need_a_fresh_start(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(settings(made, out)) == 0
    assert run(settings(made, out, rule_share=0.99)) == 2
    assert "another rule" in capsys.readouterr().err
    assert run(settings(made, out, rule_share=0.99, fresh=True)) == 0
    assert run(settings(made, out, rule_share=0.99, thumbnail=64)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": "holdout"}, "rows of holdout"),
        ({"columns": ["institute"]}, "institute"),
        ({"twin": "absent"}, "no search.json"),
        ({"match": "llm"}, "or llm with an `llm`"),
        ({"match": "magic"}, "match must be words"),
        ({"features": 0}, "features must be at least 1, found 0"),
        ({"rule_share": 3.0}, "rule_share must be in"),
        ({"columns": []}, "column that describes"),
        ({"max_density": 0.0}, "no feature can be explained"),
    ],
)
def test_mistakes_are_named(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    assert run(settings(made, tmp_path / "out", **changes)) == 2
    assert message in capsys.readouterr().err
    if "twin" not in changes:  # found out before any record was kept: nothing to start anew
        assert run(settings(made, tmp_path / "out")) == 0


def test_codes_of_another_store_are_refused(
    made: Made, tokens: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = made._replace(codes=tokens.codes)
    assert run(settings(mixed, tmp_path / "out")) == 2
    assert "codes of another one" in capsys.readouterr().err


def test_search_prints_and_shows_what_it_found(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(settings(made, out)) == 0
    capsys.readouterr()
    config = tmp_path / "search.yaml"
    shipped = yaml.safe_load((CONFIGS / "search.yaml").read_text())
    config.write_text(yaml.safe_dump(shipped | {"explained": str(out)}))
    assert run(["search", "-c", str(config), "the liver in an axial slice"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"0 +liver", printed)
    assert re.search(r"7 +axial", printed)
    best = [line for line in printed.splitlines() if "images/" in line]
    assert len(best) == 10
    assert len({line.split("images/")[1].split("/")[0] for line in best}) == 10  # one of a subject
    for line in best[:3]:
        assert "orientation: axial" in line
        assert "liver" in line
    page = (out / "search.html").read_text()
    assert page.count("data:image/jpeg") == 10
    assert "case" not in page.replace("case-insensitive", "")
    assert run(["search", "-c", str(config), "pneumothorax"]) == 1
    assert "nothing matches" in capsys.readouterr().out


def test_search_needs_a_finished_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", "liver", "--explained", str(tmp_path)]) == 2
    assert "sagittal-genai explain" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["explain_radiographs.yaml", "explain_tokens.yaml"])
def test_every_configuration_runs(
    config: str, made: Made, tokens: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shipped but for the folders, with the sample data's sentence encoder as judge."""
    monkeypatch.chdir(tmp_path)
    data = tokens if "tokens" in config else made
    values = yaml.safe_load((CONFIGS / config).read_text())
    values |= {"store": str(data.store), "codes": str(data.codes), "slices": str(data.slices)}
    values |= {"out": "out", "columns": None, "query_columns": None}
    del values["autoencoder"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert run(["explain", "-c", "c.yaml"]) == 0
    assert names(tmp_path / "out") == TRUTH
    share, chance, n = table(tmp_path / "out", "judge")["rank <= 2"]
    assert (chance, n) == ("40 %", len(NAMES))
    # 6 of 8 or more by chance: 0.05; a slice shows other organs too, so not all need be right.
    assert float(share.split()[0]) >= 75.0


def test_codes_are_made_of_an_autoencoder(made: Made, tmp_path: Path) -> None:
    """From a finished fit; what they are is the business of the tests of codes."""
    config = yaml.safe_load((CONFIGS / "sae_topk.yaml").read_text())
    network = config["model"]["init_args"]["network"]["init_args"]
    network |= {"input_dim": NOISE + 1, "n_features": 16}
    network["activation"]["init_args"]["k"] = 3
    config["data"]["init_args"] |= {"store": str(made.store), "batch_size": 50}
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1}
    config |= {"runs_dir": str(tmp_path / "runs"), "run_name": "tiny"}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    assert run(["fit", "-c", str(tmp_path / "fit.yaml")]) == 0
    fresh = made._replace(codes=tmp_path / "codes")
    autoencoder = str(tmp_path / "runs" / "tiny")
    options = {"autoencoder": autoencoder, "max_density": 1.0, "min_subjects": 1}
    assert run(settings(fresh, tmp_path / "out", **options)) == 0
    assert names(tmp_path / "out")


@pytest.mark.parametrize("verb", ["explain", "search"])
def test_help_imports_no_torch(verb: str) -> None:
    code = (
        "import sys; from sagittal_genai.cli import run; status = run([sys.argv[1], '--help'])\n"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"held-out" in done.stdout
