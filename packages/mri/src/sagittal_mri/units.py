"""UNITS: one LightningModule for supervised and self-supervised MRI reconstruction."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn

from sagittal_core.run_logger import log_picture
from sagittal_core.seeds import counter_generator
from sagittal_mri.data.batch import Scans
from sagittal_mri.metrics import nrmse, psnr, ssim
from sagittal_mri.nn.unrolled import UnrolledNetwork
from sagittal_mri.partitions import KWeightedSSDU, Partition, View
from sagittal_mri.physics.sense import SenseOperator
from sagittal_mri.pictures import panel


def residual_loss(
    residual: Tensor, target: Tensor, seen: Tensor, weight: Tensor, distance: str
) -> Tensor:
    """Distance between predicted and measured target samples.

    Args:
        residual: ``(B, C, ...)`` complex, ``M_T (A f - y)``.
        target: same shape, ``M_T y``.
        seen: ``(B, C, ...)`` complex, ``M_I y``, the network's input samples.
        weight: of each squared target residual, real, broadcastable to the samples.
        distance: "l2": ``sum w |r|^2 / sum |M_I y|^2``, per scan. The divisor is fixed once I is
            drawn, so that the expectation over T stays a weighted supervised risk; dividing by
            the target's own energy would weight most those targets that hold only noise. "l1_l2":
            the mean of the l1 and l2 norms, each over the target's own (Yaman et al. 2020, eq. 7);
            a scan whose split left no target counts 0.

    Returns:
        Scalar, the mean over the batch.
    """
    weight = weight.to(residual.real.dtype)
    energy = residual.real.square() + residual.imag.square()
    square = (weight * energy).flatten(1).sum(1)
    if distance == "l2":
        return (square / seen.abs().square().flatten(1).sum(1)).mean()
    power = _or_one((weight * target.abs().square()).flatten(1).sum(1))
    root = weight.sqrt()
    # 1e-12 keeps the gradients of the roots finite where the residual is exactly zero
    l1 = (root * (energy + 1e-12).sqrt()).flatten(1).sum(1)
    l1 = l1 / _or_one((root * target.abs()).flatten(1).sum(1))
    return 0.5 * ((square / power + 1e-12).sqrt() + l1).mean()


def _or_one(total: Tensor) -> Tensor:
    """The divisor of a sum that may be empty, so that its quotient is 0, not 0 / 0."""
    return torch.where(total > 0, total, torch.ones_like(total))


class UNITS(lightning.LightningModule):
    """Unified splitting-based training of an unrolled network (Xu et al., arXiv 2601.04775).

    ``L = sum_v || W_v^1/2 M_T^v (F S f(y_I^v, A_I^v) - y) ||^2 + beta sum ||f_v - f_v'||^2``; the
    partition decides I, T and W (see :mod:`sagittal_mri.partitions`).

    Args:
        network: the reconstruction network.
        partition: Supervised, SSDU or KWeightedSSDU.
        distance: "l2" (the theory's) or "l1_l2".
        consistency: beta, weight of the squared image difference between consecutive views; needs a
            partition with at least two.
        learning_rate: of Adam, decayed to a tenth over training by a cosine.
        run_seed: seed of the splits.
        log_images: send a panel of the first validation and test scan to the loggers and the run's
            report. Leave it off for patients' data.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        partition: Partition | None = None,
        distance: Literal["l2", "l1_l2"] = "l2",
        consistency: float = 0.0,
        learning_rate: float = 1e-3,
        run_seed: int = 0,
        log_images: bool = False,
    ) -> None:
        super().__init__()
        self.network = UnrolledNetwork() if network is None else network
        self.partition = KWeightedSSDU() if partition is None else partition
        if consistency and getattr(self.partition, "views", 1) < 2:
            raise ValueError("UNITS: consistency > 0 compares views; set partition views to 2")
        if not learning_rate > 0:
            raise ValueError(f"UNITS: learning_rate must be above 0, found {learning_rate}")
        self.distance = distance
        self.consistency = consistency
        self.learning_rate = learning_rate
        self.run_seed = run_seed
        self.log_images = log_images

    def forward(self, batch: Scans) -> Tensor:
        """Reconstruct from all acquired samples: ``(B, H, W)`` complex, in the scan's own units."""
        scale = batch.scale[:, None, None]
        return self.network(batch.adjoint() / scale, batch.operator()) * scale

    def views(self, batch: Scans) -> list[View]:
        """Draw this step's views; the draw is a function of (seed, scan, epoch) alone."""
        epoch = self.current_epoch if self.partition.resample == "step" else 0
        generators = [
            counter_generator(self.run_seed, "split", int(index), epoch) for index in batch.number
        ]
        return self.partition(batch.law(), generators)

    def loss(self, batch: Scans, views: list[View]) -> Tensor:
        """The UNITS objective of one batch, scalar."""
        scale = batch.scale[:, None, None]
        total = scale.new_zeros(())
        previous = None
        for view in views:
            image = self.network(batch.adjoint(view.input) / scale, batch.operator(view.input))
            operator, samples, weight = self._goal(batch, view)
            target, seen = (y / scale.unsqueeze(1) for y in (samples, batch.measured(view.input)))
            residual = operator(image) - target
            total = total + residual_loss(residual, target, seen, weight, self.distance)
            if self.consistency and previous is not None:
                total = total + self.consistency * (image - previous).abs().square().mean()
            previous = image
        return total / len(views)

    def _goal(self, batch: Scans, view: View) -> tuple[SenseOperator, Tensor, Tensor]:
        """Operator, samples and weights that the image of one view is judged by."""
        if self.partition.supervised:
            operator, samples = batch.truth()
            return operator, samples, torch.ones_like(batch.scale)[:, None, None, None]
        weight = batch.per_sample(view.weight)
        return batch.operator(view.target), batch.measured(view.target), weight

    def training_step(self, batch: Scans, batch_index: int) -> Tensor:
        """Loss of one batch."""
        loss = self.loss(batch, self.views(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.number))
        return loss

    def validation_step(self, batch: Scans, batch_index: int) -> None:
        """Self-supervised validation loss always; image metrics where a reference exists."""
        size = len(batch.number)
        self.log("val/loss", self.loss(batch, self.views(batch)), batch_size=size, sync_dist=True)
        self._log_metrics("val", batch, batch_index)

    def test_step(self, batch: Scans, batch_index: int) -> None:
        """Image metrics on held-out scans; their loss where no reference exists."""
        if not batch.has_reference:
            loss = self.loss(batch, self.views(batch))
            self.log("test/loss", loss, batch_size=len(batch.number), sync_dist=True)
        self._log_metrics("test", batch, batch_index)

    def _log_metrics(self, stage: str, batch: Scans, batch_index: int) -> None:
        wants_panel = self.log_images and batch_index == 0
        if not (batch.has_reference or wants_panel):
            return
        image, size = self(batch).abs(), len(batch.number)
        if batch.has_reference:
            for name, metric in (("psnr", psnr), ("ssim", ssim), ("nrmse", nrmse)):
                value = metric(image, batch.reference, batch.body).mean()
                bar = name == "psnr"
                self.log(f"{stage}/{name}", value, prog_bar=bar, batch_size=size, sync_dist=True)
        if wants_panel:
            self._log_panel(stage, image[0], batch)

    def _log_panel(self, stage: str, image: Tensor, batch: Scans) -> None:
        """The first scan's reconstruction beside what it is compared with, as a picture.

        That is the reference, with the error, or else the zero-filled (or gridded) image.
        """
        data = getattr(self.trainer, "datamodule", None)
        turns = getattr(data, "quarter_turns", 0)
        images = {"reconstruction": image}
        reference = batch.reference[0] if batch.has_reference else None
        if reference is None:
            images["without a network"] = batch.adjoint()[0].abs()
        picture, scale = panel(images, reference, quarter_turns=turns)
        log_picture(self, f"{stage}/panel", picture, f"first {stage} scan; {scale}")

    def configure_optimizers(self) -> Any:
        """Adam with a cosine decay to a tenth over the planned steps."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, steps, eta_min=self.learning_rate / 10
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
