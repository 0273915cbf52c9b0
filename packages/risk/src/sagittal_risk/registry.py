"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_risk.adacvd import AdaCVD
from sagittal_risk.data import RiskRecords

__all__ = ["AdaCVD", "RiskRecords"]
