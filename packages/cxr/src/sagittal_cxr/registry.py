"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_cxr.curation.jest import JESTSelector
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.scores import CLIPScoreSelector, RandomSelector, RHOSelector
from sagittal_cxr.curation.semdedup import SemDeDupSelector

__all__ = [
    "CLIPScoreSelector",
    "JESTSelector",
    "PrototypeSelector",
    "RHOSelector",
    "RandomSelector",
    "SemDeDupSelector",
]
