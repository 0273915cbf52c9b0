"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_cxr.tasks.linear_probe import LinearProbe
from sagittal_cxr.tasks.retrieval import Retrieval
from sagittal_cxr.tasks.zero_shot import ZeroShot

__all__ = [
    "LinearProbe",
    "Retrieval",
    "ZeroShot",
]
