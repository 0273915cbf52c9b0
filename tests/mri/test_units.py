"""The UNITS module: its loss is what the theory says, for every strategy."""

from __future__ import annotations

import pytest
import torch

from sagittal_mri.data.batch import ReconBatch, collate
from sagittal_mri.data.simulate import SimulatedScans
from sagittal_mri.nn.unet import UNetDenoiser
from sagittal_mri.nn.unrolled import UnrolledNetwork
from sagittal_mri.partitions import SSDU, KWeightedSSDU, Supervised
from sagittal_mri.physics.sense import CartesianSense, RadialSense
from sagittal_mri.units import UNITS, residual_loss


def batch(count: int = 2) -> ReconBatch:
    rows = torch.linspace(-1, 1, 24)[:, None]
    columns = torch.linspace(-1, 1, 32)[None]
    slices = torch.stack([((rows**2 + columns**2) < r).float() for r in (0.6, 0.8)])
    data = SimulatedScans(slices, [3, 4], coils=3, calibration=16, accelerations=(1.5,), noise=0.01)
    return collate([data[i] for i in range(count)])


def tiny(partition: object, **options: object) -> UNITS:
    torch.manual_seed(0)
    network = UnrolledNetwork(iterations=2, channels=4, levels=1, cg_iterations=4)
    return UNITS(network, partition, **options)  # type: ignore[arg-type]


def test_an_untrained_denoiser_is_the_identity_for_any_size() -> None:
    image = torch.randn(2, 13, 10, dtype=torch.complex64)
    torch.testing.assert_close(UNetDenoiser(4, 2)(image), image)


@pytest.mark.parametrize("consistency", ["cg", "gradient"])
@pytest.mark.parametrize(
    "partition", [Supervised(), SSDU(), SSDU(resample="fixed", views=2), KWeightedSSDU()]
)
def test_every_strategy_trains(partition: object, consistency: str) -> None:
    torch.manual_seed(0)
    network = UnrolledNetwork(2, 4, 1, consistency)  # type: ignore[arg-type]
    model, scans = UNITS(network, partition), batch()  # type: ignore[arg-type]
    views = model.views(scans)  # one split for all steps, so that the loss must fall
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        loss = model.loss(scans, views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_targets_never_reach_the_network() -> None:
    """Changing the held-out samples changes the loss, not the reconstruction of the input view."""
    model, scans = tiny(SSDU(judge_calibration=False)), batch()
    (view,) = model.views(scans)
    seen: list[torch.Tensor] = []
    model.network.register_forward_hook(lambda _, __, image: seen.append(image))
    first = model.loss(scans, [view]).detach()
    spoiled = scans._replace(
        kspace=torch.where(view.target[:, None, None], scans.kspace * 3, scans.kspace)
    )
    second = model.loss(spoiled, [view]).detach()
    assert torch.equal(seen[0], seen[1])
    assert float(first) != float(second)


def test_splits_depend_on_seed_scan_and_epoch_alone() -> None:
    scans = batch()
    first, again, other = tiny(SSDU()), tiny(SSDU()), tiny(SSDU(), run_seed=1)
    assert torch.equal(first.views(scans)[0].target, again.views(scans)[0].target)
    assert not torch.equal(first.views(scans)[0].target, other.views(scans)[0].target)
    alone = ReconBatch(*(field[1:] for field in scans))
    assert torch.equal(first.views(scans)[0].target[1:], first.views(alone)[0].target)


def test_loss_of_a_batch_is_the_mean_over_its_scans() -> None:
    model, scans = tiny(KWeightedSSDU()), batch()
    apart = [ReconBatch(*(field[i : i + 1] for field in scans)) for i in range(2)]
    losses = torch.stack([model.loss(one, model.views(one)) for one in apart])
    torch.testing.assert_close(model.loss(scans, model.views(scans)), losses.mean())


def test_residual_loss_by_hand() -> None:
    target = torch.tensor([[[[3.0 + 4.0j, 0.0]]]])
    residual = torch.tensor([[[[0.0 + 0.0j, 2.0]]]])
    seen = torch.tensor([[[[0.0, 10.0j]]]])
    weight = torch.tensor([[1.0, 4.0]])
    assert float(residual_loss(residual, target, seen, weight, "l2")) == pytest.approx(16 / 100)
    expected = 0.5 * (4 / 5 + 4 / 5)  # normalised l2 norm: sqrt(16 / 25); l1: 2 * 2 / 5
    assert float(residual_loss(residual, target, seen, weight, "l1_l2")) == pytest.approx(expected)


def test_l2_weighs_noisy_targets_no_more_than_others() -> None:
    """Equal residuals count equally whatever the target's own energy: the divisor is I's."""
    seen, residual = torch.full((2, 1, 1, 4), 2.0 + 0j), torch.full((2, 1, 1, 4), 1.0 + 0j)
    target = torch.ones(2, 1, 1, 4) * torch.tensor([10.0 + 0j, 1e-3 + 0j])[:, None, None, None]
    weight = torch.ones(1, 1, 1, 4)
    losses = [
        float(residual_loss(residual[i : i + 1], target[i : i + 1], seen[i : i + 1], weight, "l2"))
        for i in range(2)
    ]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize(("distance", "loss"), [("l2", 0.125), ("l1_l2", 0.5)])
def test_a_scan_without_target_adds_nothing(distance: str, loss: float) -> None:
    target = torch.tensor([[[[3.0 + 4.0j]]], [[[0.0j]]]])
    seen = torch.full((2, 1, 1, 1), 10.0 + 0j)
    residual = torch.tensor([[[[5.0 + 0.0j]]], [[[0.0j]]]], requires_grad=True)
    value = residual_loss(residual, target, seen, torch.ones(2, 1, 1, 1), distance)
    value.backward()
    assert float(value.detach()) == pytest.approx(loss, abs=1e-5)
    assert residual.grad is not None
    assert bool(residual.grad.isfinite().all())


def test_consistency_needs_two_views() -> None:
    with pytest.raises(ValueError, match="set partition views to 2"):
        tiny(SSDU(), consistency=0.1)
    model, scans = tiny(SSDU(views=2), consistency=0.1), batch()
    assert float(model.loss(scans, model.views(scans)).detach()) > 0


def test_the_network_takes_radial_samples_too() -> None:
    from sagittal_mri.physics.radial import golden_angle_trajectory, ramp_weights

    scans = batch(1)
    trajectory = golden_angle_trajectory(16, 48)
    operator = RadialSense(scans.maps, trajectory, ramp_weights(trajectory, (24, 32)))
    network = UnrolledNetwork(2, 4, 1)
    truth = (scans.maps.conj() * 0 + 1).sum(1) * scans.body
    image = network(operator.adjoint(operator(truth)), operator)
    image.abs().sum().backward()
    assert image.shape == truth.shape
    assert float((image.detach() - truth).abs().mean()) < 0.5 * float(truth.abs().mean())


def test_nothing_is_invented_where_no_coil_sees() -> None:
    maps = torch.randn(2, 3, 16, 20, dtype=torch.complex64)
    maps[..., :5] = 0
    operator = CartesianSense(maps, torch.ones(2, 1, 20, dtype=torch.bool))
    network = UnrolledNetwork(iterations=1, channels=4, levels=1)
    for parameter in network.parameters():  # the zero-initialised layer would hide the others
        parameter.data.add_(0.1)
    image = network(torch.randn(2, 16, 20, dtype=torch.complex64), operator)
    assert (image[..., :5] == 0).all()
    assert (image[..., 5:] != 0).all()
