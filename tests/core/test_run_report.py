"""Fit and test leave a page in the run folder that shows what they logged, and no path."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sagittal_core.privacy import without_paths
from sagittal_core.run_logger import RunLogger
from sagittal_core.run_report import draw_curves, read_curves, write_run_report

Main = Callable[..., int]
FIGURE = re.compile(r'<figure><img alt="([^"]+)" src="data:image/png;base64,([^"]+)">')


def pictures(page: str) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for name, data in FIGURE.findall(page)
    }


@pytest.mark.filterwarnings("ignore")
def test_fit_and_test_write_the_report(toy_main: Main, config: dict) -> None:
    assert toy_main("fit", config) == 0
    (run,) = Path("runs").iterdir()
    page = (run / "report.html").read_text()
    found = pictures(page)
    assert list(found) == ["val/shade", "learning curves"]
    assert (found["val/shade"] == 30).all(), "the last epoch's, of 3 with 10 steps each"
    assert "as grey as the step" in page
    marks = ["<figure>", "<td>train_loss</td>", "<details>", "class_path: toy.ToyModel"]
    assert [page.index(mark) for mark in marks] == sorted(page.index(mark) for mark in marks)
    assert "test_loss" not in page

    assert toy_main("test", config) == 0
    page = (run / "report.html").read_text()
    assert list(pictures(page)) == ["test/black", "val/shade", "learning curves"]
    value = read_curves(run / "test.csv")["test_loss"][-1][1]
    assert f'<td>test_loss</td><td class="number">{value:.4g}</td>' in page
    assert "<td>train_loss</td>" in page


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_logger_has_a_report_too(toy_main: Main, config: dict) -> None:
    config["trainer"] |= {"logger": False, "max_epochs": 1}
    assert toy_main("fit", config) == 0
    (run,) = Path("runs").iterdir()
    page = (run / "report.html").read_text()
    assert "<figure>" not in page
    assert "ToyModel" in page


def test_paths_stay_out_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("doe_jane.nii").touch()
    config = {
        "data": {"files": ["/data/doe_john/scan.h5", "a\\b"], "volume": "doe_jane.nii"},
        "model": {"class_path": "a.B", "rate": 0.5, "name": None},
    }
    kept = {"class_path": "a.B", "rate": 0.5, "name": None}
    assert without_paths(config) == {
        "data": {"files": ["(path)", "(path)"], "volume": "(path)"},
        "model": kept,
    }
    assert "doe" not in write_run_report(tmp_path, config).read_text()


def test_a_picture_replaces_the_last_of_its_name(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path / "metrics.csv", 0)
    for grey in (10, 20):
        pixels = np.full((3, 4, 3), grey, np.uint8)
        logger.log_image("a/b c", [pixels], step=grey, caption=["µ < λ"])
    (file,) = (tmp_path / "pictures").iterdir()
    assert file.name == "a-b-c.png"
    page = write_run_report(tmp_path, {}).read_text()
    assert (pictures(page)["a/b c"] == 20).all()
    assert "µ &lt; λ" in page


def test_curves_of_one_quantity_share_axes() -> None:
    falling = [(step, 10.0 ** (2 - step)) for step in range(4)]
    figure = draw_curves(
        {
            "train/loss": falling,
            "val/loss": [(3, 0.5)],
            "val/psnr": [(0, -3.0), (3, math.nan)],
            "rate": [(0, 1.0)],
            "other": [(0, 1.0)],
        }
    )
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert list(axes) == ["loss", "psnr"]  # a single value is no curve
    first, second = axes["loss"].get_lines()
    np.testing.assert_array_equal(first.get_xydata(), falling)
    np.testing.assert_array_equal(second.get_xydata(), [(3, 0.5)])
    assert axes["loss"].get_yscale() == "log"
    assert axes["psnr"].get_yscale() == "linear"


def test_facts_of_the_data_are_a_table(tmp_path: Path) -> None:
    page = write_run_report(tmp_path, {"seed": 0}, {"index": "abc", "train_pairs": 3}).read_text()
    assert "<td>index</td><td>abc</td>" in page
    assert "<td>train_pairs</td><td>3</td>" in page
    assert "train_pairs" not in write_run_report(tmp_path, {"seed": 0}).read_text()


def test_what_was_logged_once_is_a_curve_where_there_is_nothing_else() -> None:
    assert [axis.get_title() for axis in draw_curves({"a": [(0, 1.0)]}).axes] == ["a"]
