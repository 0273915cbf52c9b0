"""Rows of a store from the features of a chunk: pooled, or one for each patch with its organs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.encoders import Features
from sagittal_genai.embedding.patches import empty_patches, patch_organs
from sagittal_genai.embedding.source import Chunk

if TYPE_CHECKING:
    import pandas

POOLED = -1  # in the column token


@dataclass
class Layout:
    """Which features of a chunk become rows, and what the index says of them.

    Attributes:
        kept: (n, h * w) bool of tokens; None: the pooled rows.
        index: One row of metadata for each row kept.
        background: Tokens left out because nothing is there.
    """

    kept: Tensor | None
    index: pandas.DataFrame
    background: int

    def rows(self, features: Features) -> Tensor:
        """The rows (m, D), in the order of the index."""
        if self.kept is None:
            return features.pooled
        return features.tokens[self.kept.to(features.tokens.device)]


def lay_out(
    chunk: Chunk,
    index: pandas.DataFrame,
    grid: tuple[int, int],
    *,
    tokens: bool,
    drop_background: bool,
    classes: Mapping[int, str],
) -> Layout:
    """Decide a chunk's rows; the same for an encoder and its random twin.

    Args:
        chunk: Of slices.
        index: Of all slices of the folder.
        grid: (h, w) of the encoder.
        tokens: One row for each patch instead of one for each slice.
        drop_background: Leave out patches of one grey value.
        classes: Of the label images.
    """
    table = index.iloc[chunk.rows].reset_index(drop=True)
    if not tokens:
        return Layout(None, _numbered(table, np.full(len(table), POOLED), grid), 0)
    patches = grid[0] * grid[1]
    kept = np.ones((len(table), patches), dtype=bool)
    if drop_background:
        for number, image in enumerate(chunk.images.numpy()):
            kept[number] = ~empty_patches(image, grid)
    organs: list[list[str] | None] = []
    for label, keep in zip(chunk.labels, kept, strict=True):
        chosen = np.flatnonzero(keep)
        found = None if label is None else patch_organs(label, grid, classes)
        organs += [None if found is None else found[int(patch)] for patch in chosen]
    slices, places = np.nonzero(kept)
    repeated = table.iloc[slices].reset_index(drop=True)
    repeated["image_organs"] = repeated.get("organs")
    repeated["organs"] = _lists(organs)
    numbered = _numbered(repeated, places, grid)
    return Layout(torch.from_numpy(kept), numbered, int((~kept).sum()))


def _numbered(
    table: pandas.DataFrame, tokens: NDArray[Any], grid: tuple[int, int]
) -> pandas.DataFrame:
    return table.assign(
        token=tokens.astype(np.int32), grid_h=np.int32(grid[0]), grid_w=np.int32(grid[1])
    )


def _lists(values: list[list[str] | None]) -> NDArray[np.object_]:
    """A column of lists; numpy would make a table of lists of equal length."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
