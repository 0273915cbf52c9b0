"""From single measures to tables, paired differences and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.resampling import interval
from sagittal_core.results import Table
from sagittal_genai.metrics.probes import FEATURE_COUNTS, recovery, recovery_above_chance

NOT_BOTH = "not defined for both"


@dataclass
class Evaluated:
    """Measures of one label, the first run's unless said otherwise.

    Attributes:
        label: As in the configuration.
        control: Whether it is the random encoder.
        same_rows: Hash of the rows; equal ones are compared in pairs.
        dense: Of :func:`~sagittal_genai.evaluation.measure.measure_dense`.
        dense_retrieval: Of the dense space and of random rows.
        runs: Measures by name, of every run.
        stability: Between the runs; empty with one.
    """

    label: str
    control: bool
    same_rows: str
    dense: dict[str, Any]
    dense_retrieval: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    stability: dict[str, Any] = field(default_factory=dict)


@dataclass
class Score:
    """A number with its resamples; ``draws`` is empty with too few subjects."""

    value: float
    draws: NDArray[np.float64]

    def text(self, digits: int = 3) -> str:
        """``0.812 [0.790, 0.834]``, or the number alone."""
        if not np.isfinite(self.value):
            return "not defined"
        ends = interval(self.draws)
        shown = f"{self.value:.{digits}f}"
        return shown if ends is None else f"{shown} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def kept_targets(evaluated: Sequence[Evaluated], names: Sequence[str], least: float) -> list[str]:
    """Targets whose dense AUROC, where C was chosen, reaches ``least`` for a label under study.

    One list for all labels: the random encoder decides nothing, and differences are of the same
    targets. Without any label but controls these decide.
    """
    judges = [one for one in evaluated if not one.control] or list(evaluated)
    return [
        name
        for name in names
        if any(one.dense["targets"][name]["selected"] >= least for one in judges)
    ]


def mean_auc(probes: Sequence[Mapping[str, Any]]) -> Score:
    """Mean AUROC over targets; a resample in which one has a single class leaves that one out."""
    value = float(np.mean([one["auc"] for one in probes]))
    draws = np.array([one["draws"] for one in probes], dtype=np.float64)
    if not draws.size:
        return Score(value, np.empty(0))
    known = np.isfinite(draws)
    total = np.where(known, draws, 0).sum(0)
    return Score(value, np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan))


def probe_keys() -> list[str]:
    """``"all"`` features, then numbers of them as text."""
    return ["all", *map(str, FEATURE_COUNTS)]


def probe_scores(one: Evaluated, run: Mapping[str, Any], kept: Sequence[str]) -> dict[str, Score]:
    """Mean AUROC of dense, all and N features, by ``"dense"``, ``"all"``, ``"1"``, ...

    ``"recovery @N"`` and ``"above chance @N"`` are ratios of these means to the dense mean; the
    latter are NaN where the dense probes are not above chance, by their interval.
    """
    dense = mean_auc([one.dense["targets"][name] for name in kept])
    found = {"dense": dense}
    ends = interval(dense.draws) or (dense.value, dense.value)
    for key in probe_keys():
        found[key] = mean_auc([run["probes"]["targets"][name][key] for name in kept])
        for name, ratio in (("recovery", recovery), ("above chance", recovery_above_chance)):
            draws = [ratio(a, b) for a, b in zip(found[key].draws, dense.draws, strict=True)]
            value = ratio(found[key].value, dense.value)
            shown = name == "recovery" or ends[0] > 0.5
            found[f"{name} @{key}"] = Score(value if shown else np.nan, np.array(draws))
    return found


def score(measures: Mapping[str, Any], value: str, draws: str) -> Score | None:
    """A measure that may be missing."""
    if value not in measures:
        return None
    return Score(float(measures[value]), np.array(measures[draws], dtype=np.float64))


def compared(one: Evaluated, kept: Sequence[str]) -> dict[str, Score]:
    """What is compared with the random encoder, of a label's first run."""
    run = one.runs[0]
    found: dict[str, Score | None] = {
        "R2": score(run["fidelity"], "r2", "r2 draws"),
        "retrieval @10, dense cosine": score(
            run["retrieval"].get("10", {}), "cosine", "cosine draws"
        ),
        "retrieval @10, shared concepts": score(
            run["retrieval"].get("10", {}), "agreement", "agreement draws"
        ),
        "monosemanticity M": score(run["monosemanticity"], "m", "draws"),
    }
    if kept:
        scores = probe_scores(one, run, kept)
        found |= {
            "AUROC, dense": scores["dense"],
            "AUROC, all features": scores["all"],
            "AUROC, 10 features": scores["10"],
            "recovery @10": scores["recovery @10"],
            "recovery @10 above chance": scores["above chance @10"],
        }
    return {name: one for name, one in found.items() if one is not None and one.value == one.value}


def differences(
    real: Evaluated, control: Evaluated, kept: Sequence[str]
) -> dict[str, tuple[Score, str]]:
    """Paired difference to the random encoder, and what it says, by measure.

    The verdict is ``"higher"``, ``"lower"``, ``"no difference shown"``, ``NOT_BOTH`` or, without
    an interval, ``"too few subjects: no interval"``; nothing is returned where the rows differ.
    """
    if real.same_rows != control.same_rows:
        return {}
    ours, theirs = compared(real, kept), compared(control, kept)
    found = {}
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            found[name] = (Score(np.nan, np.empty(0)), NOT_BOTH)
            continue
        gap = Score(a.value - b.value, a.draws - b.draws)
        ends = interval(gap.draws)
        if ends is None:
            verdict = "too few subjects: no interval"
        elif ends[0] > 0:
            verdict = "higher"
        else:
            verdict = "lower" if ends[1] < 0 else "no difference shown"
        found[name] = (gap, verdict)
    return found


def sentence(label: str, control: str, found: Mapping[str, tuple[Score, str]]) -> str:
    """Which measures tell the label's features from the random encoder's."""
    if not found:
        return f"{label} and {control} have different rows: their measures cannot be paired."
    groups: dict[str, list[str]] = {}
    for name, (gap, verdict) in found.items():
        shown = name if verdict == NOT_BOTH else f"{name} ({gap.value:+.3f})"
        groups.setdefault(verdict, []).append(shown)
    starts = {
        "higher": f"{label} is above {control}, by an interval of the paired difference that leaves"
        " out 0, in",
        "lower": f"{label} is below {control} in",
        "no difference shown": "No difference is shown in",
        "too few subjects: no interval": "With so few subjects in test no difference can be"
        " judged; the figures are of",
        NOT_BOTH: "Not defined for both, and not compared:",
    }
    parts = [f"{starts[v]} {', '.join(groups[v])}." for v in starts if v in groups]
    return " ".join(parts)


def target_table(
    evaluated: Sequence[Evaluated], names: Sequence[str], kept: Sequence[str]
) -> Table:
    """AUROC of dense, all and 10 features of every target, and whether it counts."""
    columns = ["target"]
    for one in evaluated:
        columns += [f"{one.label}: {what}" for what in ("dense", "all", "10")]
    body = []
    for name in names:
        cells = [name if name in kept else f"{name} (left out)"]
        for one in evaluated:
            probes = one.runs[0]["probes"]["targets"][name]
            auc = (one.dense["targets"][name]["auc"], probes["all"]["auc"], probes["10"]["auc"])
            cells += [f"{value:.3f}" for value in auc]
        body.append(cells)
    return columns, body


def recovery_table(evaluated: Sequence[Evaluated], kept: Sequence[str]) -> Table:
    """AUROC and recovery by number of features."""
    columns = ["label", "features", "AUROC", "recovery", "recovery above chance"]
    body = []
    for one in evaluated:
        scores = probe_scores(one, one.runs[0], kept)
        body.append([one.label, "dense", scores["dense"].text(), "", ""])
        for key in probe_keys():
            names = (key, f"recovery @{key}", f"above chance @{key}")
            body.append([one.label, key, *(scores[name].text() for name in names)])
    return columns, body


def feature_table(evaluated: Sequence[Evaluated]) -> Table:
    """Reconstruction and use of features, of every run."""
    columns = [
        "label",
        "R2",
        "R2 global mean",
        "R2 of dimensions",
        "L0",
        "alive",
        "of",
        "median density",
        "mean |r|",
    ]
    body = []
    for one, number, run in _all_runs(evaluated):
        fidelity, use = run["fidelity"], run["features"]
        r2, l0 = score(fidelity, "r2", "r2 draws"), score(fidelity, "l0", "l0 draws")
        assert r2 is not None
        assert l0 is not None
        density, correlation = use["density"].get("50 %"), use["correlation"]
        body.append(
            [
                _named(one, number),
                r2.text(),
                f"{fidelity['r2_global']:.3f}",
                f"{fidelity['r2_dimensions']:.3f}",
                l0.text(1),
                str(use["alive"]),
                str(use["features"]),
                "" if density is None else f"{density:.4f}",
                "" if correlation is None else f"{correlation:.4f}",
            ]
        )
    return columns, body


def monosemanticity_table(evaluated: Sequence[Evaluated], chooser: str = "val") -> Table:
    """M of every run."""
    columns = [
        "label",
        f"M of 10, chosen on {chooser}",
        "M of 10, as published",
        "median M",
        "judged",
        "chance Jaccard",
        "one row a",
        "rows of one",
    ]
    body = []
    for one, number, run in _all_runs(evaluated):
        found = run["monosemanticity"]
        if "missing" in found:
            body.append([_named(one, number), found["missing"], *[""] * 6])
            continue
        m, values = score(found, "m", "draws"), found["values"]
        body.append(
            [
                _named(one, number),
                "not defined" if m is None else m.text(),
                f"{found['published']:.3f}",
                f"{np.median(values):.3f}" if values else "",
                str(found["judged"]),
                f"{found['null']:.3f}",
                found["unit"],
                str(found["per unit"]["test"]),
            ]
        )
    return columns, body


def retrieval_table(evaluated: Sequence[Evaluated]) -> Table:
    """Dense cosine and shared concepts of the five rows found."""
    columns = ["label", "by", "dense cosine", "shared concepts (Jaccard)"]
    body = []
    for one in evaluated:
        sparse, dense = one.runs[0]["retrieval"], one.dense_retrieval
        if "missing" in dense:
            body.append([one.label, dense["missing"], "", ""])
            continue
        ways = {f"{k} features": sparse[k] for k in ("1", "5", "10", "20")}
        ways |= {"all features": sparse["all"], "dense": dense["dense"], "chance": dense["random"]}
        for name, found in ways.items():
            cosine = score(found, "cosine", "cosine draws")
            shared = score(found, "agreement", "agreement draws")
            cells = [value.text() if value is not None else "" for value in (cosine, shared)]
            body.append([one.label, name, *cells])
    return columns, body


def stability_table(evaluated: Sequence[Evaluated]) -> Table:
    """Matched decoder rows between runs."""
    columns = ["label", "runs", "mean cosine", "share above 0.7", "random directions", "partners"]
    body = []
    for one in evaluated:
        for pair, found in one.stability.items():
            body.append(
                [
                    one.label,
                    pair,
                    f"{found['mean']:.3f}",
                    f"{found['above 0.7']:.3f}",
                    f"{found['random']:.3f}",
                    found["partners"],
                ]
            )
    return columns, body


def difference_table(label: str, found: Mapping[str, tuple[Score, str]]) -> Table:
    """Differences of one label to the random encoder."""
    columns = ["measure", f"{label} - control", "this label is"]
    return columns, [[name, gap.text(), verdict] for name, (gap, verdict) in found.items()]


def _all_runs(evaluated: Sequence[Evaluated]) -> list[tuple[Evaluated, int, dict[str, Any]]]:
    return [(one, number, run) for one in evaluated for number, run in enumerate(one.runs)]


def _named(one: Evaluated, number: int) -> str:
    return one.label if len(one.runs) == 1 else f"{one.label}, run {number + 1}"
