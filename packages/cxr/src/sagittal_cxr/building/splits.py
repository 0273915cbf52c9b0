"""Who is trained, validated and tested on: always whole patients."""

from __future__ import annotations

from collections.abc import Sequence

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.building.settings import DataSet, Split

SPLITS = ("train", "val", "test")


def assign(
    dataset: DataSet, patients: Sequence[str], official: Sequence[str | None], split: Split
) -> list[str]:
    """The split of every row.

    A patient's place depends on the seed and the patient alone: not on who else is there, nor on
    the order of rows.

    Args:
        dataset: whose rows they are.
        patients: of each row.
        official: the data set's own split of each row; None: it does not say.
        split: shares and seed.

    Raises:
        DataError: if the official split puts a patient into two.
        ConfigError: if official is asked of a set that has none, or not for all rows.
    """
    given = sum(s is not None for s in official)
    rule = dataset.split
    if rule == "auto":
        rule = "official" if given else "patients"
    if rule == "patients":
        drawn = {p: draw(p, split.val_share, split.test_share, split.seed) for p in set(patients)}
        return [drawn[p] for p in patients]
    if given < len(official):
        raise ConfigError(
            f"index: {dataset.name} says no split of {len(official) - given} of {len(official)}"
            " rows; give split: patients"
        )
    place: dict[str, str] = {}
    crossing: set[str] = set()
    for patient, name in zip(patients, official, strict=True):
        assert name is not None
        if place.setdefault(patient, name) != name:
            crossing.add(patient)
    if crossing:
        raise DataError(
            dataset.name,
            key="split",
            expected="every patient in one split",
            found=f"{len(crossing)} of {len(place)} patients in two or more",
            hint="give split: patients to divide them anew",
        )
    if "val" not in place.values():
        for patient, name in place.items():
            if name == "train":
                place[patient] = draw(patient, split.val_share, 0.0, split.seed)
    return [place[p] for p in patients]


def draw(patient: str, val_share: float, test_share: float, seed: int) -> str:
    """train, val or test of one patient, with these probabilities of val and test."""
    place = counter_seed(seed, "split", patient) / 2**63
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"
