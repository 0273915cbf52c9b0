"""What a report generator needs of images, computed once: few tokens each, and an embedding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_cxr.nn.report_generator import pooled_tokens
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.training import digest

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel
    from sagittal_cxr.tasks.task import Benchmark

_SHARD, _AT_ONCE = 256, 16


class ImageRows(NamedTuple):
    """N images.

    Attributes:
        tokens: (N, side * side, D).
        embeddings: (N, E) unit rows: of the space shared with texts, else the pooled features.
    """

    tokens: Tensor
    embeddings: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D."""
        return int(self.tokens.shape[2])


def image_rows(
    model: ImageTextModel,
    benchmark: Benchmark,
    rows: NDArray[np.int64],
    side: int,
    folder: Path,
    device: str,
) -> ImageRows:
    """Tokens and embeddings of rows of an index; stored shard by shard, so a kill loses one.

    Args:
        model: In evaluation mode.
        benchmark: Gives the images.
        rows: (N,) numbers.
        side: Tokens are averaged over a grid of side x side.
        folder: The store goes to a folder in it; shared by the tasks of a model and benchmark.
        device: Of the arithmetic.

    Raises:
        DataError: If an image cannot be read.
    """
    import pandas

    model = model.to(device)
    identity = {
        "weights": weights_sha256(model),
        "preprocessing": model.preprocessing.described(),
        "rows": digest({"rows": rows.tolist(), "index": benchmark.opened.identity}),
        "side": side,
    }
    width = int(model.vision.dim)
    dim = int(getattr(model, "dim", width))
    target = folder / f"images-{digest(identity)}"
    parts = [rows[start : start + _SHARD] for start in range(0, len(rows), _SHARD)]
    # Tokens and embedding of an image are one row of the store.
    store = ShardWriter(
        target,
        dim=side * side * width + dim,
        dtype=torch.float16,
        shards=len(parts),
        identity=identity,
    )
    for number in store.missing():
        made = [
            _encoded(model, benchmark, parts[number][i : i + _AT_ONCE], side, device)
            for i in track(range(0, len(parts[number]), _AT_ONCE), "encoding images")
        ]
        store.write(number, torch.cat(made), pandas.DataFrame({"row": parts[number]}))
    whole = EmbeddingStore(target).rows(np.arange(len(rows))).float()
    tokens = whole[:, : side * side * width].unflatten(1, (side * side, width))
    return ImageRows(tokens, whole[:, side * side * width :].numpy())


@torch.no_grad()
def _encoded(
    model: ImageTextModel, benchmark: Benchmark, rows: NDArray[np.int64], side: int, device: str
) -> Tensor:
    from sagittal_cxr.images import load_grey

    fitted = [model.preprocessing.fit(load_grey(benchmark.image_path(int(row)))) for row in rows]
    pixels = model.preprocessing.normalise(torch.from_numpy(np.stack(fitted)).to(device))
    tokens, grid = model.image_tokens(pixels)
    pooled = pooled_tokens(tokens, grid, side)
    if hasattr(model, "encode_image"):
        embedding = model.encode_image(pixels)
    else:  # a vision encoder alone
        embedding = functional.normalize(model.image_features(pixels), dim=1)
    return torch.cat([pooled.flatten(1), embedding], 1).cpu()
