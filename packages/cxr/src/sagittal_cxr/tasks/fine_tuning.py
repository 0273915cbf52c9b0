"""Fine-tuning: the vision encoder and a linear head trained on labels, stopped early on val."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import lightning.pytorch as pl
import numpy as np
import pandas
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from sagittal_core import callbacks as ours
from sagittal_core.encoders.weights import drawn
from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import write_atomically
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_cxr.metrics.binary import auroc, youden_threshold
from sagittal_cxr.nn.image_only import ImageOnlyModel
from sagittal_cxr.tasks.features import RadiographImages
from sagittal_cxr.tasks.items import write_items
from sagittal_cxr.tasks.linear_probe import CRITERION, Split, choice_rows, patient_share
from sagittal_cxr.tasks.multilabel import TAIL, Scored, label_measures
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable, Task
from sagittal_cxr.tasks.zero_shot import judged

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel

MONITOR = "val/macro_auroc"


class LabelledImages(Dataset[tuple[NDArray[np.uint8], NDArray[np.float32]]]):
    """Images of a benchmark with their labels.

    Args:
        images: Of some rows.
        truth: (n, C) 1, 0 or NaN of the same rows.
    """

    def __init__(self, images: RadiographImages, truth: NDArray[np.float64]) -> None:
        self.images, self.truth = images, truth.astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: ItemKey) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        return self.images[key], self.truth[key.index]


class FineTuned(pl.LightningModule):
    """A vision encoder with a linear layer to C findings, trained with binary cross-entropy.

    Args:
        encoder: Gives pooled rows.
        width: Of those rows, D.
        findings: C.
        learning_rate: Of the encoder.
        head_learning_rate: Of the linear layer.
        weight_decay: Of AdamW.
        seed: Of the linear layer's first weights.
    """

    def __init__(
        self,
        encoder: ImageOnlyModel,
        width: int,
        findings: int,
        learning_rate: float,
        head_learning_rate: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = drawn(lambda: nn.Linear(width, findings), seed)
        self.rates, self.weight_decay = (learning_rate, head_learning_rate), weight_decay
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Log odds (B, C) of (B, h, w) uint8 images."""
        rows = self.encoder.image_features(self.encoder.preprocessing.normalise(images))
        logits: Tensor = self.head(rows)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Mean loss over the labels of the batch that count; 0 if none does."""
        images, truth = batch
        known = torch.isfinite(truth)
        loss = nn.functional.binary_cross_entropy_with_logits(
            self(images), truth.nan_to_num(0), reduction="none"
        )
        total = (loss * known).sum() / known.sum().clamp(min=1)
        self.log("train/loss", total, prog_bar=True, batch_size=len(images))
        return total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep scores; an AUROC is of all rows together."""
        images, truth = batch
        self._seen.append((self(images).float().cpu(), truth.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the mean AUROC over the findings with both values."""
        if not self._seen:
            return
        scores, truth = (torch.cat(part).numpy() for part in zip(*self._seen, strict=True))
        self._seen.clear()
        self.log(MONITOR, macro_auroc(truth, scores), prog_bar=True, batch_size=len(truth))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a rate for the encoder and one for the head."""
        parts = (self.encoder.parameters(), self.head.parameters())
        groups = [
            {"params": list(part), "lr": rate} for part, rate in zip(parts, self.rates, strict=True)
        ]
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay)


@dataclass
class FineTuning(Task):
    """Train the vision encoder with a linear head for some epochs, no augmentation.

    Rows are those of the index's train split. After every epoch the mean AUROC on val is taken
    (without val rows a fifth of the training patients takes their place); training stops after
    ``patience`` epochs without a better one, and the best epoch's weights are judged. Checkpoints
    lie in the cell: after a kill the same command goes on at the next batch. The model that is
    evaluated stays as it was.

    Attributes:
        name: Of the task.
        findings: Labels of the index; None: all that have one in the benchmark.
        epochs: At most.
        step_images: Images of a training step.
        learning_rate: Of the encoder.
        head_learning_rate: Of the linear layer.
        weight_decay: Of AdamW.
        patience: Epochs without a better AUROC on val before training stops.
        fraction: Share of the training patients, drawn by patient.
        precision: Of the trainer, such as 32-true or bf16-mixed.
        checkpoint_every_n_steps: A kill costs so many steps at most.
        tail: Findings with fewer positive images are pooled.
        bins: Of the calibration error.
        resamples: Of the patients.
        batch_size: Images at a time in evaluation.
        num_workers: Processes that read images.
    """

    name: str = "fine-tuning"
    findings: list[str] | None = None
    epochs: int = 10
    step_images: int = 32
    learning_rate: float = 1e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 3
    fraction: float = 1.0
    precision: str = "32-true"
    checkpoint_every_n_steps: int = 200
    tail: int = TAIL
    bins: int = 15
    resamples: int = 1000
    batch_size: int = 32
    num_workers: int = 0

    headline: ClassVar[tuple[str, ...]] = (
        "macro AUROC",
        "head AUROC",
        "tail AUROC",
    )
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.epochs < 1 or self.step_images < 1 or self.patience < 1:
            raise ConfigError("fine-tuning: epochs, step_images and patience must be at least 1")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fine-tuning: fraction {self.fraction}; expected (0, 1]")

    def run(
        self,
        model: ImageTextModel,
        benchmark: Benchmark,
        folder: Path,
        *,
        device: str,
        seed: int,
    ) -> list[Measure]:
        """Measure; see :class:`~sagittal_cxr.tasks.task.Task`."""
        if not hasattr(model, "vision"):
            raise NotApplicable("the model's image encoder is not at hand")
        if benchmark.split == "train":
            raise NotApplicable("the benchmark is the training split")
        labels, _ = judged(benchmark, benchmark.rows(), self.findings)
        splits = {
            name: _rows(benchmark, name, labels)
            for name in dict.fromkeys(("train", "val", benchmark.split))
        }
        train, chosen_on, where = choice_rows(splits, benchmark.split, seed)
        train = train.part(patient_share(train.patients, self.fraction, seed, 0))
        test = splits[benchmark.split]
        assert test is not None
        module = self._module(model, len(labels), seed)
        loaders = [
            self._loader(benchmark, split, module.encoder, seed, number == 0)
            for number, split in enumerate((train, chosen_on, test))
        ]
        epochs = self._train(module, loaders[0], loaders[1], folder, device, seed)
        scores, val = (self._scores(module, one, device) for one in (loaders[2], loaders[1]))
        thresholds = {}
        for column, label in enumerate(labels):
            known = np.isfinite(chosen_on.truth[:, column])
            truth = chosen_on.truth[known, column]
            if 0 < truth.sum() < len(truth):
                thresholds[label] = youden_threshold(truth, val[known, column])
        likely = 1 / (1 + np.exp(-scores))
        detail = {
            "chosen on": where,
            "training patients": len(np.unique(train.patients)),
            "epochs": epochs,
        }
        scored = Scored(
            labels, test.truth, scores, test.patients, likely, thresholds, CRITERION, detail
        )
        write_items(folder, test.rows, labels, [("fine-tuned", test.truth, scores, likely)])
        return label_measures(
            scored, tail=self.tail, resamples=self.resamples, seed=seed, bins=self.bins
        )

    def _module(self, model: ImageTextModel, findings: int, seed: int) -> FineTuned:
        """A copy of the model's vision encoder, all of it trainable, with a new head."""
        vision = copy.deepcopy(model.vision).cpu()
        vision.trained_blocks = None
        vision.requires_grad_(True)
        return FineTuned(
            ImageOnlyModel(vision),
            vision.dim,
            findings,
            self.learning_rate,
            self.head_learning_rate,
            self.weight_decay,
            seed,
        )

    def _loader(
        self, benchmark: Benchmark, split: Split, encoder: ImageOnlyModel, seed: int, shuffle: bool
    ) -> ResumableDataLoader:
        images = RadiographImages(benchmark, split.rows.tolist(), encoder.preprocessing)
        return ResumableDataLoader(
            LabelledImages(images, split.truth),
            seed=seed,
            shuffle=shuffle,
            batch_size=self.step_images if shuffle else self.batch_size,
            num_workers=self.num_workers,
        )

    def _train(
        self,
        module: FineTuned,
        train: ResumableDataLoader,
        val: ResumableDataLoader,
        folder: Path,
        device: str,
        seed: int,
    ) -> int:
        """Train to the end or from the last checkpoint on; load the best weights.

        Returns:
            Epochs that were trained.
        """
        checkpoints, done = folder / "checkpoints", folder / "trained.json"
        last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
        if not done.is_file():
            if not (last.is_file() and _stopped(last)):
                self._fit(module, train, val, checkpoints, device, seed)
            epochs = -(-int(ours.read_checkpoint(last)["global_step"]) // len(train))
            write_atomically(done, json.dumps({"epochs": epochs}))
        # Without a finding that val can judge there is no best epoch: the last one counts.
        chosen = best if best.is_file() else last
        module.load_state_dict(ours.read_checkpoint(chosen)["state_dict"])
        return int(json.loads(done.read_text(encoding="utf-8"))["epochs"])

    def _fit(
        self,
        module: FineTuned,
        train: ResumableDataLoader,
        val: ResumableDataLoader,
        checkpoints: Path,
        device: str,
        seed: int,
    ) -> None:
        every = self.checkpoint_every_n_steps
        callbacks: list[Callback] = [
            ours.StepSeed(seed),
            ours.FiniteLoss(),
            EarlyStopping(MONITOR, mode="max", patience=self.patience, check_finite=False),
            ours.RunCheckpoint(checkpoints, every, MONITOR, "max"),
            RichProgressBar() if sys.stdout.isatty() else ours.PlainProgress(),
        ]
        last = checkpoints / "last.ckpt"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode at the start.*")
            trainer = pl.Trainer(
                accelerator="gpu" if device.startswith("cuda") else "cpu",
                devices=1,
                max_epochs=self.epochs,
                precision=cast("Any", self.precision),
                plugins=[ours.AtomicCheckpointIO()],
                callbacks=callbacks,
                logger=False,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=str(checkpoints.parent),
            )
            resume = str(last) if last.is_file() else None
            trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)

    def _scores(
        self, module: FineTuned, loader: ResumableDataLoader, device: str
    ) -> NDArray[np.float64]:
        module = module.eval().to(device)
        with torch.inference_mode():
            parts = [module(images.to(device)).double().cpu() for images, _ in loader]
        return torch.cat(parts).numpy()


def macro_auroc(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Mean AUROC over the columns with both values, (n, C) each; 0 if there is none."""
    values = []
    for column in range(truth.shape[1]):
        known = np.isfinite(truth[:, column])
        labels = truth[known, column]
        if 0 < labels.sum() < len(labels):
            values.append(auroc(labels, scores[known, column]))
    return float(np.mean(values)) if values else 0.0


def _stopped(last: Path) -> bool:
    """Whether a checkpoint was written when early stopping had just ended the training."""
    states = ours.read_checkpoint(last).get("callbacks", {}).values()
    return any(
        "wait_count" in state and state["wait_count"] >= state["patience"] for state in states
    )


def _rows(benchmark: Benchmark, split: str, labels: list[str]) -> Split | None:
    """Labels and row numbers of a split, without features; None: there is no such val split."""
    try:
        rows: pandas.DataFrame = benchmark.rows(cast("Any", split))
    except NotApplicable:
        if split == "val":
            return None
        raise
    truth = benchmark.truth(rows, labels)
    numbers = rows.index.to_numpy()
    empty = np.empty((len(rows), 0), dtype=np.float32)
    return Split(empty, truth, rows["patient"].to_numpy(), numbers)
