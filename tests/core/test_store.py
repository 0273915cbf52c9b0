"""A store survives kills, keeps its order, and names what is wrong with it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.store import EmbeddingStore, ShardWriter

IDENTITY = {"encoder": "tiny", "weights": "0f"}


def writer(folder: Path, shards: int = 3, **changes: object) -> ShardWriter:
    options: dict = {"dim": 4, "dtype": torch.float32, "identity": IDENTITY, "shards": shards}
    return ShardWriter(folder, **(options | changes))


def part(number: int, rows: int, dim: int = 4) -> tuple[torch.Tensor, pandas.DataFrame]:
    values = torch.arange(rows * dim, dtype=torch.float32).view(rows, dim) / 8 + number
    return values, pandas.DataFrame({"item": [f"{number}-{i}" for i in range(rows)]})


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    data=st.data(),
)
def test_rows_come_back_in_order_whatever_the_order_of_writing(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("store") / "s"
    made = [part(number, rows) for number, rows in enumerate(sizes)]
    for number in data.draw(st.permutations(range(len(sizes)))):
        writer(folder, len(sizes), dtype=dtype).write(number, *made[number])
    store = EmbeddingStore(folder)
    everything = torch.cat([values for values, _ in made]).to(dtype).float()
    assert len(store) == sum(sizes)
    assert store.index()["item"].tolist() == [item for _, frame in made for item in frame["item"]]
    for start, chunk in store.chunks(2):
        assert torch.equal(chunk, everything[start : start + 2])
    if len(store):
        picked = data.draw(st.lists(st.integers(0, len(store) - 1), max_size=8))
        assert torch.equal(store.rows(picked), everything[picked])
        assert torch.equal(pickle.loads(pickle.dumps(store)).rows(picked), everything[picked])
    with pytest.raises(IndexError):
        store.rows([len(store)])


def test_only_what_is_missing_is_written(tmp_path: Path) -> None:
    first = writer(tmp_path / "s")
    assert first.missing() == [0, 1, 2]
    first.write(1, *part(1, 2))
    assert writer(tmp_path / "s").missing() == [0, 2]
    with pytest.raises(DataError, match=r"shard-00000[\s\S]*3 shards[\s\S]*goes on"):
        EmbeddingStore(tmp_path / "s")


_KILLED = """
import os, pathlib, sys, torch, pandas
from sagittal_core.store import ShardWriter

def attempt(stop):
    writer = ShardWriter(sys.argv[1], dim=4, dtype=torch.float32, shards=6, identity={})
    done, rename = [0], pathlib.Path.replace
    def replace(self, target):
        done[0] += 1
        if done[0] == stop:
            os.kill(os.getpid(), 9)
        return rename(self, target)
    pathlib.Path.replace = replace
    for n in writer.missing():
        writer.write(n, torch.full((3, 4), float(n)), pandas.DataFrame({"n": [n] * 3}))
    os._exit(0)

for stop in (1, 2, 3, 4, 5, 0):
    child = os.fork() or attempt(stop)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


def test_killed_at_every_rename_and_begun_again(tmp_path: Path) -> None:
    """The k-th attempt is killed before its k-th rename: before, between, after a shard's files."""
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "s")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["9", "9", "9", "9", "9", "0"]
    store = EmbeddingStore(tmp_path / "s")
    assert store.index()["n"].tolist() == [n for n in range(6) for _ in range(3)]
    assert torch.equal(store.rows(np.arange(18))[:, 0], torch.arange(6.0).repeat_interleave(3))


def test_another_identity_is_refused(tmp_path: Path) -> None:
    writer(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"another weights: found 0f, expected ff"):
        writer(tmp_path / "s", identity=IDENTITY | {"weights": "ff"})
    with pytest.raises(ConfigError, match="another dim: found 4, expected 5"):
        writer(tmp_path / "s", dim=5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError, match="not empty and no store"):
        writer(tmp_path / "other")


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    open_writer = writer(tmp_path / "s", dtype=torch.float16)
    values, frame = part(0, 2)
    with pytest.raises(ValueError, match=r"\(n, 4\) with n rows of index, got \(2, 4\) and 1"):
        open_writer.write(0, values, frame[:1])
    with pytest.raises(ValueError, match=r"row 1 is not finite as torch\.float16"):
        open_writer.write(0, torch.tensor([[1.0] * 4, [1e6] * 4]), frame)
    with pytest.raises(ValueError, match="shard 3 of a store of 3"):
        open_writer.write(3, values, frame)


def test_damage_is_named(tmp_path: Path) -> None:
    open_writer = writer(tmp_path / "s", shards=1)
    open_writer.write(0, *part(0, 3))
    shard = tmp_path / "s" / "shard-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"shard-00000[\s\S]*complete[\s\S]*bytes"):
        EmbeddingStore(tmp_path / "s")
    shard.write_bytes(whole)
    part(0, 2)[1].to_parquet(tmp_path / "s" / "index-00000.parquet")
    with pytest.raises(DataError, match=r"index-00000[\s\S]*3 as its shard[\s\S]*2"):
        EmbeddingStore(tmp_path / "s").index()
    with pytest.raises(DataError, match=r"colour[\s\S]*item"):
        EmbeddingStore(tmp_path / "s").index(["colour"])
    described = json.loads((tmp_path / "s" / "store.json").read_text())
    (tmp_path / "s" / "store.json").write_text(json.dumps(described | {"version": 9}))
    with pytest.raises(DataError, match=r"version[\s\S]*1[\s\S]*9"):
        EmbeddingStore(tmp_path / "s")
    with pytest.raises(DataError, match=r"store\.json"):
        EmbeddingStore(tmp_path)
