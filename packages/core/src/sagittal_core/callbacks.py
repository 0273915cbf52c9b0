"""What every fit runs with: atomic checkpoints, exact resume, progress, guards."""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from torch.nn.parallel import DistributedDataParallel

from sagittal_core.errors import ConfigError
from sagittal_core.privacy import without_paths
from sagittal_core.run_folder import write_atomically
from sagittal_core.seeds import counter_seed


class NonFiniteLoss(RuntimeError):
    """The training loss became NaN or infinite."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, then renames it; reads with ``weights_only=True``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save; a kill at any moment leaves the previous file complete."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load tensors and plain types only.

        Raises:
            ConfigError: If the file is missing, damaged, or holds anything but plain types.
        """
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint with ``weights_only=True``, or say in one sentence why that fails.

    Raises:
        ConfigError: If the file is missing, damaged, or holds anything but plain types.
    """
    if not file.is_file():
        raise ConfigError(f"no checkpoint {file}")
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"checkpoint {file} is damaged or no checkpoint ({first}); remove it or give --fresh"
        ) from None


class RunCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` every n steps, after validation and at the end, and ``best.ckpt``.

    Args:
        folder: Where the two files go.
        every_n_steps: Optimizer steps between two saves.
        monitor: A logged validation metric that decides ``best.ckpt``; None: no ``best.ckpt``.
        mode: ``"min"`` or ``"max"``.
    """

    def __init__(self, folder: Path, every_n_steps: int, monitor: str | None, mode: str) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.best = math.inf
        self._saved_step = -1

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far (as a value to minimise)."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value of the resumed run."""
        self.best = state_dict["best"]

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save every n optimizer steps; once a step also when gradients are accumulated."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._saved_step:
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and keep the best."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor is not None and self._improved(trainer):
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._save(trainer, "last.ckpt")

    def _improved(self, trainer: Trainer) -> bool:
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ConfigError(f"--monitor {self.monitor}: no such metric; logged: {known}")
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        # Ranks may differ in the last bit, and saving is collective: rank 0 decides.
        better = bool(trainer.strategy.broadcast(value < self.best))
        if better:
            self.best = value
        return better

    def _save(self, trainer: Trainer, name: str) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.folder / name, weights_only=False)


class SaveConfig(Callback):
    """Writes ``config.yaml`` into the run folder and sends the config to every logger.

    Loggers may store it elsewhere and a path may name a patient, so they get ``(path)`` for every
    text that is one; the file beside the checkpoints keeps what was given.
    """

    def __init__(self, file: Path, text: str, config: dict[str, Any]) -> None:
        self.file = file
        self.text = text
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and log once, on rank 0."""
        if not trainer.is_global_zero:
            return
        if stage == "fit":
            write_atomically(self.file, self.text)
        for logger in trainer.loggers:
            logger.log_hyperparams(without_paths(self.config))


class StepSeed(Callback):
    """Seeds torch's global generator from (seed, rank, epoch, batch) before every training batch.

    Dropout and the like then do not depend on what ran before, so a resumed run equals an
    undisturbed one without random states in the checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed."""
        counters = (trainer.global_rank, trainer.current_epoch, batch_idx, "training step")
        torch.manual_seed(counter_seed(self.seed, *counters))


class FiniteLoss(Callback):
    """Stops the fit when the loss is not finite, before such weights are saved."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the loss of this batch."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and not bool(torch.isfinite(loss).all()):
            raise NonFiniteLoss(
                f"the training loss is {float(loss)} at step {trainer.global_step} (epoch"
                f" {trainer.current_epoch}, batch {batch_idx}); last.ckpt holds an earlier state."
                " Lower the learning rate or set trainer.gradient_clip_val, then give --fresh"
            )


class UnevenEvaluation(Callback):
    """Lets ranks evaluate different numbers of batches.

    Evaluation repeats no item, so one rank may have a batch more. DDP's forward would broadcast
    the buffers once more on that rank and wait forever; buffers do not change in evaluation.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch the broadcast off."""
        self._broadcast_buffers(trainer, False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch it on again."""
        self._broadcast_buffers(trainer, True)

    def _broadcast_buffers(self, trainer: Trainer, active: bool) -> None:
        if isinstance(trainer.model, DistributedDataParallel):
            trainer.model.require_forward_param_sync = active


class PlainProgress(ProgressBar):
    """One line of text every few seconds, for output that is no terminal.

    Args:
        every_seconds: Least time between two lines.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._start = self._shown = 0.0
        self._first = 0
        self._active = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this on ranks other than 0."""
        self._active = False

    def enable(self) -> None:
        """Show lines again."""
        self._active = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = self._shown = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show a line if enough time has passed."""
        if self._active and time.monotonic() - self._shown >= self.every_seconds:
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a line with the validation metrics."""
        if self._active and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = time.monotonic()
        step, total = trainer.global_step, total_steps(trainer)
        rate = (step - self._first) / max(self._shown - self._start, 1e-9)
        metrics = self.get_metrics(trainer, pl_module)
        values = " ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in metrics.items()
            if k != "v_num"
        )
        left = "?" if rate == 0 or math.isinf(total) else _clock((total - step) / rate)
        sys.stdout.write(
            f"epoch {trainer.current_epoch} step {step}/{total} {rate:.2f} steps/s eta {left}"
            f" {values}\n"
        )
        sys.stdout.flush()


def total_steps(trainer: Trainer) -> float:
    """Optimiser's steps of the whole run, if the epochs to come are as long as this one.

    Not Lightning's estimate, which takes the epochs before for as long as this one too: where a
    data module loads less from some epoch on, the step is then beyond it.
    """
    if math.isinf(trainer.num_training_batches) or (trainer.max_epochs or 0) < 0:
        return float(trainer.max_steps) if trainer.max_steps > 0 else math.inf
    every = trainer.accumulate_grad_batches
    of_epoch = math.ceil(trainer.num_training_batches / every)
    within = math.ceil(trainer.fit_loop.epoch_loop.batch_progress.current.ready / every)
    more = max((trainer.max_epochs or 0) - trainer.current_epoch - 1, 0)
    total = trainer.global_step + max(of_epoch * (more + 1) - within, 0)
    return min(total, trainer.max_steps) if trainer.max_steps > 0 else total


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
