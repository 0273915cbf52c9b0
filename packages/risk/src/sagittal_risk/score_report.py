"""What limits a table of scores, in sentences, and the report: counts only, no identifiers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.privacy import command_line, without_paths
from sagittal_core.report import Report
from sagittal_core.results import Table, write_results
from sagittal_risk.egfr import DIFFERS
from sagittal_risk.equations import equations as known_equations
from sagittal_risk.records.schema import Column, Schema
from sagittal_risk.scoring import BINS, MASS_BINS

if TYPE_CHECKING:
    from sagittal_risk.records.told import ToldTable
    from sagittal_risk.tuned import TunedModel


@dataclass(frozen=True)
class Choice:
    """What was asked for.

    Attributes:
        schema: Columns of the fields.
        equations: Names of the equations that are computed.
        every: Whether all equations were asked for, so that those left out are told.
        region: Of SCORE2.
        extrapolate: Whether risks are computed out of range.
        tuned: The language model.
        told: The table as it is told to it.
    """

    schema: Schema
    equations: list[str]
    every: bool
    region: str | None
    extrapolate: bool
    tuned: TunedModel | None = None
    told: ToldTable | None = None

    @property
    def names(self) -> list[str]:
        """Of all that gives risks, in the order of the rows."""
        return self.equations + ([self.tuned.name] if self.tuned else [])


def notes(counts: dict[str, Any], choice: Choice) -> list[str]:
    """What limits the scores, in sentences."""
    found = []
    fields = choice.schema.fields
    if again := counts.get("ids again"):
        found.append(
            f"{again} rows have an identifier (column {choice.schema.id}) that an earlier row has;"
            " each is scored as a patient of its own, the column row tells them apart."
        )
    if empty := counts.get("ids empty"):
        found.append(f"{empty} rows have no identifier (column {choice.schema.id}).")
    for name, count in counts["implausible"].items():
        # An eGFR that the table does not have comes from its creatinine.
        column = fields.get(name, fields.get("creatinine", Column())).column
        found.append(
            f"{count} rows have a {name} (column {column}) that no patient has; they get no risk"
            " that needs it. Another unit in some rows?"
        )
    found += _stand_ins(counts)
    if choice.every and choice.region is None:
        found.append("SCORE2 and SCORE2-OP are left out: no region was given (--region).")
    if choice.every and choice.region == "low":
        found.append("SCORE2-OP is left out: its publication gives two scales for the low region.")
    for name, one in counts["equations"].items():
        if one["risk"] == 0:
            most = max(
                [*one["missing fields"].items(), *one["outside fields"].items()],
                key=lambda pair: pair[1],
                default=("nothing", 0),
            )
            found.append(f"{name}: no risk for anyone; most often for want of {most[0]}.")
    if choice.tuned is not None and choice.told is not None:
        one = counts["equations"][choice.tuned.name]
        found += _of_model(choice.tuned, choice.told, one)
    return found


def _stand_ins(counts: dict[str, Any]) -> list[str]:
    """What was computed or supposed instead of known, in sentences."""
    found = []
    if counts["egfr computed"]:
        found.append(
            f"{counts['egfr computed']} rows have an eGFR computed from creatinine, age and sex"
            " (CKD-EPI 2021)."
        )
    if counts["egfr differs"]:
        found.append(
            f"{counts['egfr differs']} rows have an eGFR that is more than {DIFFERS:.0%} off that"
            " of their creatinine; the one stated counts."
        )
    known = known_equations()
    unknown = {
        (known[name].family, field, count): None
        for name, one in counts["equations"].items()
        for field, count in one.get("unknown fields", {}).items()
    }
    for table, field, count in unknown:
        found.append(
            f"{table}: {count} rows have no {field}; the model's published term for a missing value"
            " stands in (column missing_term)."
        )
    return found


def write_report(out: Path, counts: dict[str, Any], choice: Choice) -> None:
    """``report.html`` and ``results.json``."""
    report = Report("Risk scores")
    report.text("Research software, not a medical device. Scores stay in this folder.")
    for note in notes(counts, choice):
        report.text(note)
    report.picture("Distribution", _distribution(counts, choice), "Of patients with a risk.")
    captions = {
        "scores": "Applicable: nothing missing, everything in the range of the derivation; of a"
        " language model: an answer mass of 0.1 or more.",
        "reasons": "A patient may count in several rows.",
        "answers": "The mass is the probability that the model gives to its two answers together;"
        " the risk is a share of it.",
    }
    tables = _tables(counts, choice)
    for name, (columns, rows) in tables.items():
        report.table(name, columns, rows, captions[name])
    config: dict[str, Any] = {
        "equations": choice.equations,
        "region": choice.region,
        "extrapolate": choice.extrapolate,
    }
    if choice.tuned is not None and choice.told is not None:
        config["model"] = choice.tuned.name
        config["question"] = choice.tuned.question
        config["told"] = [f.name for f in choice.told.telling.features]
        config["bfloat16"] = choice.tuned.bfloat16
    report.config(config)
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-risk", sys.argv[1:]),
        seeds=[],
        n={"patients": counts["patients"]},
        tables=without_paths(tables),
    )


def _of_model(tuned: TunedModel, told: ToldTable, one: dict[str, Any]) -> list[str]:
    """Notes on the model, by its counts."""
    from sagittal_risk.model_scores import TOO_LONG
    from sagittal_risk.prompts import LOW_MASS

    name, found = tuned.name, []
    for feature in told.absent:
        found.append(
            f"{name}: the table has no column {feature.column}; {feature.name} is missing for"
            " everyone."
        )
    if told.telling.gone:
        found.append(
            f"{name}: no column is told as {', '.join(told.telling.gone)}; the run was tuned with"
            " it, here it is missing for everyone."
        )
    mine = {feature.name for group in tuned.groups for feature in group.features}
    if odd := [f.name for f in told.telling.features if f.name not in mine]:
        found.append(f"{name}: the run was not tuned with {', '.join(odd)}.")
    if tuned.narrated:
        found.append(f"{name}: the run was told features in sentences too; here all are listed.")
    for feature_name, count in one["outside fields"].items():
        if feature_name == TOO_LONG:
            found.append(
                f"{name}: {count} prompts are longer than the model takes; they get no risk,"
                " nothing is cut off."
            )
        else:
            found.append(
                f"{name}: {count} rows have a {feature_name} that the groups have no text for; they"
                " get no risk."
            )
    if one["nothing known"]:
        found.append(f"{name}: nothing is known of {one['nothing known']} patients; no risk.")
    if one["risk"]:
        found.append(
            f"{name}: {one['low mass']:,} of {one['risk']:,} patients have an answer mass below"
            f" {LOW_MASS:g} and count as not applicable; the median is {_median_mass(one)}."
        )
    return found


def _distribution(counts: dict[str, Any], choice: Choice) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in choice.names:
        histogram = np.array(counts["equations"][name]["histogram"])
        if histogram.sum():
            shown = np.r_[0, np.cumsum(histogram)] / histogram.sum()
            style = ("-", "--", ":", "-.")[len(axes.lines) // 10 % 4]  # ten colours
            axes.plot(100 * BINS, 100 * shown, style, lw=1, label=name)
    axes.set(xlabel="risk (%)", ylabel="patients with at most this risk (%)")
    if axes.lines:
        axes.legend(frameon=False, fontsize=6, ncols=2)
    return figure


def _tables(counts: dict[str, Any], choice: Choice) -> dict[str, Table]:
    rows, reasons = [], []
    for name in choice.names:
        one = counts["equations"][name]
        low, middle, high = (_percent(one["histogram"], q) for q in (0.05, 0.5, 0.95))
        rows.append(
            [name, counts["patients"], one["risk"], one["applicable"], one["missing"],
             one["outside"], middle, f"{low} to {high}" if low else ""]
        )  # fmt: skip
        for why in ("missing", "outside"):
            reasons += [[name, why, field, n] for field, n in one[f"{why} fields"].items()]
        stood_in = one.get("unknown fields", {}).items()
        reasons += [[name, "term for a missing value", field, n] for field, n in stood_in]
    columns = ["equation", "patients", "with a risk", "applicable", "something missing",
               "something out of range", "median risk", "5 % to 95 %"]  # fmt: skip
    tables: dict[str, Table] = {"scores": (columns, rows)}
    if reasons:
        tables["reasons"] = (["equation", "what", "field", "patients"], reasons)
    if choice.tuned is not None:
        name = choice.tuned.name
        one = counts["equations"][name]
        tables["answers"] = (
            ["model", "patients with an answer", "mass below 0.1", "median mass"],
            [[name, one["risk"], one["low mass"], _median_mass(one)]],
        )
    return tables


def _percent(histogram: list[int], share: float) -> str:
    found = _quantile(histogram, BINS, share)
    return "" if found is None else f"{100 * found:.1f} %"


def _median_mass(one: dict[str, Any]) -> str:
    found = _quantile(one["masses"], MASS_BINS, 0.5)
    return "" if found is None else f"{found:.2g}"


def _quantile(histogram: list[int], bins: NDArray[np.float64], share: float) -> float | None:
    """Middle of the bin that a quantile lies in."""
    total = np.cumsum(histogram)
    if not total[-1]:
        return None
    place = int(np.searchsorted(total, share * total[-1]))
    return float((bins[place] + bins[place + 1]) / 2)
