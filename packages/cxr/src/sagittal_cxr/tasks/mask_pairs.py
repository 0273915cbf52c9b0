"""Radiographs of an index that have a mask of one structure, and who is trained and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.images import load_grey
from sagittal_cxr.masks import load_mask
from sagittal_cxr.tasks.task import NotApplicable, Split

if TYPE_CHECKING:
    from sagittal_cxr.tasks.task import Benchmark


class Pair(NamedTuple):
    """One radiograph with its mask.

    Attributes:
        row: Number in the index.
        image: Path of the radiograph.
        mask: As the index has it; None: an empty mask.
        root: Of the data set, which paths in ``mask`` are relative to.
        patient: Independent unit.
        split: train, val or test.
    """

    row: int
    image: Path
    mask: str | None
    root: Path
    patient: str
    split: str


class Fold(NamedTuple):
    """Numbers of the pairs to train and to test on."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def mask_pairs(benchmark: Benchmark, finding: str | None) -> list[Pair]:
    """Rows of a benchmark's index, of all splits, that have a mask or are known to need none.

    Args:
        benchmark: Whose data sets and views count.
        finding: Images without a mask in which this finding is labelled absent have an empty mask;
            None: images without a mask are left out.

    Raises:
        NotApplicable: If no image has a mask.
    """
    pairs: list[Pair] = []
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        try:
            rows = benchmark.rows(split)
        except NotApplicable:  # the split is empty
            continue
        columns = [rows[c] for c in ("dataset", "mask", "patient", "negative")]
        for number, dataset, mask, patient, negative in zip(rows.index, *columns, strict=True):
            code = mask if isinstance(mask, str) else None
            if code is not None or (finding is not None and finding in negative):
                image, root = benchmark.image_path(int(number)), benchmark.opened.root(dataset)
                pairs.append(Pair(int(number), image, code, root, str(patient), split))
    if not any(pair.mask for pair in pairs):
        raise NotApplicable("no image of the index has a mask")
    return sorted(pairs)


def divide(pairs: Sequence[Pair], count: int | None, tested: Split, seed: int) -> list[Fold]:
    """Who is trained and who is tested on.

    Args:
        pairs: N of them.
        count: Folds of patients, drawn at random: every pair is tested once. None: one fold, the
            index's splits: trained on train, tested on ``tested``.
        tested: A split.
        seed: Of the folds.

    Raises:
        ConfigError: If there are fewer patients than folds.
        NotApplicable: If nothing is left to train or to test on.
    """
    patients = np.array([pair.patient for pair in pairs])
    if count is not None:
        names = np.unique(patients)
        if not 2 <= count <= len(names):
            raise ConfigError(f"segmentation: {count} folds of {len(names)} patients")
        order = np.random.default_rng(counter_seed(seed, "folds")).permutation(len(names))
        of = dict(zip(names[order], np.arange(len(names)) % count, strict=True))
        numbers = np.array([of[patient] for patient in patients])
        return [Fold(np.flatnonzero(numbers != k), np.flatnonzero(numbers == k))
                for k in range(count)]  # fmt: skip
    splits = np.array([pair.split for pair in pairs])
    fold = Fold(np.flatnonzero(splits == "train"), np.flatnonzero(splits == tested))
    if tested == "train" or not len(fold.train) or not len(fold.test):
        raise NotApplicable(
            f"{len(fold.train)} masks in train and {len(fold.test)} in {tested}; folds: 5 would"
            " share all masks out"
        )
    return [fold]


def load_pair(
    pair: Pair, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image and mask (h, w) at the size of a network's input.

    Raises:
        DataError: If a file cannot be read, or the mask has another size than the image.
    """
    image = load_grey(pair.image)
    if pair.mask is None:
        return preprocessing.fit(image), np.zeros(preprocessing.size, np.bool_)
    mask = load_mask(pair.mask, pair.root)
    if mask.shape != image.shape:
        raise DataError(
            f"row {pair.row} of the index",
            key="mask",
            expected=f"{image.shape[0]} x {image.shape[1]} pixels, as the image",
            found=f"{mask.shape[0]} x {mask.shape[1]}",
        )
    return preprocessing.fit(image), preprocessing.fit_labels(mask) > 0
