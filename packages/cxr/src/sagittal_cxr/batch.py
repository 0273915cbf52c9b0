"""What a data module hands to a model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PairBatch(NamedTuple):
    """Images with their texts.

    Attributes:
        images: (B, 3, H, W) float32, preprocessed as the vision encoder wants them.
        input_ids: (B, T) int64 token ids, padded on the right.
        attention_mask: (B, T) int64, 1 for tokens, 0 for padding.
        rows: (B,) int64, each pair's row number in the index.
    """

    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
