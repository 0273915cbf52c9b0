"""The models that an evaluation compares, as its YAML names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sagittal_core.encoders import VisionSpec
from sagittal_core.errors import ConfigError

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_only import ImageOnlyModel
    from sagittal_cxr.nn.image_text import ImageTextModel


@dataclass(frozen=True)
class ModelSource:
    """A model: an image-text model by ``path``, or a vision encoder alone by ``vision``.

    Attributes:
        path: Run folder of a fit, with or without the hash, or an exported model.
        vision: A vision encoder as a baseline; tasks that need texts do not apply to it.
        twin_seed: Draw the vision encoder's weights by this seed: what a random network of this
            architecture reaches.
    """

    path: Path | None = None
    vision: VisionSpec | None = None
    twin_seed: int | None = None


def load(name: str, source: ModelSource) -> ImageTextModel | ImageOnlyModel:
    """Load a model in evaluation mode.

    Raises:
        ConfigError: Not exactly one of path and vision is given, or a twin of a trained model.
        DataError: The weights cannot be read.
    """
    if (source.path is None) == (source.vision is None):
        raise ConfigError(f"model {name}: give either path or vision")
    if source.path is not None:
        if source.twin_seed is not None:
            raise ConfigError(f"model {name}: twin_seed goes with vision only")
        from sagittal_cxr.runs import load_image_text

        return load_image_text(source.path)
    from sagittal_cxr.nn.image_only import ImageOnlyModel
    from sagittal_cxr.nn.vision import ImageEncoder

    assert source.vision is not None
    encoder = ImageEncoder(source.vision, twin_seed=source.twin_seed)
    return ImageOnlyModel(encoder).eval()
