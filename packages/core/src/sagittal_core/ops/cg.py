"""Conjugate gradients with implicit differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sagittal_core.ops import _library, _native, reference
from sagittal_core.ops.toeplitz import toeplitz_normal

Normal = Callable[..., Tensor]
_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def cg_solve(
    normal: Normal,
    rhs: Tensor,
    lam: float | Tensor = 0.0,
    x0: Tensor | None = None,
    *,
    max_iter: int = 10,
    tol: float = 1e-6,
    parameters: tuple[Tensor, ...] = (),
) -> Tensor:
    """Solve ``(normal + lam I) x = rhs`` for every batch element by conjugate gradients.

    Gradients flow to ``rhs``, ``lam`` and ``parameters`` by the implicit function theorem: the
    backward pass solves the same system with the incoming gradient, so memory does not grow with
    ``max_iter``. They are those of the exact solution; a solve cut short by ``max_iter`` has
    approximate ones. ``x0`` and tensors that ``normal`` captures get no gradient.

    Args:
        normal: Self-adjoint positive semi-definite operator, (B, *N) -> (B, *N), that does not
            mix batch elements; called as ``normal(x, *parameters)``.
        rhs: (B, *N) real or complex, float32 or float64 precision.
        lam: >= 0: number, scalar tensor or (B,) real.
        x0: (B, *N) start; zero by default.
        max_iter: Most iterations.
        tol: A batch element stops, and stays as it is bit for bit, once its residual norm is at
            most ``tol`` times that of its right-hand side.
        parameters: Tensors that ``normal`` depends on and that may require gradients.

    Returns:
        (B, *N). A zero right-hand side gives zero; NaN in one batch element stays in it.

    Raises:
        TypeError: ``rhs`` is of another precision, or ``x0`` has another dtype.
        ValueError: Shapes do not fit, ``lam`` is negative, or ``max_iter`` or ``tol`` is.
    """
    weight = _check_solve(rhs, lam, x0, max_iter, tol)
    _native.load()
    return _Solve.apply(normal, rhs, weight, x0, max_iter, tol, *parameters)


def cg_data_consistency(
    image: Tensor,
    rhs: Tensor,
    maps: Tensor,
    kernel: Tensor,
    lam: float | Tensor,
    *,
    max_iter: int = 10,
    tol: float = 1e-6,
) -> Tensor:
    """Proximal step of data consistency: solve ``(A^H W A + lam I) x = rhs + lam z``.

    The block of MoDL (Aggarwal, Mani and Jacob, IEEE TMI 38, 2019), started at ``z``.
    Differentiable with respect to every tensor, by implicit differentiation (:func:`cg_solve`).

    Args:
        image: (B, *N) complex, the denoised image z.
        rhs: (B, *N), ``A^H W y``.
        maps: (B, C, *N) or (1, C, *N) coil sensitivities.
        kernel: From :func:`~sagittal_core.ops.toeplitz_kernel`.
        lam: > 0: number, scalar tensor or (B,) real.
        max_iter: Most iterations.
        tol: Relative residual.

    Returns:
        (B, *N).

    Raises:
        TypeError: As in :func:`cg_solve` and :func:`~sagittal_core.ops.toeplitz_normal`.
        ValueError: As in :func:`cg_solve` and :func:`~sagittal_core.ops.toeplitz_normal`.
    """
    weight = _check_solve(rhs, lam, image, max_iter, tol)
    column = weight.reshape(-1, *(1,) * (rhs.dim() - 1))
    return cg_solve(
        toeplitz_normal,
        rhs + column * image,
        weight,
        image.detach(),
        max_iter=max_iter,
        tol=tol,
        parameters=(maps, kernel),
    )


def _check_solve(
    rhs: Tensor, lam: float | Tensor, x0: Tensor | None, max_iter: int, tol: float
) -> Tensor:
    """Return ``lam`` as a (1,) or (B,) tensor."""
    if rhs.dtype not in _DTYPES:
        raise TypeError(f"rhs must be real or complex in single or double, got {rhs.dtype}")
    if rhs.dim() < 1:
        raise ValueError("rhs must have a batch dimension: (B, *N)")
    if x0 is not None and x0.shape != rhs.shape:
        raise ValueError(f"x0 {tuple(x0.shape)} and rhs {tuple(rhs.shape)} differ in shape")
    if x0 is not None and x0.dtype != rhs.dtype:
        raise TypeError(f"x0 is {x0.dtype}, rhs is {rhs.dtype}")
    if max_iter < 1 or tol < 0:
        raise ValueError(f"max_iter must be >= 1 and tol >= 0, got {max_iter} and {tol}")
    weight = torch.as_tensor(lam, dtype=rhs.dtype.to_real(), device=rhs.device).reshape(-1)
    if weight.shape[0] not in (1, rhs.shape[0]):
        raise ValueError(f"lam must be a scalar or ({rhs.shape[0]},), got {tuple(weight.shape)}")
    if bool((weight < 0).any()):
        raise ValueError(f"lam must be >= 0, got {float(weight.min()):g}")
    return weight


def _flat(x: Tensor) -> Tensor:
    """(B, n) real view: inner products of complex vectors are only needed in their real part."""
    real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return real.reshape(len(x), -1)


def _iterate(
    normal: Normal, rhs: Tensor, weight: Tensor, x0: Tensor | None, max_iter: int, tol: float
) -> Tensor:
    if rhs.numel() == 0:
        return torch.zeros_like(rhs)
    column = weight.reshape(-1, *(1,) * (rhs.dim() - 1))

    def unflat(v: Tensor) -> Tensor:
        return (
            torch.view_as_complex(v.reshape(*rhs.shape, 2))
            if rhs.is_complex()
            else v.reshape(rhs.shape)
        )

    def system(v: Tensor) -> Tensor:
        image = unflat(v)
        return _flat(normal(image) + column * image)

    target = _flat(rhs).contiguous()
    x = torch.zeros_like(target) if x0 is None else _flat(x0).contiguous()
    r = target if x0 is None else target - system(x)
    p = r
    rs = (r * r).sum(1)
    stop = tol**2 * (target * target).sum(1)
    for _ in range(max_iter):
        if bool((rs <= stop).all()):
            break
        x, r, p, rs = torch.ops.sagittal.cg_step(x, r, p, system(p), rs, stop)
    return unflat(x)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        normal: Normal,
        rhs: Tensor,
        weight: Tensor,
        x0: Tensor | None,
        max_iter: int,
        tol: float,
        *parameters: Tensor,
    ) -> Tensor:
        solution = _iterate(lambda x: normal(x, *parameters), rhs, weight, x0, max_iter, tol)
        if x0 is not None and solution.data_ptr() == x0.data_ptr():
            solution = solution.clone()
        ctx.save_for_backward(solution, weight, *parameters)
        ctx.normal, ctx.max_iter, ctx.tol = normal, max_iter, tol
        return solution

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        solution, weight, *parameters = ctx.saved_tensors
        adjoint = cg_solve(
            ctx.normal,
            grad,
            weight,
            max_iter=ctx.max_iter,
            tol=ctx.tol,
            parameters=tuple(parameters),
        )
        for_weight = None
        if ctx.needs_input_grad[2]:
            per_element = -(adjoint.conj() * solution).real.reshape(len(solution), -1).sum(1)
            for_weight = per_element if len(weight) == len(solution) else per_element.sum(0, True)
        needed = ctx.needs_input_grad[6:]
        found = _parameter_gradients(ctx.normal, solution, adjoint, parameters, needed)
        return None, adjoint, for_weight, None, None, None, *found


def _parameter_gradients(
    normal: Normal,
    solution: Tensor,
    adjoint: Tensor,
    parameters: list[Tensor],
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """``-d <adjoint, normal(solution, *parameters)> / d parameters`` at a fixed solution."""
    if not any(needed):
        return [None] * len(parameters)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Under double differentiation the solution depends on the parameters as well; views of
        # them stand for the operator's own dependence alone.
        own = [
            p.view_as(p) if again else p.detach().requires_grad_(need)
            for p, need in zip(parameters, needed, strict=True)
        ]
        product = normal(solution if again else solution.detach(), *own)
        wanted = [p for p, need in zip(own, needed, strict=True) if need]
        found = iter(torch.autograd.grad(product, wanted, -adjoint, create_graph=again))
    return [next(found) if need else None for need in needed]


def _fake_step(
    x: Tensor, r: Tensor, p: Tensor, q: Tensor, rs: Tensor, stop: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(r), torch.empty_like(p), torch.empty_like(rs)


_library.register("cg_step", reference.cg_step, _fake_step)
