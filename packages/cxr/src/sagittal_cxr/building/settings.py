"""What an index is made of: data sets, splits, duplicates; checked before any file is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from sagittal_core.errors import ConfigError
from sagittal_cxr.reports.sections import SectionPolicy

VERSION = 1
Check = Literal["none", "exists", "header", "pixels"]
Duplicates = Literal["none", "reports", "pixels", "pairs"]
TextRule = Literal["auto", "report", "template", "report else template", "none"]
SplitRule = Literal["auto", "official", "patients"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Refusal(NamedTuple):
    """A row that is not in the index.

    Attributes:
        dataset: its name.
        file: picture or row, as the data set names it.
        why: kind, then, after a colon, details.
    """

    dataset: str
    file: str
    why: str


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Args:
        name: in the index; unique.
        reader: one of the package's readers, such as ``mimic_cxr`` or ``table``.
        root: its folder.
        options: of the reader.
        text: where a row's text comes from: its report, a template that puts its labels into
            words, the report or else a template, or "none" (rows without text are kept). "auto" is
            report for sets with reports, template for others. Rows that end without text are
            refused.
        split: "official" takes the set's own (where that has no val, val_share of the training
            patients become it), "patients" draws by patient; "auto" is official where the set has
            one.
    """

    name: str
    reader: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    text: TextRule = "auto"
    split: SplitRule = "auto"


@dataclass(frozen=True)
class Split:
    """How patients are divided.

    Args:
        val_share: of the patients.
        test_share: of the patients, where the data set has no test set of its own.
        seed: of the draw.
    """

    val_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is in an index, but for the files themselves."""

    datasets: tuple[DataSet, ...]
    sections: SectionPolicy
    split: Split
    duplicates: Duplicates
    check: Check
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be, before any file is read.

        Raises:
            ConfigError: for names, choices or shares that do not fit.
        """
        if not self.datasets:
            raise ConfigError("index: datasets is empty")
        names = [d.name for d in self.datasets]
        wrong = [name for name in names if not _NAME.fullmatch(name) or names.count(name) > 1]
        if wrong:
            raise ConfigError(
                "index: names of data sets are letters, digits, . _ and -, each once; found"
                f" {', '.join(map(repr, dict.fromkeys(wrong)))}"
            )
        for dataset in self.datasets:
            _expect(f"text of {dataset.name}", dataset.text, get_args(TextRule))
            _expect(f"split of {dataset.name}", dataset.split, get_args(SplitRule))
        _expect("check", self.check, get_args(Check))
        _expect("duplicates", self.duplicates, get_args(Duplicates))
        shares = (self.split.val_share, self.split.test_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"index: split shares must be in 0..1 together, found {shares}")
        if self.duplicates in ("pixels", "pairs") and self.check != "pixels":
            raise ConfigError(f"index: duplicates {self.duplicates} needs check: pixels")

    def described(self) -> dict[str, Any]:
        """Plain values, without where files lie: the same data elsewhere make the same index."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for dataset in plain["datasets"]:
            del dataset["root"]
        return {"version": VERSION, **plain}

    def digest(self) -> str:
        """Hash of :meth:`described`."""
        text = json.dumps(self.described(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def placed(datasets: Sequence[DataSet], roots: Mapping[str, str]) -> tuple[DataSet, ...]:
    """The data sets with other roots.

    Raises:
        ConfigError: for a root of a data set that is not there.
    """
    names = [d.name for d in datasets]
    if strange := [name for name in roots if name not in names]:
        raise ConfigError(
            f"index: roots names {', '.join(strange)}; the data sets are {', '.join(names)}"
        )
    return tuple(replace(d, root=str(roots.get(d.name, d.root))) for d in datasets)


def _expect(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"index: {what} must be {', '.join(allowed)}, found {value!r}")
