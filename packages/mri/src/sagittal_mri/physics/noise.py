"""Receiver noise: simulation, covariance estimation and whitening.

Splitting-based training needs noise that is independent between input and target samples. It is
independent across k-space positions but correlated across coils, hence whiten first and split
position-wise with all coils together.
"""

from __future__ import annotations

import torch
from torch import Tensor


def complex_noise(
    shape: tuple[int, ...], sigma: float, generator: torch.Generator | None = None
) -> Tensor:
    """Circular complex Gaussian noise with E|n|^2 = ``sigma``^2, complex64 of ``shape``."""
    parts = torch.randn(*shape, 2, generator=generator) * (sigma / 2**0.5)
    return torch.view_as_complex(parts)


def noise_covariance(samples: Tensor) -> Tensor:
    """Sample covariance ``(C, C)`` complex of noise-only ``samples`` ``(C, M)`` complex, M > C.

    Raises:
        ValueError: with fewer samples than coils, where the covariance would be singular.
    """
    coils, count = samples.shape
    if count <= coils:
        raise ValueError(
            f"noise_covariance: {count} samples cannot give a {coils} x {coils} matrix"
        )
    centered = samples - samples.mean(1, keepdim=True)
    return centered @ centered.mH / (count - 1)


def whitening_matrix(covariance: Tensor) -> Tensor:
    """``L^-1`` with ``covariance = L L^H``, so that whitened noise has unit variance per coil.

    Args:
        covariance: ``(C, C)`` Hermitian positive definite, complex.

    Raises:
        ValueError: if the matrix is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(covariance.to(torch.complex128))
    if int(info) != 0:
        raise ValueError("whitening_matrix: the noise covariance is not positive definite")
    identity = torch.eye(covariance.shape[0], dtype=torch.complex128)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.to(covariance.dtype)


def whiten(kspace: Tensor, covariance: Tensor) -> Tensor:
    """Whiten coil data ``(..., C, a, b)`` by the noise covariance ``(C, C)`` (Pruessmann 2001)."""
    return torch.einsum("dc,...cab->...dab", whitening_matrix(covariance), kspace)
