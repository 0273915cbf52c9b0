"""Forward operators: adjoints, normal operators, conventions; coil maps; noise; masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_mri.data.anatomy import loop_coil_maps
from sagittal_mri.physics.coils import espirit_maps, root_sum_of_squares
from sagittal_mri.physics.fourier import center_crop, center_pad, fft2c, ifft2c
from sagittal_mri.physics.masks import column_density, draw_columns
from sagittal_mri.physics.noise import complex_noise, noise_covariance, whiten
from sagittal_mri.physics.radial import golden_angle_trajectory, ramp_weights
from sagittal_mri.physics.sense import CartesianSense, RadialSense, SenseOperator

C128 = torch.complex128


def _inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex(torch.vdot(a.flatten(), b.flatten()))


def _relative_adjoint_gap(operator: SenseOperator, x: torch.Tensor, y: torch.Tensor) -> float:
    left, right = _inner(operator(x), y), _inner(x, operator.adjoint(y))
    return abs(left - right) / float(x.norm() * y.norm())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(4, 15), st.integers(4, 15), st.booleans())
def test_cartesian_adjoint_and_normal(
    batch: int, coils: int, height: int, width: int, columns: bool
) -> None:
    generator = torch.Generator().manual_seed(batch + 10 * coils + 100 * height + width)
    maps = torch.randn(batch, coils, height, width, dtype=C128, generator=generator)
    rows = 1 if columns else height
    mask = torch.rand(batch, rows, width, generator=generator) < 0.5
    operator = CartesianSense(maps, mask)
    x = torch.randn(batch, height, width, dtype=C128, generator=generator)
    y = torch.randn(batch, coils, height, width, dtype=C128, generator=generator)
    assert _relative_adjoint_gap(operator, x, y) < 1e-12
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)))


def test_restrict_keeps_only_the_subset() -> None:
    maps = torch.randn(1, 2, 6, 8, dtype=C128)
    operator = CartesianSense(maps, torch.ones(1, 1, 8, dtype=torch.bool))
    keep = torch.arange(8)[None, None] % 2 == 0
    samples = operator.restrict(keep)(torch.randn(1, 6, 8, dtype=C128))
    assert bool((samples[..., 1::2] == 0).all())
    assert bool((samples[..., ::2] != 0).all())


def test_cartesian_rejects_wrong_ranks() -> None:
    with pytest.raises(ValueError, match=r"found \(2, 4, 4\) and \(1, 4\)"):
        CartesianSense(torch.ones(2, 4, 4, dtype=C128), torch.ones(1, 4))


def _radial(batch: int = 2) -> tuple[RadialSense, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(batch, 3, 12, 10, dtype=C128, generator=generator)
    trajectory = golden_angle_trajectory(9, 16).double()
    weights = ramp_weights(trajectory, (12, 10))
    position = (torch.arange(9) % 3)[:, None].expand(9, 16)
    operator = RadialSense(maps, trajectory, weights, position, tolerance=1e-9)
    x = torch.randn(batch, 12, 10, dtype=C128, generator=generator)
    y = torch.randn(batch, 3, 9, 16, dtype=C128, generator=generator)
    return operator, x, y


def test_radial_adjoint() -> None:
    operator, x, y = _radial()
    assert _relative_adjoint_gap(operator, x, y) < 1e-12


def test_radial_normal_is_toeplitz_of_the_same_operator() -> None:
    operator, x, _ = _radial()
    expected = operator.adjoint(operator(x))
    assert float((operator.normal(x) - expected).norm() / expected.norm()) < 1e-6


def test_radial_positions_add_up() -> None:
    operator, x, _ = _radial()
    parts = [operator.restrict(row.expand(2, 3)) for row in torch.eye(3, dtype=torch.float64)]
    total = sum(part.normal(x) for part in parts)
    torch.testing.assert_close(total, operator.normal(x))
    one = parts[0]
    expected = one.adjoint(one(x))
    assert float((one.normal(x) - expected).norm() / expected.norm()) < 1e-6
    assert bool((one(x)[:, :, 1::3] == 0).all())


def test_radial_takes_a_trajectory_per_scan() -> None:
    operator, x, y = _radial()
    turned = torch.stack([golden_angle_trajectory(9, 16, first).double() for first in (0, 40)])
    weights = operator.weights.expand(2, 9, 16)
    both = RadialSense(operator.maps, turned, weights, tolerance=1e-9)
    for i in range(2):
        one = RadialSense(operator.maps[i : i + 1], turned[i], weights[i], tolerance=1e-9)
        torch.testing.assert_close(both(x)[i], one(x[i : i + 1])[0])
        torch.testing.assert_close(both.adjoint(y)[i], one.adjoint(y[i : i + 1])[0])
        torch.testing.assert_close(both.normal(x)[i], one.normal(x[i : i + 1])[0])
    with pytest.raises(ValueError, match=r"found \(9, 16\)"):
        RadialSense(operator.maps, turned[0, ..., 0], weights[0])


def test_ramp_weights_make_the_adjoint_a_near_inverse() -> None:
    size = 32
    grid = torch.arange(size) - size // 2
    blob = torch.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / 40.0).to(C128)[None]
    trajectory = golden_angle_trajectory(80, 2 * size).double()
    maps = torch.ones(1, 1, size, size, dtype=C128)
    operator = RadialSense(maps, trajectory, ramp_weights(trajectory, (size, size)))
    assert float((operator.normal(blob) - blob).norm() / blob.norm()) < 0.05


def test_fft_is_centred_and_orthonormal() -> None:
    image = torch.zeros(7, 8, dtype=C128)
    image[3, 4] = 1  # a centred delta has a flat, real spectrum
    torch.testing.assert_close(fft2c(image), torch.full((7, 8), 56**-0.5, dtype=C128))
    x = torch.randn(2, 7, 8, dtype=C128)
    torch.testing.assert_close(ifft2c(fft2c(x)), x)


def test_crop_and_pad_are_inverse_about_the_centre() -> None:
    x = torch.randn(5, 4)
    torch.testing.assert_close(center_crop(center_pad(x, (8, 9)), (5, 4)), x)
    with pytest.raises(ValueError, match="cannot cut"):
        center_crop(x, (6, 4))


def test_espirit_recovers_the_maps_from_noisy_calibration_data() -> None:
    shape, generator = (64, 72), torch.Generator().manual_seed(0)
    maps = loop_coil_maps(shape, 6, generator)
    grid = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 72), indexing="ij")
    body = (grid[0] ** 2 / 0.6 + grid[1] ** 2 / 0.7) < 1
    kspace = fft2c(maps * body * torch.exp(1j * grid[0]))
    kspace = kspace + complex_noise(tuple(kspace.shape), 0.01, generator)
    estimated = espirit_maps(center_crop(kspace, (24, 24)), shape)
    true = maps / root_sum_of_squares(maps)
    agreement = (estimated.conj() * true).sum(0).abs()[body]
    assert float(agreement.mean()) > 0.999
    inside = root_sum_of_squares(estimated)
    torch.testing.assert_close(inside[inside > 0], torch.ones_like(inside[inside > 0]))


def test_espirit_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="smaller than the kernel"):
        espirit_maps(torch.ones(2, 4, 8, dtype=torch.complex64), (16, 16))
    with pytest.raises(ValueError, match="only zeros"):
        espirit_maps(torch.zeros(2, 8, 8, dtype=torch.complex64), (16, 16))


def test_whitening_gives_unit_covariance() -> None:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(4, 4, dtype=torch.complex64, generator=generator)
    noise = mixing @ complex_noise((4, 40_000), 1.0, generator)
    white = whiten(noise[:, None], noise_covariance(noise))[:, 0]
    torch.testing.assert_close(
        noise_covariance(white), torch.eye(4, dtype=torch.complex64), atol=2e-3, rtol=0
    )
    with pytest.raises(ValueError, match="not positive definite"):
        whiten(noise[:, None], -torch.eye(4, dtype=torch.complex64))


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 200), st.floats(2, 6))
def test_column_density_meets_the_budget(width: int, acceleration: float) -> None:
    calibration = int(width / acceleration) // 3
    density = column_density(width, acceleration, calibration)
    assert float(density.sum()) == pytest.approx(width / acceleration, rel=1e-6)
    assert float(density.min()) > 0
    assert float(density.max()) <= 1


def test_drawn_columns_follow_the_density() -> None:
    density, generator = column_density(64, 3.0, 8), torch.Generator().manual_seed(0)
    draws = torch.stack([draw_columns(density, 8, generator).mask for _ in range(4000)])
    error = (draws.double().mean(0) - density).abs()
    assert float(error.max()) < 5 * 0.5 / 4000**0.5  # five standard errors of a proportion
