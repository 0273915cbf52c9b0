"""Slices of a folder in fixed parts, read and brought to an encoder's size in loader processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.encoders import Preprocessing
from sagittal_core.errors import DataError
from sagittal_genai.slices import SliceFolder

if TYPE_CHECKING:
    import pandas


@dataclass
class Chunk:
    """Some slices of one shard.

    Attributes:
        shard: Number of the shard they belong to.
        rows: Their numbers in the folder's index, n of them: those that could be read.
        images: (n, H, W) uint8.
        labels: For each of them class numbers (H, W) int32, or None where there are no masks.
        refused: Number and reason of those that could not be read.
        last: Whether the shard is complete with these.
    """

    shard: int
    rows: list[int]
    images: Tensor
    labels: list[NDArray[np.int32] | None]
    refused: list[tuple[int, str]]
    last: bool


class Slices:
    """The slices to embed, in the order of the folder's index, cut into shards.

    Args:
        folder: What ``sagittal-genai slice`` wrote.
        shard_slices: Slices in a shard.
    """

    def __init__(self, folder: SliceFolder, shard_slices: int) -> None:
        self.folder, self.shard_slices = folder, shard_slices
        self.index: pandas.DataFrame = folder.index()
        self.images = [str(image) for image in self.index["image"]]
        if not self.images:
            raise DataError(folder.folder, key="index", expected="slices", found="none")
        self.shards = -(-len(self.images) // shard_slices)

    def rows_of(self, shard: int) -> range:
        """Numbers of a shard's slices."""
        start = shard * self.shard_slices
        return range(start, min(start + self.shard_slices, len(self.images)))

    def identity(self) -> dict[str, str | int]:
        """What decides the rows besides the encoder: pixels and metadata, as one hash."""
        pixels = json.dumps(self.folder.description["identity"], sort_keys=True)
        text = pixels + str(self.index.to_json(orient="split"))
        return {
            "source": hashlib.sha256(text.encode()).hexdigest(),
            "slices": len(self.images),
            "shard_slices": self.shard_slices,
        }


class ChunkDataset(Dataset[Chunk]):
    """Chunks of the shards asked for; none straddles two shards.

    The same slices form a chunk whichever process has the shard and whenever: features are equal
    bit for bit then.

    Args:
        slices: All of them.
        shards: Which, in order.
        size: Slices in a chunk.
        preprocessing: Whose geometry is applied.
        labels: Whether label images are read.
    """

    def __init__(
        self,
        slices: Slices,
        shards: Sequence[int],
        size: int,
        preprocessing: Preprocessing,
        labels: bool,
    ) -> None:
        self.folder, self.images = slices.folder, slices.images
        self.preprocessing, self.labels = preprocessing, labels
        self.parts = []
        for shard in shards:
            rows = slices.rows_of(shard)
            starts = range(rows.start, rows.stop, size)
            self.parts += [(shard, range(s, min(s + size, rows.stop)), rows.stop) for s in starts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Chunk:
        """Read one chunk; an unreadable picture is refused, not fatal."""
        shard, wanted, end = self.parts[number]
        rows, images, labels, refused = [], [], [], []
        for row in wanted:
            known = {"image": self.images[row]}
            try:
                image = self.preprocessing.fit(self.folder.image(known))
                label = self.folder.label(known) if self.labels else None
            except (DataError, ValueError) as error:
                found = error.found if isinstance(error, DataError) else str(error)
                refused.append((row, found))
                continue
            rows.append(row)
            images.append(image)
            labels.append(None if label is None else self.preprocessing.fit_labels(label))
        stacked = np.stack(images) if images else np.zeros((0, *self.preprocessing.size), np.uint8)
        return Chunk(shard, rows, torch.from_numpy(stacked), labels, refused, wanted.stop == end)
