"""AdaCVD on real people: SmolLM2-135M tuned to say who will have a cardiovascular event.

``python benchmarks/study_adacvd.py`` runs the commands that a user types (``cohort``, ``fit``) with
the package's configs, reads the risks of the people that were kept out, and writes
``results/study_adacvd.json`` and figures. Everything is made once: a killed study goes on.

Questions, each with the comparison that answers it (independent units are people; the Framingham
teaching set, half for tuning and half for testing; four sites of UCI heart disease):

1. Does the tuned model rank people as well as a logistic regression of the same people and fields?
   Paired difference of AUROC. The check that must pass: it ranks better than the model before
   tuning. The outcome that may fail: an interval of the difference to the logistic regression that
   holds 0.
2. Does tuning on sampled fields make it robust? Fields other than age and sex are hidden at random
   at test time, the same ones for every way.
3. Does it read the same facts in sentences? A part or all of the fields are told as running text.
4. How many patients of another hospital does it need? A model of Cleveland's patients goes on with
   0, 16 and 64 of each other site's; beside it logistic regressions of the same patients.
5. What does the model say without any tuning? ``sagittal-risk ask`` puts some of the test people to
   it, for Yes or No and for a number in words (``adacvd_zero_shot.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adacvd_runs import command, risks, settings_of, tune
from adacvd_zero_shot import zero_shot
from sagittal_core.privacy import command_line
from sagittal_core.resampling import Resamples, interval
from sagittal_core.results import Cell, Table, write_results
from sagittal_risk.baselines import BoostingRisk, LogisticRisk
from sagittal_risk.equations import evaluate_many
from sagittal_risk.evaluation import figures
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Estimate, Measured
from sagittal_risk.evaluation.missingness import hide
from sagittal_risk.patients import Patients
from sagittal_risk.prompts import LOW_MASS

ROOT = Path(__file__).resolve().parents[1]
FRAMINGHAM, HEART = "adacvd_framingham", "adacvd_heart_disease"
ALL, SAMPLED = "tuned on all fields", "tuned on sampled fields"
TEXT, UNTUNED, LOGISTIC = "went on with half in sentences", "before tuning", "logistic regression"
SHARES = (0.0, 0.25, 0.5, 0.75)
SOURCE, SITES = "Cleveland", ("Hungary", "Switzerland", "VA Long Beach")
COUNTS = (16, 64)
DRAWS = 2
Estimates = dict[str, Estimate]


def features(config: str) -> list[str]:
    """Columns that a config tells."""
    groups = settings_of(config)["data"]["init_args"]["groups"]
    return [feature["column"] for group in groups for feature in group["features"]]


def mean(parts: list[Estimates]) -> Estimates:
    """Mean over runs of each measure, with its resamples."""
    return {
        name: Estimate(
            float(np.mean([one[name].value for one in parts])),
            np.mean([one[name].draws for one in parts], axis=0),
        )
        for name in parts[0]
    }


def paired(one: Estimates, other: Estimates, measure: str = "auroc") -> str:
    """Difference with its interval."""
    draws = one[measure].draws - other[measure].draws
    return Estimate(one[measure].value - other[measure].value, draws).text()


class People:
    """The Framingham table, its test people and what is measured on them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.file = args, args.out / "framingham.csv"
        if not self.file.is_file():
            command("cohort", "framingham", "--out", str(self.file))
        self.table = pandas.read_csv(self.file)
        self.test = (self.table["split"] == "test").to_numpy()
        self.train = (self.table["split"] == "train").to_numpy()
        self.columns = {name: self.table[name].to_numpy(float) for name in features(FRAMINGHAM)}
        self.event = self.table["CVD_10Y"].to_numpy() == 1
        self.outcome = FollowUp.of(self.event[self.test])
        self.drawn = Resamples(self.table["person"][self.test], args.resamples, args.seed)

    def estimate(self, risk: NDArray[np.float64]) -> Estimates:
        """Every measure of the test people's risks."""
        return Measured(self.outcome, np.clip(risk, 0, 1)).estimate(self.drawn)

    def hidden(self, share: float) -> dict[str, NDArray[np.float64]]:
        """Columns of everyone with fields hidden."""
        return hide(self.columns, share, always=("age", "sex"), seed=self.args.seed)

    def hidden_file(self, share: float) -> Path:
        """The table with fields hidden."""
        file = self.args.out / f"framingham-{share}.csv"
        if not file.is_file():
            self.table.assign(**self.hidden(share)).to_csv(file, index=False)
        return file

    def baselines(self) -> dict[str, Callable[[Mapping[str, NDArray]], NDArray]]:
        """Models fitted to the same people with all fields, as functions of (hidden) columns."""
        matrix = np.column_stack(list(self.columns.values()))
        made = {LOGISTIC: LogisticRisk(), "gradient boosting": BoostingRisk()}
        for model in made.values():
            model.fit(matrix[self.train], self.event[self.train], None)
        return {
            name: lambda columns, model=model: model.risk(
                np.column_stack(list(columns.values()))[self.test]
            )
            for name, model in made.items()
        }

    def equations(self) -> dict[str, NDArray]:
        """Published equations on the test people."""
        names = {"Framingham 2008": "framingham_2008", "Pooled Cohort Equations": "pce"}
        given = {name: values[self.test] for name, values in self.columns.items()}
        given["race"] = np.zeros(int(self.test.sum()))  # the cohort's members were white
        found = evaluate_many(list(names.values()), Patients.from_columns(given), extrapolate=True)
        return {label: found[name].risk for label, name in names.items()}


def tuned(people: People) -> dict[str, list[Path]]:
    """Run folders of each way of tuning, one a seed."""
    args, file = people.args, people.file
    runs: dict[str, list[Path]] = {ALL: [], SAMPLED: []}
    sampling = {"keep_base": 1.0, "only_base": 0.05, "share_min": 0.1, "share_max": 1.0}
    for seed in range(args.seeds):
        runs[ALL].append(tune(FRAMINGHAM, f"all-{seed}", file, args, seed=seed))
        if seed < args.sampled_seeds:
            name = f"sampled-{seed}"
            run = tune(FRAMINGHAM, name, file, args, seed=seed, sampling=sampling)
            runs[SAMPLED].append(run)
    text = tune(FRAMINGHAM, "text-0", file, args, start="all-0", narrated=0.5, epochs=1)
    return runs | {TEXT: [text]}


def whole(people: People, runs: dict[str, list[Path]]) -> tuple[dict[str, Table], dict]:
    """Question 1: every way with all fields told."""
    args = people.args
    estimates, shown, masses, risen = {}, {}, {}, {}
    for way, folders in {**runs, UNTUNED: [None]}.items():
        found = [risks(folder, FRAMINGHAM, people.file, args) for folder in folders]
        estimates[way] = [people.estimate(one["risk"].to_numpy()) for one in found]
        masses[way] = np.concatenate([one["answer_mass"] for one in found])
        shown[way] = found[0]["risk"].to_numpy()
        risen[way] = float(np.mean([one["risk"].mean() for one in found]))
    others = {name: risk(people.columns) for name, risk in people.baselines().items()}
    for name, risk in {**others, **people.equations()}.items():
        estimates[name], shown[name] = [people.estimate(risk)], risk
        risen[name] = float(np.mean(risk))
    rows: list[list[Cell]] = []
    for way, parts in estimates.items():
        one, mass = mean(parts), masses.get(way)
        values = [f"{e['auroc'].value:.3f}" for e in parts] if len(parts) > 1 else []
        rows.append(
            [way, len(parts) if mass is not None else "", one["auroc"].text(), ", ".join(values),
             one["average_precision"].text(), one["brier"].text(4), f"{risen[way]:.3f}",
             one["oe"].text(2), one["slope"].text(2), one["ici"].text(),
             "" if mass is None else f"{np.median(mass):.3g}",
             "" if mass is None else f"{100 * np.mean(mass < LOW_MASS):.0f} %"]
        )  # fmt: skip
    columns = ["risk by", "runs", "AUROC", "of each run", "average precision", "Brier score",
               "mean risk", "O:E", "slope", "ICI", "median answer mass",
               "people with mass < 0.1"]  # fmt: skip
    over = {way: mean(parts) for way, parts in estimates.items()}
    pairs = [(ALL, UNTUNED), (ALL, LOGISTIC), (SAMPLED, LOGISTIC),
             (ALL, "Framingham 2008"), (ALL, "gradient boosting")]  # fmt: skip
    differences = [[f"{a} - {b}", paired(over[a], over[b])] for a, b in pairs]
    # Everything else is measured on the first runs of either way, which have the same seeds.
    first = {way: mean(parts[: args.sampled_seeds]) for way, parts in estimates.items()}
    differences.append([f"{SAMPLED} - {ALL}, same seeds", paired(first[SAMPLED], first[ALL])])
    tables = {
        "measures": (columns, rows),
        "differences": (["paired difference of AUROC", "value"], differences),
    }
    return tables, {"risks": shown, "estimates": over, "first": first}


def missing(people: People, runs: dict[str, list[Path]], full: dict[str, Estimates]) -> tuple:
    """Question 2: fields hidden at random, the same ones for every way."""
    args, rows, curves = people.args, [], {}
    ways: list[str] = [ALL, SAMPLED, *people.baselines()]
    for share in SHARES:
        found = {
            way: mean(
                [
                    people.estimate(
                        risks(run, FRAMINGHAM, people.hidden_file(share), args)["risk"].to_numpy()
                    )
                    for run in runs[way][: args.sampled_seeds]
                ]
            )
            for way in (ALL, SAMPLED)
        }
        hidden = people.hidden(share)
        found |= {n: people.estimate(risk(hidden)) for n, risk in people.baselines().items()}
        for way, one in found.items():
            curves.setdefault(way, {})[share] = one
            rows.append([f"{100 * share:.0f} %", way, one["auroc"].text(), one["oe"].text(2),
                         one["slope"].text(2), paired(one, found[LOGISTIC])])  # fmt: skip
    for way in ways:
        curves[way][1.0] = full[way]
    columns = ["fields known beside age and sex", "risk by", "AUROC", "O:E", "slope",
               f"AUROC less the {LOGISTIC}'s"]  # fmt: skip
    return (columns, rows), curves


def sentences(people: People, runs: dict[str, list[Path]], full: dict[str, Estimates]) -> Table:
    """Question 3: the same fields as a list, half in sentences, all in sentences."""
    rows: list[list[Cell]] = []
    for narrated, label in ((0.5, "half in sentences"), (1.0, "all in sentences")):
        for way in (ALL, SAMPLED, TEXT):
            found = [
                risks(run, FRAMINGHAM, people.file, people.args, narrated=narrated)
                for run in runs[way][: people.args.sampled_seeds]
            ]
            one = mean([people.estimate(part["risk"].to_numpy()) for part in found])
            rows.append([label, way, one["auroc"].text(), one["oe"].text(2),
                         paired(one, full[way])])  # fmt: skip
    return ["told", "risk by", "AUROC", "O:E", "AUROC less that of the list"], rows


class Site:
    """Patients of one hospital."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.file = args.out / f"{name.split()[0].lower()}.csv"
        if not self.file.is_file():
            command("cohort", "heart_disease", "--site", name, "--out", str(self.file))
        table = pandas.read_csv(self.file)
        self.matrix = table[features(HEART)].to_numpy(float)
        self.event = table["disease"].to_numpy() == 1
        self.test = (table["split"] == "test").to_numpy()
        self.train = (table["split"] == "train").to_numpy()
        self.outcome = FollowUp.of(self.event[self.test])
        self.drawn = Resamples(table["person"][self.test], args.resamples, args.seed)

    def estimate(self, risk: NDArray[np.float64]) -> Estimates:
        """Every measure of the test patients' risks."""
        return Measured(self.outcome, risk).estimate(self.drawn)

    def few(self, count: int, seed: int) -> NDArray[np.int64]:
        """Row numbers that ``RiskRecords`` takes for ``limit``."""
        from sagittal_core.seeds import counter_seed

        rows = np.flatnonzero(self.train)
        return np.array(
            sorted(sorted(rows, key=lambda r: counter_seed(seed, int(r), "limit"))[:count]),
            dtype=np.int64,
        )


def logistic(parts: list[tuple[NDArray, NDArray]], matrix: NDArray) -> NDArray | None:
    """Risks by a logistic regression of some patients; None if they are all of one class."""
    given, event = (np.concatenate(one) for one in zip(*parts, strict=True))
    if event.all() or not event.any():
        return None
    return LogisticRisk().fit(given, event).risk(matrix)


def adaptation(args: argparse.Namespace) -> tuple[Table, dict[str, dict[str, list]]]:
    """Question 4: a few patients of another site."""
    source = Site(SOURCE, args)
    start = tune(HEART, "source", source.file, args)
    known = (source.matrix[source.train], source.event[source.train])
    home = logistic([known], source.matrix[source.test])
    tuned_home = source.estimate(risks(start, HEART, source.file, args)["risk"].to_numpy())
    none = ""
    rows: list[list[Cell]] = [
        [SOURCE, int(source.test.sum()), int(source.event[source.test].sum()), "all of its own",
         tuned_home["auroc"].text(), source.estimate(home)["auroc"].text(), none, none]
    ]  # fmt: skip
    curves: dict[str, dict[str, list]] = {}
    for name in SITES:
        site = Site(name, args)
        people = [int(site.test.sum()), int(site.event[site.test].sum())]
        for count in (0, *COUNTS):
            ways: dict[str, list[Estimates]] = {"model": [], "both": [], "alone": []}
            for draw in range(DRAWS if count else 1):
                folder = start
                if count:
                    run = f"{name.split()[0].lower()}-{count}-{draw}"
                    folder = tune(HEART, run, site.file, args, seed=draw, start="source",
                                  limit=count)  # fmt: skip
                found = risks(folder, HEART, site.file, args)["risk"].to_numpy()
                ways["model"].append(site.estimate(found))
                few = site.few(count, draw)
                own = (site.matrix[few], site.event[few])
                for way, parts in (("both", [known, own]), ("alone", [own])):
                    risk = logistic(parts, site.matrix[site.test])
                    if risk is not None:
                        ways[way].append(site.estimate(risk))
            over = {way: mean(parts) for way, parts in ways.items() if parts}
            curves.setdefault(name, {})[str(count)] = over
            cells = [over[way]["auroc"].text() if way in over else "" for way in ways]
            if ways["alone"] and len(ways["alone"]) < len(ways["model"]):
                cells[2] += f" ({len(ways['alone'])} draws have both classes)"
            rows.append([name, *people, str(count), *cells, paired(over["model"], over["both"])])
    columns = ["site", "test patients", "with disease", "patients of the site",
               "language model", f"logistic, {SOURCE} and they", "logistic, they alone",
               f"model less logistic, {SOURCE} and they"]  # fmt: skip
    return (columns, rows), curves


def draw(people: People, found: dict, curves: dict, sites: dict, out: Path) -> None:
    """Reliability, missingness and adaptation as pictures."""
    chosen = {way: found["risks"][way] for way in (ALL, SAMPLED, UNTUNED, LOGISTIC)}
    figures.reliability(people.outcome, chosen, people.drawn).savefig(
        out / "reliability.png", dpi=150
    )
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, *panels = figure.subplots(1, 1 + len(SITES))
    for way, curve in curves.items():
        shares = sorted(curve)
        left.plot(shares, [curve[s]["auroc"].value for s in shares], marker="o", label=way)
    left.set(xlabel="share of fields known", ylabel="AUROC", title="Framingham")
    left.legend(frameon=False, fontsize=6)
    for axes, (name, counts) in zip(panels, sites.items(), strict=True):
        for way in ("model", "both", "alone"):
            have = [count for count in counts if way in counts[count]]
            middle = np.array([counts[count][way]["auroc"].value for count in have])
            ends = [interval(counts[count][way]["auroc"].draws) for count in have]
            spread = np.abs(np.array(ends).T - middle)
            at = [int(count) for count in have]
            axes.errorbar(at, middle, spread, marker="o", lw=1, capsize=2, label=way)
        axes.set(xlabel="patients of the site", title=name, ylim=(0.3, 1))
    panels[0].legend(frameon=False, fontsize=6)
    figure.savefig(out / "curves.png", dpi=150)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study_adacvd")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "study_adacvd.json")
    parser.add_argument("--seeds", type=int, default=1, help="runs tuned on all fields")
    parser.add_argument("--sampled-seeds", type=int, default=1, help="runs on sampled fields")
    parser.add_argument("--asked", type=int, default=300, help="test people asked without tuning")
    parser.add_argument("--asked-in-words", type=int, default=100, help="those for a number")
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of resamples and hidden fields")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    people = People(args)
    runs = tuned(people)
    tables, found = whole(people, runs)
    tables["missing"], curves = missing(people, runs, found["first"])
    tables["sentences"] = sentences(people, runs, found["first"])
    tables["adaptation"], sites = adaptation(args)
    beside = {w: found["risks"][w] for w in (UNTUNED, ALL, LOGISTIC, "Framingham 2008")}
    tables["zero-shot"] = zero_shot(FRAMINGHAM, people.table[people.test], beside, LOGISTIC, args)
    draw(people, found, curves, sites, args.out)
    write_results(
        args.results,
        command=command_line("python benchmarks/study_adacvd.py", sys.argv[1:]),
        seeds=list(range(args.seeds)),
        n={
            "people": len(people.table),
            "tuned on": int(people.train.sum()),
            "tested on": int(people.test.sum()),
            "events among them": int(people.event[people.test].sum()),
            "asked without tuning": min(args.asked, int(people.test.sum())),
            "for a number in words": min(args.asked_in_words, int(people.test.sum())),
            "resamples": args.resamples,
        },
        tables=tables,
    )
    for name, (columns, rows) in tables.items():
        print(name)
        print(pandas.DataFrame(rows, columns=columns).to_string(index=False))
    better = found["estimates"][ALL]["auroc"].draws - found["estimates"][UNTUNED]["auroc"].draws
    if np.quantile(better, 0.025) <= 0:
        raise SystemExit("check failed: tuning does not rank people better than no tuning")


if __name__ == "__main__":
    main()
