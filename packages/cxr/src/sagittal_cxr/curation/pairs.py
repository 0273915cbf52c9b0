"""Pairs of an index as rows of a store: the image's embedding, then the text's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from sagittal_core.encoders import Preprocessing, SentenceEncoder, VisionSpec, load_vision
from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import write_atomically
from sagittal_core.store import EmbeddingStore, ShardWriter

if TYPE_CHECKING:
    from sagittal_cxr.index import RadiographIndex


class PairEncoder(Protocol):
    """What makes two unit rows of a pair.

    Attributes:
        preprocessing: Of images.
        image_dim: Width of an image's row.
        text_dim: Width of a text's row.
        identity: Plain values that decide the rows.
        scale: Of cosines in the contrastive loss; None: there is no common space.
    """

    preprocessing: Preprocessing
    image_dim: int
    text_dim: int
    identity: dict[str, Any]
    scale: float | None

    def images(self, pixels: Tensor) -> Tensor:
        """(B, image_dim) of normalised (B, 3, H, W)."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(B, text_dim)."""
        ...


class FrozenPair:
    """An image and a sentence encoder that were not trained together.

    Args:
        vision: Which vision encoder.
        text: Sample data's name or folder of a sentence encoder.
        device: Of the arithmetic.
    """

    scale: float | None = None

    def __init__(self, vision: VisionSpec | None, text: str, device: str) -> None:
        self._vision = load_vision(vision or VisionSpec()).to(device)
        self._text = SentenceEncoder(text, device)
        self.preprocessing, self._device = self._vision.preprocessing, device
        self.image_dim, self.text_dim = self._vision.dim, self._text.dim
        self.identity: dict[str, Any] = {
            "vision": self._vision.identity,
            "text": self._text.identity,
        }

    def images(self, pixels: Tensor) -> Tensor:
        """Pooled rows to unit length."""
        return normalize(self._vision(pixels.to(self._device)).pooled, dim=1).cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentence embeddings."""
        return torch.from_numpy(self._text.encode(texts))


class TrainedPair:
    """A trained image-text model.

    Args:
        path: Run folder of ``fit`` or exported folder.
        device: Of the arithmetic.
    """

    def __init__(self, path: str, device: str) -> None:
        from sagittal_cxr.runs import load_image_text

        self._model = load_image_text(path).to(device)
        self._device, self.preprocessing = device, self._model.preprocessing
        self.image_dim = self.text_dim = int(self._model.dim)
        self.scale: float | None = float(self._model.logit_scale.detach().exp())
        self.identity: dict[str, Any] = {
            "model": weights_sha256(self._model),
            "preprocessing": self.preprocessing.described(),
        }

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        """The image's row."""
        return self._model.encode_image(pixels.to(self._device)).float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """The text's row."""
        ids, mask = self._model.tokenize(list(texts))
        return self._model.encode_text(ids.to(self._device), mask.to(self._device)).float().cpu()


def open_encoder(
    model: str | None, vision: VisionSpec | None, text: str, device: str
) -> PairEncoder:
    """A trained model if one is named, else the two frozen encoders.

    Raises:
        ConfigError: Both are given.
    """
    if model is None:
        return FrozenPair(vision, text, device)
    if vision is not None:
        raise ConfigError("curate: give a model, or a vision encoder and a text encoder, not both")
    return TrainedPair(model, device)


def embed(
    index: RadiographIndex,
    rows: NDArray[np.int64],
    encoder: PairEncoder,
    folder: Path,
    *,
    batch_size: int,
    shard_pairs: int,
    workers: int,
    watch: Any,
) -> EmbeddingStore:
    """Embed pairs into a store; what is there already is kept.

    An image that cannot be read is left out and noted in ``refused/`` beside the shards.

    Args:
        index: The index.
        rows: Which rows of it, ascending.
        encoder: Makes the rows.
        folder: Of the store.
        batch_size: Pairs at a time.
        shard_pairs: Pairs in a shard: what a killed run loses at most.
        workers: Loading processes.
        watch: Wraps the list of missing shards to show progress.

    Raises:
        ConfigError: The folder holds rows of other pairs or another encoder.
    """
    shards = max(1, -(-len(rows) // shard_pairs))
    writer = ShardWriter(
        folder,
        dim=encoder.image_dim + encoder.text_dim,
        dtype=torch.float32,
        shards=shards,
        identity={
            **encoder.identity,
            "index": index.identity,
            "pairs": len(rows),
            "shard_pairs": shard_pairs,
            "image_dim": encoder.image_dim,
        },
    )
    texts = index.frame(["text"])["text"].to_numpy()
    for shard in watch(writer.missing()):
        mine = rows[shard * shard_pairs : (shard + 1) * shard_pairs]
        parts, used, refused = [torch.empty(0, writer.dim)], [], []
        for places, pixels, bad in _batches(index, mine, encoder, batch_size, workers):
            refused += bad
            if places:
                images = encoder.images(encoder.preprocessing.normalise(pixels))
                rows_of_texts = encoder.texts([str(texts[row]) for row in places])
                parts.append(torch.cat([images, rows_of_texts], 1))
                used += places
        _note_refused(folder, shard, refused)
        writer.write(shard, torch.cat(parts), _table(used))
    return EmbeddingStore(folder)


def refused(folder: Path) -> list[tuple[int, str]]:
    """(row, why) of the images that could not be read."""
    found: list[tuple[int, str]] = []
    for file in sorted((folder / "refused").glob("*.json")):
        found += [(int(row), str(why)) for row, why in json.loads(file.read_text("utf-8"))]
    return found


def _note_refused(folder: Path, shard: int, found: list[tuple[int, str]]) -> None:
    (folder / "refused").mkdir(exist_ok=True)
    write_atomically(folder / "refused" / f"{shard:05d}.json", json.dumps(found))


def _table(rows: list[int]) -> Any:
    import pandas

    return pandas.DataFrame({"row": np.array(rows, np.int64)})


class _Images(Dataset[tuple[int, Any]]):
    """Row number and its fitted image, or why there is none."""

    def __init__(
        self, index: RadiographIndex, rows: NDArray[np.int64], preprocessing: Preprocessing
    ) -> None:
        self.index, self.rows, self.preprocessing = index, rows, preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        from sagittal_cxr.images import load_grey

        row = int(self.rows[number])
        try:
            return row, self.preprocessing.fit(load_grey(self.index.image_path(row)))
        except DataError as error:
            return row, f"{error.key}: {error.found}"


def _batches(
    index: RadiographIndex,
    rows: NDArray[np.int64],
    encoder: PairEncoder,
    size: int,
    workers: int,
) -> Iterator[tuple[list[int], Tensor, list[tuple[int, str]]]]:
    """Rows, their images (B, H, W) uint8, and those that could not be read."""
    loader: DataLoader[Any] = DataLoader(
        _Images(index, rows, encoder.preprocessing),
        batch_size=size,
        num_workers=workers,
        collate_fn=list,
    )
    for items in loader:
        read = [(row, image) for row, image in items if not isinstance(image, str)]
        bad = [(row, image) for row, image in items if isinstance(image, str)]
        pixels = torch.from_numpy(np.stack([image for _, image in read])) if read else Tensor()
        yield [row for row, _ in read], pixels, bad
