"""Result files hold what their schema says, and every README shows what its result files hold."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sagittal_core import results
from sagittal_core.__main__ import main
from sagittal_core.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = [
    *ROOT.glob("results/*.json"),
    *ROOT.glob("benchmarks/results/*.json"),
    *ROOT.glob("packages/*/results/*.json"),
]
PAGES = [
    file
    for file in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("packages/*/*.md"))
    if "<!-- results:" in file.read_text(encoding="utf-8")
]
TABLES = {
    "psnr": (
        ["method", "PSNR (dB)", "scans"],
        [["a | b", "27.03 [26.65, 27.45]", 3], ["c", 28.123456, ""]],
    )
}
PAGE = """# Title

    <!-- results: results/x.json table=in-an-example -->

<!-- results: results/x.json table=psnr -->
old
<!-- end -->
Between.
<!-- results: results/x.json -->
<!-- end -->
"""


def write(folder: Path, **changes: object) -> dict:
    arguments = {"command": "make x", "seeds": [0, 1], "n": {"patients": 2}, "tables": TABLES}
    return results.write_results(folder / "results" / "x.json", **(arguments | changes))


def page(folder: Path, text: str = PAGE) -> Path:
    file = folder / "README.md"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_committed_pages_show_their_results(file: Path) -> None:
    hint = f"run: python -m sagittal_core render {file.relative_to(ROOT)}"
    assert file.read_text(encoding="utf-8") == results.render_tables(file), hint


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
def test_committed_results_fit_the_schema(file: Path) -> None:
    assert results.read_results(file)["tables"]


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert written == results.read_results(tmp_path / "results" / "x.json")
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    assert head.startswith(written["commit"].partition("+")[0])
    assert len(written["commit"].partition("+")[0]) == 12
    assert "torch" in written["machine"]


def test_outside_a_checkout_the_version_stands_for_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert results.commit() == f"sagittal-core {results.sagittal_core.__version__}"


def test_rendering(tmp_path: Path) -> None:
    written = write(tmp_path)
    file = page(tmp_path)
    assert main(["render", str(file)]) == 0
    assert file.read_text().splitlines() == [
        "# Title",
        "",
        "    <!-- results: results/x.json table=in-an-example -->",
        "",
        "<!-- results: results/x.json table=psnr -->",
        "",
        "| method | PSNR (dB) | scans |",
        "| --- | ---: | ---: |",
        "| a \\| b | 27.03 [26.65, 27.45] | 3 |",
        "| c | 28.12 |  |",
        "",
        "<!-- end -->",
        "Between.",
        "<!-- results: results/x.json -->",
        "",
        f"`make x` at commit {written['commit']}; seeds 0, 1; 2 patients. {written['machine']}.",
        "",
        "<!-- end -->",
    ]
    assert results.render_tables(file) == file.read_text()
    write(tmp_path, tables={"psnr": (["changed"], [["x"]])})
    assert results.render_tables(file) != file.read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- results: results/x.json -->", "end of the file"),
        ("<!-- results: results/x.json -->\n" * 2 + "<!-- end -->", "another marker in line 2"),
        ("<!-- results: results/x.json table=ssim -->\n<!-- end -->", "a table 'ssim'"),
        ("<!-- results: results/y.json -->\n<!-- end -->", "y.json"),
    ],
)
def test_bad_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    write(tmp_path)
    file = page(tmp_path, text)
    assert main(["render", str(file)]) == 2
    assert says in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"command": ""}, "command"),
        ({"seeds": [0.5]}, "seeds"),
        ({"n": {}}, "n"),
        ({"n": {"patients": 0}}, "n"),
        ({"tables": {"t": (["a", "b"], [[1]])}}, "tables.t"),
        ({"tables": {"t": (["a"], [["x" * results.MAX_BYTES]])}}, "(file)"),
    ],
)
def test_what_is_not_written(tmp_path: Path, changes: dict, key: str) -> None:
    with pytest.raises(DataError) as caught:
        write(tmp_path, **changes)
    assert caught.value.key == key
    assert not (tmp_path / "results").exists()


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write(tmp_path, tables={"t": (["a"], [[float("nan")]])})


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"command": "x"})])
def test_unreadable_results(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"x\.json"):
        results.read_results(file)
