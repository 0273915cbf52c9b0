"""The part of the study that asks without tuning: who is asked, and what is told of the answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import adacvd_zero_shot
from adacvd_zero_shot import sample, zero_shot

COUNT = 60


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(out=tmp_path, seed=0, asked=40, asked_in_words=20, resamples=30)


@pytest.fixture
def people() -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    return pandas.DataFrame({"person": np.arange(COUNT), "CVD_10Y": rng.integers(0, 2, COUNT)})


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In place of the verb: writes risks.csv as it does."""
    ran: list[list[str]] = []

    def command(verb: str, *given: str) -> None:
        ran.append([verb, *given])
        settings = yaml.safe_load(Path(given[2]).read_text())
        table = pandas.read_csv(given[0])
        words = settings["mode"] == "verbalised"
        risks = pandas.DataFrame({"id": table["person"], "outcome": "ok"})
        risks["risk"] = 0.2 if words else 0.1 + 0.5 * table["CVD_10Y"]
        risks["answer_mass"] = np.nan if words else np.where(table.index < 10, 0.05, 0.4)
        if words:
            risks.loc[:2, ["risk", "outcome"]] = [np.nan, "parse_failure"]
        Path(settings["out"]).mkdir()
        risks.to_csv(Path(settings["out"]) / "risks.csv", index=False)

    monkeypatch.setattr(adacvd_zero_shot, "command", command)
    return ran


def test_fewer_people_are_among_the_more_and_a_seed_draws_the_same() -> None:
    few, more = sample(1000, 30, 0), sample(1000, 100, 0)
    assert set(few) < set(more)
    assert (np.diff(more) > 0).all()
    assert (sample(1000, 100, 0) == more).all()
    assert set(sample(1000, 100, 1)) != set(more)
    assert len(sample(20, 100, 0)) == 20


def test_every_way_is_measured_on_those_with_a_risk(
    args: argparse.Namespace, people: pandas.DataFrame, answering: list[list[str]]
) -> None:
    reference = np.where(people["CVD_10Y"] == 1, 0.7, 0.2)
    columns, rows = zero_shot(
        "adacvd_framingham", people, {"logistic": reference}, "logistic", args
    )
    assert [given[0] for given in answering] == ["ask", "ask"]
    told = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    choice = told["asked for Yes or No"]
    assert (choice["people"], choice["with a risk"], choice["without a risk"]) == (40, 40, "")
    assert choice["AUROC"] == "1.000 [1.000, 1.000]"
    assert choice["AUROC less the logistic's"] == "0.000 [0.000, 0.000]"
    assert choice["people with mass < 0.1"] == "10 (25 %)"
    words = told["asked for a number in words"]
    assert (words["people"], words["with a risk"]) == (20, 17)
    assert words["without a risk"] == "3 parse failure"
    assert words["AUROC"].startswith("0.500")
    assert words["different risks"] == 1
    assert words["median answer mass"] == ""
    event = people["CVD_10Y"].to_numpy()[sample(COUNT, 20, 0)[3:]]
    assert words["events among them"] == event.sum()
    assert told["logistic"]["people"] == 40


def test_the_model_is_told_what_the_tuned_one_is(
    args: argparse.Namespace, people: pandas.DataFrame, answering: list[list[str]]
) -> None:
    zero_shot("adacvd_framingham", people, {"logistic": np.full(COUNT, 0.5)}, "logistic", args)
    for verb, file, _, written in answering:
        assert verb == "ask"
        settings = yaml.safe_load(Path(written).read_text())
        tuned = adacvd_zero_shot.settings_of("adacvd_framingham")
        assert settings["groups"] == tuned["data"]["init_args"]["groups"]
        assert settings["model"]["init_args"]["path"] == tuned["model"]["init_args"]["weights"]
        assert (settings["id_column"], settings["outcome"]) == ("person", "CVD_10Y")
        asked = pandas.read_csv(file)["person"]
        assert asked.tolist() == sample(COUNT, len(asked), 0).tolist()
