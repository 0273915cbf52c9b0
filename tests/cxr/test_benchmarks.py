"""The published benchmarks: what is said of them, and what a user's indexes cover."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from planted import write_index

from sagittal_cxr.benchmarks import coverage, published
from sagittal_cxr.cli import run


def test_nothing_is_claimed_that_is_not_known() -> None:
    count, types, known = published()
    assert len(types) == 5
    assert {one.task for one in known} == set(types)
    assert len({one.name for one in known}) == len(known) <= count
    for one in known:
        assert one.source in ("released code", "guess")
        assert one.exposure in ("train", "none", "unknown")
        assert one.n is None or one.source == "released code"
        assert one.split in (None, "train", "val", "test")
        assert one.layout
        assert one.why
    # What the notes on the released model say of its training corpora.
    of = {one.name: one.exposure for one in known}
    exposed = ["NIH ChestX-ray14 test", "VinDr-CXR test", "MIMIC-CXR test"]
    assert [of[name] for name in exposed] == ["train"] * 3
    assert of["TBX11K val"] == "none"


def test_readers_that_are_named_exist() -> None:
    from sagittal_cxr.readers import READERS

    _, _, known = published()
    assert {one.reader for one in known if one.reader is not None} <= set(READERS)


def test_coverage_counts_images_of_the_right_split() -> None:
    _, _, known = published()
    held = {("nih", "train"): 50, ("nih", "test"): 7, ("chexpert_plus", "val"): 3}
    rows = {row[0]: row for row in coverage(known, ["nih", "chexpert_plus"], held)}
    assert rows["NIH ChestX-ray14 test"][-1] == "7"
    assert rows["CheXpert 5x200"][-1] == "3"
    assert rows["MIMIC-CXR test"][-2] == "mimic_cxr (not installed)"
    assert rows["TBX11K val"][-2:] == ["none yet", "0"]


def test_the_verb_prints_how_much_is_known_and_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_index(tmp_path / "index")
    file = folder / "index.json"
    described = json.loads(file.read_text())
    described["datasets"][0]["reader"] = "nih"
    file.write_text(json.dumps(described))
    tests = (pandas.read_parquet(folder / "rows-00000.parquet")["split"] == "test").sum()
    assert run(["benchmarks", "--indexes", f"[{folder}]"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("NIH"))
    assert line.split()[-1] == str(tests)
    _, _, known = published()
    code = sum(one.source == "released code" for one in known)
    assert f"The paper counts 20 benchmarks of 5 task types: {code} are known" in printed
    assert "Your indexes hold images of the data set and split of 1" in printed
    assert run(["benchmarks", "--indexes", f"[{tmp_path / 'none'}]"]) == 2
    assert "no folder" in capsys.readouterr().err
