"""The 14 observations of CheXpert, and what other sets' labels say in these terms.

The observations are those of Irvin et al., "CheXpert" (AAAI 2019, arXiv 1901.07031), table 1. Other
sets name and cut findings differently. A row of :data:`MAPPINGS` says which of a set's names tell
of one observation and whether all of them being absent makes that observation absent: an absent
"Infiltration" does not make "Lung Opacity" absent, since a consolidation may be there. Rows whose
choice is a judgement say whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from sagittal_core.errors import DataError
from sagittal_cxr.records import NEGATIVE, POSITIVE, UNCERTAIN

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"

CHEXPERT = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    SUPPORT_DEVICES,
)

# Other spellings of the same observation. Case, underscores, hyphens and plural s do not matter.
ALIASES: Mapping[str, tuple[str, ...]] = {
    NO_FINDING: ("no findings", "normal"),
    "Enlarged Cardiomediastinum": ("enlarged cardiomediastinal silhouette",),
    "Cardiomegaly": ("enlarged heart",),
    "Lung Opacity": ("airspace opacity", "opacity", "lung opacities"),
    "Lung Lesion": ("pulmonary lesion",),
    "Edema": ("pulmonary edema", "oedema", "pulmonary oedema"),
    "Consolidation": (),
    "Pneumonia": (),
    "Atelectasis": (),
    "Pneumothorax": ("ptx",),
    "Pleural Effusion": ("effusion",),
    "Pleural Other": ("other pleural abnormality",),
    "Fracture": (),
    SUPPORT_DEVICES: ("device", "support and monitoring devices", "foreign object"),
}

_FLEISCHNER = (
    "Fleischner glossary (Hansell et al., Radiology 2008): 'infiltrate' says no more than opacity"
)
_PART = "one of several findings that the CheXpert observation takes in"


class Row(NamedTuple):
    """Names of one set that tell of one observation.

    Attributes:
        observation: One of :data:`CHEXPERT`.
        names: The set's names.
        complete: Whether all names absent means that the observation is absent.
        why: The reason, where the choice is a judgement; empty where only the spelling differs.
    """

    observation: str
    names: tuple[str, ...]
    complete: bool = True
    why: str = ""


class Mapped(NamedTuple):
    """A set's labels in CheXpert's terms.

    Attributes:
        labels: Observation to 1, 0 or -1; not judged where missing.
        left: Names given that tell of no observation, sorted.
    """

    labels: dict[str, int]
    left: list[str]


_NIH = (
    Row(NO_FINDING, ("No Finding",), why="normal but for findings outside the set's own 14"),
    Row("Cardiomegaly", ("Cardiomegaly",)),
    Row("Lung Opacity", ("Infiltration",), complete=False, why=_FLEISCHNER),
    Row("Lung Lesion", ("Mass", "Nodule"), why="CheXpert's lung lesion: nodule or mass by size"),
    Row("Edema", ("Edema",)),
    Row("Consolidation", ("Consolidation",)),
    Row("Pneumonia", ("Pneumonia",)),
    Row("Atelectasis", ("Atelectasis",)),
    Row("Pneumothorax", ("Pneumothorax",)),
    Row("Pleural Effusion", ("Effusion",)),
    Row("Pleural Other", ("Pleural Thickening",), complete=False, why=_PART),
)

_VINDR = (
    Row(NO_FINDING, ("No finding",)),
    Row("Cardiomegaly", ("Cardiomegaly",)),
    Row("Lung Opacity", ("Lung Opacity",)),
    Row("Lung Opacity", ("Infiltration",), complete=False, why=_FLEISCHNER),
    Row("Lung Lesion", ("Nodule/Mass",)),
    Row("Lung Lesion", ("Lung tumor", "Lung cavity"), complete=False, why=_PART),
    Row("Edema", ("Edema",)),
    Row("Consolidation", ("Consolidation",)),
    Row("Pneumonia", ("Pneumonia",)),
    Row("Atelectasis", ("Atelectasis",)),
    Row("Pneumothorax", ("Pneumothorax",)),
    Row("Pleural Effusion", ("Pleural effusion",)),
    Row("Pleural Other", ("Pleural thickening",), complete=False, why=_PART),
    Row("Fracture", ("Rib fracture", "Clavicle fracture"), complete=False, why=_PART),
)

# Names of the English label tree of PadChest (Bustos et al., Medical Image Analysis 2020). A name
# is a positive statement of the report; a zero that a reader adds may only mean "not said".
_PADCHEST = (
    Row(NO_FINDING, ("normal",), complete=False, why="other names come with it in some reports"),
    Row(
        "Enlarged Cardiomediastinum",
        ("mediastinal enlargement", "superior mediastinal enlargement"),
        complete=False,
    ),
    Row("Cardiomegaly", ("cardiomegaly",)),
    Row(
        "Lung Opacity",
        (
            "infiltrates",
            "alveolar pattern",
            "interstitial pattern",
            "reticular interstitial pattern",
            "reticulonodular interstitial pattern",
            "ground glass pattern",
            "miliary opacities",
            "increased density",
        ),
        complete=False,
        why="patterns of opacity; " + _FLEISCHNER,
    ),
    Row(
        "Lung Lesion",
        ("nodule", "multiple nodules", "mass", "pulmonary mass", "lung metastasis", "cavitation"),
        complete=False,
        why="'pseudonodule' and 'granuloma' are left out: not a lesion in doubt",
    ),
    Row("Edema", ("pulmonary edema",)),
    Row("Consolidation", ("consolidation", "air bronchogram"), complete=False, why=_PART),
    Row("Pneumonia", ("pneumonia", "atypical pneumonia")),
    Row(
        "Atelectasis",
        (
            "atelectasis",
            "laminar atelectasis",
            "lobar atelectasis",
            "segmental atelectasis",
            "total atelectasis",
            "round atelectasis",
            "atelectasis basal",
        ),
    ),
    Row("Pneumothorax", ("pneumothorax", "hydropneumothorax")),
    Row(
        "Pleural Effusion",
        (
            "pleural effusion",
            "loculated pleural effusion",
            "loculated fissural effusion",
            "hydropneumothorax",
            "empyema",
        ),
        complete=False,
        why="'costophrenic angle blunting' is left out: thickening looks the same",
    ),
    Row(
        "Pleural Other",
        (
            "pleural thickening",
            "apical pleural thickening",
            "calcified pleural thickening",
            "pleural plaques",
            "calcified pleural plaques",
            "pleural mass",
        ),
        complete=False,
        why=_PART,
    ),
    Row(
        "Fracture",
        (
            "fracture",
            "rib fracture",
            "callus rib fracture",
            "clavicle fracture",
            "humeral fracture",
            "vertebral fracture",
        ),
        complete=False,
        why="'vertebral compression' is left out: often a degenerative shape",
    ),
    Row(
        SUPPORT_DEVICES,
        (
            "NSG tube",
            "endotracheal tube",
            "tracheostomy tube",
            "chest drain tube",
            "gastrostomy tube",
            "ventriculoperitoneal drain tube",
            "catheter",
            "central venous catheter",
            "central venous catheter via jugular vein",
            "central venous catheter via subclavian vein",
            "central venous catheter via umbilical vein",
            "reservoir central venous catheter",
            "pacemaker",
            "dual chamber device",
            "single chamber device",
            "dai",
            "electrical device",
            "artificial heart valve",
            "artificial mitral heart valve",
            "artificial aortic heart valve",
            "aortic endoprosthesis",
        ),
        complete=False,
        why="devices of the chest; suture material, osteosynthesis and prostheses are left out",
    ),
)

MAPPINGS: Mapping[str, tuple[Row, ...]] = {"nih": _NIH, "vindr": _VINDR, "padchest": _PADCHEST}


def canonical(name: str) -> str:
    """Return the observation that a name spells.

    Raises:
        DataError: If it is none of the 14 nor an alias.
    """
    try:
        return _SPELLINGS[_key(name)]
    except KeyError:
        raise DataError(
            "label",
            key="observation",
            expected=f"one of {', '.join(CHEXPERT)}",
            found=repr(name),
            hint="names of other sets go through to_chexpert(labels, dataset)",
        ) from None


def to_chexpert(labels: Mapping[str, int], dataset: str) -> Mapped:
    """Say in CheXpert's terms what a set's labels say.

    An observation is positive if one of its names is, else uncertain if one is, else negative if
    all names of a complete row are negative, else not judged.

    Args:
        labels: The set's name to 1, 0 or -1.
        dataset: ``nih``, ``vindr``, ``padchest``, or ``chexpert`` for sets with these labels.

    Raises:
        DataError: If there is no mapping for the set.
    """
    if dataset == "chexpert":
        return Mapped({canonical(name): value for name, value in labels.items()}, [])
    if dataset not in MAPPINGS:
        known = ", ".join(["chexpert", *MAPPINGS])
        raise DataError("labels", key="dataset", expected=f"one of {known}", found=repr(dataset))
    given = {_key(name): value for name, value in labels.items()}
    found: dict[str, list[int]] = {}
    for row in MAPPINGS[dataset]:
        values = [given[key] for key in map(_key, row.names) if key in given]
        said = [value for value in values if value != NEGATIVE]
        if not said and row.complete and len(values) == len(row.names):
            said = [NEGATIVE]
        found.setdefault(row.observation, []).extend(said)
    names = {_key(name) for row in MAPPINGS[dataset] for name in row.names}
    left = sorted(name for name in labels if _key(name) not in names)
    return Mapped({o: _strongest(values) for o, values in found.items() if values}, left)


def _strongest(values: list[int]) -> int:
    return next(value for value in (POSITIVE, UNCERTAIN, NEGATIVE) if value in values)


def _key(name: str) -> str:
    return re.sub(r"[\s_/-]+", " ", name.strip().lower())


_SPELLINGS = {_key(name): o for o in CHEXPERT for name in (o, *ALIASES[o])}
_SPELLINGS |= {key + "s": o for key, o in _SPELLINGS.items() if key + "s" not in _SPELLINGS}
