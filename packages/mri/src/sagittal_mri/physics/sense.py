"""SENSE forward operators A = (mask) F S, Cartesian and radial, with one interface.

``A(x)``, ``A.adjoint(y)``, ``A.normal(x) = A^H A x`` and ``A.restrict(keep)`` (the operator of a
subset of the positions, for splitting) are all that the networks and objectives need.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sagittal_core.ops import nufft_type1, nufft_type2, toeplitz_kernel, toeplitz_normal
from sagittal_mri.physics.coils import combine, expand
from sagittal_mri.physics.fourier import fft2c, ifft2c


class SenseOperator(Protocol):
    """What a reconstruction may ask of the physics; ``adjoint`` is the exact adjoint."""

    maps: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """``A x``: image to the samples of every coil."""

    def adjoint(self, samples: Tensor) -> Tensor:
        """``A^H y``: samples to image."""

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x``, faster than the two in turn."""

    def restrict(self, keep: Tensor) -> SenseOperator:
        """The operator of the positions in ``keep``."""


class CartesianSense:
    """``A x = M F S x`` on a Cartesian grid, F the centred orthonormal DFT.

    Args:
        maps: ``(B, C, H, W)`` complex coil maps.
        mask: real, 0/1, broadcastable to ``(B, H, W)``: ``(B, 1, W)`` for columns.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        if mask.ndim != 3 or maps.ndim != 4:
            raise ValueError(
                f"CartesianSense: expected maps (B, C, H, W) and mask (B, 1 or H, W), found "
                f"{tuple(maps.shape)} and {tuple(mask.shape)}"
            )
        self.maps = maps
        self.mask = mask.to(maps.real.dtype)
        # A centring shift of the image is a phase on k-space, which commutes with the mask, so the
        # normal operator needs no shifts but this one; a column mask needs no transform along H.
        self._shifted = torch.fft.ifftshift(self.mask, dim=(-2, -1)).unsqueeze(1)
        self._dims = (-1,) if mask.shape[-2] == 1 else (-2, -1)

    def __call__(self, image: Tensor) -> Tensor:
        """``(B, H, W)`` complex image to ``(B, C, H, W)`` k-space, zero where not acquired."""
        return self.mask.unsqueeze(1) * fft2c(expand(image, self.maps))

    def adjoint(self, samples: Tensor) -> Tensor:
        """``(B, C, H, W)`` k-space to ``(B, H, W)`` image; samples outside the mask are ignored."""
        return combine(ifft2c(self.mask.unsqueeze(1) * samples), self.maps)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x`` for ``(B, H, W)`` complex ``x``; exact for 0/1 masks (M^2 = M)."""
        spectrum = torch.fft.fftn(expand(image, self.maps), dim=self._dims)
        return combine(torch.fft.ifftn(self._shifted * spectrum, dim=self._dims), self.maps)

    def restrict(self, keep: Tensor) -> CartesianSense:
        """The same operator on ``mask * keep``; ``keep`` is broadcastable to the mask."""
        return CartesianSense(self.maps, self.mask * keep.to(self.mask.dtype))


class RadialSense:
    """``A x = W^1/2 F_omega S x`` on spokes, with the normal operator in polyphase Toeplitz form.

    The square root of the density weights is part of A, so that A^H A = S^H F^H W F S and samples
    enter as ``W^1/2 y``. Scaled by 1/sqrt(H W) like the orthonormal DFT. Every sample belongs to
    one of P positions; the Toeplitz kernels of positions add up, so that another selection of them
    costs additions and no NUFFT.

    Args:
        maps: ``(B, C, H, W)`` complex.
        trajectory: ``(spokes, samples, 2)``, or ``(B, spokes, samples, 2)`` for one per scan; real,
            radians per pixel, order (H, W).
        weights: ``(..., spokes, samples)`` real >= 0 density compensation, as the trajectory.
        position: ``(..., spokes, samples)`` int64 in 0..P-1; None is one position.
        factor: ``(B, P)`` real >= 0, of the density weights of each position; 0 leaves it out. None
            is 1.
        kernels: :meth:`position_kernels` of the same samples; computed when needed if None.
        tolerance: relative accuracy of the NUFFT.
        backend: of the NUFFT, "sagittal" or "torchkbnufft" (its own accuracy, about 1e-3).
    """

    def __init__(
        self,
        maps: Tensor,
        trajectory: Tensor,
        weights: Tensor,
        position: Tensor | None = None,
        factor: Tensor | None = None,
        *,
        kernels: Tensor | None = None,
        tolerance: float = 1e-5,
        backend: str = "sagittal",
    ) -> None:
        if trajectory.ndim not in (3, 4) or trajectory.shape[-1] != 2:
            raise ValueError(
                f"RadialSense: expected a trajectory (spokes, samples, 2) or (B, spokes, samples, "
                f"2), found {tuple(trajectory.shape)}"
            )
        self.maps, self.trajectory, self.weights = maps, trajectory, weights
        if position is None:
            position = torch.zeros_like(weights, dtype=torch.int64)
        self.position = position
        if factor is None:
            count = int(position.max()) + 1 if kernels is None else kernels.shape[-4]
            factor = weights.new_ones(maps.shape[0], count)
        self.factor = factor.to(weights)
        self.tolerance, self.backend = tolerance, backend
        self._flat = trajectory.flatten(-3, -2)
        self._scale = 1 / math.sqrt(maps.shape[-2] * maps.shape[-1])
        self._kernels = kernels

    @staticmethod
    def position_kernels(
        trajectory: Tensor, weights: Tensor, position: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Toeplitz kernels ``(P, 4, H, W)`` of every position of one trajectory, real."""
        count = int(position.max()) + 1
        share = torch.nn.functional.one_hot(position.flatten(), count).T * weights.flatten()
        # One at a time: the kernel's working memory is 16 images in complex128.
        flat = trajectory.flatten(-3, -2)
        kernels = [toeplitz_kernel(flat[s > 0], s[s > 0], shape) for s in share]
        return torch.stack(kernels) / (shape[0] * shape[1])

    @cached_property
    def kernel(self) -> Tensor:
        """Sum of the positions' kernels times their factors, ``(B, 4, H, W)``."""
        if self._kernels is None:
            parts = zip(*self._per_scan(), strict=True)
            shape = (self.maps.shape[-2], self.maps.shape[-1])
            self._kernels = torch.stack([self.position_kernels(*part, shape) for part in parts])
        kernels = self._kernels.expand(self.factor.shape[0], *self._kernels.shape[-4:])
        return torch.einsum("bp,bpkhw->bkhw", self.factor, kernels)

    def _per_scan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Trajectory, weights and positions with a leading axis of B scans, or of one."""
        if self.trajectory.ndim == 4:
            return self.trajectory, self.weights, self.position
        return self.trajectory[None], self.weights[None], self.position[None]

    @cached_property
    def amplitude(self) -> Tensor:
        """``(B, 1, spokes, samples)``: W^1/2 with its factors, and the orthonormal scale."""
        _, weights, position = self._per_scan()
        factor = gather_positions(self.factor, position)
        return ((factor * weights).sqrt() * self._scale).unsqueeze(1)

    def __call__(self, image: Tensor) -> Tensor:
        """``(B, H, W)`` complex to weighted samples ``(B, C, spokes, samples)``."""
        coils = expand(image, self.maps)
        samples = nufft_type2(coils, self._flat, self.tolerance, backend=self.backend)
        return self.amplitude * samples.unflatten(-1, self.trajectory.shape[-3:-1])

    def adjoint(self, samples: Tensor) -> Tensor:
        """Weighted samples ``(B, C, spokes, samples)`` to ``(B, H, W)`` image."""
        flat = (self.amplitude * samples).flatten(-2)
        shape = tuple(self.maps.shape[-2:])
        coils = nufft_type1(flat, self._flat, shape, self.tolerance, backend=self.backend)
        return combine(coils, self.maps)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x`` by FFTs of the image size only (polyphase Toeplitz)."""
        return toeplitz_normal(image, self.maps, self.kernel)

    def restrict(self, keep: Tensor) -> RadialSense:
        """The operator of the positions in ``keep`` ``(B, P)``."""
        return RadialSense(
            self.maps,
            self.trajectory,
            self.weights,
            self.position,
            self.factor * keep,
            kernels=self._kernels,
            tolerance=self.tolerance,
            backend=self.backend,
        )


def gather_positions(values: Tensor, position: Tensor) -> Tensor:
    """Values per position ``(B, P)`` at every sample of ``position`` ``(B or 1, a, b)``."""
    index = position.expand(values.shape[0], *position.shape[1:])
    return values.gather(1, index.flatten(1)).view_as(index)
