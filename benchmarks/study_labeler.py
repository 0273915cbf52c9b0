"""Compares the rule labeler with two sets of labels that it did not make.

``python benchmarks/study_labeler.py --results FILE.json`` reads the sample data
``radlabels_reports`` and ``openi_reports``. Stated before it was run:

- The rules were written on 300 of radlabels' 1,000 synthetic reports, chosen by a hash of their
  names (:func:`development`); ``--development`` measures on those. The study measures on the other
  700 and on OpenI's reports, which no rule was written on.
- radlabels' labels are made by a model (RadGraph-XL) and a dictionary of phrases, not by a person.
  They call nearly every hedged finding present, so "found" (present or uncertain on both sides) is
  the fair comparison; "positive" is given beside it.
- OpenI's are the major headings that two coders gave to each report (Demner-Fushman et al., JAMIA
  2016). A heading that is missing counts as not found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core import sample_data
from sagittal_core.results import write_results
from sagittal_core.stats import bootstrap_interval
from sagittal_cxr.reports.labeler import Labeler
from sagittal_cxr.reports.observations import CHEXPERT, NO_FINDING
from sagittal_cxr.reports.sections import split_sections

DEVELOPMENT = 300
STATUS = {"definitely present": 1, "uncertain": -1, "definitely absent": 0}

# radlabels' 49 findings -> the observation that takes them in.
RADLABELS: Mapping[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("enlarged_cardiomediastinum",),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": (
        "lung_opacity",
        "ground_glass_opacity",
        "infiltration",
        "interstitial_thickening",
    ),
    "Lung Lesion": ("lung_lesion", "lung_nodule_or_mass"),
    "Edema": ("pulmonary_edema", "pulmonary_congestion_pulmonary_venous_congestion"),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",),
    "Atelectasis": ("atelectasis", "lobar_segmental_collapse", "whole_lung_or_majority_collapse"),
    "Pneumothorax": ("pneumothorax",),
    "Pleural Effusion": ("pleural_effusion",),
    "Pleural Other": ("pleural_other", "pleural_thickening"),
    "Fracture": ("acute_rib_fracture", "non_acute_rib_fracture", "fracture_generic"),
    "Support Devices": (
        "central_venous_catheter",
        "endotracheal_tube",
        "enteric_tube",
        "implantable_electronic_device",
        "intercostal_drain",
        "pacemaker_electronic_cardiac_device_or_wires",
        "support_devices_generic",
        "tracheostomy_tube",
    ),
}
# Of these CheXpert has no observation; air_space_opacity is consolidation and pneumonia at once.
RADLABELS_LEFT = (
    "air_space_opacity",
    "bronchial_wall_thickening",
    "bullous_disease",
    "calcification_of_the_aorta",
    "emphysema",
    "hiatus_hernia",
    "hilar_lymphadenopathy",
    "hyperinflation",
    "nonsurgical_internal_foreign_body",
    "other_hernia",
    "peribronchial_cuffing",
    "pneumomediastinum",
    "pneumoperitoneum",
    "pulmonary_artery_enlargement",
    "pulmonary_fibrosis",
    "shoulder_dislocation",
    "subcutaneous_emphysema",
    "tortuous_aorta",
    "tracheal_deviation",
)
# Beginnings of OpenI's major headings -> observation; a heading counts once it begins so.
OPENI: Mapping[str, tuple[str, ...]] = {
    NO_FINDING: ("normal",),
    "Enlarged Cardiomediastinum": ("Mediastinum/prominent", "Mediastinum/enlarged"),
    "Cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged"),
    "Lung Opacity": (
        "Opacity",
        "Airspace Disease",
        "Infiltrate",
        "Density/lung",
        "Density/retrocardiac",
        "Markings/lung/interstitial",
        "Lung Diseases, Interstitial",
    ),
    "Lung Lesion": ("Nodule", "Mass", "Cavitation"),
    "Edema": ("Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Pulmonary Atelectasis",),
    "Pneumothorax": ("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
    "Pleural Effusion": (
        "Pleural Effusion",
        "Hydropneumothorax",
        "Hemopneumothorax",
        "Hemothorax",
    ),
    "Pleural Other": ("Thickening/pleura", "Pleura"),
    "Fracture": ("Fractures, Bone",),
    "Support Devices": (
        "Catheters, Indwelling",
        "Implanted Medical Device",
        "Medical Device",
        "Stents",
        "Tube, Inserted",
    ),
}
NOT_READ = {"indication", "comparison", "technique", "examination", "title"}


class Reference(NamedTuple):
    """Texts and the labels that others gave them; (N, 14), NaN where nothing was said."""

    texts: list[str]
    labels: NDArray[np.float32]


def development(names: Iterable[str]) -> set[str]:
    """The 300 names whose SHA-256 comes first: the rules were written on these reports alone."""
    digests = sorted((hashlib.sha256(name.encode()).hexdigest(), name) for name in names)
    return {name for _, name in digests[:DEVELOPMENT]}


def read_radlabels(folder: Path, part: str) -> Reference:
    """The reports of one part, ``development`` or ``held out``, without history and technique."""
    given = json.loads((folder / "synthetic_labels.json").read_text(encoding="utf-8"))
    known = {finding for findings in RADLABELS.values() for finding in findings}
    unknown = {finding for one in given.values() for finding in one} - known - set(RADLABELS_LEFT)
    if unknown:
        raise SystemExit(f"findings without a mapping: {sorted(unknown)}")
    chosen = development(given)
    names = sorted(name for name in given if (name in chosen) == (part == "development"))
    texts, labels = [], np.full((len(names), len(CHEXPERT)), np.nan, dtype=np.float32)
    for row, name in zip(labels, names, strict=True):
        text = (folder / "synthetic_reports" / f"{name}.txt").read_text(encoding="utf-8")
        parts = [part for part in split_sections(text).parts if part.kind not in NOT_READ]
        texts.append("\n\n".join(part.heading + part.text for part in parts))
        for observation, findings in RADLABELS.items():
            said = {STATUS[given[name][finding]] for finding in findings if finding in given[name]}
            if said:  # present beats uncertain, which beats absent
                row[CHEXPERT.index(observation)] = next(s for s in (1, -1, 0) if s in said)
    return Reference(texts, labels)


def read_openi(folder: Path) -> tuple[Reference, dict[str, int]]:
    """All indexed reports with text; and how many were left out for what reason."""
    texts, rows, left = [], [], {"not indexed": 0, "no findings or impression": 0}
    for file in sorted(folder.glob("*.xml")):
        root = ElementTree.parse(file).getroot()
        headings = [node.text or "" for node in root.iter("major")]
        sections = {node.get("Label"): node.text or "" for node in root.iter("AbstractText")}
        text = "\n\n".join(sections.get(key, "") for key in ("FINDINGS", "IMPRESSION")).strip()
        if not headings or "No Indexing" in headings:
            left["not indexed"] += 1
        elif not text:
            left["no findings or impression"] += 1
        else:
            texts.append(text)
            rows.append([float(any(_means(h, OPENI[o]) for h in headings)) for o in CHEXPERT])
    return Reference(texts, np.array(rows, dtype=np.float32)), left


def _means(heading: str, beginnings: tuple[str, ...]) -> bool:
    return any(heading == one or heading.startswith(one + "/") for one in beginnings)


def f1(outcomes: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """F1 of outcomes: 0 true negative, 1 true positive, 2 false positive, 3 false negative."""
    hits, wrong, missed = ((outcomes == code).sum(axis) for code in (1, 2, 3))
    total = 2 * hits + wrong + missed
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 0.0)


def outcomes(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.select([truth & found, found, truth], [1.0, 2.0, 3.0], 0.0)


def scored(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> str:
    """F1 with its 95 % interval over reports; a dash where neither side has one."""
    if not truth.any():
        return "-"
    interval = bootstrap_interval(outcomes(truth, found), statistic=f1, resamples=2000)
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def compare(reference: Reference, labels: NDArray[np.float32]) -> list[list[str | int]]:
    """One line an observation: counts and F1 of positive, found, negative and uncertain."""
    lines: list[list[str | int]] = []
    for column, observation in enumerate(CHEXPERT):
        truth, ours = reference.labels[:, column], labels[:, column]
        if np.isnan(truth).all():
            continue
        said, found = np.isin(truth, (1, -1)), np.isin(ours, (1, -1))
        lines.append(
            [
                observation,
                int((truth == 1).sum()),
                scored(truth == 1, ours == 1),
                int(said.sum()),
                scored(said, found),
                int((truth == 0).sum()),
                scored(truth == 0, ours == 0),
                int((truth == -1).sum()),
                scored(truth == -1, ours == -1),
            ]
        )
    return lines


def confusion(reference: Reference, labels: NDArray[np.float32]) -> list[list[str | int]]:
    """Counts of reports: observation and reference's status by the labeler's status."""
    statuses = {"positive": 1, "uncertain": -1, "negative": 0, "not mentioned": np.nan}
    lines: list[list[str | int]] = []
    for column, observation in enumerate(CHEXPERT):
        truth, ours = reference.labels[:, column], labels[:, column]
        for name, value in statuses.items():
            rows = np.isnan(truth) if np.isnan(value) else truth == value
            if np.isnan(truth).all() or not rows.any():
                continue
            counts = [
                int((np.isnan(ours[rows]) if np.isnan(v) else ours[rows] == v).sum())
                for v in statuses.values()
            ]
            lines.append([observation, name, *counts])
    return lines


def macro(lines: list[list[str | int]], column: int) -> str:
    values = [float(str(line[column]).split()[0]) for line in lines if line[column] != "-"]
    return f"{np.mean(values):.3f}" if values else "-"


def rate(labeler: Labeler, texts: list[str]) -> float:
    """Reports a second on one core: the best of five passes."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        labeler.label_many(texts)
        best = min(best, time.perf_counter() - start)
    return len(texts) / best


RADLABELS_COLUMNS = [
    "observation",
    "n present",
    "F1 positive",
    "n found",
    "F1 found",
    "n absent",
    "F1 negative",
    "n uncertain",
    "F1 uncertain",
]
OPENI_COLUMNS = [
    "observation",
    "n coded",
    "F1 positive",
    "F1 found",
    "labeler: positive",
    "uncertain",
]
CONFUSION_COLUMNS = [
    "observation",
    "reference",
    "positive",
    "uncertain",
    "negative",
    "not mentioned",
]


def _columns(lines: list[list[str | int]], *chosen: int) -> tuple[list[str], list[list[str | int]]]:
    heads = [RADLABELS_COLUMNS[c] for c in chosen]
    return heads, [[line[c] for c in chosen] for line in lines]


def openi_lines(reference: Reference, labels: NDArray[np.float32]) -> list[list[str | int]]:
    lines: list[list[str | int]] = []
    for column, observation in enumerate(CHEXPERT):
        truth, ours = reference.labels[:, column] == 1, labels[:, column]
        positive, uncertain = int((ours == 1).sum()), int((ours == -1).sum())
        both = scored(truth, ours == 1), scored(truth, np.isin(ours, (1, -1)))
        lines.append([observation, int(truth.sum()), *both, positive, uncertain])
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--development", action="store_true", help="on the 300 reports, no file")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    labeler = Labeler()
    folder = sample_data.path("radlabels_reports")
    silver = read_radlabels(folder, "development" if args.development else "held out")
    labels = labeler.label_many(silver.texts)
    lines = compare(silver, labels)
    summary = [["macro", "", macro(lines, 2), "", macro(lines, 4), "", macro(lines, 6), "", ""]]
    for line in [RADLABELS_COLUMNS, *lines, *summary]:
        print(*line, sep="  ")
    if args.development:
        return
    openi, left = read_openi(sample_data.path("openi_reports"))
    openi_labels = labeler.label_many(openi.texts)
    coded = openi_lines(openi, openi_labels)
    coded.append(["macro", "", macro(coded, 2), macro(coded, 3), "", ""])
    for row in [OPENI_COLUMNS, *coded]:
        print(*row, sep="  ")
    speed = [
        ["radlabels, held out", len(silver.texts), f"{rate(labeler, silver.texts):,.0f}"],
        ["OpenI", len(openi.texts), f"{rate(labeler, openi.texts):,.0f}"],
    ]
    print(left, *speed, sep="\n")
    if args.results is None:
        return
    write_results(
        args.results,
        command="python benchmarks/study_labeler.py --results FILE.json",
        seeds=[0],
        n={
            "held-out radlabels reports": len(silver.texts),
            "OpenI reports": len(openi.texts),
            **{f"OpenI reports left out: {reason}": n for reason, n in left.items() if n},
        },
        tables={
            "radlabels": _columns([*lines, *summary], 0, 3, 4, 5, 6),
            "radlabels-status": _columns([*lines, *summary], 0, 1, 2, 7, 8),
            "openi": (OPENI_COLUMNS, coded),
            "confusion": (CONFUSION_COLUMNS, confusion(silver, labels)),
            "speed": (["reports", "n", "reports a second, one core"], speed),
        },
    )


if __name__ == "__main__":
    main()
