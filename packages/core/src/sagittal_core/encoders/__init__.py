"""Frozen encoders of images and texts, each with what identifies it.

The extra ``sagittal-core[encoders]`` brings transformers; EfficientNet-Lite0 and modules of your
own need nothing beside torch.
"""

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.sentence import SentenceEncoder
from sagittal_core.encoders.vision import Features, VisionEncoder, VisionSpec, load_vision

__all__ = [
    "Features",
    "Preprocessing",
    "SentenceEncoder",
    "VisionEncoder",
    "VisionSpec",
    "load_vision",
]
