"""Unrolled reconstruction: a learned denoiser alternating with data consistency."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sagittal_core.ops import cg_solve
from sagittal_mri.nn.unet import UNetDenoiser
from sagittal_mri.physics.sense import SenseOperator


class UnrolledNetwork(nn.Module):
    """``iterations`` times: denoise, then make consistent with the measured samples.

    ``data_consistency="cg"`` solves ``(A^H A + lam I) x = A^H y + lam z`` with lam learned per
    iteration (MoDL, Aggarwal et al., TMI 2019, eq. 8), differentiated implicitly, so memory does
    not grow with the CG iterations. ``"gradient"`` takes ``x = z - eta A^H (A z - y)`` (variational
    network, Hammernik et al., MRM 2018).

    Args:
        iterations: number of unrolled iterations.
        channels: features of the U-Net denoiser at full resolution.
        levels: downsamplings of the denoiser.
        data_consistency: "cg" or "gradient".
        cg_iterations: cap on CG iterations.
        shared: one denoiser for all iterations (as in MoDL) or one for each.
    """

    def __init__(
        self,
        iterations: int = 5,
        channels: int = 24,
        levels: int = 2,
        data_consistency: Literal["cg", "gradient"] = "cg",
        cg_iterations: int = 8,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if data_consistency not in ("cg", "gradient"):
            raise ValueError(
                f"UnrolledNetwork: data_consistency is 'cg' or 'gradient', found "
                f"{data_consistency!r}"
            )
        if min(iterations, channels, cg_iterations) < 1 or levels < 0:
            raise ValueError(
                "UnrolledNetwork: expected iterations, channels and cg_iterations >= 1 and"
                f" levels >= 0, found {iterations}, {channels}, {cg_iterations} and {levels}"
            )
        self.iterations = iterations
        self.data_consistency = data_consistency
        self.cg_iterations = cg_iterations
        count = 1 if shared else iterations
        self.denoisers = nn.ModuleList(UNetDenoiser(channels, levels) for _ in range(count))
        # softplus keeps the weights positive; softplus(-2.25) = 0.1, softplus(0.54) = 1.0
        start = -2.25 if data_consistency == "cg" else 0.54
        self.weight = nn.Parameter(torch.full((iterations,), start))

    def forward(self, rhs: Tensor, operator: SenseOperator) -> Tensor:
        """Reconstruct. The network sees images only, so any sampling may follow any other.

        Args:
            rhs: ``A^H y`` of the measured samples, ``(B, H, W)`` complex.
            operator: A, the physics of exactly these samples.

        Returns:
            ``(B, H, W)`` complex image, zero outside the support of the coil maps.
        """
        weight = functional.softplus(self.weight)
        image = self._solve(operator, rhs, weight[0], torch.zeros_like(rhs))
        for index in range(self.iterations):
            denoiser = self.denoisers[index % len(self.denoisers)]
            image = self._solve(operator, rhs, weight[index], denoiser(image))
        # Where every map is zero A does not see the image, so no measured sample teaches it: what
        # the denoiser leaves there is arbitrary.
        return image * (operator.maps != 0).any(-3)

    def _solve(self, operator: SenseOperator, rhs: Tensor, weight: Tensor, z: Tensor) -> Tensor:
        """One data-consistency step towards the samples, from the denoised image ``z``."""
        if self.data_consistency == "gradient":
            return z - weight * (operator.normal(z) - rhs)
        return cg_solve(
            operator.normal, rhs + weight * z, weight, z, max_iter=self.cg_iterations, tol=1e-5
        )
