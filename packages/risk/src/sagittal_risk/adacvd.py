"""Tuning of a language model to say whether a cardiovascular event will come (AdaCVD)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.runs import find_run, load_model
from sagittal_risk.data import PromptBatch
from sagittal_risk.nn.answer_model import AnswerModel, LoRASettings
from sagittal_risk.prompts import LOW_MASS


class AdaCVD(lightning.LightningModule):
    """A causal language model with adapters, trained on the single token of its answer.

    The loss is the cross-entropy of that token over the whole vocabulary; the risk is the
    probability of the positive answer among the two. How much probability the two have together
    (the answer mass) is logged beside every measure. Checkpoints hold the adapters alone, so the
    model's own weights have to stay where they are.

    Args:
        weights: Folder of safetensors with config and tokenizer, a GGUF file, or the name of sample
            data (``smollm2``).
        lora: Adapters.
        answers: The negative and the positive answer.
        dtype: ``auto`` (as stored), ``float32`` or ``bfloat16``.
        longest: Tokens of a prompt; None: as many as the model takes.
        learning_rate: Of AdamW.
        decay_every: Steps after which the rate is multiplied by ``decay``; None: never.
        decay: See ``decay_every``.
        start: Run whose adapters training goes on from, as for adaptation to another population;
            its model must be the same.
    """

    def __init__(
        self,
        weights: str = "smollm2",
        lora: LoRASettings | None = None,
        answers: tuple[str, str] = ("No", "Yes"),
        dtype: str = "auto",
        longest: int | None = None,
        learning_rate: float = 1e-5,
        decay_every: int | None = None,
        decay: float = 0.5,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.network = AnswerModel(weights, answers, lora or LoRASettings(), dtype, longest)
        self.learning_rate, self.decay_every, self.decay = learning_rate, decay_every, decay
        self.start = start
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        """Take the adapters of an earlier run, unless this one was begun already."""
        if self.start is not None and self.trainer.global_step == 0:
            before = load_adacvd(self.start)
            if before.network.identity != self.network.identity:
                raise ConfigError(
                    f"{self.start} was trained on {before.network.identity}, this run is to train"
                    f" {self.network.identity}"
                )
            self.load_state_dict(before.adapters())

    def adapters(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {f"network.{name}": value.detach() for name, value in self.network.trainable()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the model's own weights out."""
        kept = self.adapters().keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load adapters.

        Raises:
            RuntimeError: An adapter is missing, or there is one that this model has not.
        """
        wanted = self.adapters().keys()
        if wanted != state_dict.keys():
            odd = sorted(wanted ^ state_dict.keys())
            raise RuntimeError(f"the adapters differ, first {odd[0]}, {len(odd)} in all")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def training_step(self, batch: PromptBatch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        answers = self.network(batch.prompts)
        loss = self.network.loss(answers, batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.prompts))
        self.log("train/answer_mass", answers.mass.mean(), batch_size=len(batch.prompts))
        return loss

    def validation_step(self, batch: PromptBatch, batch_index: int) -> None:
        """Keep one batch's answers."""
        self._keep(batch)

    def test_step(self, batch: PromptBatch, batch_index: int) -> None:
        """Keep one batch's answers."""
        self._keep(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the measures over the validation patients."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the measures over the test patients and write their risks into the run folder."""
        self._finish("test")

    def _keep(self, batch: PromptBatch) -> None:
        answers = self.network(batch.prompts)
        labels = batch.labels.float()  # bfloat16 with precision bf16-true
        self._seen.append((batch.rows.cpu(), labels.cpu(), answers.risk.cpu(), answers.mass.cpu()))

    def _finish(self, stage: str) -> None:
        rows, labels, risk, mass = (
            torch.cat(part).numpy() for part in zip(*self._seen, strict=True)
        )
        self._seen.clear()
        if self.trainer.world_size > 1:
            # Ranks may hold one patient more or less, so arrays of any length are gathered.
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (rows, labels, risk, mass))
            rows, labels, risk, mass = (np.concatenate(p) for p in zip(*parts, strict=True))
        for name, value in measures(labels, risk, mass).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "auroc", rank_zero_only=True)
        if stage == "test" and self.trainer.is_global_zero:
            write_risks(Path(self.trainer.default_root_dir), rows, labels, risk, mass)

    def configure_optimizers(self) -> Any:
        """AdamW over the adapters, with a rate that falls in steps."""
        optimizer = torch.optim.AdamW(
            [value for _, value in self.network.trainable()], lr=self.learning_rate
        )
        if self.decay_every is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every, self.decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def measures(labels: np.ndarray, risk: np.ndarray, mass: np.ndarray) -> dict[str, float]:
    """Measures over N patients; those that need both outcomes are left out where one is missing.

    Args:
        labels: (N,) 0 or 1.
        risk: (N,) probabilities.
        mass: (N,) probability of the two answers together.
    """
    found = {
        "brier": float(np.mean((risk - labels) ** 2)),
        "mean_risk": float(risk.mean()),
        "events": float(labels.mean()),
        "answer_mass": float(mass.mean()),
        "low_mass_share": float((mass < LOW_MASS).mean()),
    }
    if 0 < labels.sum() < len(labels):
        found["auroc"] = float(roc_auc_score(labels, risk))
        found["average_precision"] = float(average_precision_score(labels, risk))
    return found


def write_risks(
    folder: Path, rows: np.ndarray, labels: np.ndarray, risk: np.ndarray, mass: np.ndarray
) -> None:
    """Write ``risks.csv`` into the run folder: row of the table, outcome, risk, answer mass."""
    import pandas

    table = pandas.DataFrame({"row": rows, "outcome": labels, "risk": risk, "answer_mass": mass})
    temporary = folder / ".risks.csv.tmp"
    table.sort_values("row").to_csv(temporary, index=False)
    temporary.replace(folder / "risks.csv")


def load_adacvd(path: str | Path) -> AdaCVD:
    """The model of a finished ``fit``, in evaluation mode.

    Raises:
        ConfigError: There is no such run, several, or it is not finished.
        DataError: The run trained something else, or its weights are damaged or gone.
    """
    run = find_run(Path(path))
    model = load_model(run, "sagittal_risk.registry")
    if not isinstance(model, AdaCVD):
        raise DataError(
            run / "config.yaml", key="model", expected="AdaCVD", found=type(model).__name__
        )
    return model.eval()
