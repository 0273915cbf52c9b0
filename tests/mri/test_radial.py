"""Radial scans: the operator of a split, what may see what, and the loss on spokes."""

from __future__ import annotations

import math

import pytest
import torch

from sagittal_core.errors import ConfigError
from sagittal_core.ops import reference
from sagittal_mri.data.batch import collate
from sagittal_mri.data.radial import RadialBatch, kspace_disc, make_radial_scan
from sagittal_mri.data.simulate_radial import SimulatedRadialScans
from sagittal_mri.nn.unrolled import UnrolledNetwork
from sagittal_mri.partitions import SSDU, KWeightedSSDU, Partition, Supervised, View
from sagittal_mri.physics.coils import expand, root_sum_of_squares
from sagittal_mri.physics.fourier import center_crop, fft2c, ifft2c
from sagittal_mri.physics.radial import (
    calibration_kspace,
    calibration_radius,
    expect_diameters,
    golden_angle_trajectory,
    ramp_weights,
    spoke_positions,
)
from sagittal_mri.physics.sense import RadialSense
from sagittal_mri.units import UNITS

SHAPE = (24, 32)
SPOKES, GROUPS, CALIBRATION = 18, 4, 16


def slices(count: int = 2, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    rows = torch.linspace(-1, 1, shape[0])[:, None]
    columns = torch.linspace(-1, 1, shape[1])[None]
    radius = rows**2 / 0.6 + columns**2 / 0.7
    return torch.stack([(radius < 1 - 0.1 * i).float() for i in range(count)])


def scans(**options: object) -> SimulatedRadialScans:
    sizes: dict = {"acceleration": 2.8, "groups": GROUPS, "coils": 3, "noise": 0.01}
    sizes |= {"calibration": CALIBRATION} | options
    return SimulatedRadialScans(slices(), [3, 4], **sizes)


@pytest.fixture(scope="module")
def batch() -> RadialBatch:
    data = scans()
    return collate([data[0], data[1]])


def units(partition: Partition, **options: object) -> UNITS:
    torch.manual_seed(0)
    return UNITS(UnrolledNetwork(2, 4, 1, "gradient"), partition, **options)  # type: ignore[arg-type]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def outer(view: View) -> View:
    """The same split, judged on spokes outside the calibration disc only."""
    target = view.target.clone()
    target[:, 0] = False
    return view._replace(target=target)


def some_positions() -> torch.Tensor:
    """A different choice of positions, the disc among them, for each of two scans."""
    return torch.tensor([[1, 1, 0, 0, 1], [1, 0, 1, 1, 1]], dtype=torch.bool)


def test_a_split_operator_is_that_of_its_samples_alone(batch: RadialBatch) -> None:
    """K_I = sum K_g and b_I = sum b_g against the NUFFT of each scan's chosen samples."""
    chosen = some_positions()
    operator, image = batch.operator(chosen), torch.randn(2, *SHAPE, dtype=torch.complex64)
    factor = batch.compensation(chosen)
    for index in range(2):
        used = chosen[index][batch.position[index]]
        weights = (factor[index][batch.position[index]] * batch.weights[index])[used][None]
        alone = RadialSense(
            batch.maps[index : index + 1], batch.trajectory[index][used][None], weights
        )
        one = image[index : index + 1]
        assert relative(operator.normal(image)[index], alone.adjoint(alone(one))[0]) < 1e-4
        samples = batch.measured(chosen)[index][:, used][None, :, None]
        assert relative(batch.adjoint(chosen)[index], alone.adjoint(samples)[0]) < 1e-4


def test_a_new_split_needs_no_nufft(batch: RadialBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("a NUFFT or a new kernel")

    for name in ("nufft_type1", "nufft_type2", "toeplitz_kernel"):
        monkeypatch.setattr(f"sagittal_mri.physics.sense.{name}", refuse)
    network, chosen = UnrolledNetwork(1, 4, 1), some_positions()
    image = network(batch.adjoint(chosen), batch.operator(chosen))
    assert bool(image.isfinite().all())
    with pytest.raises(AssertionError, match="a NUFFT"):
        batch.operator(~chosen)(image)  # the targets' prediction does need one


def test_density_weights_fit_every_share_of_the_spokes(batch: RadialBatch) -> None:
    """A^H A of a part of the spokes has the size of that of all, so one network serves both."""
    part, whole = batch.operator(some_positions()), batch.operator()
    truth = (ifft2c(batch.reference_kspace) * batch.maps.conj()).sum(1)
    sizes = [torch.einsum("bhw,bhw->b", truth.conj(), a.normal(truth)).real for a in (part, whole)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.1, atol=0)


def test_maps_and_scale_come_from_the_calibration_disc_alone() -> None:
    trajectory = golden_angle_trajectory(SPOKES, 64, 7)
    samples = torch.randn(3, SPOKES, 64, dtype=torch.complex64)
    radius = calibration_radius(SHAPE, CALIBRATION)
    inside = trajectory.norm(dim=-1) <= radius
    low = samples * (trajectory.norm(dim=-1) < 3 * radius)  # an image with a smooth centre

    def scan(y: torch.Tensor) -> RadialBatch:
        return make_radial_scan(y, trajectory, SHAPE, calibration=CALIBRATION, groups=GROUPS)

    first = scan(low)
    spoiled = scan(torch.where(inside, low, 5 * samples))
    assert torch.equal(first.maps, spoiled.maps)
    assert torch.equal(first.scale, spoiled.scale)
    changed = scan(torch.where(inside, 5 * low.roll(1, 0), low))
    assert not torch.equal(first.scale, changed.scale)
    assert bool((first.position[0][inside] == 0).all())
    assert bool((first.position[0][~inside] > 0).all())


def test_targets_never_reach_the_network(batch: RadialBatch) -> None:
    model = units(SSDU(0.5))
    view = outer(model.views(batch)[0])
    assert bool(view.input[:, 0].all())  # the disc that maps and scale were computed from
    assert bool((view.target ^ view.input).all())
    assert bool(view.target.any())
    seen: list[torch.Tensor] = []
    model.network.register_forward_hook(lambda _, __, image: seen.append(image))
    first = model.loss(batch, [view]).detach()
    target = batch.per_sample(view.target).bool()
    spoiled = batch._replace(
        samples=torch.where(target, 3 * batch.samples, batch.samples),
        adjoints=torch.where(view.target[..., None, None], 3 * batch.adjoints, batch.adjoints),
    )
    second = model.loss(spoiled, [view]).detach()
    assert torch.equal(seen[0], seen[1])
    assert float(first) != float(second)


class FirstStep(torch.nn.Module):
    """The reconstruction ``A^H y``, so that a loss can be written down by hand."""

    def forward(self, rhs: torch.Tensor, operator: RadialSense) -> torch.Tensor:
        return rhs


def test_loss_of_a_split_is_that_of_direct_sums(batch: RadialBatch) -> None:
    """The loss from grouped kernels and adjoints against sums over samples in double precision."""
    chosen = some_positions()
    target = ~chosen
    model = UNITS(FirstStep(), SSDU())
    view = View(chosen, target, torch.ones(2, GROUPS + 1))
    losses = []
    for b in range(2):
        position, weights = batch.position[b].flatten(), batch.weights[b].flatten().double()
        omega = batch.trajectory[b].reshape(-1, 2).double()
        maps = batch.maps[b].to(torch.complex128)
        y = batch.samples[b].flatten(1).to(torch.complex128) / weights.sqrt() / batch.scale[b]
        unit = 1 / math.sqrt(SHAPE[0] * SHAPE[1])
        outer = weights[position > 0].sum()

        def compensated(
            mask: torch.Tensor,
            position: torch.Tensor = position,
            weights: torch.Tensor = weights,
            outer: torch.Tensor = outer,
        ) -> torch.Tensor:
            used = mask[position].double()
            share = (weights * used)[position > 0].sum() / outer
            return weights * used * torch.where(position > 0, 1 / share, 1)

        w_input, w_target = compensated(chosen[b]), compensated(target[b])
        image = reference.nudft_type1(w_input * y, omega, SHAPE) * unit
        image = (maps.conj() * image).sum(0)
        predicted = reference.nudft_type2(maps * image, omega) * unit
        square = (w_target * (predicted - y).abs().square()).sum()
        losses.append(square / (w_input * y.abs().square()).sum())
    expected = torch.stack(losses).mean()
    assert float(model.loss(batch, [view])) == pytest.approx(float(expected), rel=1e-3)


def test_k_weights_of_spokes_are_one_constant(batch: RadialBatch) -> None:
    plain, weighted = units(SSDU(0.5)), units(KWeightedSSDU(0.5))
    view = outer(weighted.views(batch)[0])
    constant = view.weight[:, 1:]
    share = SPOKES / (math.pi / 2 * max(SHAPE))
    assert float(constant.min()) == float(constant.max())
    assert float(constant[0, 0]) == pytest.approx((1 - share * 0.5) / (share * 0.5))
    losses = [float(m.loss(batch, [outer(m.views(batch)[0])]).detach()) for m in (plain, weighted)]
    assert losses[1] == pytest.approx(losses[0] * float(constant[0, 0]), rel=1e-5)


@pytest.mark.parametrize("partition", [Supervised(), SSDU(views=2), KWeightedSSDU()])
def test_every_strategy_trains_on_spokes(partition: Partition, batch: RadialBatch) -> None:
    model = units(partition)
    views = model.views(batch)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        loss = model.loss(batch, views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_supervision_needs_a_reference(batch: RadialBatch) -> None:
    model, blind = units(Supervised()), batch._replace(reference_kspace=batch.maps[:, :0])
    with pytest.raises(ConfigError, match="no reference"):
        model.loss(blind, model.views(blind))


def test_loss_of_a_batch_is_the_mean_over_its_scans(batch: RadialBatch) -> None:
    model = units(SSDU(0.5))
    apart = [RadialBatch(*(field[i : i + 1] for field in batch)) for i in range(2)]
    losses = torch.stack([model.loss(one, model.views(one)) for one in apart])
    torch.testing.assert_close(model.loss(batch, model.views(batch)), losses.mean())


def test_torchkbnufft_agrees_with_our_nufft(batch: RadialBatch) -> None:
    ours = batch.operator()
    theirs = RadialSense(
        batch.maps, batch.trajectory, batch.weights, batch.position, backend="torchkbnufft"
    )
    image = torch.randn(2, *SHAPE, dtype=torch.complex64)
    samples = torch.randn_like(batch.samples)
    assert relative(theirs(image), ours(image)) < 2e-3
    assert relative(theirs.adjoint(samples), ours.adjoint(samples)) < 2e-3


def test_a_scan_is_a_function_of_seed_and_number() -> None:
    first, again, other = scans()[1], scans()[1], scans(seed=1)[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.trajectory, other.trajectory)


def test_downsampled_scans_keep_intensity_and_refuse_odd_pixels() -> None:
    """Twice as wide pixels, the same object: the image keeps its values on a quarter of them."""
    fine, coarse = scans(noise=0.0)[0], scans(noise=0.0, downsample=2, calibration=12)[0]
    assert coarse.reference.shape == (1, 12, 16)
    ratio = coarse.reference[coarse.body].mean() / fine.reference[fine.body].mean()
    assert float(ratio) == pytest.approx(1, abs=0.15)
    with pytest.raises(ValueError, match=r"5 does not divide slices of \(24, 32\)"):
        scans(downsample=5)


def test_simulated_samples_are_those_of_the_reference() -> None:
    """Noise-free spokes, and the disc of k-space that they reach, describe one object."""
    scan = scans(noise=0.0)[0]
    truth = ifft2c(scan.reference_kspace)  # band-limited to the disc
    ones = torch.ones(3, 1, *SHAPE, dtype=torch.complex64)
    operator = RadialSense(ones, scan.trajectory[0], scan.weights[0])
    inner = scan.trajectory[0].norm(dim=-1) < 0.8 * math.pi
    predicted = operator(truth[0])[:, 0]
    assert relative(predicted[:, inner], scan.samples[0][:, inner]) < 0.02
    torch.testing.assert_close(scan.reference[0], root_sum_of_squares(truth)[0])
    assert bool((scan.reference_kspace[0][:, ~kspace_disc(SHAPE)] == 0).all())


def test_calibration_kspace_is_the_cartesian_centre() -> None:
    image = expand(slices(1, (48, 64))[0] + 0j, torch.ones(2, 48, 64) + 0j)
    trajectory = golden_angle_trajectory(40, 128)
    ones = torch.ones(1, 2, 48, 64, dtype=torch.complex64)
    samples = RadialSense(ones, trajectory, torch.ones(40, 128))(slices(1, (48, 64)) + 0j)[0]
    block = calibration_kspace(samples, trajectory, (48, 64), 16)
    assert block.shape == (2, 12, 16)
    expected = center_crop(fft2c(image), (6, 8))
    assert relative(center_crop(block, (6, 8)), expected) < 0.03


def test_every_group_fans_out_over_all_directions() -> None:
    trajectory = golden_angle_trajectory(40, 64)
    position = spoke_positions(trajectory, 8, 0.1)
    angle = torch.atan2(trajectory[:, -1, 0], trajectory[:, -1, 1]) % math.pi
    for group in range(1, 9):
        own = angle[position[:, 0] == group].sort().values
        assert len(own) == 5
        gaps = torch.cat([own.diff(), own[:1] + math.pi - own[-1:]])
        assert float(gaps.max()) < 2 * math.pi / 5
    with pytest.raises(ValueError, match=r"1\.\.40, found 41"):
        spoke_positions(trajectory, 41, 0.1)


def test_ramp_weights_follow_the_extent_of_the_readout() -> None:
    """A readout over half the radius with the same step has the inner half of the weights."""
    trajectory = golden_angle_trajectory(20, 64)
    whole, half = ramp_weights(trajectory, SHAPE), ramp_weights(trajectory[:, 16:48], SHAPE)
    torch.testing.assert_close(half, whole[:, 16:48])


@pytest.mark.parametrize("kind", ["half spokes", "spiral", "uneven"])
def test_trajectories_that_are_not_diameters_are_refused(kind: str) -> None:
    full = golden_angle_trajectory(12, 64)
    turn = torch.linspace(0, 12, 64)[None, :, None] + torch.zeros(12, 1, 1)
    other = {
        "half spokes": full[:, 32:],
        "spiral": torch.cat([turn.cos(), turn.sin()], -1) * turn / 4,
        "uneven": full * full.norm(dim=-1, keepdim=True),
    }
    expect_diameters(full)
    with pytest.raises(ValueError, match="through the centre of k-space"):
        expect_diameters(other[kind])
