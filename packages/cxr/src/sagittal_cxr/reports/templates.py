"""Pseudo-reports: sentences that say what a set's labels say, for sets without reports.

Each finding is put into one of several wordings, chosen by a counter seed from the record's key, so
the same record gets the same text on every machine. All wordings are the project's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sagittal_core.seeds import counter_seed
from sagittal_cxr.records import NEGATIVE, POSITIVE, UNCERTAIN

_PURPOSE = "pseudo-report"

NORMAL = (
    "The lungs are clear and the heart is of normal size.",
    "Normal radiograph of the chest.",
    "No abnormality of heart, lungs or pleura.",
    "Lungs, pleura and heart show nothing abnormal.",
    "There is no finding to report.",
)
ABNORMAL = ("The radiograph is abnormal.", "There is an abnormality.")
POSITIVES = (
    "There is {finding}.",
    "{Finding} is present.",
    "The radiograph shows {finding}.",
    "{Finding} is seen.",
    "Findings of {finding}.",
)
UNCERTAINS = (
    "{Finding} is possible.",
    "There may be {finding}.",
    "{Finding} cannot be excluded.",
    "Appearances raise the question of {finding}.",
)
NEGATIVES = (
    "No {finding}.",
    "There is no {finding}.",
    "No sign of {finding}.",
    "{Finding} is not seen.",
)

# How a label reads in a sentence, where lower case alone does not do: (after "is", after "no").
_WORDS: Mapping[str, tuple[str, str]] = {
    "enlarged cardiomediastinum": ("widening of the mediastinum", "widening of the mediastinum"),
    "lung opacity": ("opacity in the lung", "opacity in the lung"),
    "lung lesion": ("a focal lesion of the lung", "focal lesion of the lung"),
    "edema": ("pulmonary edema", "pulmonary edema"),
    "effusion": ("pleural effusion", "pleural effusion"),
    "pleural other": ("a pleural abnormality", "pleural abnormality"),
    "fracture": ("a fracture", "fracture"),
    "support devices": ("hardware for support", "hardware for support"),
    "mass": ("a mass in the lung", "mass in the lung"),
    "nodule": ("a nodule in the lung", "nodule in the lung"),
    "nodule/mass": ("a nodule or mass in the lung", "nodule or mass in the lung"),
    "infiltration": ("infiltration of the lung", "infiltration of the lung"),
    "fibrosis": ("fibrosis of the lung", "fibrosis of the lung"),
    "hernia": ("a diaphragmatic hernia", "diaphragmatic hernia"),
    "other lesion": ("another lesion", "other lesion"),
    "ild": ("interstitial lung disease", "interstitial lung disease"),
    "enlarged pa": ("enlargement of the pulmonary artery", "enlargement of the pulmonary artery"),
    "copd": ("COPD", "COPD"),
}
_NORMAL_NAMES = {"no finding", "normal"}


def pseudo_report(labels: Mapping[str, int], *, seed: int, key: str, max_negatives: int = 3) -> str:
    """Return a short report of one record's labels.

    Positive findings come first, then uncertain, then negative ones, each group in an order drawn
    for the record.

    Args:
        labels: Finding, as the data set writes it, to 1 present, 0 absent or -1 uncertain.
        seed: The run's seed.
        key: What names the record among all, such as dataset and image.
        max_negatives: So many absent findings are named, drawn for the record: reports do not
            list all that is absent. All of them count as negative in the labels all the same.

    Returns:
        Sentences on one line; empty if there are no labels.
    """
    named = {_plain(name): value for name, value in labels.items()}
    normal = [value for name, value in named.items() if name in _NORMAL_NAMES]
    findings = sorted(name for name in named if name not in _NORMAL_NAMES)
    draw = _Draw(seed, key)
    groups = {
        status: draw.order([name for name in findings if named[name] == status])
        for status in (POSITIVE, UNCERTAIN, NEGATIVE)
    }
    groups[NEGATIVE] = groups[NEGATIVE][:max_negatives]
    sentences = []
    if not groups[POSITIVE] and not groups[UNCERTAIN]:
        if POSITIVE in normal:
            sentences.append(draw.one_of(NORMAL, "normal"))
        elif NEGATIVE in normal:
            sentences.append(draw.one_of(ABNORMAL, "normal"))
    for status, wordings in (
        (POSITIVE, POSITIVES),
        (UNCERTAIN, UNCERTAINS),
        (NEGATIVE, NEGATIVES),
    ):
        for name in groups[status]:
            sentences.append(_sentence(draw.one_of(wordings, name), name, status))
    return " ".join(sentences)


class _Draw:
    """Choices that depend on seed, record and purpose alone."""

    def __init__(self, seed: int, key: str) -> None:
        self._seed, self._key = seed, key

    def one_of(self, choices: Sequence[str], purpose: str) -> str:
        number = counter_seed(self._seed, self._key, _PURPOSE, "wording", purpose)
        return choices[number % len(choices)]

    def order(self, names: list[str]) -> list[str]:
        return sorted(
            names, key=lambda name: counter_seed(self._seed, self._key, _PURPOSE, "order", name)
        )


def _sentence(wording: str, name: str, status: int) -> str:
    positive, negative = _WORDS.get(name, (name, name))
    words = negative if status == NEGATIVE else positive
    if wording.startswith("{Finding}") and status == NEGATIVE:
        words = positive
    return wording.format(finding=words, Finding=words[:1].upper() + words[1:])


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
