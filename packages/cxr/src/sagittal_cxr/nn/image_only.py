"""A vision encoder alone behind the interface of image-text models: for baselines and controls."""

from __future__ import annotations

from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_cxr.nn.vision import ImageEncoder


class ImageOnlyModel(nn.Module):
    """What a task may ask of a model that knows no texts.

    Args:
        vision: The encoder.
    """

    def __init__(self, vision: ImageEncoder) -> None:
        super().__init__()
        self.vision = vision

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through: ``fit`` each, then ``normalise`` a batch."""
        return self.vision.preprocessing

    def image_features(self, images: Tensor) -> Tensor:
        """Pooled rows (B, D)."""
        pooled: Tensor = self.vision(images).pooled
        return pooled

    def image_tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Rows of patches (B, h * w, D), row-major, and (h, w)."""
        _, tokens, grid = self.vision(images)
        return tokens, grid
