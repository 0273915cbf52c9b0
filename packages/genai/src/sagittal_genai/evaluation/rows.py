"""The rows of a store that an evaluation looks at, and what is known about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas
import torch
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_generator
from sagittal_core.store import EmbeddingStore

SPLITS = ("train", "val", "test")
Chooser: TypeAlias = Literal["val", "train"]
BLOCKS, HELD_BACK = 10, (2, 7)  # runs of neighbouring images of a scan's plane, and those held back
AGES = ((0.0, 40.0, "< 40"), (40.0, 60.0, "40-60"), (60.0, 80.0, "60-80"), (80.0, 1e9, ">= 80"))


@dataclass(frozen=True)
class Limits:
    """Rows of a split at most; more are thinned at random by the seed.

    Attributes:
        train: Training rows.
        val: Validation rows.
        test: Test rows.
    """

    train: int = 10_000
    val: int = 5_000
    test: int = 10_000


@dataclass
class Rows:
    """Rows of an evaluation with their concepts; arrays are in ascending order of ``numbers``.

    Attributes:
        numbers: Row numbers in the store, (n,).
        split: "train", "val" or "test", (n,).
        subject: Independent unit, (n,) str.
        scan: (n,) str; a scan is of one subject.
        concepts: Names of the multi-label column's concepts.
        sets: (n, C) uint8: which concept each row shows.
        labelled: (n,) bool: whether the multi-label column is known for the row.
        targets: Name to (n,) int8: 1 yes, 0 no, -1 unknown.
        categories: Every value of a categorical column to (n,) uint8.
        available: Rows of each split before thinning.
        held_back: (n,) bool: training rows that choose and are not fitted; None: val chooses.
        identity: Hash of all of this.
    """

    numbers: NDArray[np.int64]
    split: NDArray
    subject: NDArray
    scan: NDArray
    concepts: list[str]
    sets: NDArray[np.uint8]
    labelled: NDArray[np.bool_]
    targets: dict[str, NDArray[np.int8]]
    categories: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    available: dict[str, int] = field(default_factory=dict)
    held_back: NDArray[np.bool_] | None = None
    identity: str = ""

    def mask(self, name: str) -> NDArray[np.bool_]:
        """(n,) bool of a split, of ``"fit"`` (what is fitted) or ``"select"`` (what chooses).

        Without rows held back ``"fit"`` is train, and ``"select"`` is val, or train where there is
        no val.
        """
        if name == "fit":
            train = self.split == "train"
            return train if self.held_back is None else train & ~self.held_back
        if name == "select":
            if self.held_back is not None:
                return self.held_back
            name = "val" if (self.split == "val").any() else "train"
        return self.split == name

    @property
    def chooser(self) -> str:
        """Where C, features and targets are chosen, in words."""
        if self.held_back is not None:
            return "blocks of train"
        return "val" if (self.split == "val").any() else "train"

    def counts(self, name: str) -> tuple[int, int]:
        """Rows and subjects of a split."""
        chosen = self.mask(name)
        return int(chosen.sum()), len(np.unique(self.subject[chosen]))


def read_rows(
    folder: Path,
    store: EmbeddingStore,
    *,
    concepts: str | None,
    categories: Sequence[str],
    age: str | None,
    tokens: bool,
    limits: Limits,
    seed: int,
    choose_on: Chooser = "val",
) -> Rows:
    """Read the index of a store and choose its rows.

    Args:
        folder: Of the store, for messages.
        store: It.
        concepts: Multi-label column, list<str>; None: there is none.
        categories: Columns whose values become one-vs-rest targets.
        age: Column of years, grouped as < 40, 40-60, 60-80 and >= 80; None: none.
        tokens: Whether rows of patches are taken (token >= 0), or those of whole images.
        limits: Rows of a split at most.
        seed: Of the thinning.
        choose_on: ``"train"`` holds back two in ten blocks of neighbouring images of each training
            scan and plane, which then choose in place of val.

    Raises:
        DataError: A column is missing or not what it should be, or a subject is in two splits.
        ConfigError: No row is left in train or test.
    """
    wanted = ["split", "subject", "scan", *categories]
    wanted += [name for name in (concepts, age) if name is not None]
    wanted += ["token"] if "token" in store.columns else []
    if choose_on == "train":
        wanted += ["image", *(name for name in ("orientation",) if name in store.columns)]
    frame = store.index(list(dict.fromkeys(wanted)))
    _expect_known(folder, frame)
    _one_split_a_subject(folder, frame)
    kept = (frame["token"] >= 0) == tokens if "token" in frame.columns else not tokens
    kind = np.broadcast_to(np.asarray(kept), len(frame))
    numbers, available = _thinned(folder, frame["split"].to_numpy(), kind, limits, seed, tokens)
    part = frame.iloc[numbers].reset_index(drop=True)
    names, sets, labelled = _sets(folder, part, concepts)
    targets = {
        name: np.where(labelled, sets[:, place], -1).astype(np.int8)
        for place, name in enumerate(names)
    }
    columns = {column: part[column] for column in categories}
    if age is not None:
        columns[age] = _age_groups(folder, age, part[age])
    values: dict[str, NDArray[np.uint8]] = {}
    for column, series in columns.items():
        found = _one_vs_rest(column, series)
        values |= {name: (truth == 1).astype(np.uint8) for name, truth in found.items()}
        # Of two values one, since the other is its mirror image.
        targets |= found if len(found) > 2 else dict([*found.items()][1:])
    split, subject, scan = (
        part[name].astype(str).to_numpy() for name in ("split", "subject", "scan")
    )
    rows = Rows(numbers, split, subject, scan, names, sets, labelled, targets, values, available)
    if choose_on == "train":
        rows.held_back = held_back(part) & (split == "train")
    rows.identity = _identity(rows)
    return rows


def held_back(part: pandas.DataFrame) -> NDArray[np.bool_]:
    """Rows of every third and eighth of ten blocks of a scan's images, plane by plane, (n,) bool.

    Images of a scan are in order of their names, as ``slice`` numbers them, and a block is a run of
    them, so that neighbours are on the same side but at its ends; where a plane has fewer than ten,
    the count of blocks goes on with the next one. They are still of one scan: what they choose fits
    that scan, and only another scan can judge it.
    """
    names = [name for name in ("scan", "orientation") if name in part]
    block, first = np.zeros(len(part), dtype=np.int64), 0
    for _, group in part.groupby(names, dropna=False):
        images, place = np.unique(group["image"].astype(str), return_inverse=True)
        length = -(-len(images) // BLOCKS)
        block[group.index.to_numpy()] = first + place // length
        first += -(-len(images) // length)
    return np.isin(block % BLOCKS, HELD_BACK)


def usable_targets(rows: Rows, n_min: int, most: int) -> tuple[list[str], dict[str, str]]:
    """Targets with enough positives and negatives to be learned and judged.

    Args:
        rows: Of the evaluation.
        n_min: Positives and negatives needed in what is fitted and in test, and a third of it where
            C is chosen.
        most: Targets at most: the most balanced ones in train.

    Returns:
        Names in order of their appearance, and for the others the reason.
    """
    left: dict[str, str] = {}
    rarest: dict[str, int] = {}
    for name, truth in rows.targets.items():
        for part, needed in (("fit", n_min), ("select", -(-n_min // 3)), ("test", n_min)):
            here = truth[rows.mask(part)]
            fewest = int(min((here == 1).sum(), (here == 0).sum()))
            if fewest < needed:
                place = {"fit": "train", "select": rows.chooser}.get(part, part)
                left[name] = f"{fewest} of one class in {place}, {needed} needed"
                break
            if part == "fit":
                rarest[name] = fewest
    fit = [name for name in rows.targets if name not in left]
    first = set(sorted(fit, key=lambda name: -rarest[name])[:most])
    left |= {name: f"beyond the {most} most balanced" for name in fit if name not in first}
    return [name for name in fit if name in first], left


def _thinned(
    folder: Path, split: NDArray, kind: NDArray, limits: Limits, seed: int, tokens: bool
) -> tuple[NDArray[np.int64], dict[str, int]]:
    parts, available = [], {}
    for name in SPLITS:
        numbers = np.flatnonzero((split == name) & kind)
        available[name] = len(numbers)
        most = getattr(limits, name)
        if len(numbers) > most:
            generator = counter_generator(seed, "rows of an evaluation", name)
            some = torch.randperm(len(numbers), generator=generator)[:most].numpy()
            numbers = numbers[some]
        parts.append(numbers)
    for name in ("train", "test"):
        if not available[name]:
            what = "patch (token >= 0)" if tokens else "whole-image (token -1)"
            raise ConfigError(f"{folder}: no {what} row has {name} in its column split")
    return np.sort(np.concatenate(parts)).astype(np.int64), available


def _expect_known(folder: Path, frame: pandas.DataFrame) -> None:
    for column in ("split", "subject", "scan"):
        if missing := int(frame[column].isna().sum()):
            found = f"none in {missing} of {len(frame)} rows"
            raise DataError(folder, key=column, expected="a value in every row", found=found)
    unknown = sorted({str(value) for value in frame["split"].unique()} - set(SPLITS))
    if unknown:
        raise DataError(
            folder,
            key="split",
            expected=f"only {', '.join(SPLITS)}",
            found=", ".join(unknown[:5]),
        )


def _one_split_a_subject(folder: Path, frame: pandas.DataFrame) -> None:
    per_subject = frame.groupby("subject")["split"].nunique()
    several = int((per_subject > 1).sum())
    if several:
        raise DataError(
            folder,
            key="split",
            expected="every subject in one split",
            found=f"{several} subjects in two or more",
            hint="rows of one subject are not independent: split by subject",
        )


def _sets(
    folder: Path, part: pandas.DataFrame, column: str | None
) -> tuple[list[str], NDArray[np.uint8], NDArray[np.bool_]]:
    if column is None:
        return [], np.zeros((len(part), 0), np.uint8), np.zeros(len(part), bool)
    values = part[column].tolist()
    known = np.array([not _is_missing(value) for value in values])
    for value, has in zip(values, known, strict=True):
        if has and (isinstance(value, str) or not hasattr(value, "__iter__")):
            raise DataError(
                folder, key=column, expected="lists of text", found=type(value).__name__
            )
    present = [value for value, has in zip(values, known, strict=True) if has]
    names = sorted({str(one) for value in present for one in value})
    place = {name: number for number, name in enumerate(names)}
    sets = np.zeros((len(part), len(names)), np.uint8)
    for row, (value, has) in enumerate(zip(values, known, strict=True)):
        if has:
            sets[row, [place[str(one)] for one in value]] = 1
    return names, sets, known


def _is_missing(value: object) -> bool:
    return value is None or value is pandas.NA or (isinstance(value, float) and value != value)


def _one_vs_rest(column: str, values: pandas.Series) -> dict[str, NDArray[np.int8]]:
    """(n,) int8 for each value: 1 where it is this one, 0 another, -1 unknown."""
    known = values.notna().to_numpy()
    texts = values.astype(str).to_numpy()
    return {
        f"{column}: {name}": np.where(known, texts == name, -1).astype(np.int8)
        for name in sorted(set(texts[known]))
    }


def _age_groups(folder: Path, column: str, values: pandas.Series) -> pandas.Series:
    years = pandas.to_numeric(values, errors="coerce")
    unreadable = int((years.isna() & values.notna()).sum())
    if unreadable:
        raise DataError(
            folder, key=column, expected="years as numbers", found=f"{unreadable} that are none"
        )
    groups = pandas.Series([None] * len(years), dtype=object)
    for low, high, name in AGES:
        groups[(years >= low) & (years < high)] = name
    return groups


def _identity(rows: Rows) -> str:
    digest = hashlib.sha256()
    for array in (rows.numbers, rows.sets, rows.labelled):
        digest.update(np.ascontiguousarray(array).tobytes())
    for texts in (rows.split, rows.subject, rows.scan, rows.concepts, rows.categories):
        digest.update("\0".join(texts).encode())
    if rows.held_back is not None:
        digest.update(np.packbits(rows.held_back).tobytes())
    for name, truth in rows.targets.items():
        digest.update(name.encode() + truth.tobytes())
    return digest.hexdigest()
