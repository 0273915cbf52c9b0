"""Coil maps are estimated once, survive the process, and damage is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sagittal_core.errors import DataError
from sagittal_mri.data import map_cache
from sagittal_mri.data.map_cache import MapCache, content_key

SHAPE = (2, 4, 6)


class Counted:
    """Maps that count how often they were computed."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return torch.randn(SHAPE, dtype=torch.complex64)


def test_memory_keeps_the_first_and_only_so_many() -> None:
    cache, compute = MapCache(None, 1), Counted()
    first = cache.get("a", SHAPE, compute)
    assert cache.get("a", SHAPE, compute) is first
    assert compute.times == 1
    cache.get("b", SHAPE, compute)
    cache.get("b", SHAPE, compute)
    assert compute.times == 3


def test_a_folder_keeps_maps_between_processes(tmp_path: Path) -> None:
    compute = Counted()
    maps = MapCache(tmp_path / "maps", 0).get("a", SHAPE, compute)
    assert torch.equal(MapCache(tmp_path / "maps", 0).get("a", SHAPE, compute), maps)
    assert compute.times == 1
    assert [f.name for f in (tmp_path / "maps").iterdir()] == ["a.npy"]


def test_an_interrupted_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(file: Path, *args: object, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(map_cache.np, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        MapCache(tmp_path, 0).get("a", SHAPE, Counted())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["truncated", "another shape", "pickle"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    import numpy as np

    file = tmp_path / "a.npy"
    MapCache(tmp_path, 0).get("a", SHAPE, Counted())
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif content == "another shape":
        np.save(file, np.zeros((2, 4, 5), np.complex64))
    else:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy[\s\S]*delete"):
        MapCache(tmp_path, 0).get("a", SHAPE, Counted())


def test_keys_follow_content_and_parameters() -> None:
    values = torch.randn(SHAPE, dtype=torch.complex64)
    key = content_key(values, 24)
    assert key == content_key(values.clone(), 24) == content_key(values.mT.contiguous().mT, 24)
    changed = values.clone()
    changed[0, 0, 0] += 1
    others = {content_key(changed, 24), content_key(values, 20), content_key(values.flatten(), 24)}
    assert len({key, *others}) == 4
