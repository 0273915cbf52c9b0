"""PREVENT's extensions against published outputs, their terms for missing values, and eGFR.

The outputs are those that preventr 0.12.0 prints in its own tests, in per cent, for the five
outcomes in the order of ``OUTCOMES``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import DataError
from sagittal_risk.egfr import ckd_epi_2021, complete
from sagittal_risk.equations import (
    equations,
    evaluate_many,
    family,
    informed,
    prevent,
    read_table,
    read_tables,
)
from sagittal_risk.fields import FIELDS, implausible, to_numbers
from sagittal_risk.patients import Patients

OUTCOMES = ("cvd", "ascvd", "hf", "chd", "stroke")
EXAMPLE = {
    "age": 50, "systolic": 160, "bp_treated": 1, "total_cholesterol": 200, "hdl_cholesterol": 45,
    "statin": 0, "diabetes": 1, "smoker": 0, "egfr": 90, "bmi": 35,
}  # fmt: skip
ALL = {"hba1c": 9.2, "uacr": 92, "sdi": 3}
OLD = {"age": 75, "statin": 1, "diabetes": 0, "smoker": 1, "hba1c": 7.5, "uacr": 40, "sdi": 10}
NO_SDI = {"age": 71, "statin": 1, "hba1c": 9, "uacr": 1000}
LOW = {"age": 71, "systolic": 145, "bp_treated": 0, "hba1c": 6.7, "uacr": 10}
MIXED = {
    "systolic": 155, "total_cholesterol": 188, "hdl_cholesterol": 50, "statin": 1, "diabetes": 0,
    "smoker": 1, "egfr": 60, "bmi": 30, "hba1c": 9, "uacr": 900,
}  # fmt: skip
# model, years, what differs from EXAMPLE, women, men
PRINTED = [
    ("uacr", 10, {"uacr": 92}, "18.1 11.1 10.5 5.5 6.5", "19.5 12.3 13.0 6.6 6.3"),
    ("uacr", 30, {"uacr": 92}, "56.5 38.1 43.7 22.0 24.1", "53.5 36.8 44.8 22.7 21.3"),
    ("uacr", 10, {"uacr": 40}, "16.0 9.9 8.9 4.8 5.9", "17.2 11.0 11.0 5.9 5.6"),
    ("uacr", 30, {"uacr": 40}, "54.2 36.3 40.7 20.6 22.9", "51.4 35.5 42.0 21.8 20.2"),
    ("uacr", 10, {"age": 67, "statin": 1, "uacr": 1000},
     "35.3 22.2 28.9 12.7 12.4", "39.8 26.0 34.9 15.5 15.1"),
    ("uacr", 30, {"age": 67, "statin": 1, "uacr": 1000},
     "61.3 41.9 53.4 26.5 25.2", "58.2 40.7 52.2 26.2 25.0"),
    ("hba1c", 10, {"hba1c": 9.2}, "16.5 10.3 10.7 5.5 5.3", "18.7 11.2 13.0 6.3 5.6"),
    ("hba1c", 30, {"hba1c": 9.2}, "54.1 35.6 44.9 21.9 20.0", "52.4 34.0 45.7 21.1 18.8"),
    ("hba1c", 10, {"hba1c": 7.5}, "13.6 8.3 8.1 4.1 4.6", "15.5 9.4 10.1 5.1 4.7"),
    ("hba1c", 30, {"hba1c": 7.5}, "50.1 32.2 38.9 18.2 18.8", "49.1 31.7 41.1 19.2 17.5"),
    ("hba1c", 10, {"age": 67, "hba1c": 9}, "26.6 16.3 20.1 9.7 8.2", "30.9 19.4 24.6 11.2 10.4"),
    ("hba1c", 30, {"age": 67, "hba1c": 9}, "53.5 34.3 46.4 22.0 18.4", "50.5 33.1 45.1 20.3 18.8"),
    ("sdi", 10, {"sdi": 3}, "12.7 8.0 7.0 3.8 4.7", "14.3 8.8 8.9 4.9 4.3"),
    ("sdi", 30, {"sdi": 3}, "48.5 32.2 35.8 17.9 20.2", "48.0 31.7 38.4 19.9 17.1"),
    ("sdi", 10, {"sdi": 5}, "14.4 9.2 8.0 4.5 5.2", "15.4 9.4 9.9 5.3 4.7"),
    ("sdi", 30, {"sdi": 5}, "51.4 34.8 38.0 20.1 21.5", "48.7 32.2 40.0 20.3 17.6"),
    ("sdi", 10, {"sdi": 10}, "15.7 10.0 8.9 4.8 5.8", "18.2 11.4 12.3 6.2 5.9"),
    ("sdi", 30, {"sdi": 10}, "53.5 36.7 40.4 21.1 23.2", "53.0 36.1 44.7 22.5 20.9"),
    ("full", 10, ALL, "17.4 10.5 11.4 5.6 5.6", "19.1 11.2 13.1 6.8 5.2"),
    ("full", 30, ALL, "53.4 34.8 44.3 21.3 20.4", "51.3 32.6 43.8 21.6 16.7"),
    ("full", 10, OLD, "36.1 22.7 29.5 13.7 12.8", "39.4 26.3 33.9 14.1 17.7"),
    ("full", 30, OLD, "49.5 32.1 41.2 20.2 18.5", "44.9 30.1 37.9 16.4 20.6"),
    ("full", 10, NO_SDI, "41.4 26.1 38.4 17.1 13.6", "47.8 30.4 44.7 19.1 17.3"),
    ("full", 30, NO_SDI, "59.3 39.4 55.5 27.2 21.8", "55.2 35.6 51.2 22.9 20.8"),
    ("full", 10, NO_SDI | {"sdi": 10}, "42.5 27.4 39.5 18.0 14.4", "51.1 33.2 48.9 21.3 19.2"),
    ("full", 30, NO_SDI | {"sdi": 10}, "59.9 40.7 56.3 28.3 22.7", "57.7 37.9 54.6 24.9 22.5"),
    ("full", 10, LOW, "16.3 10.0 11.1 5.8 5.2", "20.3 13.4 14.1 8.2 6.2"),
    ("full", 30, LOW, "35.7 22.0 27.5 13.5 11.8", "35.7 23.7 27.8 15.1 11.6"),
    ("full", 10, MIXED, "21.4 12.6 13.1 6.0 7.5", "20.3 12.2 12.6 5.6 8.0"),
    ("full", 30, MIXED, "56.0 37.7 42.7 21.3 24.4", "51.4 34.3 39.4 18.1 24.1"),
]  # fmt: skip


def patient(**fields: object) -> Patients:
    """A woman and a man of the same values."""
    columns = {name: [value] * 2 for name, value in (EXAMPLE | fields).items()}
    return Patients.of(sex=["female", "male"], **columns)


@pytest.mark.parametrize(("model", "years", "fields", "women", "men"), PRINTED)
def test_printed_outputs(model: str, years: int, fields: dict, women: str, men: str) -> None:
    given_ = patient(**fields)
    for place, outcome in enumerate(OUTCOMES):
        # preventr computes 30 years beyond the age of 59 as well, with a warning.
        found = prevent(given_, outcome, years, model, extrapolate=True)
        wanted = [float(text.split()[place]) for text in (women, men)]
        assert 100 * found.risk == pytest.approx(wanted, abs=0.05 + 1e-9)
        missing = [] if "sdi" in fields or model != "full" else ["sdi"]
        assert found.unknown_fields(0) == missing
        assert found.missing_fields(0) == []


def logit(risk: np.ndarray) -> np.ndarray:
    return np.log(risk / (1 - risk))


@pytest.mark.parametrize("years", [10, 30])
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("model", ["uacr", "hba1c", "sdi"])
def test_a_missing_value_takes_the_term_for_it(model: str, outcome: str, years: int) -> None:
    """The single model and the full one: their own terms, and nothing else, change."""
    known = {"uacr": 1.0, "hba1c": 5.3, "sdi": 2}  # each adds nothing to the sum
    for name in (model, "full"):
        one = equations()[f"prevent_{name}_{outcome}_{years}y"]
        table = read_tables()[one.family]
        absent = next(
            key for key, basis in table.basis.items() if basis.absent and basis.field == model
        )
        term = one.coefficients[:, table.terms.index((absent,))]
        assert term.any()
        without = {key: value for key, value in known.items() if key != model}
        before = prevent(patient(**known), outcome, years, name)
        after = prevent(patient(**without), outcome, years, name)
        assert logit(after.risk) - logit(before.risk) == pytest.approx(term, abs=1e-9)
        assert (before.unknown_fields(0), after.unknown_fields(0)) == ([], [model])
        assert after.applicable.all()
        # A column of NaN is the same as none.
        nan = prevent(patient(**without, **{model: math.nan}), outcome, years, name)
        np.testing.assert_array_equal(nan.risk, after.risk)


def test_hba1c_has_another_slope_in_diabetes() -> None:
    for years in (10, 30):
        one = equations()[f"prevent_hba1c_cvd_{years}y"]
        terms = read_tables()[one.family].terms
        for diabetes, product in ((1, ("dm", "a1c")), (0, ("no_dm", "a1c"))):
            low, high = (
                prevent(patient(diabetes=diabetes, hba1c=value), "cvd", years, "hba1c").risk
                for value in (6, 7)
            )
            slope = one.coefficients[:, terms.index(product)]
            assert logit(high) - logit(low) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "field", "inside", "outside"),
    [
        ("uacr", "uacr", (0.1, 25000), (0, 0.09, 25001)),
        ("hba1c", "hba1c", (4.5, 15), (4.4, 15.1)),
        ("sdi", "sdi", (1, 10), (0, 11, 3.5)),
    ],
)
def test_out_of_range_gives_no_risk_and_is_named(
    model: str, field: str, inside: tuple, outside: tuple
) -> None:
    for name in (model, "full"):
        for value in inside:
            found = prevent(patient(**{field: value}), "cvd", 10, name)
            assert np.isfinite(found.risk).all()
            assert found.outside_fields(0) == []
        for value in outside:
            # A valid column around it, so that the column's unit is not in question.
            column = np.array([value, *[inside[1]] * 3], dtype=float)
            many = {key: [held] * 4 for key, held in EXAMPLE.items()}
            people = Patients.of(sex=["male"] * 4, **many, **{field: column})
            found = prevent(people, "cvd", 10, name)
            assert np.isnan(found.risk).tolist() == [True, False, False, False]
            assert found.outside_fields(0) == [field]
            assert field not in found.unknown_fields(0)
            assert not found.applicable[0]


def test_there_are_four_extensions_of_each_base_equation() -> None:
    base = family("prevent")
    assert base == [f"prevent_{o}_{y}y" for y in (10, 30) for o in OUTCOMES]
    for model, fields in {
        "uacr": ("uacr",),
        "hba1c": ("hba1c",),
        "sdi": ("sdi",),
        "full": ("uacr", "hba1c", "sdi"),
    }.items():
        names = family(f"prevent_{model}")
        assert [name.replace(f"_{model}", "") for name in names] == base
        for name, plain in zip(names, base, strict=True):
            one = equations()[name]
            assert one.optional == fields
            assert (one.needs, one.outcome) == (
                equations()[plain].needs,
                equations()[plain].outcome,
            )
    assert family("qrisk3") == []


def test_the_extension_takes_what_is_known() -> None:
    assert informed(["age", "egfr"]) == []
    assert informed(["age", "hba1c"]) == family("prevent_hba1c")
    assert informed({"sdi": 1}) == family("prevent_sdi")
    assert informed(["uacr"]) == family("prevent_uacr")
    assert informed(["uacr", "sdi"]) == family("prevent_full")


def test_base_equations_do_not_see_the_new_fields() -> None:
    names = family("prevent")
    plain = evaluate_many(names, patient())
    more = evaluate_many(names, patient(uacr=0, hba1c=4, sdi=10, creatinine=1))
    for name in names:
        np.testing.assert_array_equal(plain[name].risk, more[name].risk)
        assert (more[name].outside_fields(0), more[name].unknown_fields(0)) == ([], [])


def test_a_term_for_missing_values_needs_an_optional_field(tmp_path) -> None:
    text = (read_table.__globals__["FOLDER"] / "prevent_uacr_10y.yaml").read_text()
    file = tmp_path / "broken.yaml"
    file.write_text(text.replace("optional: [uacr]", "optional: []"))
    with pytest.raises(DataError, match="optional field"):
        read_table(file)


@given(st.floats(20, 150))
def test_hba1c_from_mmol_per_mol(ifcc: float) -> None:
    (percent,) = to_numbers("hba1c", [ifcc], "mmol/mol")
    assert percent == pytest.approx(0.0915 * ifcc + 2.15, rel=1e-12)
    assert (percent - 2.15) / 0.0915 == pytest.approx(ifcc, rel=1e-9)


@given(st.floats(0.02, 2000))
def test_uacr_and_creatinine_conversions(value: float) -> None:
    assert to_numbers("uacr", [value], "mg/mmol")[0] == pytest.approx(8.84 * value, rel=1e-12)
    micro = 30 + value % 1000
    assert to_numbers("creatinine", [micro], "umol/L")[0] * 88.4 == pytest.approx(micro, rel=1e-12)


def test_units_of_new_fields_that_do_not_fit_are_refused() -> None:
    for name, unit, values, other in (
        ("hba1c", "%", [42.0, 53.0, 60.0], "mmol/mol"),
        ("hba1c", "mmol/mol", [5.1, 6.0, 7.2], "%"),
        ("creatinine", "mg/dL", [80.0, 95.0], "umol/L"),
        ("creatinine", "umol/L", [0.8, 1.2], "mg/dL"),
    ):
        with pytest.raises(DataError, match=f"look like {other}: state that unit"):
            to_numbers(name, values, unit)
    assert implausible("sdi", np.array([1.0, 2.5, 10.0, 11.0, np.nan])).tolist() == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert len(FIELDS) == 16


# preventr 0.12.0 prints these (whole numbers); creatinine in mg/dL, or umol/L from 50.
@pytest.mark.parametrize(
    ("creatinine", "age", "sex", "printed"),
    [
        (1.5, 43, "female", 44), (1.5, 43, "male", 59), (1.5, 55, "female", 41),
        (1.5, 55, "male", 55), (88, 43, "male", 96), (102, 43, "female", 60), (111, 77, "male", 59),
    ],
)  # fmt: skip
def test_egfr_printed_outputs(creatinine: float, age: float, sex: str, printed: int) -> None:
    unit = "umol/L" if creatinine > 50 else "mg/dL"
    given_ = Patients.of(creatinine=([creatinine], unit), age=[age], sex=[sex]).columns
    found = ckd_epi_2021(given_["creatinine"], given_["age"], given_["sex"])
    assert np.round(found).tolist() == [printed]


@given(st.floats(0.1, 30), st.floats(18, 120), st.booleans())
def test_egfr_is_the_published_formula(creatinine: float, age: float, female: bool) -> None:
    k, a, last = (0.7, -0.241, 1.012) if female else (0.9, -0.302, 1.0)
    wanted = 142 * min(creatinine / k, 1) ** a * max(creatinine / k, 1) ** -1.2 * 0.9938**age * last
    found = ckd_epi_2021(np.array([creatinine]), np.array([age]), np.array([float(not female)]))
    assert found[0] == pytest.approx(wanted, rel=1e-12)


def test_egfr_is_computed_where_it_is_not_stated() -> None:
    nan = np.nan
    columns = {
        "age": np.array([43.0, 43, 43, 43, 17, 43, nan]),
        "sex": np.array([0.0, 0, 0, nan, 0, 0, 0]),
        "creatinine": np.array([1.5, 1.5, 1.5, 1.5, 1.5, 90, 1.5]),
        "egfr": np.array([nan, 44, 60, nan, nan, nan, nan]),
    }
    found = complete(columns)
    assert found.columns["egfr"].round().tolist()[:3] == [44, 44, 60]
    assert np.isnan(found.columns["egfr"]).tolist() == [False] * 3 + [True] * 4
    assert found.computed.tolist() == [True] + [False] * 6
    assert found.differs.tolist() == [False, False, True] + [False] * 4
    assert np.isnan(columns["egfr"][0])  # what was given is as it was
    plain = complete({"age": np.array([50.0]), "egfr": np.array([90.0])})
    assert (plain.computed.tolist(), plain.differs.tolist()) == ([False], [False])
    assert "egfr" in complete({k: v for k, v in columns.items() if k != "egfr"}).columns
