"""``sagittal-risk page``: one patient in a form on this machine, the risks beside it."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import json
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.web import Function, LocalPage
from sagittal_risk.egfr import DIFFERS, Completed, complete
from sagittal_risk.equations import equations, evaluate_many, informed
from sagittal_risk.fields import FIELDS, Field, names_of
from sagittal_risk.patients import Patients

if TYPE_CHECKING:
    from sagittal_risk.form_model import FormModel

_TITLES = {
    "hdl_cholesterol": "HDL cholesterol",
    "systolic": "systolic blood pressure",
    "bmi": "body mass index",
    "egfr": "eGFR",
    "creatinine": "creatinine in serum",
    "uacr": "urine albumin/creatinine (UACR)",
    "hba1c": "HbA1c",
    "sdi": "social deprivation index",
    "smoker": "current smoker",
    "bp_treated": "takes blood pressure medication",
    "statin": "takes a statin",
}


def page(
    region: Literal["low", "moderate", "high", "very_high"] = "moderate",
    model: Path | None = None,
    groups: Path | None = None,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Open a page for one patient; it is served to this machine alone, until Ctrl-C.

    The form takes what is known, in the unit chosen beside it; every equation says its risk, what
    it misses and what is out of its range. eGFR is computed from creatinine where it is not filled
    in. With --model a language model tuned by `sagittal-risk
    fit` is asked beside them. Nothing that is filled in is written anywhere.

    Args:
        region: risk region of SCORE2 and SCORE2-OP.
        model: run folder of a finished fit, or its prefix such as outputs/adacvd/adacvd_framingham.
        groups: YAML list of groups, in the form of data.init_args.groups, whose columns are the
            form's fields; needed where the run's columns have other names.
        port: of the page; 0 takes a free one.
        browser: open it in the browser.

    Raises:
        ConfigError: the port is taken, there is no such run, or its columns are not the form's.
        DataError: the run is damaged.
    """
    asked = None
    if model is not None:
        from sagittal_risk.form_model import form_model

        asked = form_model(model, groups)
    elif groups is not None:
        raise ConfigError("page: groups go with --model RUN")
    local = patient_page(region, port, asked)
    print(f"open {local.address} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(local.address)
    local.serve()


def patient_page(
    region: str = "moderate", port: int = 0, model: FormModel | None = None
) -> LocalPage:
    """The page without a browser, for use as a context manager.

    Args:
        region: Risk region of SCORE2.
        port: 0 takes a free one.
        model: Asked beside the equations.
    """
    names = [
        name
        for name, one in equations().items()
        if not one.optional and (not name.startswith("score2") or _region(name) == region)
    ]
    fields = [_field(one) for one in FIELDS.values()]
    # Nothing in a script element may look like its end.
    listed = json.dumps(fields).replace("<", "\\u003c")
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    text = text.replace("{{FIELDS}}", listed).replace("{{ASKS}}", json.dumps(model is not None))
    functions: dict[str, Function] = {"score": lambda given: score(given, names)}
    if model is not None:
        functions["ask"] = lambda given: {"risks": [model.ask(patient_of(given))]}
    return LocalPage(text, functions, port)


def score(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Risks of one patient.

    Args:
        given: Field to what was typed or chosen, and ``"<field> unit"`` to its unit; empty: not
            known. A comma counts as a decimal point.
        names: Equations; PREVENT's extension that takes what is known of UACR, HbA1c and SDI is
            added.

    Returns:
        ``risks``: for each equation its name, outcome, years, risk (None: there is none) and notes.
        ``egfr``: a sentence on eGFR and creatinine; empty: nothing to say.

    Raises:
        DataError: What was typed is no number, or the unit is none of the field's.
    """
    whole = complete(patient_of(given).columns)
    patient = Patients.from_columns(whole.columns, "form")
    known = [name for name in FIELDS if not np.isnan(patient.columns[name][0])]
    wrong = names_of(int(patient.implausible[0]))
    risks = []
    for name, found in evaluate_many([*names, *informed(known)], patient, threads=1).items():
        missing, outside = found.missing_fields(0), found.outside_fields(0)
        unknown = found.unknown_fields(0)
        parts = [
            f"not known: {', '.join(title(n) for n in missing)}" if missing else "",
            f"out of range: {', '.join(title(n) for n in outside)}" if outside else "",
            f"term for a missing value: {', '.join(title(n) for n in unknown)}" if unknown else "",
        ]
        needed = [n for n in wrong if n in (*found.equation.needs, *found.equation.optional)]
        if needed:
            parts.append(f"no patient has this: {', '.join(title(n) for n in needed)}; unit?")
        risk = float(found.risk[0])
        risks.append(
            {
                "equation": name,
                "outcome": found.equation.outcome,
                "years": found.equation.horizon,
                "risk": None if np.isnan(risk) else risk,
                "notes": "; ".join(part for part in parts if part),
            }
        )
    return {"risks": risks, "egfr": _egfr_said(whole)}


def _egfr_said(whole: Completed) -> str:
    if whole.computed[0]:
        return f"eGFR {whole.columns['egfr'][0]:.0f} from creatinine, age and sex (CKD-EPI 2021)"
    if whole.differs[0]:
        return (
            f"the eGFR filled in counts; it is more than {DIFFERS:.0%} off that of the creatinine"
        )
    return ""


def patient_of(given: dict[str, Any]) -> Patients:
    """The patient that a form describes; see :func:`score`."""
    columns: dict[str, Any] = {}
    for name, one in FIELDS.items():
        text = str(given.get(name, "")).strip()
        value = _value(one, text) if text else float("nan")
        unit = str(given.get(f"{name} unit", "")) or None
        columns[name] = ([value], unit) if unit else [value]
    return Patients.of(source="form", **columns)


def title(name: str) -> str:
    """What a field is called on the page."""
    return _TITLES.get(name, name.replace("_", " "))


def _value(field: Field, text: str) -> Any:
    if field.codes:
        return text
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise DataError(
            "form", key=title(field.name), expected="a number", found=repr(text[:40])
        ) from None


def _field(one: Field) -> dict[str, Any]:
    choices = [[code, code] for code in one.codes]
    if one.flag:
        choices = [["1", "yes"], ["0", "no"]]
    units = [unit for unit in (one.unit, *one.units) if unit]
    unit = f" ({one.unit})" if len(units) == 1 else ""
    return {"name": one.name, "title": title(one.name) + unit, "choices": choices, "units": units}


def _region(name: str) -> str:
    found = ("very_high", "uncalibrated", "moderate", "high", "low")
    return next(region for region in found if name.endswith(region))
