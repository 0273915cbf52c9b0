"""Which rows and targets an evaluation takes, and what it says of differences."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy.sparse import csr_matrix

from sagittal_core import verbs
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_genai.evaluation import summary
from sagittal_genai.evaluation.measure import measure_features
from sagittal_genai.evaluation.rows import Limits, Rows, read_rows, usable_targets
from sagittal_genai.evaluation.summary import Evaluated, Score

HELP = """
import sys
from sagittal_genai.cli import run
status = run(["evaluate", "--help"])
heavy = {"torch", "lightning", "numpy", "jsonargparse", "sklearn"} & set(sys.modules)
assert not heavy, heavy
sys.exit(status)
"""


def test_help_names_every_parameter_and_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    function = verbs.load("sagittal_genai.evaluate:evaluate")
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert (f"  {name} " if required else f"  --{name} ") in done.stdout


def frame() -> pandas.DataFrame:
    """Sixty rows of twelve subjects; token -1 and 0 in turn."""
    n = 60
    subject = np.arange(n) // 5
    organs = [["liver"] if row % 3 else [] for row in range(n)]
    return pandas.DataFrame(
        {
            "split": np.repeat(["train", "val", "test"], [30, 10, 20]),
            "subject": [f"p{one}" for one in subject],
            "scan": [f"s{one}" for one in subject],
            "organs": [None if row % 10 == 9 else organs[row] for row in range(n)],
            "view": [("PA", "AP", "LL")[row % 3] for row in range(n)],
            "sex": [None if row < 5 else "FM"[row % 2] for row in range(n)],
            "age": [float((row * 7) % 95) for row in range(n)],
            "token": [-1 if row % 2 else 0 for row in range(n)],
        }
    )


def store(folder: Path, table: pandas.DataFrame) -> EmbeddingStore:
    writer = ShardWriter(folder, dim=3, dtype=torch.float32, shards=1, identity={})
    writer.write(0, torch.arange(3.0 * len(table)).view(-1, 3), table)
    return EmbeddingStore(folder)


def read(folder: Path, table: pandas.DataFrame | None = None, **changes: object) -> Rows:
    options: dict = {
        "concepts": "organs",
        "categories": ["view", "sex"],
        "age": "age",
        "tokens": False,
        "limits": Limits(),
        "seed": 0,
    }
    made = store(folder, frame() if table is None else table)
    return read_rows(folder, made, **(options | changes))


def test_targets_are_one_against_the_rest_and_unknown_is_not_no(tmp_path: Path) -> None:
    rows = read(tmp_path / "s")
    assert rows.numbers.tolist() == list(range(1, 60, 2))  # whole images
    assert rows.concepts == ["liver"]
    expected = [-1 if n % 10 == 9 else int(n % 3 > 0) for n in rows.numbers]
    assert rows.targets["liver"].tolist() == expected
    assert rows.labelled.tolist() == [one >= 0 for one in expected]
    names = [name for name in rows.targets if name.startswith(("view", "sex", "age"))]
    ages = ["age: 40-60", "age: 60-80", "age: < 40", "age: >= 80"]
    assert names == ["view: AP", "view: LL", "view: PA", *ages]  # sex: only M among odd rows
    assert rows.targets["age: >= 80"].tolist() == [int((n * 7) % 95 >= 80) for n in rows.numbers]
    assert rows.available == {"train": 15, "val": 5, "test": 10}
    assert rows.counts("test") == (10, 4)
    both = read(tmp_path / "t", frame().drop(columns="token"))
    assert "sex: M" in both.targets
    assert "sex: F" not in both.targets  # the mirror image
    assert {"sex: F", "sex: M"} < set(both.categories)
    assert both.targets["sex: M"][:5].tolist() == [-1] * 5


def test_rows_are_thinned_by_the_seed(tmp_path: Path) -> None:
    limits = Limits(train=6, val=5, test=4)
    one = read(tmp_path / "a", limits=limits)
    again = read(tmp_path / "b", limits=limits)
    other = read(tmp_path / "c", limits=limits, seed=1)
    assert len(one.numbers) == 15
    assert (np.diff(one.numbers) > 0).all()
    assert (one.numbers == again.numbers).all()
    assert one.identity == again.identity
    assert one.identity != other.identity


def test_blocks_of_the_training_scans_choose_in_place_of_val(tmp_path: Path) -> None:
    table = frame().drop(columns="token")
    # Two training scans, each with two planes of ten images, stored in no order; no val at all.
    table["split"] = np.repeat(["train", "test"], [40, 20])
    table["scan"] = table["subject"] = [f"s{row // 20}" for row in range(60)]
    table["orientation"] = [("axial", "coronal")[row % 2] for row in range(60)]
    table["image"] = [f"{row % 20 // 2:04d}" for row in range(60)]
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    rows = read(tmp_path / "s", table, choose_on="train")
    image = table["image"].to_numpy()[rows.numbers]
    select, fit = rows.mask("select"), rows.mask("fit")
    assert sorted(set(image[select])) == ["0002", "0007"]
    assert select.sum() == 8  # two blocks of a plane, two planes of a scan, two scans
    assert (rows.split[select] == "train").all()
    assert (fit ^ select == (rows.split == "train")).all()
    assert rows.chooser == "blocks of train"
    _, left = usable_targets(rows, n_min=12, most=9)
    assert left["view: PA"].endswith("of one class in blocks of train, 4 needed")
    assert rows.identity != read(tmp_path / "t", table).identity
    with pytest.raises(DataError, match="image"):
        read(tmp_path / "u", table.drop(columns="image"), choose_on="train")


def test_targets_without_enough_rows_are_listed_with_the_reason(tmp_path: Path) -> None:
    rows = read(tmp_path / "s", frame().drop(columns="token"))
    kept, left = usable_targets(rows, n_min=6, most=3)
    assert len(kept) == 3
    assert set(kept) | set(left) == set(rows.targets)
    assert left["age: >= 80"].endswith("6 needed")
    assert "beyond the 3 most balanced" in left.values()


def test_what_an_index_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lesions"):
        read(tmp_path / "a", concepts="lesions")
    wrong = frame()
    wrong.loc[0, "split"] = "test"
    with pytest.raises(DataError, match="1 subjects in two or more"):
        read(tmp_path / "b", wrong)
    wrong = frame()
    wrong.loc[0, "subject"] = None
    with pytest.raises(DataError, match=r"subject[\s\S]*none in 1 of 60 rows"):
        read(tmp_path / "f", wrong)
    wrong = frame()
    wrong.loc[wrong["subject"] == "p0", "split"] = "valid"
    with pytest.raises(DataError, match=r"only train, val, test[\s\S]*valid"):
        read(tmp_path / "g", wrong)
    with pytest.raises(DataError, match="expected: lists of text"):
        read(tmp_path / "c", concepts="view")
    words = frame().assign(age="old")
    with pytest.raises(DataError, match=r"found: *30 that are none"):
        read(tmp_path / "d", words)
    with pytest.raises(ConfigError, match="no patch"):
        read(tmp_path / "e", frame().drop(columns="token"), tokens=True)


def measured(value: float, draws: list[float], auc: float = 0.9, same: str = "x") -> Evaluated:
    """One label whose M is ``value``, with one target."""
    probe = {"auc": auc, "selected": auc, "draws": [auc] * len(draws), "converged": True}
    run = {
        "fidelity": {"r2": 0.9, "r2 draws": draws and [0.9] * len(draws)},
        "monosemanticity": {"m": value, "draws": draws},
        "retrieval": {},
        "probes": {"targets": {"liver": dict.fromkeys(summary.probe_keys(), probe)}},
    }
    return Evaluated("real", False, same, {"targets": {"liver": probe}}, {}, [run])


def test_a_difference_is_of_pairs_and_judged_by_its_interval() -> None:
    noise = np.linspace(-0.3, 0.3, 50)
    # Each alone varies by 0.3, their difference by nothing.
    real = measured(0.6, (0.6 + noise).tolist())
    control = measured(0.5, (0.5 + noise).tolist())
    found = summary.differences(real, control, ["liver"])
    assert found["monosemanticity M"][1] == "higher"
    assert found["R2"][1] == "no difference shown"
    control = measured(0.5, (0.5 + noise[::-1]).tolist())
    found = summary.differences(real, control, ["liver"])
    assert found["monosemanticity M"][1] == "no difference shown"
    text = summary.sentence("real", "random", found)
    assert "No difference is shown in" in text
    assert "monosemanticity M (+0.100)" in text
    alone = summary.differences(measured(0.6, []), measured(0.5, []), ["liver"])
    assert {verdict for _, verdict in alone.values()} == {"too few subjects: no interval"}
    assert summary.differences(real, measured(0.5, [], same="y"), ["liver"]) == {}
    del control.runs[0]["monosemanticity"]["m"]
    found = summary.differences(real, control, ["liver"])
    assert found["monosemanticity M"][1] == summary.NOT_BOTH
    assert "Not defined for both, and not compared: monosemanticity M." in summary.sentence(
        "real", "random", found
    )


def test_targets_count_by_the_labels_under_study_alone() -> None:
    real, control = measured(0, [], auc=0.54), measured(0, [], auc=0.9)
    control.control = True
    assert summary.kept_targets([real, control], ["liver"], 0.55) == []
    assert summary.kept_targets([control], ["liver"], 0.55) == ["liver"]


def test_a_resample_without_a_class_leaves_its_target_out() -> None:
    nan = float("nan")
    probes = [{"auc": 0.8, "draws": [0.8, nan, nan]}, {"auc": 0.6, "draws": [0.5, 0.6, nan]}]
    found = summary.mean_auc(probes)
    assert found.value == pytest.approx(0.7)
    np.testing.assert_allclose(found.draws, [0.65, 0.6, nan])
    assert Score(0.7, np.empty(0)).text() == "0.700"
    assert Score(nan, np.empty(0)).text() == "not defined"


def test_features_learned_by_heart_are_pointed_out(tmp_path: Path) -> None:
    rows = read(tmp_path / "s")
    codes = np.zeros((30, 8), dtype=np.float32)
    codes[rows.mask("train"), 0] = 1
    codes[rows.mask("test"), :3] = 1
    codes[rows.mask("val"), 7] = 1
    found = measure_features(rows, csr_matrix(codes), correlation=False)
    assert found["mean l0"] == {"train": 1, "test": 3}
    assert (found["alive"], found["alive on any row"], found["in every row"]) == (3, 4, 3)
    assert found["density"]["50 %"] == 1
    assert sum(found["histogram"]) == 3


def test_m_of_no_feature_is_not_defined() -> None:
    one = measured(0.5, [])
    one.runs[0]["monosemanticity"] = {
        "published": 0.0,
        "values": [],
        "judged": 0,
        "null": 0.1,
        "unit": "subject",
        "per unit": {"val": 1, "test": 1},
    }
    (row,) = summary.monosemanticity_table([one])[1]
    assert row == ["real", "not defined", "0.000", "", "0", "0.100", "subject", "1"]
