"""SENSE forward operators A = (mask) F S, Cartesian and radial, with one interface.

``A(x)``, ``A.adjoint(y)``, ``A.normal(x) = A^H A x`` and ``A.restrict(keep)`` (the operator of a
subset of the readouts, for splitting) are all that the networks and objectives need.
"""

from __future__ import annotations

import math
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
        """The operator of the readouts in ``keep``."""


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
    enter as ``W^1/2 y``. Scaled by 1/sqrt(H W) like the orthonormal DFT. Toeplitz kernels add over
    groups of spokes: a random split costs additions and no NUFFT.

    Args:
        maps: ``(B, C, H, W)`` complex.
        trajectory: ``(spokes, samples, 2)`` real, radians per pixel, order (H, W).
        weights: ``(spokes, samples)`` real >= 0 density compensation.
        keep: ``(B, spokes)`` 0/1, the spokes in use; None is all.
        groups: number of interleaved spoke groups that ``keep`` may select independently. Kernels
            are precomputed per group; ``keep`` must be constant within a group.
        tolerance: relative accuracy of the NUFFT.
    """

    def __init__(
        self,
        maps: Tensor,
        trajectory: Tensor,
        weights: Tensor,
        keep: Tensor | None = None,
        *,
        groups: int = 8,
        tolerance: float = 1e-5,
        _kernels: Tensor | None = None,
    ) -> None:
        if trajectory.ndim != 3 or trajectory.shape[-1] != 2:
            raise ValueError(
                f"RadialSense: expected a trajectory (spokes, samples, 2), "
                f"found {tuple(trajectory.shape)}"
            )
        self.maps, self.trajectory, self.weights = maps, trajectory, weights
        self.groups, self.tolerance = groups, tolerance
        spokes = trajectory.shape[0]
        batch, shape = maps.shape[0], tuple(maps.shape[-2:])
        ones = torch.ones(batch, spokes, dtype=weights.dtype, device=weights.device)
        self.keep = ones if keep is None else keep.to(ones)
        self._scale = 1 / math.sqrt(shape[0] * shape[1])
        self._flat = trajectory.reshape(-1, 2)
        self._kernels = self._group_kernels(shape) if _kernels is None else _kernels
        self._kernel = self._combine_kernels()

    def _group_of(self) -> Tensor:
        """Group of every spoke: neighbours in time fall into different groups."""
        spokes = self.trajectory.shape[0]
        return torch.arange(spokes, device=self.trajectory.device) % min(self.groups, spokes)

    def _group_kernels(self, shape: tuple[int, ...]) -> Tensor:
        """``(groups, 4, H, W)`` real Toeplitz kernels, one per spoke group."""
        group = self._group_of()
        kernels = []
        for index in range(int(group.max()) + 1):
            chosen = (group == index).to(self.weights)[:, None] * self.weights
            kernels.append(toeplitz_kernel(self._flat, chosen.reshape(-1), shape))
        return torch.stack(kernels) * self._scale**2

    def _combine_kernels(self) -> Tensor:
        """Sum of the kernels of the groups in use, ``(B, 4, H, W)``."""
        group = self._group_of()
        count = self._kernels.shape[0]
        membership = torch.nn.functional.one_hot(group, count).to(self.keep)  # (spokes, groups)
        share = self.keep @ membership / membership.sum(0)
        if not bool(((share == 0) | (share == 1)).all()):
            raise ValueError("RadialSense: `keep` must select whole spoke groups (see `groups`)")
        return torch.einsum("bg,gphw->bphw", share, self._kernels)

    def _amplitude(self) -> Tensor:
        """``(B, 1, spokes, samples)`` factor W^1/2 times the selection of spokes."""
        return (self.keep[:, None, :, None] * self.weights.sqrt()) * self._scale

    def __call__(self, image: Tensor) -> Tensor:
        """``(B, H, W)`` complex to weighted samples ``(B, C, spokes, samples)``."""
        samples = nufft_type2(expand(image, self.maps), self._flat, self.tolerance)
        return self._amplitude() * samples.reshape(*samples.shape[:2], *self.trajectory.shape[:2])

    def adjoint(self, samples: Tensor) -> Tensor:
        """Weighted samples ``(B, C, spokes, samples)`` to ``(B, H, W)`` image."""
        flat = (self._amplitude() * samples).flatten(-2)
        shape = tuple(self.maps.shape[-2:])
        return combine(nufft_type1(flat, self._flat, shape, self.tolerance), self.maps)

    def normal(self, image: Tensor) -> Tensor:
        """``A^H A x`` by FFTs of the image size only (polyphase Toeplitz)."""
        return toeplitz_normal(image, self.maps, self._kernel)

    def restrict(self, keep: Tensor) -> RadialSense:
        """The operator of the spokes in ``keep`` ``(B, spokes)``, whole groups of them."""
        return RadialSense(
            self.maps,
            self.trajectory,
            self.weights,
            self.keep * keep,
            groups=self.groups,
            tolerance=self.tolerance,
            _kernels=self._kernels,
        )
