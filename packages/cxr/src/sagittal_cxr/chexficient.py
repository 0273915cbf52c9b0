"""Contrastive pretraining of images and texts on the pairs that a selector keeps."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from sagittal_core.errors import ConfigError
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.curation.selector import Selector
from sagittal_cxr.curator import Chosen, Curator, encode
from sagittal_cxr.in_batch import PairRows
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.objectives import InfoNCE, Objective, gather_pairs, own_part

STATE = "chexficient"


class CheXficient(lightning.LightningModule):
    """Training of an image and a text encoder (Wang et al., arXiv 2602.22843).

    In the first ``curation_epochs`` a selector decides over every global batch, and only the pairs
    it keeps are trained on; later epochs load the union of what it kept and nothing else. Defaults
    are the published ones: AdamW whose rate falls from 5e-5 to 5e-6 along a cosine without a
    warm-up, weight decay 1e-4 and none of vectors and scalars.

    The cosine runs over the trainer's epochs (each an equal share, however many steps it has), or
    over ``max_steps`` if the trainer has that.

    Args:
        network: The model.
        objective: InfoNCE or SigLIP; None: InfoNCE as published.
        selector: Decides which pairs are trained on; None: all.
        curation_epochs: Epochs in which it decides.
        reference: A trained model (run folder or exported folder) for selectors that compare with
            one; it must take the same images and token ids.
        learning_rate: At the beginning.
        final_learning_rate: At the end.
        weight_decay: Of matrices and kernels.
        chunk: Pairs that a process encodes at a time; gradients are those of the whole batch,
            memory that of a chunk. None: all at once.
        validation_batch: Pairs among which validation and test retrieve.
    """

    def __init__(
        self,
        network: ImageTextModel,
        objective: Objective | None = None,
        selector: Selector | None = None,
        curation_epochs: int = 1,
        reference: str | None = None,
        learning_rate: float = 5e-5,
        final_learning_rate: float = 5e-6,
        weight_decay: float = 1e-4,
        chunk: int | None = None,
        validation_batch: int = 64,
    ) -> None:
        super().__init__()
        self.network, self.objective = network, objective or InfoNCE()
        if self.objective.needs_bias != (network.logit_bias is not None):
            wanted = "a logit_bias, such as -10" if self.objective.needs_bias else "no logit_bias"
            raise ConfigError(f"{type(self.objective).__name__}: the network needs {wanted}")
        if chunk is not None and network.vision.uses_batch_statistics:
            raise ConfigError(
                "chunk: statistics over a chunk are not those of the batch; set batch_norm: frozen"
            )
        if curation_epochs < 1 or validation_batch < 2 or (chunk is not None and chunk < 1):
            raise ConfigError("curation_epochs and chunk from 1, validation_batch from 2")
        self.curator = None if selector is None else Curator(selector)
        self.curation_epochs, self.reference = curation_epochs, reference
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.weight_decay, self.chunk = weight_decay, chunk
        self.validation_batch = validation_batch
        self.spent = {"pairs_loaded": 0, "pairs_trained": 0, "pairs_recomputed": 0, "seconds": 0.0}
        self._rows, self._started = PairRows(), 0.0

    def rows_to_train(self, epoch: int) -> Tensor | None:
        """Rows of an epoch that the data module is to load (n,) int64, ascending; None: all.

        Raises:
            ConfigError: The selector has kept nothing.
        """
        if self.curator is None or epoch < self.curation_epochs:
            return None
        kept = self.curator.kept()
        if not len(kept):
            raise ConfigError("the selector kept no pair at all, so there is nothing to train on")
        return kept

    def on_fit_start(self) -> None:
        """Open the ledger, load the reference."""
        # A frozen encoder stays in evaluation mode on purpose.
        warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode at the start.*")
        if self.trainer.max_steps <= 0 and (self.trainer.max_epochs or 0) <= 0:
            raise ConfigError("the learning rate falls over the run: set max_epochs or max_steps")
        if self.curator is None:
            return
        # The next epoch may have other rows.
        self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "curation"
        index = getattr(self.trainer.datamodule, "identity", None)  # type: ignore[attr-defined]
        self.curator.open(folder if self.trainer.is_global_zero else None, index)
        if self.curator.selector.needs_reference and self.curator.reference is None:
            if self.reference is None:
                name = type(self.curator.selector).__name__
                raise ConfigError(f"{name} compares with a trained model: set model.reference")
            self.curator.reference = _reference(self.reference, self.network).to(self.device)

    def on_train_start(self) -> None:
        """Log what the data are; show a selector that asks for it some batches before step 0."""
        counts = getattr(self.trainer.datamodule, "counts", {})  # type: ignore[attr-defined]
        for logger in self.trainer.loggers if counts else ():
            logger.log_metrics(counts, self.trainer.global_step)
        if self.curator is None or self.trainer.global_step > 0 or self.curator.steps > 0:
            return
        loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        for number, batch in enumerate(loader):
            ready = self.trainer.strategy.batch_to_device(batch, self.device)
            with self.trainer.precision_plugin.forward_context():
                more = self.curator.warm_up(self.network, self.objective, ready, self.chunk)
            if not more or number + 1 >= self.trainer.num_training_batches:
                break

    def on_train_batch_start(self, batch: PairBatch, batch_index: int) -> None:
        """Set the learning rate of this step."""
        self._started = time.monotonic()
        rate = self.rate(batch_index)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.log("train/learning_rate", rate, batch_size=1)

    def rate(self, batch_index: int) -> float:
        """Learning rate of a batch of the current epoch."""
        trainer = self.trainer
        if trainer.max_steps > 0:
            share = trainer.global_step / trainer.max_steps
        else:
            within = batch_index / trainer.num_training_batches
            share = (trainer.current_epoch + within) / trainer.max_epochs  # type: ignore[operator]
        low, high = self.final_learning_rate, self.learning_rate
        return low + (high - low) * (1 + math.cos(math.pi * min(share, 1.0))) / 2

    def training_step(self, batch: PairBatch, batch_index: int) -> Tensor:
        """Loss of the kept pairs of a global batch, of which ``batch`` is this rank's part."""
        total, world = len(batch.rows) * self.trainer.world_size, self.trainer.world_size
        chosen = Chosen(torch.ones(total, dtype=torch.bool, device=self.device), total)
        if self.curator is not None and self.current_epoch < self.curation_epochs:
            chosen = self.curator.choose(self.network, self.objective, batch, self.chunk)
            self.log("train/kept_share", chosen.kept / total, batch_size=total)
        loss = self.loss(batch, own_part(chosen.train))
        self._count(total, chosen.train.view(-1, world).sum(0).tolist())
        self.log("train/loss", loss, prog_bar=True, batch_size=total)
        self.log("train/scale", self.network.logit_scale.detach().exp(), batch_size=total)
        return loss

    def loss(self, batch: PairBatch, kept: Tensor) -> Tensor:
        """Loss of all ranks' kept pairs.

        Args:
            batch: This rank's part of a global batch.
            kept: (n,) bool, pairs of it to train on; how many may differ between ranks.
        """
        images, texts = gather_pairs(*self._encode(batch, kept))
        return self.objective(images, texts, self.network.logit_scale, self.network.logit_bias)

    def _encode(self, batch: PairBatch, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (k, dim) of this rank's kept pairs; with none of them, gradients are zeros."""
        if not bool(kept.all()):
            places = kept.nonzero()[:, 0]
            chosen = places if len(places) else torch.zeros_like(kept[:1], dtype=torch.int64)
            batch = PairBatch(*(value[chosen] for value in batch))
            batch = _trimmed(batch)
        images, texts = encode(self.network, batch, self.chunk)
        count = int(kept.sum())
        return images[:count], texts[:count]

    def _count(self, loaded: int, trained: list[int]) -> None:
        """Add a step to what was spent, over all ranks, and log the sums."""
        self.spent["pairs_loaded"] += loaded
        self.spent["pairs_trained"] += sum(trained)
        again = [n for n in trained if self.chunk is not None and n > self.chunk]
        self.spent["pairs_recomputed"] += sum(again)
        sums: dict[str, float] = dict(self.spent)
        if self.curator is not None:
            sums["pairs_forward_only"] = self.curator.forwards
            sums["pairs_reference"] = self.curator.reference_forwards
        for name, value in sums.items():
            self.log(f"spent/{name}", float(value), batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: PairBatch, batch_index: int) -> None:
        """Stop the clock."""
        self.spent["seconds"] += time.monotonic() - self._started

    def on_train_epoch_end(self) -> None:
        """Keep the selector's state beside its decisions."""
        if self.curator is not None and self.current_epoch < self.curation_epochs:
            self.curator.write_state()

    def on_train_end(self) -> None:
        """The same, as an epoch that a resumed run finds complete has no end."""
        if self.curator is not None:
            self.curator.write_state()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and hold the scale below the objective's limit if it has one."""
        super().optimizer_step(*args, **kwargs)
        if self.objective.max_scale is not None:
            with torch.no_grad():
                self.network.logit_scale.clamp_(max=math.log(self.objective.max_scale))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the rate is set before each step."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        # On a GPU fused steps and Lightning's clipping do not go together in half precision.
        fused = True if trained[0].device.type == "cpu" else None
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=fused)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the selector knows, the rows it kept and what was spent."""
        state: dict[str, Any] = {"spent": dict(self.spent)}
        if self.curator is not None:
            state["curation"] = self.curator.state_dict()
        checkpoint[STATE] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        state = checkpoint[STATE]
        self.spent = dict(state["spent"])
        if self.curator is not None:
            self.curator.load_state_dict(state["curation"])

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._rows = PairRows()

    def validation_step(self, batch: PairBatch, batch_index: int) -> None:
        """Collect one batch."""
        self._rows.add(batch, *encode(self.network, batch, self.chunk))

    def on_validation_epoch_end(self) -> None:
        """Log loss and retrieval among ``validation_batch`` pairs."""
        self._log_rows("val")

    def on_test_epoch_start(self) -> None:
        """Begin to collect."""
        self._rows = PairRows()

    def test_step(self, batch: PairBatch, batch_index: int) -> None:
        """Collect one batch."""
        self._rows.add(batch, *encode(self.network, batch, self.chunk))

    def on_test_epoch_end(self) -> None:
        """Log loss and retrieval among ``validation_batch`` pairs."""
        self._log_rows("test")

    def _log_rows(self, stage: str) -> None:
        # Rows were gathered, so every rank logs the same number.
        found = self._rows.compute(self.network, self.objective, self.validation_batch)
        for name, value in found.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss")


def _trimmed(batch: PairBatch) -> PairBatch:
    """Without columns of token ids that are padding in every row."""
    longest = int(batch.attention_mask.sum(1).max())
    return batch._replace(
        input_ids=batch.input_ids[:, :longest], attention_mask=batch.attention_mask[:, :longest]
    )


def _reference(path: str, network: ImageTextModel) -> ImageTextModel:
    """A frozen model that takes the same images and token ids as ``network``."""
    from sagittal_cxr.runs import load_image_text

    model = load_image_text(path).requires_grad_(False)
    if model.preprocessing != network.preprocessing:
        raise ConfigError(
            f"reference {path}: its images go through {model.preprocessing}, those of the network"
            f" through {network.preprocessing}"
        )
    if model.text.tokenizer.get_vocab() != network.text.tokenizer.get_vocab():
        raise ConfigError(f"reference {path}: its tokenizer is another than the network's")
    return model
