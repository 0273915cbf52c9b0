"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_mri.data.datamodule import SimulatedMRI
from sagittal_mri.data.measured import MeasuredMRI
from sagittal_mri.data.simulate_radial import SimulatedRadialMRI
from sagittal_mri.nn.unrolled import UnrolledNetwork
from sagittal_mri.partitions import SSDU, KWeightedSSDU, Supervised
from sagittal_mri.units import UNITS

__all__ = [
    "SSDU",
    "UNITS",
    "KWeightedSSDU",
    "MeasuredMRI",
    "SimulatedMRI",
    "SimulatedRadialMRI",
    "Supervised",
    "UnrolledNetwork",
]
