r"""Non-uniform fast Fourier transforms of types 1 and 2, in two and three dimensions.

Convention, unscaled: type 2 is :math:`y_m = \sum_n x_n e^{-i \langle\omega_m, n\rangle}` with
:math:`n_j = -\lfloor N_j/2\rfloor, \dots, N_j - 1 - \lfloor N_j/2\rfloor`; type 1 is its adjoint.
:math:`\omega` is in radians per pixel, its last dimension in the order of the image dimensions.

Both work under ``torch.func`` (``vmap`` over the data, ``grad``, ``vjp``; not in forward mode).
``torch.compile`` breaks its graph at them: a plan depends on the trajectory's values.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from sagittal_core.ops import _library, _native, reference
from sagittal_core.ops.gridding import NufftPlan, check_trajectory, fourier, recent_plan

_SMALLEST_TOL = {torch.complex64: 1e-6, torch.complex128: 1e-13}


def nufft_type2(
    image: Tensor,  # (..., *N) or (T, ..., *N)
    trajectory: Tensor,  # (M, d) or (T, M, d)
    tol: float = 1e-4,
    *,
    backend: str = "sagittal",
    plan: NufftPlan | None = None,
) -> Tensor:
    """Evaluate the Fourier transform of an image at non-uniform frequencies.

    Differentiable any number of times with respect to the image and the trajectory; the
    trajectory's gradient is ``Re(conj(g_m) (-i) (A (r_d x))_m)``, ``r_d`` the pixel coordinate
    (Wang and Fessler, IEEE TCI 9, 2023).

    Args:
        image: (..., *N) complex64 or complex128. With frames, its first dimension is T.
        trajectory: (M, d), or (T, M, d) for one trajectory per frame; the real dtype of ``image``,
            radians per pixel in [-pi, pi]. -pi and pi are the same frequency on even-sized images.
        tol: Relative l2 error; at least 1e-6 in complex64, 1e-13 in complex128.
        backend: ``"sagittal"``, or ``"torchkbnufft"`` (its own accuracy, no trajectory gradient).
        plan: :func:`nufft_plan` of this trajectory and shape; without it, those of the last four
            trajectories are remembered. On a GPU, comparing the trajectories waits for the device.

    Returns:
        (..., M) samples, or (T, ..., M); dtype of ``image``.

    Raises:
        TypeError: dtypes are not complex, or differ in precision.
        ValueError: Shapes or devices do not fit, the trajectory holds NaN or leaves [-pi, pi], or
            the plan is that of another one.
        ImportError: The chosen backend is not installed.
    """
    dims = trajectory.shape[-1] if trajectory.dim() else 0
    shape = tuple(image.shape[max(image.dim() - dims, 0) :])
    _check(image, trajectory, shape, tol, "image", image.shape[: max(image.dim() - dims, 0)])
    if backend == "torchkbnufft":
        return _torchkbnufft(image, trajectory, shape, adjoint=False)
    _check_backend(backend)
    plan = _resolve_plan(plan, trajectory, shape, tol)
    return _Type2.apply(image, trajectory, plan)


def nufft_type1(
    samples: Tensor,  # (..., M) or (T, ..., M)
    trajectory: Tensor,  # (M, d) or (T, M, d)
    shape: tuple[int, ...],
    tol: float = 1e-4,
    *,
    backend: str = "sagittal",
    plan: NufftPlan | None = None,
) -> Tensor:
    """Adjoint of :func:`nufft_type2`: ``x_n = sum_m y_m exp(+i <omega_m, n>)``.

    Args:
        samples: (..., M) complex64 or complex128. With frames, its first dimension is T.
        trajectory: As in :func:`nufft_type2`.
        shape: Image shape, d entries.
        tol: As in :func:`nufft_type2`.
        backend: As in :func:`nufft_type2`.
        plan: As in :func:`nufft_type2`.

    Returns:
        (..., *N) images, or (T, ..., *N); dtype of ``samples``.

    Raises:
        TypeError: As in :func:`nufft_type2`.
        ValueError: As in :func:`nufft_type2`.
        ImportError: As in :func:`nufft_type2`.
    """
    shape = tuple(int(n) for n in shape)
    _check(samples, trajectory, shape, tol, "samples", samples.shape[:-1])
    if samples.shape[-1:] != trajectory.shape[-2:-1]:
        raise ValueError(
            f"samples {tuple(samples.shape)} and trajectory {tuple(trajectory.shape)} differ in M"
        )
    if backend == "torchkbnufft":
        return _torchkbnufft(samples, trajectory, shape, adjoint=True)
    _check_backend(backend)
    plan = _resolve_plan(plan, trajectory, shape, tol)
    return _Type1.apply(samples, trajectory, plan)


def _check(
    data: Tensor,
    trajectory: Tensor,
    shape: tuple[int, ...],
    tol: float,
    name: str,
    batch: tuple[int, ...],
) -> None:
    if data.dtype not in _SMALLEST_TOL:
        raise TypeError(f"{name} must be complex64 or complex128, got {data.dtype}")
    if trajectory.dim() not in (2, 3) or trajectory.shape[-1] not in (2, 3):
        raise ValueError(
            f"trajectory must be (M, d) or (T, M, d) with d = 2 or 3, got {tuple(trajectory.shape)}"
        )
    if trajectory.dtype != data.dtype.to_real():
        raise TypeError(
            f"{name} is {data.dtype}, so the trajectory must be {data.dtype.to_real()}, "
            f"got {trajectory.dtype}"
        )
    if data.device != trajectory.device:
        raise ValueError(f"{name} is on {data.device}, the trajectory on {trajectory.device}")
    if data.is_meta:
        raise ValueError("a plan depends on the trajectory's values: meta tensors have none")
    if len(shape) != trajectory.shape[-1]:
        raise ValueError(
            f"image shape {shape} does not fit a trajectory of {trajectory.shape[-1]} dimensions"
        )
    if trajectory.dim() == 3 and (len(batch) < 1 or batch[0] != trajectory.shape[0]):
        raise ValueError(
            f"trajectory has {trajectory.shape[0]} frames, so the first dimension of {name} must "
            f"be {trajectory.shape[0]}; got {tuple(data.shape)}"
        )
    if tol < _SMALLEST_TOL[data.dtype]:
        raise ValueError(
            f"tol={tol:g} can't be met in {data.dtype}; the smallest is "
            f"{_SMALLEST_TOL[data.dtype]:g}"
        )


def _check_backend(backend: str) -> None:
    if backend != "sagittal":
        raise ValueError(f"backend must be 'sagittal' or 'torchkbnufft', got {backend!r}")
    _native.load()


def _resolve_plan(
    plan: NufftPlan | None, trajectory: Tensor, shape: tuple[int, ...], tol: float
) -> NufftPlan:
    if torch._C._functorch.is_batchedtensor(trajectory):
        raise ValueError("vmap over trajectories: give them as frames instead, (T, M, d)")
    if plan is None:
        return recent_plan(trajectory, shape, tol)
    frames, count, _ = plan.points.shape
    wanted = ((frames, count) if plan.framed else (count,), plan.shape)
    if wanted != (tuple(trajectory.shape[:-1]), shape) or plan.tol > tol:
        raise ValueError(
            f"plan was built for a trajectory {wanted[0]} and shape {plan.shape} at "
            f"tol={plan.tol:g}, not for {tuple(trajectory.shape[:-1])} and {shape} at {tol:g}"
        )
    if not torch.equal(plan.trajectory.to(trajectory.dtype), trajectory.detach()):
        raise ValueError("plan was built for another trajectory of this shape")
    return plan


# --- the transforms on (T, C, ...) ----------------------------------------------------------------


def _corners(shape: tuple[int, ...], grid_shape: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """Pairs of (image, grid) slices: centred pixels to frequencies counted modulo the grid."""
    axes = []
    for n, g in zip(shape, grid_shape, strict=True):
        half = n // 2
        axes.append([(slice(half, n), slice(0, n - half)), (slice(0, half), slice(g - half, g))])
    return [
        ((..., *(a for a, _ in pair)), (..., *(b for _, b in pair)))
        for pair in itertools.product(*axes)
    ]


def _type2(image: Tensor, plan: NufftPlan) -> Tensor:
    """(T, C, *N) -> (T, C, M)."""
    factor = plan.deconvolution.to(image.real.dtype)
    grid = image.new_zeros(*image.shape[:2], *plan.grid_shape)
    for source, target in _corners(plan.shape, plan.grid_shape):
        torch.mul(image[source], factor[source], out=grid[target])
    grid = fourier(grid, len(plan.shape))
    return torch.ops.sagittal.interp(
        grid, plan.points, plan.order, plan.offsets, plan.coefficients, plan.tiles
    )


def _type1(samples: Tensor, plan: NufftPlan) -> Tensor:
    """(T, C, M) -> (T, C, *N)."""
    grid = torch.ops.sagittal.spread(
        samples,
        plan.points,
        plan.order,
        plan.offsets,
        plan.coefficients,
        plan.grid_shape,
        plan.tiles,
    )
    grid = fourier(grid, len(plan.shape), inverse=True, norm="forward")
    factor = plan.deconvolution.to(grid.real.dtype)
    image = grid.new_empty(*grid.shape[:2], *plan.shape)
    for target, source in _corners(plan.shape, plan.grid_shape):
        torch.mul(grid[source], factor[target], out=image[target])
    return image


def _batched(data: Tensor, inner: int, plan: NufftPlan) -> Tensor:
    """View the leading dimensions as (T, C): T frames, C everything else."""
    tail = tuple(data.shape[data.dim() - inner :])
    frames = plan.points.shape[0] if plan.framed else 1
    rest = math.prod(data.shape[: data.dim() - inner]) // frames if frames else 0
    return data.reshape(frames, rest, *tail)


def _pixels(plan: NufftPlan, axis: int, like: Tensor) -> Tensor:
    n = plan.shape[axis]
    index = torch.arange(n, device=like.device, dtype=like.real.dtype) - n // 2
    return index.reshape(-1, *(1,) * (len(plan.shape) - 1 - axis))


def _trajectory_gradient(
    data: Tensor, image: Tensor, trajectory: Tensor, plan: NufftPlan
) -> Tensor:
    """Re(conj(data_m) (-i) (A (r_d image))_m), summed over coils: the shape of ``trajectory``."""
    columns = []
    for axis in range(len(plan.shape)):
        moved = _Type2.apply(image * _pixels(plan, axis, image), trajectory, plan)
        product = (data.conj() * (-1j) * moved).real
        lead = product.dim() - trajectory.dim() + 1
        start = 1 if plan.framed else 0
        columns.append(product.sum(tuple(range(start, start + lead))) if lead else product)
    return torch.stack(columns, -1)


def _moved_batch(data: Tensor, dim: int, plan: NufftPlan) -> tuple[Tensor, int]:
    """Data with the dimension of a ``vmap`` where a leading one may stand: frames come first."""
    place = 1 if plan.framed else 0
    return data.movedim(dim, place), place


def _keep(ctx: Any, data: Tensor, trajectory: Tensor, plan: NufftPlan) -> None:
    ctx.save_for_backward(data if ctx.needs_input_grad[1] else None, trajectory)
    ctx.plan = plan


class _Type2(torch.autograd.Function):
    @staticmethod
    def forward(image: Tensor, trajectory: Tensor, plan: NufftPlan) -> Tensor:
        lead = image.shape[: image.dim() - len(plan.shape)]
        samples = _type2(_batched(image, len(plan.shape), plan), plan)
        return samples.reshape(*lead, samples.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, NufftPlan], output: Tensor) -> None:
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, trajectory = ctx.saved_tensors
        for_image = for_trajectory = None
        if ctx.needs_input_grad[0]:
            for_image = _Type1.apply(grad, trajectory, ctx.plan)
        if ctx.needs_input_grad[1]:
            for_trajectory = _trajectory_gradient(grad, image, trajectory, ctx.plan)
        return for_image, for_trajectory, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], image: Tensor, trajectory: Tensor, plan: NufftPlan
    ) -> tuple[Tensor, int]:
        image, place = _moved_batch(image, dims[0], plan)
        return _Type2.apply(image, trajectory, plan), place


class _Type1(torch.autograd.Function):
    @staticmethod
    def forward(samples: Tensor, trajectory: Tensor, plan: NufftPlan) -> Tensor:
        image = _type1(_batched(samples, 1, plan), plan)
        return image.reshape(*samples.shape[:-1], *plan.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, NufftPlan], output: Tensor) -> None:
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        samples, trajectory = ctx.saved_tensors
        for_samples = for_trajectory = None
        if ctx.needs_input_grad[0]:
            for_samples = _Type2.apply(grad, trajectory, ctx.plan)
        if ctx.needs_input_grad[1]:
            # Re(i s_m conj(A(r_d g))_m), the same expression as for type 2.
            for_trajectory = _trajectory_gradient(samples, grad, trajectory, ctx.plan)
        return for_samples, for_trajectory, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], samples: Tensor, trajectory: Tensor, plan: NufftPlan
    ) -> tuple[Tensor, int]:
        samples, place = _moved_batch(samples, dims[0], plan)
        return _Type1.apply(samples, trajectory, plan), place


# --- registration of the gridding operators -------------------------------------------------------


def _fake_spread(
    samples: Tensor,
    points: Tensor,
    order: Tensor,
    offsets: Tensor,
    coefficients: Tensor,
    grid_shape: list[int],
    tiles: list[int],
) -> Tensor:
    return samples.new_empty(*samples.shape[:2], *grid_shape)


def _fake_interp(
    grid: Tensor,
    points: Tensor,
    order: Tensor,
    offsets: Tensor,
    coefficients: Tensor,
    tiles: list[int],
) -> Tensor:
    return grid.new_empty(*grid.shape[:2], points.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    data, points, order, offsets, coefficients = inputs[:5]
    if points.requires_grad:
        raise NotImplementedError(
            "the gridding operators give no gradient to points; nufft_type1 and nufft_type2 do"
        )
    ctx.grid_shape, ctx.tiles = list(data.shape[2:]), list(inputs[-1])
    ctx.save_for_backward(points, order, offsets, coefficients)


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (torch.ops.sagittal.interp(grad, *ctx.saved_tensors, ctx.tiles), *(None,) * 6)


def _interp_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grid = torch.ops.sagittal.spread(grad, *ctx.saved_tensors, ctx.grid_shape, ctx.tiles)
    return (grid, *(None,) * 5)


_library.register("spread", reference.spread, _fake_spread)
_library.register("interp", reference.interp, _fake_interp)
torch.library.register_autograd(
    "sagittal::spread", _spread_backward, setup_context=_setup, lib=_library.LIB
)
torch.library.register_autograd(
    "sagittal::interp", _interp_backward, setup_context=_setup, lib=_library.LIB
)


# --- the other backend ----------------------------------------------------------------------------


def _torchkbnufft(
    data: Tensor, trajectory: Tensor, shape: tuple[int, ...], *, adjoint: bool
) -> Tensor:
    """Call torchkbnufft: its sign, centre and (absent) scaling are ours."""
    try:
        import torchkbnufft
    except ImportError as error:
        raise ImportError(
            "backend='torchkbnufft' needs the package: pip install torchkbnufft"
        ) from error
    check_trajectory(trajectory, shape)
    if trajectory.requires_grad:
        raise NotImplementedError("backend='torchkbnufft' gives no gradient to the trajectory")
    framed = trajectory.dim() == 3
    omega = trajectory.transpose(-1, -2).contiguous()
    inner = 1 if adjoint else len(shape)
    lead = data.shape[: data.dim() - inner]
    frames = lead[0] if framed else 1
    batch = data.reshape(frames, -1, *data.shape[data.dim() - inner :])
    kind = torchkbnufft.KbNufftAdjoint if adjoint else torchkbnufft.KbNufft
    operator = kind(im_size=shape, dtype=data.dtype).to(data.device)
    result = operator(batch, omega)
    return result.reshape(*lead, *result.shape[2:])
