"""The model on the page for one patient: told what the form says, in the form's units."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_lm
import tiny_run

from sagittal_core.errors import ConfigError
from sagittal_risk.cli import run
from sagittal_risk.form_model import FormModel, form_model
from sagittal_risk.page import patient_of, patient_page
from sagittal_risk.records.groups import groups_of
from sagittal_risk.records.told import Telling
from sagittal_risk.tuned import TunedModel

FORM = {"age": "61", "sex": "female", "systolic": "124.04", "diabetes": "0"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    telling = Telling(groups_of(tiny_run.GROUPS, "test"), tiny_run.QUESTION)
    told = [telling.tell(record) for record in tiny_run.patients().to_dict("records")]
    weights = tiny_lm.save_tiny(folder / "lm", [one.prompt for one in told if one.prompt])
    return tiny_run.save_run(folder / "runs", weights)


@pytest.fixture(scope="module")
def model(prefix: Path) -> FormModel:
    return form_model(prefix)


def test_the_page_says_what_a_table_gets(model: FormModel, prefix: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "patients.csv", tmp_path / "out"
    tiny_run.patients().to_csv(table, index=False)
    given = ["score", str(table), "--model", str(prefix), "--equations", "none"]
    assert run([*given, "--device", "cpu", "--out", str(out)]) == 0
    expected = pandas.read_csv(out / "scores.csv").iloc[0]
    one = model.ask(patient_of(FORM))
    assert one["risk"] == pytest.approx(expected["risk"], abs=1e-5)
    assert (one["equation"], one["outcome"], one["years"]) == ("model:tiny", "CVD", 10)
    assert f"answer mass {expected['answer_mass']:.2g}, below 0.1" in one["notes"]
    assert not one["sound"]
    kilopascal = FORM | {"systolic": "16.54", "systolic unit": "kPa"}  # 124.06 mmHg, told as 124.1
    assert model.ask(patient_of(kilopascal))["risk"] != one["risk"]
    kilopascal["systolic"] = "16.534"
    assert model.ask(patient_of(kilopascal))["risk"] == one["risk"]


def test_what_is_not_told_or_cannot_be_is_said(model: FormModel) -> None:
    one = model.ask(patient_of(FORM | {"systolic": "", "sex": ""}))
    assert one["risk"] is not None
    assert one["notes"].startswith("not told: Sex, Systolic blood pressure; answer mass")
    one = model.ask(patient_of({}))
    assert (one["risk"], one["notes"]) == (None, "nothing is known")
    one = model.ask(patient_of(FORM | {"age": "150"}))
    assert one["risk"] is None
    assert "no patient has this: age" in one["notes"]


def test_a_prompt_that_is_too_long_has_no_risk(
    model: FormModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tuned.network, "longest", 5)
    one = model.ask(patient_of(FORM))
    assert one["risk"] is None
    assert "longer than the model takes" in one["notes"]


def changed(told: str, **changes: Any) -> list[dict[str, Any]]:
    groups = copy.deepcopy(tiny_run.GROUPS)
    for group in groups:
        for feature in group["features"]:
            if feature["column"] == told:
                feature.update(changes)
    return groups


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (changed("systolic", column="SYSBP"), "the form has no SYSBP"),
        (changed("systolic", unit="kPa"), "systolic in mmHg, the groups tell it in kPa"),
        (changed("sex", values={"1": "Male", "2": "Female"}), r"0 \(female\), 1 \(male\)"),
        (changed("sex", values=None), "text for none"),
        (changed("diabetes", yes_no=False), r"0 \(no\), 1 \(yes\)"),
    ],
)
def test_groups_that_are_not_the_forms_are_refused(
    groups: list[dict[str, Any]], words: str, prefix: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        FormModel(TunedModel(prefix), groups_of(groups, "test"))


def test_the_page_asks_the_model_apart_from_the_equations(
    model: FormModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with patient_page(model=model) as local:
        assert b"const asks = true;" in local._page
        status, answer = local.call("ask", local._token, json.dumps(FORM).encode())
        assert status == 200
        (one,) = answer["risks"]
        assert one["risk"] == model.ask(patient_of(FORM))["risk"]
        assert local.call("ask", local._token, b'{"age": "old"}')[0] == 400
    with patient_page() as local:
        assert b"const asks = false;" in local._page
        assert local.call("ask", local._token, b"{}")[0] == 404
    assert run(["page", "--groups", "groups.yaml"]) == 2
    assert "--model RUN" in capsys.readouterr().err
