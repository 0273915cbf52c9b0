"""Published equations and simple models on the Framingham teaching set, by AdaCVD's protocol.

``python benchmarks/study_framingham.py`` takes the people of ``sagittal_risk.cohorts.framingham``
(third examination, complete, no cardiovascular disease before), computes the equations that the
data allow, cross-fits three models (five folds of people), and writes
``results/study_framingham.json``, ``outputs/study_framingham/predictions.csv`` and figures.
Framingham people were among those that Framingham 2008 and the Pooled Cohort Equations were derived
on: their figures are optimistic.

Hypothesis: models trained on this cohort are better calibrated in it than the published equations;
in discrimination they may not differ. Independent units are people. The check that must pass is the
published protocol's 2,342 people and 318 events. The outcome that may fail: a paired difference of
AUROC to the logistic regression whose interval leaves out 0, and slopes and O:E of the models whose
intervals hold 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray
from rich.progress import track

from sagittal_core.resampling import Resamples
from sagittal_core.results import Table, write_results
from sagittal_risk.baselines import BoostingRisk, CoxRisk, LogisticRisk, Model, cross_fitted, folds
from sagittal_risk.cohorts.cohort import Cohort
from sagittal_risk.cohorts.framingham import framingham
from sagittal_risk.equations import evaluate_many, read_tables
from sagittal_risk.equations.evaluator import Risks
from sagittal_risk.evaluation import figures
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Estimate, Measured, difference
from sagittal_risk.evaluation.missingness import missingness_curve
from sagittal_risk.evaluation.page import subgroup_table
from sagittal_risk.evaluation.subgroups import subgroups
from sagittal_risk.patients import Patients

ROOT = Path(__file__).resolve().parents[1]
EQUATIONS = {
    "Framingham 2008": "framingham_2008",
    "Pooled Cohort Equations": "pce",
    "SCORE2, moderate region": "score2_moderate",
}
LOGISTIC = "logistic regression"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def models(horizon: float) -> dict[str, Model]:
    """The models that are cross-fitted, as makers."""
    return {
        LOGISTIC: LogisticRisk,
        "Cox regression": lambda: CoxRisk(horizon),
        "gradient boosting": BoostingRisk,
    }


def pce_without_smoker(patients: Patients) -> NDArray[np.float64]:
    """PCE as AdaCVD's released code has it: without the main term of smoking."""
    table = read_tables()["pce"]
    equation = table.equations["pce"]
    place = table.terms.index(("smk",))
    right = evaluate_many(["pce"], patients, extrapolate=True)["pce"].risk
    code = 2 * patients.columns["race"] + patients.columns["sex"]
    stratum = table.column[code.astype(int)]
    left_out = equation.coefficients[stratum, place] * patients.columns["smoker"]
    return -np.expm1(np.log1p(-right) * np.exp(-left_out))


def predicted(cohort: Cohort, seed: int) -> dict[str, NDArray[np.float64]]:
    """Risks of everyone by every way."""
    by = evaluate_many(list(EQUATIONS.values()), cohort.patients, extrapolate=True)
    risks = {label: by[name].risk for label, name in EQUATIONS.items()}
    for label, make in models(cohort.horizon).items():
        risks[label] = cross_fitted(
            make, cohort.matrix(), cohort.event, cohort.time, cohort.person, seed=seed
        )
    return risks


def levels(cohort: Cohort) -> dict[str, NDArray[np.str_]]:
    """Subgroups by sex, age and diabetes."""
    columns = cohort.patients.columns
    age = columns["age"]
    return {
        "sex": np.where(columns["sex"] == 1, "men", "women"),
        "age": np.select([age < 55, age < 65], ["44 to 54", "55 to 64"], "65 and older"),
        "diabetes": np.where(columns["diabetes"] == 1, "yes", "no"),
    }


def missingness_table(
    cohort: Cohort, outcome: FollowUp, args: argparse.Namespace
) -> tuple[Table, dict]:
    """Models fed with fewer fields, and Framingham 2008, which needs them all."""

    def by_model(make):
        def predict(columns):
            hidden, out = np.column_stack(list(columns.values())), np.full(len(cohort), np.nan)
            for test in folds(cohort.event, cohort.person, seed=args.seed):
                model = make().fit(cohort.matrix()[~test], cohort.event[~test], cohort.time[~test])
                out[test] = model.risk(hidden[test])
            return out

        return predict

    def by_equation(columns):
        people = Patients.from_columns(columns)
        return evaluate_many(["framingham_2008"], people)["framingham_2008"].risk

    ways = {label: by_model(make) for label, make in models(cohort.horizon).items()}
    ways["Framingham 2008"] = by_equation
    curves = {
        label: missingness_curve(
            way, cohort.features, outcome, cohort.person,
            shares=SHARES, resamples=args.resamples, seed=args.seed,
        )
        for label, way in ways.items()
    }  # fmt: skip
    rows = [
        [label, f"{100 * p.share:.0f} %", f"{100 * p.coverage:.0f} %",
         p.estimates["auroc"].text() if p.estimates else "",
         p.estimates["oe"].text(2) if p.estimates else ""]
        for label, curve in curves.items()
        for p in curve
    ]  # fmt: skip
    columns = ["risk by", "fields known beside age and sex", "people with a risk", "AUROC", "O:E"]
    return (columns, rows), curves


def flow_table(cohort: Cohort, by: dict[str, Risks]) -> Table:
    """How the people were chosen, and how many are outside each derivation."""
    rows = [[step, count] for step, count in cohort.flow.items()]
    rows.append(["events within ten years", int(cohort.event.sum())])
    known = FollowUp.of(cohort.event, cohort.time, cohort.horizon).known
    rows.append(["left before ten years without one", int((~known).sum())])
    rows += [
        [f"inside the derivation of {label}", int(by[name].applicable.sum())]
        for label, name in EQUATIONS.items()
    ]
    return ["people", "number"], rows


def measure_table(estimates: dict[str, dict[str, Estimate]], means: dict[str, float]) -> Table:
    """One row for each way."""
    columns = ["risk by", "AUROC", "average precision", "Brier score", "mean risk", "O:E", "slope",
               "calibration in the large", "ICI", "E90"]  # fmt: skip
    rows = []
    for label, one in estimates.items():
        named = ("oe", "slope", "intercept")
        rows.append(
            [label, one["auroc"].text(), one["average_precision"].text(), one["brier"].text(4),
             f"{means[label]:.3f}", *(one[m].text(2) for m in named), one["ici"].text(),
             one["e90"].text()]
        )  # fmt: skip
    return columns, rows


def difference_table(estimates: dict[str, dict[str, Estimate]]) -> Table:
    """AUROC less the logistic regression's, paired."""
    rows = [
        [f"{label} - {LOGISTIC}", difference(one["auroc"], estimates[LOGISTIC]["auroc"]).text()]
        for label, one in estimates.items()
        if label != LOGISTIC
    ]
    return ["paired difference of AUROC", "value"], rows


def reference_table(cohort: Cohort, outcome: FollowUp, drawn: Resamples) -> Table:
    """AUROC of what should be worse."""
    ways = {
        "age alone": cohort.features["age"] / 100,
        "PCE without the main smoker term": pce_without_smoker(cohort.patients),
    }
    found = {label: Measured(outcome, v).estimate(drawn)["auroc"] for label, v in ways.items()}
    return ["risk by", "AUROC"], [[label, one.text()] for label, one in found.items()]


def censoring_table(cohort: Cohort, risks: dict[str, NDArray], drawn: Resamples) -> Table:
    """The same where people who left early are censored, not without an event."""
    outcome = FollowUp.of(cohort.event, cohort.time, cohort.horizon)
    rows = []
    for label, risk in risks.items():
        one = Measured(outcome, risk).estimate(drawn)
        ranks = [one[measure].text() for measure in ("auroc", "c_index", "c_uno")]
        rows.append([label, *ranks, one["brier"].text(4), one["oe"].text(2)])
    columns = ["risk by", "AUROC at ten years", "C (Harrell)", "C (Uno)", "IPCW Brier score", "O:E"]
    return columns, rows


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="framingham.csv; sample data by default")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study_framingham")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "study_framingham.json")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cohort = framingham(args.data)
    if args.data is None and (len(cohort), int(cohort.event.sum())) != (2342, 318):
        raise SystemExit("the published protocol has 2,342 people and 318 events")
    risks = predicted(cohort, args.seed)
    drawn = Resamples(cohort.person, args.resamples, args.seed)
    # The protocol's outcome: whoever leaves early counts as without the event.
    outcome = FollowUp.of(cohort.event)
    estimates = {
        label: Measured(outcome, risk).estimate(drawn)
        for label, risk in track(risks.items(), "measuring")
    }
    tables = {
        "measures": measure_table(estimates, {k: float(v.mean()) for k, v in risks.items()}),
        "differences": difference_table(estimates),
        "references": reference_table(cohort, outcome, drawn),
        "censoring": censoring_table(cohort, risks, drawn),
    }
    parts = {
        label: subgroups(outcome, risks[label], levels(cohort), cohort.person,
                         resamples=args.resamples, seed=args.seed)
        for label in ("Framingham 2008", "Pooled Cohort Equations", LOGISTIC)
    }  # fmt: skip
    tables["subgroups"] = subgroup_table(parts)
    tables["missingness"], curves = missingness_table(cohort, outcome, args)
    by = evaluate_many(list(EQUATIONS.values()), cohort.patients)
    tables["people"] = flow_table(cohort, by)
    write_out(cohort, risks, outcome, drawn, curves, args.out)
    write_results(
        args.results,
        command="python benchmarks/study_framingham.py",
        seeds=[args.seed],
        n={"people": len(cohort), "events": int(cohort.event.sum()), "resamples": args.resamples},
        tables=tables,
    )
    for name in ("measures", "differences", "references", "censoring", "people"):
        print(name)
        print(pandas.DataFrame(tables[name][1], columns=tables[name][0]).to_string(index=False))


def write_out(
    cohort: Cohort,
    risks: dict[str, NDArray[np.float64]],
    outcome: FollowUp,
    drawn: Resamples,
    curves: dict,
    out: Path,
) -> None:
    """Predictions for ``sagittal-risk evaluate``, and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    frame = pandas.DataFrame({"person": cohort.person, "event": cohort.event.astype(int)})
    frame["years"] = cohort.time
    for label, risk in risks.items():
        frame[label] = risk
    for label, level in levels(cohort).items():
        frame[f"{label}_group"] = level
    frame.to_csv(out / "predictions.csv", index=False)
    thresholds = np.arange(1, 41) / 100
    for name, figure in (
        ("reliability", figures.reliability(outcome, risks, drawn)),
        ("decision", figures.decision_curves(outcome, risks, thresholds)),
        ("missingness", figures.missingness(curves, "auroc", "AUROC")),
    ):
        figure.savefig(out / f"{name}.png", dpi=150)


if __name__ == "__main__":
    main()
