"""``sagittal-risk evaluate``: are predicted risks right, and are they of use?"""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import time as clock
from pathlib import Path

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.resampling import Resamples
from sagittal_risk.evaluation.measures import Measured
from sagittal_risk.evaluation.page import write_page
from sagittal_risk.evaluation.predictions import read_predictions
from sagittal_risk.evaluation.subgroups import subgroups as measure_subgroups


def evaluate(
    table: Path,
    risks: list[str] | None = None,
    outcome: str = "event",
    time: str | None = None,
    horizon: float | None = None,
    person: str | None = None,
    subgroups: list[str] | None = None,
    reference: str | None = None,
    thresholds: list[float] | None = None,
    out: Path = Path("outputs/evaluate"),
    resamples: int = 500,
    seed: int = 0,
) -> None:
    """Compare columns of risks with what happened; write report.html and results.json.

    Discrimination, calibration, Brier score, decision curves and subgroups, with 95 % bootstrap
    intervals over people. With times, who left before the horizon is accounted for by weights.

    Args:
        table: a row a person (.csv, .tsv, .parquet).
        risks: columns of risks in [0, 1].
        outcome: column of 0 and 1.
        time: column of the time of the event or the end of observation.
        horizon: of the risks, in the unit of time.
        person: column of the independent unit, if a person has several rows.
        subgroups: columns whose values are subgroups.
        reference: column of risks that the others are compared with; the first by default.
        thresholds: of the decision curves; 1 % to 40 % by default.
        out: folder of the report.
        resamples: bootstrap resamples; 0 gives no intervals.
        seed: of the bootstrap.

    Raises:
        ConfigError: settings that do not fit.
        DataError: the table is not what it should be.
    """
    from rich.progress import track

    settings, begun = dict(locals()), clock.monotonic()
    settings.pop("track")
    if not risks:
        raise ConfigError("evaluate: name columns of risks (--risks)")
    if reference is not None and reference not in risks:
        raise ConfigError(f"evaluate: reference {reference!r} is none of {', '.join(risks)}")
    at = np.array(thresholds if thresholds is not None else np.arange(1, 41) / 100)
    if not len(at) or not ((at > 0) & (at < 1)).all():
        raise ConfigError("evaluate: thresholds lie between 0 and 1")
    found = read_predictions(
        table, risks, outcome, time=time, horizon=horizon, person=person, groups=subgroups or ()
    )
    drawn = Resamples(found.person, resamples, seed)
    estimates, groups = {}, {}
    for name in track(list(found.risks), "evaluating", transient=True):
        estimates[name] = Measured(found.follow_up, found.risks[name]).estimate(drawn)
        groups[name] = measure_subgroups(
            found.follow_up, found.risks[name], found.groups, found.person,
            resamples=resamples, seed=seed,
        )  # fmt: skip
    settings |= {"table": str(table), "out": str(out), "thresholds": at.tolist()}
    texts = write_page(out, found, estimates, groups, drawn, at, reference or risks[0], settings)
    for text in texts:
        print(text)
    print(f"evaluated in {clock.monotonic() - begun:.0f} s: {out / 'report.html'}")
