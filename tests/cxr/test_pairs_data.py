"""Pairs of an index as batches: what is left out, what is kept, and the cache of images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import text_checkpoint, vision_checkpoint, write_index

from sagittal_core.encoders import VisionSpec
from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ItemKey
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.data import RadiographReports
from sagittal_cxr.image_cache import ImageCache
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder

FIT = Preprocessing(resize=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ImageTextModel:
    folder = tmp_path_factory.mktemp("checkpoints")
    vision = ImageEncoder(VisionSpec("transformers", str(vision_checkpoint(folder / "v"))))
    return ImageTextModel(vision, TextEncoder(str(text_checkpoint(folder / "t"))), dim=8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index") / "i")


def connected(index: Path, network: ImageTextModel, **options: object) -> RadiographReports:
    data = RadiographReports(str(index), batch_size=4, **options)  # type: ignore[arg-type]
    data.connect(network)
    return data


def rows_of(batches: list[PairBatch]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


@pytest.mark.parametrize(("duplicates", "out"), [("drop", {1, 2}), ("keep", {1})])
def test_what_is_left_out_is_counted(
    duplicates: str,
    out: set[int],
    index: Path,
    network: ImageTextModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = connected(index, network, duplicates=duplicates)
    assert sorted(rows_of(list(data.train_dataloader()))) == sorted(set(range(20)) - out)
    assert rows_of(list(data.val_dataloader())) == list(range(20, 26))
    assert data.counts["data/train_pairs"] == 20 - len(out)
    assert data.counts["data/train_without_text"] == 1
    assert data.counts["data/train_duplicates"] == len(out) - 1
    assert "left out: 1 without text" in capsys.readouterr().out


def test_a_batch_is_what_the_encoders_take(index: Path, network: ImageTextModel) -> None:
    data = connected(index, network)
    raw = next(iter(data.val_dataloader()))
    assert (raw.images.dtype, raw.images.shape) == (torch.uint8, (4, 28, 28))
    batch = data.on_after_batch_transfer(raw, 0)
    assert (batch.images.dtype, batch.images.shape) == (torch.float32, (4, 3, 28, 28))
    assert batch.rows.tolist() == [20, 21, 22, 23]
    assert batch.attention_mask.sum(1).max() == batch.input_ids.shape[1]
    assert network.encode_image(batch.images).shape == (4, 8)
    pair = data.val_dataloader().dataset[ItemKey(1, 0)]
    alone = network.tokenize([pair.text])[0][0]
    assert torch.equal(batch.input_ids[1, : len(alone)], alone)


def test_kept_rows_alone_are_drawn(index: Path, network: ImageTextModel) -> None:
    data = connected(index, network)
    data.keep(torch.tensor([7, 3, 5, 3]))
    assert sorted(rows_of(list(data.train_dataloader()))) == [3, 5, 7]
    with pytest.raises(ValueError, match="training rows"):
        data.keep(np.array([1]))  # has no text
    data.keep(None)
    assert len(rows_of(list(data.train_dataloader()))) == 18


def test_no_pair_and_no_image_are_errors(
    index: Path, network: ImageTextModel, tmp_path: Path
) -> None:
    empty = connected(write_index(tmp_path / "i", val=0), network)
    with pytest.raises(ConfigError, match="split val"):
        empty.val_dataloader()
    (tmp_path / "i" / "images" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png"):
        list(empty.train_dataloader())


def test_cached_images_are_the_decoded_ones(
    index: Path, network: ImageTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = connected(index, network)
    cached = connected(index, network, cache=str(tmp_path / "cache"))
    cached.prepare_data()
    pairs = cached._pairs["val"]
    monkeypatch.setattr(pairs, "read", lambda row: pytest.fail("decoded again"))
    for one, other in zip(plain.val_dataloader(), cached.val_dataloader(), strict=True):
        assert torch.equal(one.images, other.images)
    (folder,) = (tmp_path / "cache").iterdir()
    assert (folder / "pixels.u8").stat().st_size == 31 * 28 * 28
    # Training pairs were not asked for outside of a fit; they are decoded as ever.
    assert len(rows_of(list(cached.train_dataloader()))) == 18


def read_until(stop: int, seen: list[int]) -> Callable[[int], np.ndarray]:
    def read(row: int) -> np.ndarray:
        if row >= stop:
            raise KeyboardInterrupt
        seen.append(row)
        return np.full((8, 8), row % 251, np.uint8)

    return read


def test_a_stopped_filling_goes_on(tmp_path: Path) -> None:
    rows, seen = np.arange(300, dtype=np.int64), list[int]()
    with pytest.raises(KeyboardInterrupt):
        ImageCache(tmp_path, 300, "a", FIT).fill(rows, read_until(200, seen))
    cache = ImageCache(tmp_path, 300, "a", FIT)
    missing = cache.missing(rows)
    assert 0 < len(missing) < 300
    again: list[int] = []
    cache.fill(rows, read_until(300, again))
    assert again == missing.tolist()
    for row in rows:
        image = cache.image(int(row))
        assert image is not None
        assert (image == row % 251).all()


def test_another_index_or_size_is_another_cache_and_scaling_is_not(tmp_path: Path) -> None:
    other_size = Preprocessing(resize=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    other_mean = Preprocessing(resize=(8, 8), mean=(0.5,) * 3, std=(1.0,) * 3)
    folders = [
        ImageCache(tmp_path, 3, identity, fit).folder
        for identity, fit in (("a", FIT), ("b", FIT), ("a", other_size), ("a", other_mean))
    ]
    assert len(set(folders[:3])) == 3
    assert folders[3] == folders[0]
    assert ImageCache(tmp_path, 3, "a", FIT).image(0) is None
