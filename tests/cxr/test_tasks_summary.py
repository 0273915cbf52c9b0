"""Tables of an evaluation from cells made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sagittal_cxr.tasks import summary
from sagittal_cxr.tasks.cells import Cell
from sagittal_cxr.tasks.figures import roc
from sagittal_cxr.tasks.task import Measure, measured

RECORD = {"exposure": "none", "patients": 9, "checkpoint": "abc", "processor": "as it is"}


def cell(model: str, measures: list[Measure], paired: str = "same", task: str = "probe") -> Cell:
    return Cell(model, "set", task, ("score",), Path("nowhere"), measures, RECORD, paired)


def score(value: float, spread: float = 0.01, seed: int = 0) -> Measure:
    draws = value + spread * np.random.default_rng(seed).normal(size=400)
    return measured("score", value, draws, 9)


def differences(*cells: Cell) -> dict[str, list[str]]:
    _, rows = summary.difference_table(cells, "a")
    return {row[3]: row for row in rows}


def test_paired_differences_are_narrower_than_those_of_other_resamples() -> None:
    found = differences(
        cell("a", [score(0.7)]), cell("b", [score(0.705)]), cell("c", [score(0.69)])
    )
    assert found["b - a"][-2:] == ["0.005 [0.005, 0.005]", "higher"]
    assert found["c - a"][-1] == "lower"
    other = differences(cell("a", [score(0.7)]), cell("b", [score(0.705, seed=1)]))
    assert other["b - a"][-1] == "no difference shown"


def test_cells_of_other_rows_are_not_compared() -> None:
    assert not differences(cell("a", [score(0.7)]), cell("b", [score(0.8)], paired="other"))
    assert not differences(cell("a", [score(0.7)]), cell("b", [score(0.8)], task="other"))


@pytest.mark.parametrize(
    "one",
    [
        measured("score", 0.8, None, 3),
        Measure("score", None, 0.8, 0.7, 0.9, 9),
        Measure("score", None, 0.8, None, None, 3, draws=np.zeros(400)),
        measured("score", 0.8, np.linspace(0.7, 0.9, 7), 9),
    ],
)
def test_a_difference_without_shared_resamples_has_no_interval(one: Measure) -> None:
    found = differences(cell("a", [score(0.7)]), cell("b", [one]))
    assert found["b - a"][-2:] == ["0.100", "no interval"]


def test_figures_are_shown_with_what_they_have() -> None:
    assert summary.shown(0.8123, 0.7, 0.9) == "0.812 [0.700, 0.900]"
    assert summary.shown(0.8123, None, None) == "0.812"
    assert summary.shown(123.456, 100.04, 150.0) == "123.5 [100.0, 150.0]"
    assert summary.shown(float("nan"), None, None) == "not defined"


def test_an_undefined_figure_has_no_interval() -> None:
    one = measured("score", float("nan"), np.linspace(0, 1, 9), 9)
    assert one.low is None
    columns, rows = summary.overview_table([cell("a", [one])])
    assert dict(zip(columns, rows[0], strict=True))["probe: score"] == "not defined"


def test_a_curve_goes_through_all_thresholds() -> None:
    false, true = roc(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]
