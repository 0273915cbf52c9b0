from __future__ import annotations

from pathlib import Path

import pytest

from sagittal_core.privacy import command_line, without_paths


def test_paths_are_hidden_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("doe.nii").touch()
    given = {
        "volume": "doe.nii",
        "runs": {"../a": Path("b")},
        "lr": 1e-3,
        "name": "units",
        "n": None,
    }
    hidden = {
        "volume": "(path)",
        "runs": {"(path)": "(path)"},
        "lr": 1e-3,
        "name": "units",
        "n": None,
    }
    assert without_paths(given) == hidden


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["compare", "-c", "configs/a.yaml"], "x compare -c configs/a.yaml"),
        (["compare", "--config=configs/a.yaml"], "x compare --config=configs/a.yaml"),
        (["compare", "-c", "/home/doe/a.yaml"], "x compare -c (path)"),
        (["compare", "-c", "../doe/a.yaml"], "x compare -c (path)"),
        (["compare", "--data.volume=/scans/doe.nii"], "x compare --data.volume=(path)"),
        (["compare", "--out", "scans/doe"], "x compare --out (path)"),
        (["read", "--query", "small nodule"], "x read --query 'small nodule'"),
    ],
)
def test_a_command_line_names_no_file_but_its_config(args: list[str], expected: str) -> None:
    assert command_line("x", args) == expected
