"""Classical reconstructions to compare with, and the tuning of their parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sagittal_core.ops import cg_solve
from sagittal_mri.data.batch import Scans
from sagittal_mri.metrics import psnr
from sagittal_mri.physics.sense import SenseOperator

LAMBDAS = (0.0, 0.001, 0.003, 0.01, 0.03)
ITERATIONS = 24


def cg_sense(operator: SenseOperator, rhs: Tensor, lam: float, iterations: int) -> Tensor:
    """CG-SENSE: ``argmin ||A x - y||^2 + lam ||x||^2`` from zero (Pruessmann et al., MRM 2001).

    Stopping early regularises too, so ``iterations`` is a parameter to tune like ``lam``.

    Args:
        operator: A, which carries the square root of density weights where it has any.
        rhs: ``A^H y``, ``(B, H, W)`` complex.
        lam: weight of the squared norm, >= 0.
        iterations: of conjugate gradients.

    Returns:
        ``(B, H, W)`` complex.
    """
    weight = torch.tensor(lam, dtype=rhs.real.dtype, device=rhs.device)
    return cg_solve(operator.normal, rhs, weight, max_iter=iterations, tol=0.0)


def cg_iterates(operator: SenseOperator, rhs: Tensor, lam: float, iterations: int) -> list[Tensor]:
    """The images after 1, 2, ... ``iterations`` CG-SENSE iterations: one run tunes where to stop.

    Args:
        operator: the SENSE operator.
        rhs: ``(B, H, W)`` complex, ``A^H y``.
        lam: weight of ``||x||^2``.
        iterations: length of the result.
    """
    image, residual = torch.zeros_like(rhs), rhs
    direction, power = residual, _energy(residual)
    images = []
    for _ in range(iterations):
        curved = operator.normal(direction) + lam * direction
        step = power / (direction.conj() * curved).real.sum((1, 2), keepdim=True)
        image, residual = image + step * direction, residual - step * curved
        images.append(image)
        previous, power = power, _energy(residual)
        direction = residual + power / previous * direction
    return images


def _energy(image: Tensor) -> Tensor:
    return image.abs().square().sum((1, 2), keepdim=True)


def tune_cg_sense(scans: Iterable[Scans]) -> tuple[float, int, float]:
    """The (lambda, iterations) of the best mean PSNR over ``scans``, by grid search.

    Returns:
        lambda, iterations and the PSNR in dB that they reach on these scans.
    """
    total = torch.zeros(len(LAMBDAS), ITERATIONS)
    count = 0
    for scan in scans:
        operator, rhs = scan.operator(), scan.adjoint()
        for row, lam in enumerate(LAMBDAS):
            images = cg_iterates(operator, rhs, lam, ITERATIONS)
            for column, image in enumerate(images):
                total[row, column] += psnr(image.abs(), scan.reference, scan.body).sum()
        count += len(scan.number)
    best = int(total.argmax())
    row, column = divmod(best, ITERATIONS)
    return LAMBDAS[row], column + 1, float(total[row, column]) / count
