"""Rows that a model makes of images and texts, kept in shards so that a kill loses one shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.task import Benchmark

if TYPE_CHECKING:
    from sagittal_core.encoders import Preprocessing
    from sagittal_cxr.nn.image_text import ImageTextModel

SHARD = 512
"""Images or texts of a shard."""

Kind = Literal["embedding", "features"]


class RadiographImages(Dataset[NDArray[np.uint8]]):
    """Images of a benchmark, brought to the size that a model wants.

    Args:
        benchmark: Whose.
        rows: Row numbers in its index.
        preprocessing: Of the model.
    """

    def __init__(
        self, benchmark: Benchmark, rows: Sequence[int], preprocessing: Preprocessing
    ) -> None:
        self.files = [benchmark.image_path(int(row)) for row in rows]
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: ItemKey) -> NDArray[np.uint8]:
        from sagittal_cxr.images import load_grey

        return self.preprocessing.fit(load_grey(self.files[key.index]))


def image_loader(
    benchmark: Benchmark,
    rows: Sequence[int],
    preprocessing: Preprocessing,
    batch_size: int,
    num_workers: int,
) -> Iterable[Tensor]:
    """Batches (B, h, w) uint8 of a benchmark's images in the order of ``rows``."""
    return ResumableDataLoader(
        RadiographImages(benchmark, rows, preprocessing),
        seed=0,
        shuffle=False,
        batch_size=batch_size,
        num_workers=num_workers,
    )


def image_rows(
    model: ImageTextModel,
    benchmark: Benchmark,
    rows: pandas.DataFrame,
    kind: Kind,
    folder: Path,
    *,
    device: str,
    batch_size: int = 32,
    num_workers: int = 0,
) -> NDArray[np.float32]:
    """What a model makes of images, computed once for a model and benchmark.

    Args:
        model: In evaluation mode.
        benchmark: Whose index the rows are of.
        rows: n rows of it.
        kind: ``"embedding"``: unit rows of the space shared with texts; ``"features"``: pooled rows
            of the vision encoder before the projection.
        folder: Shared by the tasks of this model and benchmark (the parent of a cell's folder).
        device: cpu or cuda.
        batch_size: Images at a time.
        num_workers: Processes that read images.

    Returns:
        (n, D).
    """
    model = model.to(device)
    encode = model.encode_image if kind == "embedding" else model.image_features
    numbers = rows.index.to_numpy()

    def computed(places: NDArray[np.int64]) -> Iterable[Tensor]:
        loader = image_loader(
            benchmark, numbers[places], model.preprocessing, batch_size, num_workers
        )
        for images in loader:
            yield encode(model.preprocessing.normalise(images.to(device)))

    identity = {
        "weights": weights_sha256(model),
        "preprocessing": model.preprocessing.described(),
        "index": benchmark.opened.identity,
        "rows": hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest(),
    }
    return _kept(folder, f"images-{kind}", identity, len(rows), computed, "images")


def text_rows(
    model: ImageTextModel,
    texts: Sequence[str],
    folder: Path,
    *,
    device: str,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """Unit rows of texts in the space shared with images, (n, D), computed once.

    Args:
        model: In evaluation mode.
        texts: n texts.
        folder: As for :func:`image_rows`.
        device: cpu or cuda.
        batch_size: Texts at a time.
    """
    model = model.to(device)

    def computed(places: NDArray[np.int64]) -> Iterable[Tensor]:
        for first in range(0, len(places), batch_size):
            chosen = [texts[int(place)] for place in places[first : first + batch_size]]
            yield encode_texts(model, chosen, device)

    identity = {
        "weights": weights_sha256(model),
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
    }
    return _kept(folder, "texts", identity, len(texts), computed, "texts")


def encode_texts(model: ImageTextModel, texts: Sequence[str], device: str) -> Tensor:
    """Unit rows (n, D) of a few texts on ``device``."""
    with torch.inference_mode():
        ids, mask = model.tokenize(list(texts))
        return model.encode_text(ids.to(device), mask.to(device))


def _kept(
    folder: Path,
    name: str,
    identity: dict[str, Any],
    count: int,
    compute: Callable[[NDArray[np.int64]], Iterable[Tensor]],
    what: str,
) -> NDArray[np.float32]:
    """Rows of a store beside the cells; the missing shards are computed."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    path, shards = folder / f"{name}-{digest}", -(-count // SHARD)
    if not _complete(path, shards):
        with torch.inference_mode():
            first = next(iter(compute(np.arange(1))))
        writer = ShardWriter(
            path, dim=first.shape[1], dtype=torch.float32, shards=shards, identity=identity
        )
        for number in track(writer.missing(), what):
            places = np.arange(number * SHARD, min((number + 1) * SHARD, count))
            with torch.inference_mode():
                made = [batch.float().cpu() for batch in compute(places)]
            writer.write(number, torch.cat(made), pandas.DataFrame({"place": places}))
    return EmbeddingStore(path).rows(np.arange(count)).numpy()


def _complete(path: Path, shards: int) -> bool:
    """Whether nothing is to be computed, so that no image need be read to learn the width."""
    names = [f"{n:05d}" for n in range(shards)]
    return all(
        (path / f"shard-{n}.safetensors").is_file() and (path / f"index-{n}.parquet").is_file()
        for n in names
    )
