"""Radiographs with masks of one structure, from a table of files or from an index."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_seed

if TYPE_CHECKING:
    import pandas

    from sagittal_cxr.tasks.task import Benchmark


@dataclass(frozen=True)
class Pair:
    """One radiograph with its mask.

    Attributes:
        image: Path of the radiograph.
        mask: Path of a picture of the same size, 0 outside the structure and another value inside;
            or a run-length code as SIIM writes it.
        patient: Independent unit.
        split: train, val or test; None: the table has no splits.
        row: Its number in the table or index.
    """

    image: Path
    mask: Path | str
    patient: str
    split: str | None
    row: int


@dataclass
class MaskTable:
    """A CSV table of image and mask files.

    Attributes:
        file: The table; paths are relative to its folder.
        image: Path of a row's image, with names of columns in braces: "images/{file}.jpg".
        mask: As ``image``.
        patient: Column that names the patient.
        split: Column of train, val or test; None: folds of patients are drawn.
    """

    file: Path
    image: str = "{image}"
    mask: str = "{mask}"
    patient: str = "patient"
    split: str | None = None

    def described(self) -> dict[str, Any]:
        """Plain values that decide what the pairs are."""
        content = hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]
        return {"table": content, "image": self.image, "mask": self.mask, "split": self.split}

    def read(self) -> list[Pair]:
        """All pairs, whose files exist.

        Raises:
            DataError: If the table, a column or a file is missing, or a value is empty.
        """
        import pandas

        if not self.file.is_file():
            raise DataError(self.file, key="table", expected="a CSV file", found="no such file")
        table = pandas.read_csv(self.file, dtype=str, keep_default_na=False)
        wanted = {*re.findall(r"{(\w+)}", self.image + self.mask), self.patient}
        wanted |= {self.split} if self.split else set()
        if missing := sorted(wanted - set(table.columns)):
            raise DataError(
                self.file,
                key=", ".join(missing),
                expected="columns of the table",
                found=", ".join(table.columns),
            )
        return [self._pair(row, number) for number, row in enumerate(table.to_dict("records"))]

    def _pair(self, row: dict[str, str], number: int) -> Pair:
        paths = []
        for pattern in (self.image, self.mask):
            path = self.file.parent / pattern.format(**row)
            if not path.is_file():
                raise DataError(
                    self.file, key=f"row {number}", expected=f"a file {pattern}", found="none there"
                )
            paths.append(path)
        split = row[self.split] if self.split else None
        for key, value in ((self.patient, row[self.patient]), (self.split, split)):
            if value == "":
                raise DataError(self.file, key=f"row {number}, {key}", expected="a value", found="")
        if split not in (None, "train", "val", "test"):
            raise DataError(
                self.file, key=f"row {number}, {self.split}", expected="train, val or test",
                found=repr(split),
            )
        return Pair(paths[0], paths[1], row[self.patient], split, number)


def index_pairs(benchmark: Benchmark) -> list[Pair]:
    """Rows of a benchmark's index that have a mask, of all splits.

    Raises:
        NotApplicable: If there is none.
    """
    from sagittal_cxr.tasks.task import NotApplicable

    pairs = []
    for split in ("train", "val", "test"):
        try:
            rows: pandas.DataFrame = benchmark.rows(split)  # type: ignore[arg-type]
        except NotApplicable:
            continue
        rows = rows[rows["mask"].notna()]
        pairs += [
            Pair(benchmark.image_path(int(number)), str(mask), str(patient), split, int(number))
            for number, mask, patient in zip(rows.index, rows["mask"], rows["patient"], strict=True)
        ]
    if not pairs:
        raise NotApplicable("no image of the index has a mask")
    return pairs


def folds(pairs: Sequence[Pair], count: int, seed: int) -> list[tuple[NDArray, NDArray]]:
    """Numbers of the pairs to train and to test on, for each fold.

    With splits there is one fold: trained on train, tested on test; val is not used. Without,
    patients are shared out at random; every pair is tested once.

    Raises:
        ConfigError: If some pairs have a split and others none, a patient is in both train and
            test, or there are fewer patients than folds.
    """
    splits = np.array([pair.split or "" for pair in pairs])
    patients = np.array([pair.patient for pair in pairs])
    if (splits != "").all():
        train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
        shared = len(set(patients[train]) & set(patients[test]))
        if shared or not len(train) or not len(test):
            raise ConfigError(
                f"segmentation: {len(train)} pairs to train and {len(test)} to test on, {shared}"
                " patients in both; expected some of each, and no patient in both"
            )
        return [(train, test)]
    if (splits != "").any():
        raise ConfigError("segmentation: some pairs have a split and others none")
    names = np.unique(patients)
    if count < 2 or len(names) < count:
        raise ConfigError(f"segmentation: {count} folds of {len(names)} patients")
    order = np.random.default_rng(counter_seed(seed, "folds")).permutation(len(names))
    fold_of = dict(zip(names[order], np.arange(len(names)) % count, strict=True))
    numbers = np.array([fold_of[patient] for patient in patients])
    return [(np.flatnonzero(numbers != k), np.flatnonzero(numbers == k)) for k in range(count)]


def load_pair(
    pair: Pair, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image and mask (h, w) at the size of a network's input.

    Raises:
        DataError: If a file cannot be read, or the mask has another size than the image.
    """
    from sagittal_cxr.images import load_grey

    image = load_grey(pair.image)
    height, width = image.shape
    if isinstance(pair.mask, Path):
        mask = _picture(pair.mask)
    else:
        from sagittal_cxr.readers.siim import decode_mask

        mask = decode_mask(pair.mask, height, width)
    if mask.shape != image.shape:
        raise DataError(
            f"row {pair.row}",
            key="mask",
            expected=f"{height} x {width} pixels, as the image",
            found=f"{mask.shape[0]} x {mask.shape[1]}",
        )
    return preprocessing.fit(image), preprocessing.fit_labels(mask) > 0


def _picture(file: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(file) as opened:
            values = np.asarray(opened.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            file, key="mask", expected="a picture", found=type(error).__name__
        ) from None
    known = np.unique(values)
    if len(known) > 2 or (len(known) == 2 and known[0] != 0):
        raise DataError(
            file,
            key="mask",
            expected="0 and one other value",
            found=f"{len(known)} values between {known[0]} and {known[-1]}",
            hint="save masks without loss (PNG), one structure a file",
        )
    return values > 0
