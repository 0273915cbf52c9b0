"""Images and texts as unit vectors of one space: the model that everything else is about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.weights import drawn
from sagittal_core.errors import ConfigError
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder


class ImageTextModel(nn.Module):
    """An image encoder and a text encoder, each with a linear projection to a common space.

    Published: projections to 512 dimensions, cosine similarity times a learnt scale that begins at
    100 (temperature 0.01).

    Args:
        vision: The image encoder.
        text: The text encoder.
        dim: Width of the common space.
        temperature: The scale of similarities begins at its inverse.
        logit_bias: Begin of a learnt bias of similarities, -10 in SigLIP; None: there is none, as
            in InfoNCE, where it would not matter.
        seed: Of the projections' weights.

    Attributes:
        logit_scale: () logarithm of the scale.
        logit_bias: () or None.
        trained_on: Identity of the index that it was trained on; None: not known.
    """

    def __init__(
        self,
        vision: ImageEncoder,
        text: TextEncoder,
        dim: int = 512,
        temperature: float = 0.01,
        logit_bias: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dim < 1 or temperature <= 0:
            raise ConfigError(f"dim {dim}, temperature {temperature}: both must be above 0")
        self.vision, self.text, self.dim = vision, text, dim
        self.trained_on: str | None = None
        self.image_projection = drawn(lambda: _projection(vision.dim, dim), seed)
        self.text_projection = drawn(lambda: _projection(text.dim, dim), seed + 1)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.logit_bias = None
        if logit_bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor(float(logit_bias)))

    def add_projection_biases(self) -> None:
        """Give both projections a bias of 0, as the released model has one; training has none."""
        for layer in (self.image_projection, self.text_projection):
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through: ``fit`` each, then ``normalise`` a batch."""
        return self.vision.preprocessing

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both (B, T) int64, on the CPU."""
        return self.text.tokenize(texts)

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit rows (B, dim) of images (B, 3, H, W), preprocessed."""
        return _unit(self.image_projection(self.image_features(images)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit rows (B, dim) of texts, from :meth:`tokenize`."""
        return _unit(self.text_projection(self.text(input_ids, attention_mask)))

    def image_features(self, images: Tensor) -> Tensor:
        """Pooled rows (B, D) before the projection."""
        pooled: Tensor = self.vision(images).pooled
        return pooled

    def image_tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Rows of patches (B, h * w, D) before the projection, row-major, and (h, w)."""
        _, tokens, grid = self.vision(images)
        return tokens, grid


def _projection(inputs: int, outputs: int) -> nn.Linear:
    """Normal with deviation 1 / sqrt(inputs), as in CLIP."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, at least in single precision."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return functional.normalize(wide, dim=1)
