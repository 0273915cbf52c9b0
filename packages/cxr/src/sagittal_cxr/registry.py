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
from sagittal_cxr.tasks.fine_tuning import FineTuning
from sagittal_cxr.tasks.grounding import Grounding
from sagittal_cxr.tasks.linear_probe import LinearProbe
from sagittal_cxr.tasks.report_generation import ReportGeneration
from sagittal_cxr.tasks.retrieval import Retrieval
from sagittal_cxr.tasks.segmentation import Segmentation
from sagittal_cxr.tasks.zero_shot import ZeroShot

__all__ = [
    "CLIPScoreSelector",
    "CheXficient",
    "FineTuning",
    "Grounding",
    "ImageEncoder",
    "ImageTextModel",
    "InfoNCE",
    "JESTSelector",
    "LinearProbe",
    "PrototypeSelector",
    "RHOSelector",
    "RadiographReports",
    "RandomSelector",
    "ReportGeneration",
    "Retrieval",
    "Segmentation",
    "SemDeDupSelector",
    "SigLIP",
    "TextEncoder",
    "ZeroShot",
]
