"""What the page for one patient answers; the browser's part is in tests/browser."""

from __future__ import annotations

import pytest

from sagittal_core.errors import DataError
from sagittal_risk.equations import family
from sagittal_risk.page import patient_page, score

PATIENT = {
    "age": "50",
    "sex": "female",
    "total_cholesterol": "200",
    "total_cholesterol unit": "mg/dL",
    "hdl_cholesterol": "45",
    "hdl_cholesterol unit": "mg/dL",
    "systolic": "160",
    "systolic unit": "mmHg",
    "bmi": "35",
    "egfr": "90",
    "egfr unit": "mL/min/1.73m2",
    "diabetes": "1",
    "smoker": "0",
    "bp_treated": "1",
    "statin": "0",
}


def risk_of(given: dict[str, str], name: str = "prevent_cvd_10y") -> dict[str, object]:
    (one,) = score(given, [name])["risks"]
    return one


def test_the_published_example_of_prevent() -> None:
    one = risk_of(PATIENT)
    assert one["risk"] == pytest.approx(0.147, abs=5e-4)
    assert (one["years"], one["notes"]) == (10, "")


def test_another_unit_and_a_decimal_comma_give_the_same() -> None:
    given = PATIENT | {
        "total_cholesterol": "5,172",
        "total_cholesterol unit": "mmol/L",
        "hdl_cholesterol": "1.1637",
        "hdl_cholesterol unit": "mmol/L",
    }
    assert risk_of(given)["risk"] == pytest.approx(risk_of(PATIENT)["risk"], rel=1e-6)


def test_what_is_missing_out_of_range_or_impossible_is_said() -> None:
    one = risk_of(PATIENT | {"egfr": ""})
    assert one["risk"] is None
    assert one["notes"] == "not known: eGFR"
    assert "out of range: systolic blood pressure" in str(
        risk_of(PATIENT | {"systolic": "220"})["notes"]
    )
    one = risk_of(PATIENT | {"age": "150"})
    assert one["risk"] is None
    assert "no patient has this: age" in str(one["notes"])
    with pytest.raises(DataError, match="look like mmol/L"):
        risk_of(PATIENT | {"total_cholesterol": "5.2"})


def test_egfr_from_creatinine_is_said() -> None:
    given = PATIENT | {"egfr": "", "creatinine": "70.72", "creatinine unit": "umol/L"}
    answer = score(given, ["prevent_cvd_10y"])
    assert answer["egfr"] == "eGFR 90 from creatinine, age and sex (CKD-EPI 2021)"
    assert answer["risks"][0]["risk"] == pytest.approx(0.147, abs=1e-3)
    answer = score(given | {"egfr": "60"}, ["prevent_cvd_10y"])
    assert answer["egfr"].startswith("the eGFR filled in counts")
    assert score(PATIENT, ["prevent_cvd_10y"])["egfr"] == ""


def test_the_extension_that_takes_what_is_known_is_added() -> None:
    risks = score(PATIENT | {"hba1c": "9.2"}, ["prevent_cvd_10y"])["risks"]
    by = {one["equation"]: one for one in risks}
    assert set(by) == {"prevent_cvd_10y", *family("prevent_hba1c")}
    assert by["prevent_hba1c_cvd_10y"]["risk"] == pytest.approx(0.165, abs=5e-4)
    risks = score(PATIENT | {"hba1c": "9.2", "uacr": "92", "uacr unit": "mg/g"}, [])["risks"]
    assert {one["equation"] for one in risks} == set(family("prevent_full"))
    assert {one["notes"] for one in risks} == {"term for a missing value: social deprivation index"}
    (one, *_) = score(PATIENT | {"sdi": "11"}, [])["risks"]
    assert one["risk"] is None
    assert "no patient has this: social deprivation index" in one["notes"]


def test_an_empty_form_is_no_error_and_a_word_is_one() -> None:
    assert all(one["risk"] is None for one in score({}, ["prevent_cvd_10y", "pce"])["risks"])
    with pytest.raises(DataError, match="systolic blood pressure"):
        score(PATIENT | {"systolic": "high"}, ["prevent_cvd_10y"])


def test_the_page_holds_one_region_of_score2() -> None:
    local = patient_page("high")
    local.__enter__()
    try:
        status, answer = local.call("score", local._token, b"{}")
    finally:
        local.__exit__()
    assert status == 200
    names = [one["equation"] for one in answer["risks"]]
    assert any("score2" in name and name.endswith("high") for name in names)
    assert not any(name.endswith(("low", "moderate", "very_high")) for name in names)
