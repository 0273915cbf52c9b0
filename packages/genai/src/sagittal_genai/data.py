"""Rows of an embedding store as training data."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_generator
from sagittal_core.store import EmbeddingStore

SPLITS = ("train", "val", "test")


class StoredRows(Dataset[Tensor]):
    """Some rows of a store, fetched a batch at a time.

    Args:
        store: Where from.
        numbers: Which, (n,) int64.
    """

    def __init__(self, store: EmbeddingStore, numbers: NDArray[np.int64]) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitems__(self, keys: list[ItemKey]) -> Tensor:
        """A batch (n, D) float32."""
        return self.store.rows(self.numbers[[key.index for key in keys]])


class EmbeddingData(lightning.LightningDataModule):
    """Training, validation and test rows of an embedding store, by a column of its index.

    Args:
        store: Folder of the store.
        batch_size: Rows a step and process.
        split_column: Column that holds train, val or test for each row; split by patient or scan.
        num_workers: Loading processes; rows are memory mapped, so 0 is fast.
        seed: Of the order.
    """

    def __init__(
        self,
        store: str,
        batch_size: int = 2048,
        split_column: str = "split",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder, self.batch_size, self.split_column = Path(store), batch_size, split_column
        self.num_workers, self.seed = num_workers, seed
        self.rows: dict[str, StoredRows] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the store and split its rows.

        Raises:
            DataError: The store is damaged, or the split column missing or without known values.
        """
        if self.rows:
            return
        store = EmbeddingStore(self.folder)
        split = store.index([self.split_column])[self.split_column]
        unknown = sorted({str(value) for value in split.unique()} - set(SPLITS))
        if unknown:
            raise DataError(
                self.folder,
                key=self.split_column,
                expected=f"only {', '.join(SPLITS)}",
                found=", ".join(unknown[:5]),
            )
        values = split.to_numpy()
        for name in SPLITS:
            self.rows[name] = StoredRows(store, np.flatnonzero(values == name).astype(np.int64))

    def expect_width(self, dim: int) -> None:
        """Compare the width of the rows with what a network takes.

        Raises:
            ConfigError: They differ.
        """
        store = self.rows["train"].store
        if store.dim != dim:
            raise ConfigError(
                f"{self.folder}: its rows are {store.dim} wide, and input_dim of the network is"
                f" {dim}; set model.init_args.network.init_args.input_dim to {store.dim}"
            )

    def initial_rows(self, count: int = 8192) -> Tensor:
        """Up to ``count`` training rows (n, D), drawn by the seed: what units are set from."""
        rows = self._need("train")
        generator = counter_generator(self.seed, "initial rows")
        chosen = torch.randperm(len(rows), generator=generator)[:count].numpy()
        return rows.store.rows(rows.numbers[np.sort(chosen)])

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled rows, by a permutation of seed and epoch alone."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableDataLoader:
        """Validation rows in order."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableDataLoader:
        """Test rows in order."""
        return self._loader("test")

    def _need(self, name: str) -> StoredRows:
        if not len(self.rows[name]):
            raise ConfigError(f"{self.folder}: no row has {name} in its column {self.split_column}")
        return self.rows[name]

    def _loader(self, name: str) -> ResumableDataLoader:
        return ResumableDataLoader(
            self._need(name),
            seed=self.seed,
            batch_size=self.batch_size,
            shuffle=name == "train",
            collate_fn=_whole,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _whole(batch: Tensor) -> Tensor:
    """A batch arrives as one tensor."""
    return batch
