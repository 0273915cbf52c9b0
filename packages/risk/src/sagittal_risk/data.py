"""A table of patients as prompts with outcomes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_seed
from sagittal_risk.prompts import QUESTION, prompt
from sagittal_risk.records.description import Group, check_groups, describe, known
from sagittal_risk.records.narrative import narrate
from sagittal_risk.records.sampling import GroupSampling, fields_known
from sagittal_risk.records.table import read_frame

if TYPE_CHECKING:
    import pandas

SPLITS = ("train", "val", "test")


class PromptBatch(NamedTuple):
    """Prompts with their outcomes.

    Attributes:
        prompts: N texts, up to the place of the answer.
        labels: (N,) float32, 1 where the event came, 0 where not.
        rows: (N,) int64 row numbers of the table.
    """

    prompts: list[str]
    labels: Tensor
    rows: Tensor


class PromptSet(Dataset[tuple[str, float, int]]):
    """Rows of one split as prompts.

    Args:
        table: All rows.
        rows: Numbers of this split's.
        data: Settings.
        sampled: Whether features are drawn anew in every epoch.
    """

    def __init__(
        self, table: pandas.DataFrame, rows: np.ndarray, data: RiskRecords, sampled: bool
    ) -> None:
        columns = data.columns()
        self.records: list[dict[str, Any]] = table.iloc[rows][columns].to_dict("records")
        self.labels = table.iloc[rows][data.outcome].to_numpy(float)
        self.rows, self.data, self.sampled = rows, data, sampled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: ItemKey) -> tuple[str, float, int]:
        number = int(self.rows[key.index])
        text = self.data.text(self.records[key.index], number, key.epoch, sampled=self.sampled)
        return prompt(text, self.data.question), float(self.labels[key.index]), number


class RiskRecords(lightning.LightningDataModule):
    """Patients of a CSV or parquet file as prompts: listed features, running text, or both.

    Args:
        table: File with one row a patient.
        groups: Features in the order of telling.
        outcome: Column that is 1 where the event came within the horizon, 0 where not.
        split_column: Column of train, val and test; None: ``shares`` are drawn by the seed.
        shares: Of train, val and test, if there is no such column.
        text_column: Column of free text that follows the listed features.
        sampling: Which features a training item tells; None: all that are known.
        narrated: Share of the known features that are told in sentences instead of the list.
        known_share: Share of the known features that are told at all, in every split: for curves of
            performance over missingness.
        limit: Training patients at most, the first of a seeded order: for adaptation to few.
        question: What is asked.
        batch_size: Patients a step and process.
        seed: Of order, split and sampling.

    Raises:
        ConfigError: If a share is out of range.
    """

    def __init__(
        self,
        table: str,
        groups: list[Group],
        outcome: str,
        split_column: str | None = "split",
        shares: tuple[float, float, float] = (0.5, 0.1, 0.4),
        text_column: str | None = None,
        sampling: GroupSampling | None = None,
        narrated: float = 0.0,
        known_share: float = 1.0,
        limit: int | None = None,
        question: str = QUESTION,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (0 <= narrated <= 1 and 0 < known_share <= 1):
            raise ConfigError("narrated lies in [0, 1], known_share in (0, 1]")
        if min(shares) < 0 or not math.isclose(sum(shares), 1.0):
            raise ConfigError(f"shares {shares}: three that sum to 1")
        self.file, self.groups, self.outcome = Path(table), groups, outcome
        self.split_column, self.shares, self.text_column = split_column, shares, text_column
        self.sampling, self.narrated, self.known_share = sampling, narrated, known_share
        self.limit, self.question = limit, question
        self.batch_size, self.seed = batch_size, seed
        self.sets: dict[str, PromptSet] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table.

        Raises:
            DataError: The file, an outcome or a split is not as it should be.
            ConfigError: A column is missing, or a split is empty.
        """
        if self.sets:
            return
        table = read_frame(self.file)
        check_groups(self.groups, table.columns)
        for column in (self.outcome, self.split_column, self.text_column):
            if column is not None and column not in table.columns:
                raise ConfigError(f"{self.file}: there is no column {column!r}")
        labels = table[self.outcome]
        if not labels.isin([0, 1]).all():
            wrong = sorted({str(v) for v in labels[~labels.isin([0, 1])].unique()})
            raise DataError(
                self.file, key=self.outcome, expected="0 or 1", found=", ".join(wrong[:5])
            )
        split = self._split(table)
        for name in SPLITS:
            rows = np.flatnonzero(split == name)
            if name == "train" and self.limit is not None:
                order = sorted(rows, key=lambda row: counter_seed(self.seed, int(row), "limit"))
                rows = np.array(sorted(order[: self.limit]), dtype=np.int64)
            sampled = name == "train" and self.sampling is not None
            self.sets[name] = PromptSet(table, rows, self, sampled)

    def columns(self) -> list[str]:
        """Columns that prompts are made of."""
        features = [f.column for group in self.groups for f in group.features]
        return features + ([self.text_column] if self.text_column else [])

    def text(self, record: dict[str, Any], row: int, epoch: int, *, sampled: bool) -> str:
        """Describe one patient.

        Args:
            record: Values by column.
            row: Number of the row, for what is drawn.
            epoch: As ``row``.
            sampled: Whether to tell a draw of the features.

        Raises:
            DataError: Nothing at all is known of the patient.
        """
        columns = known(record, self.groups)
        told = {column for group in columns.values() for column in group}
        if sampled and self.sampling is not None:
            base = [group.name for group in self.groups if group.base]
            told = self.sampling.draw(columns, base, self.seed, epoch, row)
        elif self.known_share < 1:
            told = fields_known(columns, self.known_share, self.seed, row)
        spoken: set[str] = set()
        if self.narrated:
            rest = {name: [c for c in group if c in told] for name, group in columns.items()}
            spoken = fields_known(rest, self.narrated, self.seed, row, "narrated")
        parts = [
            describe(record, self.groups, told - spoken),
            narrate(record, self.groups, spoken, counters=(self.seed, row)),
        ]
        if self.text_column:
            free = record[self.text_column]
            parts.append(free.strip() if isinstance(free, str) else "")
        text = "\n\n".join(part for part in parts if part)
        if not text:
            raise DataError(self.file, key=f"row {row}", expected="one known feature", found="none")
        return text

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled patients, by a permutation of seed and epoch alone."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableDataLoader:
        """Validation patients in order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Test patients in order."""
        return self._loader("test")

    def _split(self, table: pandas.DataFrame) -> np.ndarray:
        if self.split_column is None:
            ends = np.cumsum(self.shares)
            draws = [counter_seed(self.seed, row, "split") / 2**63 for row in range(len(table))]
            places = np.searchsorted(ends, draws, side="right")
            return np.array(SPLITS)[np.minimum(places, 2)]
        split = table[self.split_column]
        unknown = sorted({str(value) for value in split.unique()} - set(SPLITS))
        if unknown:
            raise DataError(
                self.file,
                key=self.split_column,
                expected=f"only {', '.join(SPLITS)}",
                found=", ".join(unknown[:5]),
            )
        return split.to_numpy()

    def _loader(self, name: str) -> ResumableDataLoader:
        if not len(self.sets[name]):
            raise ConfigError(f"{self.file}: no row is in the split {name}")
        return ResumableDataLoader(
            self.sets[name],
            seed=self.seed,
            batch_size=self.batch_size,
            shuffle=name == "train",
            collate_fn=_collate,
        )


def _collate(items: list[tuple[str, float, int]]) -> PromptBatch:
    prompts, labels, rows = zip(*items, strict=True)
    return PromptBatch(list(prompts), torch.tensor(labels), torch.tensor(rows))
