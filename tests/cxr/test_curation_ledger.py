"""The ledger of decisions: complete, resumable, and honest about damage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sagittal_core.errors import DataError
from sagittal_cxr.curation.ledger import COLUMNS, Ledger

REASONS = ["support", "outlier", "central"]


def test_it_keeps_what_was_decided_in_the_order_of_steps(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "curation")
    assert ledger.steps() == []
    assert ledger.kept().tolist() == []
    assert list(ledger.decisions().columns) == list(COLUMNS)
    ledger.append(10, torch.tensor([7, 2]), torch.tensor([True, False]), REASONS[:2])
    ledger.append(9, [5, 2, 40], [False, True, True], REASONS)
    table = ledger.decisions()
    assert table.to_dict("list") == {
        "row": [5, 2, 40, 7, 2],
        "step": [9, 9, 9, 10, 10],
        "kept": [False, True, True, True, False],
        "reason": [*REASONS, *REASONS[:2]],
    }
    assert [str(kind) for kind in table.dtypes[:3]] == ["int64", "int64", "bool"]
    kept = ledger.kept()
    assert kept.dtype == np.int64
    assert kept.tolist() == [2, 7, 40]  # the union: row 2 was dropped later, yet once kept


def test_a_step_done_again_replaces_what_it_wrote(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(3, [1, 2], [True, True], REASONS[:2])
    ledger.append(3, [4], [True], REASONS[:1])
    assert ledger.decisions()["row"].tolist() == [4]
    assert [file.name for file in tmp_path.iterdir()] == ["decisions-00000003.parquet"]


def test_an_empty_step_is_a_step(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(0, [], [], [])
    assert ledger.steps() == [0]
    assert len(ledger.decisions()) == 0
    assert ledger.kept().dtype == np.int64


def test_a_killed_writer_loses_its_own_step_only(tmp_path: Path) -> None:
    # The process dies between writing the file and renaming it, which is where it matters.
    code = (
        "import os, pathlib, sys\n"
        "from sagittal_cxr.curation.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "ledger.append(0, [1], [True], ['support'])\n"
        "pathlib.Path.replace = lambda *a: os.kill(os.getpid(), 9)\n"
        "ledger.append(1, [2], [True], ['support'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ, check=False)
    assert done.returncode == -9
    ledger = Ledger(tmp_path)
    assert ledger.steps() == [0]
    ledger.append(1, [2], [True], ["support"])
    assert ledger.kept().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((0, [1, 2], [True], ["support"]), ValueError),
        ((0, [1, 1], [True, True], ["support"] * 2), ValueError),
        ((-1, [1], [True], ["support"]), ValueError),
        ((0, [1.5], [True], ["support"]), ValueError),
        ((0, [1], [1.0], ["support"]), ValueError),
        ((0, [1], [True], [3]), TypeError),
    ],
)
def test_it_refuses_what_is_no_decision(tmp_path: Path, given: tuple, error: type) -> None:
    with pytest.raises(error):
        Ledger(tmp_path).append(*given)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(0, [1], [True], ["support"])
    (tmp_path / "decisions-00000001.parquet").write_bytes(b"PAR1 and no more")
    for read in (ledger.decisions, ledger.kept):
        with pytest.raises(DataError, match=r"decisions-00000001\.parquet"):
            read()


def test_the_state_of_a_selector_comes_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(DataError, match="prototypes"):
        ledger.state()
    state = {"prototypes": torch.rand(2, 3, dtype=torch.float64), "seen": torch.tensor(4)}
    ledger.write_state(state)
    found = ledger.state()
    assert all(torch.equal(found[name], state[name]) for name in state)
    (tmp_path / "prototypes.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="prototypes"):
        ledger.state()
