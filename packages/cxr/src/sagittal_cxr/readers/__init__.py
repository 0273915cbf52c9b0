"""Readers of public chest X-ray data sets: files as published to records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sagittal_core.cli import unknown
from sagittal_core.errors import ConfigError
from sagittal_cxr.readers.brax import BRAX
from sagittal_cxr.readers.chexpert import CheXpert, CheXpertPlus
from sagittal_cxr.readers.mimic_cxr import MimicCXR
from sagittal_cxr.readers.nih import NIH
from sagittal_cxr.readers.openi import OpenI
from sagittal_cxr.readers.padchest import PadChest
from sagittal_cxr.readers.reader import Reader, Refused
from sagittal_cxr.readers.rexgradient import ReXGradient
from sagittal_cxr.readers.rsna import RSNA
from sagittal_cxr.readers.siim import SIIM
from sagittal_cxr.readers.table import Table
from sagittal_cxr.readers.vindr import VinDr
from sagittal_cxr.reports.sections import Fallback

__all__ = ["READERS", "Reader", "Refused", "make_reader"]

READERS: dict[str, Callable[..., Reader]] = {
    "brax": BRAX,
    "chexpert": CheXpert,
    "chexpert_plus": CheXpertPlus,
    "mimic_cxr": MimicCXR,
    "nih": NIH,
    "openi": OpenI,
    "padchest": PadChest,
    "rexgradient": ReXGradient,
    "rsna": RSNA,
    "siim": SIIM,
    "table": Table,
    "vindr": VinDr,
}


def make_reader(
    name: str, options: Mapping[str, Any], fallback: Fallback = "last paragraph"
) -> Reader:
    """The reader of a name with its options.

    Args:
        name: one of :data:`READERS`.
        options: of the reader.
        fallback: what stands in for the findings of a free-text report without sections, where the
            reader reads such reports.

    Raises:
        ConfigError: for a name or an option that does not exist, or one that is missing.
    """
    if name not in READERS:
        raise ConfigError(unknown("reader", name, [*READERS], "datasets"))
    parameters = inspect.signature(READERS[name]).parameters
    for option in options:
        if option not in parameters:
            raise ConfigError(unknown("option", option, [*parameters], f"reader {name}"))
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"reader {name} needs the option {option}")
    texts = {"fallback": fallback} if "fallback" in parameters else {}
    return READERS[name](**texts | dict(options))
