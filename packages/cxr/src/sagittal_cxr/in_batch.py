"""Loss and retrieval among the pairs of a block, over an evaluation set that ranks share."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from sagittal_cxr.batch import PairBatch
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.objectives import Objective, gather_rows


class PairRows:
    """Rows of an evaluation set, collected batch by batch.

    Measures are means over blocks of the set in the order of its rows, so they do not depend on the
    batch size of the evaluation or on the number of processes.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, batch: PairBatch, images: Tensor, texts: Tensor) -> None:
        """Take a batch and its unit rows (B, D)."""
        tokens, lengths = batch.input_ids.cpu(), batch.attention_mask.sum(1).tolist()
        texts_of = [_key(ids[:n].tolist()) for ids, n in zip(tokens, lengths, strict=True)]
        keys = torch.tensor(texts_of, dtype=torch.int64, device=batch.rows.device)
        numbers = torch.stack([batch.rows, keys], 1)
        self._parts.append((numbers, torch.cat([images, texts], 1)))

    def compute(
        self, network: ImageTextModel, objective: Objective, block: int
    ) -> dict[str, Tensor]:
        """Loss, and the share of images (texts) whose most similar text (image) is theirs.

        A pair with the very same text counts as theirs too. Every rank must call it, and gets the
        same values; there are none without rows.

        Args:
            network: Whose scale and bias the loss uses.
            objective: The loss.
            block: Pairs in a block at most; blocks are as equal as can be.
        """
        device = network.logit_scale.device
        numbers = torch.zeros(0, 2, dtype=torch.int64, device=device)
        rows = torch.zeros(0, 2 * network.dim, device=device)
        if self._parts:
            numbers, rows = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        numbers, rows = gather_rows(numbers), gather_rows(rows)
        if not len(rows):
            return {}
        order = numbers[:, 0].argsort()
        keys, rows = numbers[order, 1], rows[order]
        found: dict[str, list[Tensor]] = {
            "loss": [],
            "r1_image_to_text": [],
            "r1_text_to_image": [],
        }
        blocks = -(-len(rows) // block)
        for key, part in zip(keys.tensor_split(blocks), rows.tensor_split(blocks), strict=True):
            images, texts = part.split(network.dim, 1)
            loss = objective.per_pair(images, texts, network.logit_scale, network.logit_bias)
            cosines = images @ texts.T
            found["loss"].append(loss)
            found["r1_image_to_text"].append((key[cosines.argmax(1)] == key).float())
            found["r1_text_to_image"].append((key[cosines.argmax(0)] == key).float())
        return {name: torch.cat(values).mean() for name, values in found.items()}


def _key(ids: list[int]) -> int:
    """A number for a text: the hash of its token ids."""
    digest = hashlib.blake2b(repr(ids).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
