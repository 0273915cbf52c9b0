"""Radial scans: the typed batch, and what is computed of one scan's samples before training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sagittal_core.errors import ConfigError
from sagittal_mri.partitions import Acquisition
from sagittal_mri.physics.coils import espirit_maps, root_sum_of_squares
from sagittal_mri.physics.fourier import center_pad, ifft2c
from sagittal_mri.physics.radial import (
    calibration_kspace,
    calibration_radius,
    ramp_weights,
    spoke_positions,
)
from sagittal_mri.physics.sense import CartesianSense, RadialSense, gather_positions


class RadialBatch(NamedTuple):
    """Radial scans of one matrix size and one number of spokes and samples, B of them.

    Position 0 of P is the calibration disc, always in the input; the others are the outer samples
    of groups of spokes (:func:`spoke_positions`). Kernels and adjoints are kept per position, so
    that the operator and the right-hand side of a random split are sums of what is here.

    The density weights W are part of A, hence of the loss: a radial scan samples k-space with a
    density of 1/|k|, and W, its inverse, makes the expected squared target residual an unweighted
    one over the k-space disc outside the calibration centre, as inverse-probability weights do for
    columns. Without W, the few low frequencies that all spokes share would fill the loss.
    """

    samples: Tensor  # (B, C, spokes, samples) complex64, W^1/2 y
    trajectory: Tensor  # (B, spokes, samples, 2) float32, radians per pixel
    weights: Tensor  # (B, spokes, samples) float32, density compensation W
    position: Tensor  # (B, spokes, samples) int64 in 0..P-1
    kernels: Tensor  # (B, P, 4, H, W) float32, Toeplitz kernel K_g of every position
    adjoints: Tensor  # (B, P, H, W) complex64, b_g = A_g^H y_g of every position
    maps: Tensor  # (B, C, H, W) complex64, estimated from the calibration disc
    density: Tensor  # (B, P) float32, probability that a position is acquired
    scale: Tensor  # (B,) float32, from the calibration disc only
    number: Tensor  # (B,) int64, number of the scan in its data set; seeds its splits
    reference_kspace: Tensor  # (B, C, H, W) noise-free, in the k-space disc, or (B, 0, H, W)
    reference: Tensor  # (B, H, W) magnitude; zeros where unknown
    body: Tensor  # (B, H, W) bool, pixels that the metrics count

    @property
    def has_reference(self) -> bool:
        """Whether noise-free data is known for these scans."""
        return self.reference_kspace.shape[1] > 0

    def law(self) -> Acquisition:
        """Every position was acquired; the outer ones have one probability, the disc has 1.

        The first spoke's direction is uniform, so no direction is likelier than another.
        """
        calibration = torch.zeros_like(self.density, dtype=torch.bool)
        calibration[:, 0] = True
        return Acquisition(torch.ones_like(calibration), self.density, calibration)

    def compensation(self, positions: Tensor | None) -> Tensor:
        """Factor ``(B, P)`` of the density weights when only ``positions`` are used.

        A share f of the outer weights covers the same k-space, so each sample of it stands for 1/f
        of its area; A^H A then is as near to the identity for a part of the spokes, on which the
        network trains, as for all of them, on which it is used.
        """
        if positions is None:
            return torch.ones_like(self.density)
        chosen = positions.to(self.density)
        mass = torch.zeros_like(chosen)
        mass.scatter_add_(1, self.position.flatten(1), self.weights.flatten(1))
        outer = mass[:, 1:].sum(1, keepdim=True)
        kept = (chosen * mass)[:, 1:].sum(1, keepdim=True)
        factor = torch.where(kept > 0, outer / kept, 1)
        return chosen * torch.cat([torch.ones_like(factor), factor.expand_as(mass[:, 1:])], 1)

    def operator(self, positions: Tensor | None = None) -> RadialSense:
        """The SENSE operator of all samples, or of those in ``positions`` ``(B, P)``."""
        return RadialSense(
            self.maps,
            self.trajectory,
            self.weights,
            self.position,
            self.compensation(positions),
            kernels=self.kernels,
        )

    def adjoint(self, positions: Tensor | None = None) -> Tensor:
        """``A^H W^1/2 y`` of all samples, or of those in ``positions``: ``(B, H, W)``, a sum."""
        factor = self.compensation(positions).to(self.adjoints.dtype)
        return torch.einsum("bp,bphw->bhw", factor, self.adjoints)

    def measured(self, positions: Tensor) -> Tensor:
        """Weighted samples ``(B, C, spokes, samples)``, zero outside ``positions``."""
        return self.per_sample(self.compensation(positions).sqrt()) * self.samples

    def per_sample(self, values: Tensor) -> Tensor:
        """Values per position ``(B, P)`` as ``(B, 1, spokes, samples)``."""
        return gather_positions(values, self.position).unsqueeze(1)

    def truth(self) -> tuple[CartesianSense, Tensor]:
        """Noise-free Cartesian k-space in the disc that spokes reach, and its operator.

        Raises:
            ConfigError: if these scans hold no reference.
        """
        if not self.has_reference:
            raise ConfigError("Supervised: these radial scans have no reference to learn from")
        height, width = self.reference.shape[-2:]
        disc = kspace_disc((height, width)).to(self.weights.device)
        return CartesianSense(self.maps, disc[None]), self.reference_kspace


def kspace_disc(shape: tuple[int, int]) -> Tensor:
    """Positions of the Cartesian grid ``(H, W)`` that spokes reach: ``|omega| <= pi``, bool."""
    axes = [(torch.arange(n) - n // 2) / (n / 2) for n in shape]
    return axes[0].square()[:, None] + axes[1].square()[None, :] <= 1


def make_radial_scan(
    samples: Tensor,
    trajectory: Tensor,
    shape: tuple[int, int],
    *,
    calibration: int,
    groups: int,
    index: int = 0,
    reference_kspace: Tensor | None = None,
    body: Tensor | None = None,
) -> RadialBatch:
    """Complete one measured or simulated radial slice.

    Density weights, positions and their Toeplitz kernels come from the trajectory; coil maps
    (ESPIRiT) and scale from the samples in the calibration disc alone.

    Args:
        samples: ``(C, spokes, samples)`` complex64, whitened, without density weights.
        trajectory: ``(spokes, samples, 2)`` float32, radians per pixel of ``shape``.
        shape: image matrix ``(H, W)``.
        calibration: diameter of the calibration disc in k-space samples.
        groups: groups of spokes that a split moves as a whole.
        index: number of the scan in its data set.
        reference_kspace: ``(C, H, W)`` noise-free k-space in :func:`kspace_disc`, if known.
        body: ``(H, W)`` bool, pixels that metrics count; None counts every pixel.

    Returns:
        A batch of one. The scale is the 99th percentile of the calibration image's magnitude.

    Raises:
        ValueError: if ESPIRiT finds no maps in the calibration disc.
    """
    center = calibration_kspace(samples, trajectory, shape, calibration)
    maps = espirit_maps(center, shape)[None]
    low = root_sum_of_squares(ifft2c(center_pad(center, shape)))

    weights = ramp_weights(trajectory, shape)
    position = spoke_positions(trajectory, groups, calibration_radius(shape, calibration))
    kernels = RadialSense.position_kernels(trajectory, weights, position, shape)
    weighted = (weights.sqrt() * samples)[None]
    whole = RadialSense(maps, trajectory, weights, position, kernels=kernels[None])
    chosen = torch.eye(groups + 1)
    adjoints = torch.cat([whole.restrict(one[None]).adjoint(weighted) for one in chosen])

    # Spokes that a full acquisition of this matrix needs, so that the arc between two is one
    # sample at the edge of k-space.
    share = min(trajectory.shape[0] / (math.pi / 2 * max(shape)), 0.999)
    density = torch.full((groups + 1,), share)
    density[0] = 1
    full = samples.new_zeros(0, *shape) if reference_kspace is None else reference_kspace
    known = reference_kspace is not None
    reference = root_sum_of_squares(ifft2c(full)) if known else torch.zeros(shape)
    pixels = torch.ones(shape, dtype=torch.bool) if body is None else body
    scale = torch.quantile(low, 0.99)
    sampling = (weighted[0], trajectory, weights, position, kernels, adjoints, maps[0])
    fields = (*sampling, density, scale, torch.tensor(index), full, reference, pixels)
    return RadialBatch(*(field.unsqueeze(0) for field in fields))
