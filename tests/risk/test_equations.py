"""The published equations against worked examples, ranges, units and what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError, DataError
from sagittal_risk.equations import (
    equations,
    evaluate_many,
    framingham_2008,
    pce,
    prevent,
    read_table,
    read_tables,
    score2,
    score2_op,
)
from sagittal_risk.fields import MMOL_PER_MG, names_of
from sagittal_risk.patients import Patients

OUTCOMES = ("cvd", "ascvd", "hf", "chd", "stroke")
PREVENT = [f"prevent_{outcome}_{years}y" for years in (10, 30) for outcome in OUTCOMES]


def patient(**fields: object) -> Patients:
    """One patient of each sex, female first, unless the sex is given."""
    rows = 1 if "sex" in fields else 2
    fields.setdefault("sex", ["female", "male"])
    columns = {
        name: value if isinstance(value, (list, tuple)) else [value] * rows
        for name, value in fields.items()
    }
    return Patients.of(**columns)


README = {
    "age": 50, "systolic": 160, "bp_treated": 1, "total_cholesterol": 200, "hdl_cholesterol": 45,
    "statin": 0, "diabetes": 1, "smoker": 0, "egfr": 90, "bmi": 35,
}  # fmt: skip
YOUNG = {
    "age": 40, "systolic": 120, "bp_treated": 0, "total_cholesterol": 180, "hdl_cholesterol": 55,
    "statin": 0, "diabetes": 0, "smoker": 1, "egfr": 100, "bmi": 24,
}  # fmt: skip
OLD = {
    "age": 68, "systolic": 104, "bp_treated": 1, "total_cholesterol": 170, "hdl_cholesterol": 38,
    "statin": 1, "diabetes": 1, "smoker": 0, "egfr": 42, "bmi": 33,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "years", "women", "men"),
    [
        (README, 10, [0.146839, 0.091951, 0.080561, 0.044097, 0.054008],
         [0.163171, 0.101944, 0.105911, 0.055661, 0.052071]),
        (README, 30, [0.529850, 0.354255, 0.389602, 0.198182, 0.221004],
         [0.514398, 0.348594, 0.423597, 0.215732, 0.197329]),
        (YOUNG, 10, [0.014067, 0.008857, 0.005553, 0.003904, 0.005127],
         [0.018699, 0.012288, 0.007652, 0.005912, 0.006306]),
        (OLD, 10, [0.266725, 0.135916, 0.208705, 0.080346, 0.070558],
         [0.284336, 0.150807, 0.247192, 0.100994, 0.067438]),
    ],
    ids=["example", "example-30", "young", "old"],
)  # fmt: skip
def test_prevent(fields: dict, years: int, women: list[float], men: list[float]) -> None:
    for place, outcome in enumerate(OUTCOMES):
        found = prevent(patient(**fields), outcome, years)
        assert found.risk == pytest.approx([women[place], men[place]], abs=1e-6)
        assert found.applicable.all()


def test_prevent_printed_example() -> None:
    printed = {10: [0.147, 0.092, 0.081, 0.044, 0.054], 30: [0.530, 0.354, 0.390, 0.198, 0.221]}
    for years, risks in printed.items():
        found = [prevent(patient(**README), o, years).risk[0] for o in OUTCOMES]
        assert np.round(found, 3).tolist() == risks


SCORE2_CASE = {
    "age": 50,
    "smoker": 1,
    "systolic": 140,
    "total_cholesterol": ([5.5, 5.5], "mmol/L"),
    "hdl_cholesterol": ([1.3, 1.3], "mmol/L"),
}


@pytest.mark.parametrize(
    ("region", "women", "men"),
    [
        ("low", 0.042155, 0.059133),
        ("moderate", 0.050740, 0.075613),
        ("high", 0.068755, 0.081226),
        ("very_high", 0.137005, 0.140486),
    ],
)
def test_score2(region: str, women: float, men: float) -> None:
    assert score2(patient(**SCORE2_CASE), region).risk == pytest.approx([women, men], abs=1e-6)


def test_score2_printed_examples() -> None:
    low, high = (score2(patient(**SCORE2_CASE), r).risk for r in ("low", "very_high"))
    assert np.round(100 * np.r_[low, high], 1).tolist() == [4.2, 5.9, 13.7, 14.0]
    other = SCORE2_CASE | {
        "total_cholesterol": ([6.3, 6.3], "mmol/L"),
        "hdl_cholesterol": ([1.4, 1.4], "mmol/L"),
    }
    raw = score2(patient(**other), "uncalibrated").risk
    assert raw == pytest.approx([0.033163, 0.054098], abs=1e-6)
    assert np.round(raw, 4).tolist() == [0.0332, 0.0541]
    assert score2(patient(**other), "low").risk == pytest.approx([0.043319, 0.063143], abs=1e-6)


@pytest.mark.parametrize(
    ("region", "women", "men"),
    [
        ("uncalibrated", 0.244241, 0.296588),
        ("moderate", 0.199965, 0.239419),
        ("high", 0.305918, 0.278078),
        ("very_high", 0.455335, 0.397085),
    ],
)
def test_score2_op(region: str, women: float, men: float) -> None:
    found = score2_op(patient(**SCORE2_CASE | {"age": 75, "diabetes": 0}), region)
    assert found.risk == pytest.approx([women, men], abs=1e-6)
    with pytest.raises(ConfigError, match="two scales"):
        score2_op(patient(**SCORE2_CASE), "low")


def test_framingham_2008_worked_examples() -> None:
    both = Patients.of(
        age=[61, 53],
        sex=["female", "male"],
        total_cholesterol=[180, 161],
        hdl_cholesterol=[47, 55],
        systolic=[124, 125],
        bp_treated=[0, 1],
        smoker=[1, 0],
        diabetes=[0, 1],
    )
    risk = framingham_2008(both).risk
    assert risk == pytest.approx([0.104842, 0.156227], abs=1e-6)
    assert np.round(100 * risk[0], 2) == 10.48
    assert np.round(100 * risk[1], 1) == 15.6


PCE_CASE = {
    "age": 55, "total_cholesterol": 213, "hdl_cholesterol": 50, "systolic": 120, "bp_treated": 0,
    "diabetes": 0,
}  # fmt: skip


def pce_groups(smoker: int) -> np.ndarray:
    columns = {name: [value] * 4 for name, value in PCE_CASE.items()}
    groups = Patients.of(
        **columns,
        smoker=[smoker] * 4,
        sex=["female", "female", "male", "male"],
        race=["white", "black", "white", "black"],
    )
    return pce(groups).risk


def test_pce() -> None:
    assert pce_groups(0) == pytest.approx([0.020522, 0.030263, 0.053844, 0.060734], abs=1e-6)
    assert pce_groups(1) == pytest.approx([0.049810, 0.059487, 0.100009, 0.102814], abs=1e-6)
    # The guideline prints 2.1, 3.0, 5.3 and 6.1 %; coefficients of three decimals give 5.38.
    assert 100 * pce_groups(0) == pytest.approx([2.1, 3.0, 5.3, 6.1], abs=0.1)


def test_pce_without_the_main_smoker_term_is_what_adacvd_released() -> None:
    table = read_tables()["pce"]
    main = table.terms.index(("smk",))
    equation = table.equations["pce"]
    white_male = 2
    b = {t: equation.coefficients[white_male, n] for n, t in enumerate(table.terms)}
    assert b["smk",] == 7.837
    age, tc, hdl, sbp = (math.log(x) for x in (55, 213, 50, 120))
    total = (
        b["ln_age",] * age + b["ln_tc",] * tc + b["ln_age", "ln_tc"] * age * tc
        + b["ln_hdl",] * hdl + b["ln_age", "ln_hdl"] * age * hdl
        + b["untreated", "ln_sbp"] * sbp + b["ln_age", "smk"] * age - equation.mean[white_male]
    )  # fmt: skip
    without = -math.expm1(math.exp(total) * equation.log_survival[white_male])
    with_it = -math.expm1(
        math.exp(total + equation.coefficients[white_male, main])
        * equation.log_survival[white_male]
    )
    assert without == pytest.approx(0.00004, abs=5e-6)  # 0.004 %
    assert with_it == pytest.approx(pce_groups(1)[2], abs=1e-12)
    assert with_it == pytest.approx(0.1000, abs=5e-5)


@pytest.mark.parametrize("name", list(equations()))
def test_missing_fields_are_named_and_no_row_is_dropped(name: str) -> None:
    equation = equations()[name]
    full = {"age": 75 if "op" in name else 50, "race": "white"} | {
        k: v for k, v in README.items() if k != "age"
    }
    fields = {k: [v] * (len(equation.needs) + 1) for k, v in full.items()}
    fields["sex"] = ["female"] * (len(equation.needs) + 1)
    for row, field in enumerate(equation.needs):
        fields[field][row] = None
    columns = {
        k: v if k in ("sex", "race") else np.array(v, dtype=float) for k, v in fields.items()
    }
    found = evaluate_many([name], Patients.of(**columns))[name]
    assert len(found.risk) == len(equation.needs) + 1
    for row, field in enumerate(equation.needs):
        assert np.isnan(found.risk[row])
        assert found.missing_fields(row) == [field]
        assert not found.applicable[row]
    assert 0 < found.risk[-1] < 1
    assert found.missing_fields(len(equation.needs)) == []


def test_a_column_that_is_not_given_is_missing_everywhere() -> None:
    fields = {k: v for k, v in README.items() if k != "egfr"}
    found = prevent(patient(**fields))
    assert np.isnan(found.risk).all()
    assert found.missing_fields(0) == ["egfr"]
    assert framingham_2008(patient(**fields)).applicable.all()


def test_outside_the_derivation_each_publication_has_its_rule() -> None:
    def ages(*years: float) -> Patients:
        columns = {k: [v] * len(years) for k, v in README.items() if k != "age"}
        columns["race"] = ["white"] * len(years)
        return Patients.of(age=years, sex=["male"] * len(years), **columns)

    edge = prevent(ages(29.9, 30, 79.9, 80))
    assert np.isnan(edge.risk).tolist() == [True, False, False, True]
    assert edge.outside_fields(0) == ["age"]
    assert np.isnan(prevent(ages(59, 60), "hf", 30).risk).tolist() == [False, True]
    assert np.isnan(prevent(ages(85), extrapolate=True).risk).tolist() == [False]
    assert prevent(ages(85), extrapolate=True).outside_fields(0) == ["age"]
    assert np.isnan(score2(ages(39, 50, 70), "low").risk).tolist() == [True, False, True]
    assert score2(ages(50), "low").outside_fields(0) == ["diabetes"]  # not derived for them
    assert np.isnan(score2_op(ages(69, 70, 90), "high").risk).tolist() == [True, False, True]
    assert np.isnan(pce(ages(39, 40, 80)).risk).tolist() == [True, False, True]
    pressures = patient(**README | {"systolic": [200, 201]})
    assert np.isnan(prevent(pressures).risk).tolist() == [False, True]
    flagged = framingham_2008(ages(29, 30, 75))
    assert not np.isnan(flagged.risk).any()
    assert flagged.applicable.tolist() == [False, True, False]


def test_people_of_other_groups_get_the_equations_for_white_people_and_a_flag() -> None:
    both = Patients.of(
        **{k: [v] * 2 for k, v in PCE_CASE.items()},
        smoker=[0, 0],
        sex=["male"] * 2,
        race=["white", "other"],
    )
    found = pce(both)
    assert found.risk[0] == found.risk[1]
    assert found.outside_fields(1) == ["race"]


def test_values_that_no_patient_has_give_no_risk_even_extrapolated() -> None:
    fields = README | {"systolic": [0, 160]}
    found = prevent(patient(**fields), extrapolate=True)
    assert np.isnan(found.risk).tolist() == [True, False]
    assert found.outside_fields(0) == ["systolic"]


def test_a_wrong_unit_is_refused_with_rows_and_the_right_one() -> None:
    with pytest.raises(DataError, match=r"3 of 3 rows outside[\s\S]*state that unit") as error:
        Patients.of(total_cholesterol=[5.1, 6.2, np.nan, 4.0])
    assert "mmol/L" in str(error.value)
    with pytest.raises(DataError, match=r"hdl_cholesterol[\s\S]*look like mg/dL"):
        Patients.of(hdl_cholesterol=([45.0, 60.0], "mmol/L"))
    with pytest.raises(DataError, match="a unit of mg/dL, mmol/L"):
        Patients.of(total_cholesterol=([200.0], "g/L"))
    mixed = Patients.of(total_cholesterol=[200.0, 190.0, 5.2])
    assert [names_of(int(bits)) for bits in mixed.implausible] == [[], [], ["total_cholesterol"]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sex": ["female", "M"]}, "1 rows with other values"),
        ({"smoker": [0, 2, 1]}, "1 rows with other values"),
        ({"smoker": ([0], "mg/dL")}, "no unit"),
        ({"weight": [70]}, "no field"),
        ({"age": ["old"]}, "numbers"),
        ({"age": [50], "bmi": [25, 26]}, "one length"),
        ({}, "one length"),
    ],
)
def test_mistakes_are_named(fields: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Patients.of(**fields)


def test_no_patient_is_no_risk() -> None:
    nobody = Patients.of(age=[])
    assert all(len(r.risk) == 0 for r in evaluate_many(list(equations()), nobody).values())


def test_unknown_equations_are_refused() -> None:
    with pytest.raises(ConfigError, match="prevent_cvd_10y"):
        evaluate_many(["qrisk3"], patient(**README))


@given(st.lists(st.floats(30, 79), min_size=1, max_size=40), st.integers(1, 3))
def test_rows_do_not_depend_on_their_neighbours(ages: list[float], threads: int) -> None:
    count = len(ages) * 300  # several blocks
    many = Patients.of(
        age=np.resize(ages, count),
        sex=["female", "male"] * (count // 2),
        **{k: [v] * count for k, v in README.items() if k != "age"},
    )
    together = evaluate_many(PREVENT, many, threads=threads)
    last = many.take(np.array([count - 1]))
    for name in PREVENT:
        alone = evaluate_many([name], last)[name]
        np.testing.assert_allclose(together[name].risk[-1:], alone.risk, rtol=1e-12)


def test_units_are_converted_once() -> None:
    mg = patient(**README)
    mmol = patient(
        **README
        | {
            "total_cholesterol": ([200 * MMOL_PER_MG] * 2, "mmol/L"),
            "hdl_cholesterol": ([45 * MMOL_PER_MG] * 2, "mmol/L"),
        }
    )
    np.testing.assert_allclose(prevent(mg).risk, prevent(mmol).risk, rtol=1e-12)


def test_tables_say_where_they_come_from() -> None:
    assert len(equations()) == 50 + 5 + 4 + 1 + 1
    for table in read_tables().values():
        assert "doi" in table.source
        assert len(table.checked) > 20


def test_a_broken_table_is_refused(tmp_path) -> None:
    good = (read_table.__globals__["FOLDER"] / "framingham_2008.yaml").read_text()
    for change, words in (
        (("smk: [0.52873, 0.65451]", "smk: [0.52873]"), "2 numbers"),
        (("treated * ln_sbp", "treatd * ln_sbp"), "names of"),
        (("{field: smoker}", "{field: cigar}"), "a field"),
        (("title:", "titel:"), "missing"),
    ):
        file = tmp_path / "broken.yaml"
        file.write_text(good.replace(*change))
        with pytest.raises(DataError, match=words):
            read_table(file)
