"""Answers on disk: what is read is what was written, whatever a kill left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError
from sagittal_risk.answers import AnswerStore


@given(st.lists(st.tuples(st.floats(-1e3, 0, width=32), st.floats(-1e3, 0, width=32)), max_size=6))
def test_answers_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]]
) -> None:
    file = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    keys = [f"key {number}" for number in range(len(pairs))]
    with AnswerStore(file) as store:
        store.add(keys, np.array(pairs, np.float32).reshape(-1, 2))
    with AnswerStore(file) as store:
        assert [store.get(key) for key in keys] == pairs
        assert store.get("another") is None


def test_a_torn_line_is_cut_off_and_a_damaged_one_counted(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with AnswerStore(file) as store:
        store.add(["a"], np.array([[-1.0, -2.0]]))
        store.add(["b"], np.array([[-3.0, -4.0]]))
    whole = file.read_bytes()
    for cut in range(1, len(whole) // 2):
        file.write_bytes(whole[:-cut])
        with AnswerStore(file) as store:
            assert (len(store), store.damaged) == (1, 0)
            store.add(["b"], np.array([[-3.0, -4.0]]))
        assert file.read_bytes() == whole
    file.write_bytes(b"[1, 2]\n{\n" + whole)
    with AnswerStore(file) as store:
        assert (len(store), store.damaged) == (2, 2)


def test_one_process_writes_answers(tmp_path: Path) -> None:
    with (
        AnswerStore(tmp_path / "answers.jsonl"),
        pytest.raises(ConfigError, match="another process"),
        AnswerStore(tmp_path / "answers.jsonl"),
    ):
        pass
