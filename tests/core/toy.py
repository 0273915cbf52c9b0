"""A tiny model, data module and verbs for the command-line tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core import cli
from sagittal_core.run_logger import log_picture
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_generator


class Noise(Dataset[Tensor]):
    """Draws that depend on the item and the epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: ItemKey) -> Tensor:
        return torch.randn(4, generator=counter_generator(0, key.epoch, key.index, "noise"))


class ToyData(pl.LightningDataModule):
    """Noise to denoise.

    Args:
        length: Training items.
        batch_size: Items a batch.
        num_workers: Loader processes.
    """

    def __init__(self, length: int = 20, batch_size: int = 2, num_workers: int = 0) -> None:
        super().__init__()
        self.length, self.batch_size, self.num_workers = length, batch_size, num_workers

    def _loader(self, length: int, shuffle: bool) -> ResumableDataLoader:
        return ResumableDataLoader(
            Noise(length),
            seed=5,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
        )

    def train_dataloader(self) -> ResumableDataLoader:
        return self._loader(self.length, True)

    def val_dataloader(self) -> ResumableDataLoader:
        return self._loader(5, False)

    test_dataloader = val_dataloader


class Head:
    """An object that a configuration names by its class.

    Args:
        width: Of nothing.
    """

    def __init__(self, width: int = 1) -> None:
        self.width = width


class ToyModel(pl.LightningModule):
    """Two layers with dropout and a buffer.

    Args:
        learning_rate: Step size of Adam.
        diverge_at: Step at which the loss becomes NaN; -1: never.
        pause: Seconds a step.
        head: Not used.
    """

    def __init__(
        self,
        learning_rate: float = 1e-2,
        diverge_at: int = -1,
        pause: float = 0.0,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise ValueError(f"toy: learning_rate must be above 0, found {learning_rate}")
        self.save_hyperparameters(ignore="head")
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4)
        )
        self.register_buffer("scale", torch.ones(1))
        self.learning_rate, self.diverge_at, self.pause = learning_rate, diverge_at, pause

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        time.sleep(self.pause)
        kill_at, flag = int(os.environ.get("TOY_KILL_AT", -1)), os.environ.get("TOY_FLAG", "")
        if self.global_step == kill_at and not Path(flag).exists():
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = (self.net(batch) * self.scale - batch).square().mean()
        if self.global_step == self.diverge_at:
            loss = loss * float("nan")
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", (self.net(batch) * self.scale - batch).square().mean(), sync_dist=True)
        if batch_idx == 0:
            shade = np.full((6, 8), min(255, self.global_step), np.uint8)
            log_picture(self, "val/shade", shade, "as grey as the step")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test_loss", (self.net(batch) * self.scale - batch).square().mean())
        if batch_idx == 0:
            log_picture(self, "test/black", np.zeros((6, 8), np.uint8), "nothing")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class PlainToyModel(ToyModel):
    """The same without dropout."""

    def __init__(
        self, learning_rate: float = 1e-2, diverge_at: int = -1, pause: float = 0.0
    ) -> None:
        super().__init__(learning_rate, diverge_at, pause)
        self.net[1] = torch.nn.Identity()


def run(args: list[str] | None = None) -> int:
    verbs = {"repeat": "light_verb:repeat"}
    return cli.main(args, prog="toy", verbs=verbs, register="toy")
