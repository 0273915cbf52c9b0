"""Training of a sparse autoencoder over the embeddings of a foundation model."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

from sagittal_genai.metrics.fidelity import Fidelity
from sagittal_genai.nn.sae import SAEOutput, SparseAutoencoder

# Adam moves the logarithm of a threshold by the learning rate a step at most, which is too slow for
# activations that grow as features form: far fewer than k would be active for hundreds of steps.
THRESHOLD_RATE = 10.0


def adam(module: torch.nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam over all parameters; on a CPU one pass through memory, which is what it costs there.

    Thresholds of a JumpReLU learn ``THRESHOLD_RATE`` times as fast.
    """
    named = list(module.named_parameters())
    fast = [value for name, value in named if name.endswith("log_threshold")]
    groups: list[dict[str, Any]] = [
        {"params": [value for name, value in named if not name.endswith("log_threshold")]}
    ]
    if fast:
        groups.append({"params": fast, "lr": THRESHOLD_RATE * learning_rate})
    # On a GPU fused steps and Lightning's clipping do not go together in half precision.
    fused = True if named[0][1].device.type == "cpu" else None
    return torch.optim.Adam(groups, lr=learning_rate, fused=fused)


class SAIL(lightning.LightningModule):
    """A sparse autoencoder, its loss and its fidelity on held-out rows.

    The loss is the mean over prefixes of the mean squared error in normalised units, plus the
    activation's penalty, plus ``aux`` times AuxK.

    Args:
        network: The autoencoder; its ``input_dim`` is the width of the embeddings.
        learning_rate: Of Adam.
        warmup: Share of the planned steps over which the rate rises to it; a cosine then lowers it
            to a hundredth.
        warmup_steps: Steps that the rise takes at most; None: no limit.
        aux: Weight of AuxK; 0 switches it off.
        dead_after: Training rows without activity after which a feature counts as dead.
        k_aux: Dead features of a row that AuxK uses at most; None: half of ``input_dim``.
    """

    def __init__(
        self,
        network: SparseAutoencoder,
        learning_rate: float = 1e-3,
        warmup: float = 0.05,
        warmup_steps: int | None = None,
        aux: float = 1 / 32,
        dead_after: int = 100_000,
        k_aux: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.aux = learning_rate, aux
        self.warmup, self.warmup_steps = warmup, warmup_steps
        self.dead_after = dead_after
        self.k_aux = network.W_d.shape[1] // 2 if k_aux is None else k_aux
        self.fidelity = Fidelity(network.W_d.shape[1], len(network.b_e))

    def setup(self, stage: str) -> None:
        """Compare widths before a step is taken."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "expect_width"):
            data.expect_width(self.network.W_d.shape[1])

    def on_fit_start(self) -> None:
        """Set units and bias from training rows, once in the life of a run; ranks agree."""
        if not bool(self.network.initialised):
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.network.initialise(data.initial_rows().to(self.device))

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """Loss of one batch (N, D)."""
        out = self.network(batch)
        error = (out.reconstructions - out.normalised).square().mean()
        loss = error + out.penalty
        if self.aux:
            auxiliary = self.network.auxiliary_loss(out, self.dead_after, self.k_aux)
            loss = loss + self.aux * auxiliary
            self.log("train/aux", auxiliary, batch_size=len(batch))
        self.network.count_use(out.codes, len(batch))
        idle = self.network.idle >= self.dead_after
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        self.log("train/dead_share", idle.float().mean(), batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the step from changing the decoder rows' length."""
        self.network.project_gradient()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and restore the length that Adam's scaling changed all the same."""
        super().optimizer_step(*args, **kwargs)
        self.network.normalise()

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.fidelity.reset()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Count one batch."""
        self._count(batch)

    def on_validation_epoch_end(self) -> None:
        """Log R2, L0 and features in use on the validation rows."""
        self._log_fidelity("val")

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.fidelity.reset()

    def test_step(self, batch: Tensor, batch_index: int) -> None:
        """Count one batch."""
        self._count(batch)

    def on_test_epoch_end(self) -> None:
        """Log R2, L0 and features in use on the test rows."""
        self._log_fidelity("test")

    def _count(self, batch: Tensor) -> None:
        out: SAEOutput = self.network(batch)
        self.fidelity.update(out.normalised, out.reconstructions[-1], out.codes)

    def _log_fidelity(self, stage: str) -> None:
        # Counts were summed over the ranks, so every rank logs the same number.
        for name, value in self.fidelity.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "r2")

    def configure_optimizers(self) -> Any:
        """Adam with a linear rise and a cosine fall over the planned steps."""
        optimizer = adam(self, self.learning_rate)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        rise = round(self.warmup * steps)
        rise = max(1, rise if self.warmup_steps is None else min(rise, self.warmup_steps))
        first = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=rise)
        then = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(1, steps - rise), eta_min=self.learning_rate / 100
        )
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, then], [rise])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
