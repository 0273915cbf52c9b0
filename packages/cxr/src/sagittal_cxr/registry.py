"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_cxr.chexficient import CheXficient
from sagittal_cxr.curation.jest import JESTSelector
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.scores import CLIPScoreSelector, RandomSelector, RHOSelector
from sagittal_cxr.curation.semdedup import SemDeDupSelector
from sagittal_cxr.data import RadiographReports
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.objectives import InfoNCE, SigLIP

__all__ = [
    "CLIPScoreSelector",
    "CheXficient",
    "ImageEncoder",
    "ImageTextModel",
    "InfoNCE",
    "JESTSelector",
    "PrototypeSelector",
    "RHOSelector",
    "RadiographReports",
    "RandomSelector",
    "SemDeDupSelector",
    "SigLIP",
    "TextEncoder",
]
