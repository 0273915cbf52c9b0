"""The report is one escaped file that asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sagittal_core.report import Report, mosaic

RAMP = np.linspace(0.0, 1.0, 12).reshape(3, 4)


def write(report: Report, folder: Path) -> str:
    return report.write(folder / "deep" / "report.html").read_text(encoding="utf-8")


def test_order_is_pictures_tables_config(tmp_path: Path) -> None:
    report = Report("T").config({"lr": 0.1}).table("tab", ["a"], [[1]]).picture("pic", RAMP, "c")
    page = write(report.text("words"), tmp_path)
    places = [page.index(mark) for mark in ("<h1>", "words", "<figure>", "<table>", "<details>")]
    assert places == sorted(places)
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_everything_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>\""
    report = Report(bad).text(bad).picture(bad, RAMP, bad).table(bad, [bad], [[bad]], bad)
    page = write(report.config({bad: bad}), tmp_path)
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            for name, value in attrs:
                assert name not in ("href", "onclick", "onerror")
                assert name != "src" or (value or "").startswith("data:image/png;base64,")

    Tags().feed(page)
    assert "script" not in tags
    assert "link" not in tags
    assert "url(" not in page
    assert "@import" not in page


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    page = write(Report("T").picture("a", RAMP), tmp_path)
    match = re.search(r"base64,([^\"]+)", page)
    assert match is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))))
    np.testing.assert_array_equal(pixels, (RAMP * 255).round())


def test_figures_are_accepted(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([0, 1])
    assert "image/png" in write(Report("T").picture("f", figure), tmp_path)


def test_numbers_are_aligned_right(tmp_path: Path) -> None:
    rows = [["a", 31.23456, "0.91 [0.90, 0.92]"], ["b", -2, "0.5 [0.1, 0.9]"]]
    page = write(Report("T").table("t", ["method", "PSNR", "SSIM"], rows), tmp_path)
    assert page.count('class="number"') == 6
    assert ">31.23<" in page


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 2)), "(H, W)"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.zeros((2, 2), np.int32), "uint8"),
    ],
)
def test_bad_pictures(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Report("T").picture("p", image)


def test_ragged_table() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Report("T").table("t", ["a", "b"], [[1]])


def test_mosaic_windows_all_tiles_alike() -> None:
    picture = mosaic([[RAMP, RAMP / 2]], window=(0.0, 0.5), tile=40, gap=4)
    assert picture.size == (84, 30)
    pixels = np.asarray(picture)[..., 0]
    assert pixels[-1, 38] == 255
    assert pixels[0, 0] == 0
    titled = mosaic([[RAMP], [RAMP]], ["x"], row_titles=["one", "two"], tile=40)
    assert titled.size[0] > 40
    assert titled.size[1] > 66


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "at least one"),
        ([[RAMP], [RAMP, RAMP]], {}, "every row"),
        ([[RAMP, RAMP.T]], {}, "every row"),
        ([[RAMP * np.nan]], {}, "finite"),
        ([[RAMP]], {"titles": ["a", "b"]}, "2 titles"),
        ([[RAMP]], {"row_titles": ["a", "b"]}, "2 row titles"),
        ([[RAMP]], {"window": (1.0, 1.0)}, "window"),
    ],
)
def test_bad_mosaics(images: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mosaic(images, **options)


def test_a_range_of_numbers_is_one_cell_of_numbers() -> None:
    from sagittal_core.report import numeric_columns

    rows = [["2.2 % to 69.3 %", "0.1 to 3", "5 to ten"], ["", "0.5 [0.1, 2]", "1"]]
    assert numeric_columns(rows, 3) == [True, True, False]
