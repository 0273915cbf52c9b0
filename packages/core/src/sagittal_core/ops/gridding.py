r"""Design of the gridding kernel and the plan of one non-uniform Fourier transform.

The spreading kernel is the prolate spheroidal wave function :math:`\psi_0` of order zero, the
function of a given support whose energy is best concentrated in frequency (Slepian and Pollak,
1961; its use for gridding: Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41, 2019).
It is evaluated by one polynomial per grid cell of its support.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from torch import Tensor

OVERSAMPLINGS = (1.25, 1.5, 2.0)
MAX_WIDTH = 16
# Cells of a tile along each axis: with its halo and eight coils it stays in a second-level cache.
_TILE = {2: (16, 24), 3: (8, 8, 8)}
# Cost of a grid cell outside its FFT, and of a cell of a footprint, in butterflies.
_CELL_COST = 14.0
_POINT_COST = 0.67
_KEPT_NUMBERS = 3 << 20  # of a trajectory whose plan is kept
_ANGLE_SLACK = 1e-6  # float32(pi) is larger than pi


@dataclass(frozen=True)
class KernelDesign:
    """A spreading kernel of ``width`` grid cells.

    Attributes:
        width: Support in grid cells.
        shape: Band limit c of the prolate function.
        coefficients: (degree + 1, width) float64, highest power first. A point at grid coordinate
            u touches the cells ``l0 + j``, ``l0 = ceil(u - width / 2)``, with weight
            ``polyval(coefficients[:, j], z)``, where ``z = 2 (l0 - u + width / 2) - 1`` is in
            [-1, 1].
    """

    width: int
    shape: float
    coefficients: Tensor

    def transform(self, frequency: np.ndarray) -> np.ndarray:
        """Continuous Fourier transform of the kernel at ``frequency`` cycles per grid cell."""
        half = self.width / 2
        nodes, weights = legendre.leggauss(max(64, 8 * self.width))
        values = weights * _prolate(nodes, self.shape)
        phase = 2 * math.pi * half * np.outer(np.asarray(frequency), nodes)
        return half * (np.cos(phase) @ values)


@lru_cache(maxsize=64)
def _prolate_series(c: float) -> np.ndarray:
    """Legendre coefficients of the order-zero prolate function (Xiao, Rokhlin, Yarvin 2001)."""
    k = 2.0 * np.arange(max(40, int(c) + 30))
    diagonal = k * (k + 1) + (2 * k * (k + 1) - 1) / ((2 * k + 3) * (2 * k - 1)) * c * c
    k = k[:-1]
    off = (k + 2) * (k + 1) / ((2 * k + 3) * np.sqrt((2 * k + 1) * (2 * k + 5))) * c * c
    _, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    series = np.zeros(2 * len(diagonal) - 1)
    series[::2] = vectors[:, 0] * np.sqrt(2.0 * np.arange(len(diagonal)) + 0.5)
    return series / legendre.legval(0.0, series)


def _prolate(x: np.ndarray, c: float) -> np.ndarray:
    return legendre.legval(x, _prolate_series(c))


@lru_cache(maxsize=64)
def design_kernel(tol: float, dims: int, oversampling: float = 2.0) -> KernelDesign:
    """Choose the kernel for a relative error of ``tol``.

    Args:
        tol: Wanted relative l2 error of the transform.
        dims: Number of image dimensions, 2 or 3.
        oversampling: sigma, the grid size over the image size.

    Returns:
        The narrowest kernel whose aliases, on an image that fills its band evenly, stay below
        ``0.8 tol``.

    Raises:
        ValueError: ``tol`` is outside (0, 1) or needs more than 16 grid cells.
    """
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}")
    width = _width(tol, dims, oversampling)
    if width > MAX_WIDTH:
        raise ValueError(f"tol={tol:g} can't be met: the smallest supported value is about 1e-13")
    c = _band_limit(width, oversampling)
    return KernelDesign(width, c, torch.from_numpy(_fit_cells(width, c, 0.02 * tol)))


@lru_cache(maxsize=256)
def _aliasing(width: int, oversampling: float) -> float:
    """Relative l2 error of one dimension: the kernel's energy at aliases of the image's band."""
    design = KernelDesign(width, _band_limit(width, oversampling), torch.empty(0, 0))
    frequency = np.linspace(-0.5, 0.5, 65) / oversampling
    energy = sum(design.transform(frequency + k) ** 2 for k in (-3, -2, -1, 1, 2, 3))
    return math.sqrt(float(np.mean(energy / design.transform(frequency) ** 2)))


def _band_limit(width: int, oversampling: float) -> float:
    # A little inside the band edge: the mean error is least there.
    inside = 0.1 if oversampling >= 2 else 0.2
    return math.pi * width * (1 - 1 / (2 * oversampling)) - inside


def _width(tol: float, dims: int, oversampling: float) -> int:
    """The least width that meets ``tol``; MAX_WIDTH + 1 if none does."""
    for width in range(2, MAX_WIDTH + 1):
        if math.sqrt(dims) * _aliasing(width, oversampling) <= 0.8 * tol:
            return width
    return MAX_WIDTH + 1


def _fit_cells(width: int, c: float, error: float) -> np.ndarray:
    """One polynomial per cell, of the lowest common degree that keeps ``error``."""
    z = np.linspace(-1, 1, 65)
    cells = np.arange(width)
    # Cell j sees t = (l0 + j - u) / (width / 2), and l0 - u = (z + 1) / 2 - width / 2.
    wanted = np.stack([_prolate((z + 1 + 2 * j) / width - 1, c) for j in cells])
    for degree in range(2, 26):
        # Interpolation at the Chebyshev points of each cell.
        nodes = chebyshev.chebpts1(degree + 1)
        values = np.stack([_prolate((nodes + 1 + 2 * j) / width - 1, c) for j in cells], axis=1)
        series = np.linalg.solve(chebyshev.chebvander(nodes, degree), values)
        fits = [chebyshev.cheb2poly(series[:, j]) for j in cells]
        table = np.stack([np.pad(f, (0, degree + 1 - len(f)))[::-1] for f in fits], axis=1)
        found = np.stack([np.polyval(table[:, j], z) for j in cells])
        if np.abs(found - wanted).max() < max(error, 2e-15):
            break
    return np.ascontiguousarray(table)


def smooth_size(minimum: int) -> int:
    """Smallest even integer >= ``minimum`` whose prime factors are 2, 3 and 5."""
    size = minimum + minimum % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def fourier(x: Tensor, dims: int, *, inverse: bool = False, norm: str | None = None) -> Tensor:
    """FFT over the last ``dims`` dimensions; an empty batch, which torch.fft refuses, is itself."""
    if x.numel() == 0:
        return x
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return transform(x, dim=tuple(range(-dims, 0)), norm=norm)


@dataclass(frozen=True)
class NufftPlan:
    """Everything about a transform that depends on the trajectory but not on the data.

    Build it once with :func:`nufft_plan` and pass it to every transform of the same trajectory.

    Attributes:
        shape: Image shape.
        tol: Relative error that it was built for.
        framed: Whether the trajectory had a frame dimension.
        grid_shape: Oversampled grid.
        points: (T, M, d) float64, grid coordinates in [0, grid size).
        order: (T, M) int64, visits the points tile by tile.
        offsets: (T, prod(tiles) + 1) int64, where each tile begins in ``order``, last axis fastest.
        coefficients: Kernel polynomials, see :class:`KernelDesign`.
        tiles: Tiles along each axis, 1 or an even number n_j wider than the kernel; tile t holds
            the cells from ``t * G_j // n_j`` to ``(t + 1) * G_j // n_j``.
        deconvolution: (*N) float64, inverse of the kernel's transform.
        trajectory: What it was built for; a transform of another trajectory refuses the plan.
    """

    shape: tuple[int, ...]
    tol: float
    framed: bool
    grid_shape: tuple[int, ...]
    points: Tensor
    order: Tensor
    offsets: Tensor
    coefficients: Tensor
    tiles: tuple[int, ...]
    deconvolution: Tensor
    trajectory: Tensor


_recent: deque[tuple[Any, NufftPlan]] = deque(maxlen=4)


def nufft_plan(trajectory: Tensor, shape: tuple[int, ...], tol: float = 1e-4) -> NufftPlan:
    """Sort a trajectory and design the kernel.

    Args:
        trajectory: (M, d) or (T, M, d), float32 or float64, radians per pixel in [-pi, pi].
        shape: Image shape, d entries, d = 2 or 3.
        tol: Relative l2 error of the transform.

    Returns:
        The plan.

    Raises:
        TypeError: The trajectory is not float32 or float64.
        ValueError: Its shape does not fit ``shape``, it holds NaN, or leaves [-pi, pi].
    """
    shape = tuple(int(n) for n in shape)
    check_trajectory(trajectory, shape)
    # In double precision: a float32 coordinate of 600 resolves only 6e-5 of a cell.
    omega = trajectory.detach().to(torch.float64)
    framed = omega.dim() == 3
    omega = omega if framed else omega[None]
    oversampling = _choose_oversampling(float(tol), shape, omega.shape[-2], trajectory.dtype)
    design = design_kernel(float(tol), len(shape), oversampling)
    grid_shape = _grid_shape(shape, oversampling, design.width)
    size = torch.tensor(grid_shape, dtype=torch.float64, device=omega.device)
    points = omega * (size / (2 * math.pi))
    points = points - size * torch.floor(points / size)
    points = torch.where(points >= size, torch.zeros_like(points), points).contiguous()
    tiles = _tile_counts(grid_shape, design.width)
    order, offsets = _sort_points(points, grid_shape, tiles)
    deconvolution = torch.ones((), dtype=torch.float64)
    for n, g in zip(shape, grid_shape, strict=True):
        factor = torch.from_numpy(1 / design.transform((np.arange(n) - n // 2) / g))
        deconvolution = deconvolution[..., None] * factor
    return NufftPlan(
        shape=shape,
        tol=float(tol),
        framed=framed,
        grid_shape=grid_shape,
        points=points,
        order=order,
        offsets=offsets,
        coefficients=design.coefficients.to(omega.device),
        tiles=tiles,
        deconvolution=deconvolution.to(omega.device),
        trajectory=trajectory.detach().clone(),
    )


def recent_plan(trajectory: Tensor, shape: tuple[int, ...], tol: float) -> NufftPlan:
    """:func:`nufft_plan`, or the plan of one of the last trajectories if it was the same numbers.

    Comparing is a hundred times cheaper than sorting, so that transforms of one trajectory are
    fast even where nobody keeps a plan. Plans of more than a million points are not kept.
    """
    key = (shape, tol, trajectory.dtype, trajectory.device, trajectory.shape)
    for known, plan in tuple(_recent):
        if known == key and torch.equal(plan.trajectory, trajectory):
            return plan
    plan = nufft_plan(trajectory, shape, tol)
    if trajectory.numel() <= _KEPT_NUMBERS:
        _recent.append((key, plan))
    return plan


def _grid_shape(shape: tuple[int, ...], oversampling: float, width: int) -> tuple[int, ...]:
    return tuple(smooth_size(max(math.ceil(oversampling * n), 2 * width)) for n in shape)


def _choose_oversampling(
    tol: float, shape: tuple[int, ...], count: int, dtype: torch.dtype
) -> float:
    """The cheapest sigma whose kernel is no wider than 16 cells.

    A smaller grid is transformed faster, and its wider kernel costs more at every point.
    """
    costs = {}
    for oversampling in OVERSAMPLINGS:
        width = _width(tol, len(shape), oversampling)
        # Deconvolution at a small sigma amplifies the rounding of single precision: an error of
        # 8e-6 at 9 cells and 4e-5 at 11 was measured at 1.25, less than 6e-7 at 1.5.
        exact = dtype == torch.float64 or tol >= 2e-5 or oversampling >= 1.5
        if width <= MAX_WIDTH and exact:
            cells = math.prod(_grid_shape(shape, oversampling, width))
            costs[oversampling] = cells * (
                _CELL_COST + math.log2(cells)
            ) + _POINT_COST * count * width ** len(shape)
    return min(costs, key=costs.__getitem__) if costs else OVERSAMPLINGS[-1]


def check_trajectory(trajectory: Tensor, shape: tuple[int, ...]) -> None:
    """Raise on a trajectory that no transform of an image of ``shape`` can use."""
    d = len(shape)
    if d not in (2, 3):
        raise ValueError(f"shape must have 2 or 3 entries, got {shape}")
    if any(n < 1 for n in shape):
        raise ValueError(f"every entry of shape must be positive, got {shape}")
    if trajectory.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"trajectory must be float32 or float64, got {trajectory.dtype}")
    if trajectory.dim() not in (2, 3) or trajectory.shape[-1] != d:
        raise ValueError(
            f"trajectory must be (M, {d}) or (T, M, {d}) for an image of shape {shape}, "
            f"got {tuple(trajectory.shape)}"
        )
    if trajectory.numel() == 0:
        return
    largest = float(trajectory.detach().abs().max())
    if math.isnan(largest):
        raise ValueError("trajectory holds NaN")
    if largest > math.pi * (1 + _ANGLE_SLACK):
        raise ValueError(
            f"trajectory must be in radians per pixel, within [-pi, pi]; its largest entry is "
            f"{largest:.6g}. Cycles per field of view are multiplied by 2 pi / N."
        )


def _tile_counts(grid_shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Tiles along each axis. Even, so that every other tile is far from the ones of its kind."""
    wanted = _TILE[len(grid_shape)]
    counts = (g // max(t, width + 1) for g, t in zip(grid_shape, wanted, strict=True))
    return tuple(max(1, n - n % 2) for n in counts)


def _sort_points(
    points: Tensor, grid_shape: tuple[int, ...], tiles: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    key = torch.zeros(points.shape[:-1], dtype=torch.int32, device=points.device)
    for axis, (size, count) in enumerate(zip(grid_shape, tiles, strict=True)):
        cell = points[..., axis].to(torch.int32)
        key = key * count + ((cell + 1) * count - 1) // size
    key, order = key.sort(dim=-1, stable=True)
    total = math.prod(tiles)
    edges = torch.arange(total + 1, dtype=torch.int32, device=points.device)
    return order, torch.searchsorted(key, edges.expand(len(points), -1).contiguous())
