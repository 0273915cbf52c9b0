"""Classical reconstructions to compare with, and the tuning of their parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sagittal_core.ops import cg_solve
from sagittal_mri.data.batch import Scans
from sagittal_mri.metrics import psnr
from sagittal_mri.physics.sense import SenseOperator

LAMBDAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
ITERATIONS = (2, 3, 4, 6, 12)


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


def tune_cg_sense(scans: Iterable[Scans]) -> tuple[float, int, float]:
    """The (lambda, iterations) of the best mean PSNR over ``scans``, by grid search.

    Returns:
        lambda, iterations and the PSNR in dB that they reach on these scans.
    """
    scans = list(scans)
    best = (0.0, 0, -float("inf"))
    for lam in LAMBDAS:
        for iterations in ITERATIONS:
            images = [cg_sense(s.operator(), s.adjoint(), lam, iterations) for s in scans]
            scores = [
                psnr(image.abs(), s.reference, s.body)
                for image, s in zip(images, scans, strict=True)
            ]
            score = float(torch.cat(scores).mean())
            if score > best[2]:
                best = (lam, iterations, score)
    return best
