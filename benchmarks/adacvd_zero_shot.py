"""Part of ``study_adacvd.py``: what SmolLM2 says of people before any tuning, asked as a user asks.

``sagittal-risk ask`` puts some of the test people to the model in its own form of a conversation:
how probable Yes is beside No, and a number in words. An answer is asked for once; a killed study
goes on.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas
import yaml
from numpy.typing import NDArray

from adacvd_runs import CONFIGS, command, settings_of
from sagittal_core.resampling import Resamples
from sagittal_core.results import Cell, Table
from sagittal_core.seeds import counter_seed
from sagittal_risk.evaluation.followup import FollowUp
from sagittal_risk.evaluation.measures import Measured, difference
from sagittal_risk.prompts import LOW_MASS

MODES = {"choice": "asked for Yes or No", "verbalised": "asked for a number in words"}
ID, OUTCOME = "person", "CVD_10Y"


def sample(rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """Numbers of ``count`` of ``rows`` people, sorted; the fewer are among the more."""
    drawn = sorted(range(rows), key=lambda row: counter_seed(seed, row, "asked without tuning"))
    return np.array(sorted(drawn[:count]), dtype=np.int64)


def ask(config: str, table: pandas.DataFrame, mode: str, args: argparse.Namespace) -> Path:
    """Put people to the model with ``sagittal-risk ask`` and return its folder.

    Args:
        config: Of tuning; says how a person is told and which weights are asked.
        table: People to ask.
        mode: Of ``ask``.
        args: Of the study.
    """
    tuned = settings_of(config)
    name = f"ask-{mode}-{len(table)}-{args.seed}"
    file = args.out / f"asked-{len(table)}-{args.seed}.csv"
    if not file.is_file():
        table.to_csv(file, index=False)
    settings = yaml.safe_load((CONFIGS / "ask.yaml").read_text()) | {
        "model": {
            "class_path": "LocalModel",
            "init_args": {"path": tuned["model"]["init_args"]["weights"], "device": "cpu"},
        },
        "mode": mode,
        "groups": tuned["data"]["init_args"]["groups"],
        "id_column": ID,
        "outcome": OUTCOME,
        "out": str(args.out / name),
    }
    written = args.out / "settings" / f"{name}.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(yaml.safe_dump(settings, sort_keys=False))
    command("ask", str(file), "-c", str(written))
    return args.out / name


def zero_shot(
    config: str,
    test: pandas.DataFrame,
    others: Mapping[str, NDArray[np.float64]],
    reference: str,
    args: argparse.Namespace,
) -> Table:
    """Both ways of asking, and other risks of the people who were asked for Yes or No.

    A number in words takes many forward passes: fewer of the same people are asked for it.

    Args:
        config: See :func:`ask`.
        test: All (n,) people of the test.
        others: Risks of all of them by other ways, each (n,).
        reference: That of ``others`` whose AUROC is subtracted.
        args: Of the study.
    """
    chosen = {mode: sample(len(test), args.asked, args.seed) for mode in MODES}
    chosen["verbalised"] = sample(len(test), args.asked_in_words, args.seed)
    told: list[list[Cell]] = []
    for mode, label in MODES.items():
        found = ask(config, test.iloc[chosen[mode]], mode, args)
        answers = pandas.read_csv(found / "risks.csv")
        counted = Counter(answers["outcome"][answers["risk"].isna()])
        without = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counted.items())
        cells = _cells(test, chosen[mode], answers["risk"].to_numpy(float), others[reference], args)
        told.append([label, cells[0], without, *cells[1:], *_mass(answers["answer_mass"])])
    rows = chosen["choice"]
    for way, risk in others.items():
        cells = _cells(test, rows, risk[rows], others[reference], args)
        told.append([way, cells[0], "", *cells[1:], "", ""])
    columns = ["risk by", "people", "without a risk", "with a risk", "events among them", "AUROC",
               f"AUROC less the {reference}'s", "Brier score", "mean risk", "O:E", "slope",
               "different risks", "median answer mass", "people with mass < 0.1"]  # fmt: skip
    return columns, told


def _mass(told: pandas.Series) -> list[Cell]:
    """Median answer mass and how many are low; empty without any."""
    mass = told.dropna().to_numpy(float)
    if not len(mass):
        return ["", ""]
    low = int((mass < LOW_MASS).sum())
    return [f"{np.median(mass):.3g}", f"{low} ({100 * low / len(mass):.0f} %)"]


def _cells(
    test: pandas.DataFrame,
    rows: NDArray[np.int64],
    risk: NDArray[np.float64],
    reference: NDArray[np.float64],
    args: argparse.Namespace,
) -> list[Cell]:
    """People, those with a risk and their measures, which are empty where all or none have events.

    Args:
        test: All (n,) people of the test.
        rows: (m,) those who were asked.
        risk: (m,) NaN where there is none.
        reference: (n,) risks whose AUROC is subtracted.
        args: Of the study.
    """
    known = np.isfinite(risk)
    people, risk, other = test.iloc[rows[known]], risk[known], reference[rows[known]]
    event = people[OUTCOME].to_numpy() == 1
    counts: list[Cell] = [len(rows), len(people), int(event.sum())]
    if event.all() or not event.any():
        return [*counts, "", "", "", "", "", "", ""]
    drawn, outcome = Resamples(people[ID], args.resamples, args.seed), FollowUp.of(event)
    one, beside = (
        Measured(outcome, np.clip(risks, 0, 1)).estimate(drawn) for risks in (risk, other)
    )
    return [
        *counts,
        one["auroc"].text(),
        difference(one["auroc"], beside["auroc"]).text(),
        one["brier"].text(4),
        f"{risk.mean():.3f}",
        one["oe"].text(2),
        one["slope"].text(2),
        len(np.unique(risk)),
    ]
