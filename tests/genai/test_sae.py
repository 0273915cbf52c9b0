"""The sparse autoencoder against its dense formulas in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sagittal_core.ops import _native
from sagittal_core.ops.sparse import SparseCodes
from sagittal_genai.metrics.fidelity import Fidelity
from sagittal_genai.nn.activations import BatchTopK, Encoder, JumpReLU, TopK
from sagittal_genai.nn.sae import SparseAutoencoder, geometric_median

N, D, F, K = 13, 6, 24, 3


def rows(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoencoder(activation: nn.Module | None = None, **options: object) -> SparseAutoencoder:
    settings: dict = {"activation": TopK(K) if activation is None else activation, "seed": 1}
    sae = SparseAutoencoder(D, F, **(settings | options)).double()
    sae.normalise()  # to double precision
    with torch.no_grad():
        sae.b_e.copy_(torch.linspace(-0.1, 0.3, F))
        sae.b_d.copy_(torch.linspace(-0.2, 0.2, D))
    return sae


def dense(sae: SparseAutoencoder, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
    """Reconstructions from each prefix, with the (N, F) matrix; ``keep`` masks it."""
    p = torch.relu((x * sae.scale - sae.b_d) @ sae.W_e.T + sae.b_e)
    if keep is None:
        keep = torch.zeros_like(p).scatter(1, p.topk(K).indices, 1)
    z = p * keep
    return [z[:, :end] @ sae.W_d[:end] + sae.b_d for end in sae.prefixes]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("prefixes", [None, [4, 9, F]])
def test_values_and_gradients_equal_the_dense_form(tied: bool, prefixes: list[int] | None) -> None:
    sae, x = autoencoder(prefixes=prefixes, tied=tied), rows()
    out = sae(x)
    expected = torch.stack(dense(sae, x))
    torch.testing.assert_close(out.reconstructions, expected)
    loss = (out.reconstructions - out.normalised).square().mean()
    wanted = (expected - x * sae.scale).square().mean()
    parameters = list(sae.parameters())
    assert len(parameters) == (3 if tied else 4)
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_batchtopk_keeps_the_largest_of_the_batch_then_a_threshold() -> None:
    sae, x = autoencoder(BatchTopK(K)), rows()
    sae.train()
    codes = sae(x).codes
    p = torch.relu((x - sae.b_d) @ sae.W_e.T + sae.b_e)
    least = p.flatten().topk(N * K).values[-1]
    torch.testing.assert_close(codes.values.sort().values, p[p >= least].sort().values)
    assert float(sae.activation.threshold) == pytest.approx(float(least.detach()))
    sae.eval()
    again = sae(x).codes
    assert len(again.values) == N * K - 1  # strictly above the threshold, which one entry equals


def test_the_threshold_forgets_early_batches() -> None:
    activation, expected = BatchTopK(1), 0.0
    for number in range(30):
        value = 10.0 if number == 0 else 1.0
        activation._follow(torch.tensor([value, 20.0]))
        expected += max(0.001, 10 / (10 + number)) * (value - expected)
    assert float(activation.threshold) == pytest.approx(expected)
    assert expected == pytest.approx(1, abs=1e-6)
    with pytest.raises(RuntimeError, match="no threshold before"):
        BatchTopK(1).eval()(rows(), Encoder(torch.ones(F, D), torch.zeros(F), torch.zeros(D)))


def test_jumprelu_has_straight_through_gradients() -> None:
    activation = JumpReLU(F, K, coefficient=0.7, bandwidth=0.4, initial=0.5).double()
    sae, x = autoencoder(activation), rows()
    sae.train()
    out = sae(x)
    theta = activation.log_threshold.exp()
    p = torch.relu((x - sae.b_d) @ sae.W_e.T + sae.b_e)
    on = (p > theta).double()
    torch.testing.assert_close(out.reconstructions[-1], (p * on) @ sae.W_d + sae.b_d)
    l0 = on.sum() / N
    torch.testing.assert_close(out.penalty, 0.7 * (l0 / K - 1) ** 2)

    loss = (out.reconstructions[-1] - x).square().mean() + out.penalty
    (found,) = torch.autograd.grad(loss, activation.log_threshold)
    near = ((p - theta).abs() < 0.2) & (p > 0)
    for_z = 2 * (((p * on) @ sae.W_d + sae.b_d) - x) / (N * D) @ sae.W_d.T
    for_l0 = 0.7 * 2 * (l0 / K - 1) / K / N
    for_theta = (near * (-theta / 0.4 * for_z - for_l0 / 0.4)).sum(0)
    torch.testing.assert_close(found, (for_theta * theta).detach())
    assert int(near.sum()) > 5


def test_first_thresholds_of_jumprelu_leave_k_features_active() -> None:
    sae, x = autoencoder(JumpReLU(F, K)), 40 * rows(500) + 3
    sae.initialise(x)
    codes = sae.train().encode(x)
    # Above the least of K a row, which rounding of the logarithm may let through.
    assert int((codes.values > 0).sum()) in (K * 500 - 1, K * 500)
    given = autoencoder(JumpReLU(F, K, initial=0.5))
    given.initialise(x)
    torch.testing.assert_close(given.activation.log_threshold.exp(), torch.full((F,), 0.5).double())


def test_auxk_is_the_dense_formula_and_reaches_dead_features_only() -> None:
    sae, x = autoencoder(), rows()
    assert float(sae.auxiliary_loss(sae(x), dead_after=10, k_aux=4)) == 0
    dead = torch.tensor([2, 5, 6, 11, 20])
    sae.idle[dead] = 10
    out = sae(x)
    found = sae.auxiliary_loss(out, dead_after=10, k_aux=10)
    residual = (out.normalised - out.reconstructions[-1]).detach()
    p = torch.relu((x - sae.b_d.detach()) @ sae.W_e[dead].T + sae.b_e[dead])
    wanted = (p @ sae.W_d[dead] - residual).square().mean() / residual.square().mean() * 5 / 10
    torch.testing.assert_close(found, wanted)
    found.backward()
    live = torch.ones(F, dtype=torch.bool)
    live[dead] = False
    for parameter in (sae.W_e, sae.W_d, sae.b_e):
        assert float(parameter.grad[live].abs().max()) == 0
        assert float(parameter.grad[dead].abs().max()) > 0
    assert sae.b_d.grad is None or float(sae.b_d.grad.abs().max()) == 0


def test_decoder_rows_keep_unit_length() -> None:
    sae, x = autoencoder(), rows()
    optimizer = torch.optim.Adam(sae.parameters(), 0.1)
    out = sae(x)
    (out.reconstructions - out.normalised).square().mean().backward()
    sae.project_gradient()
    along = (sae.W_d.grad * sae.W_d).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
    optimizer.step()
    sae.normalise()
    torch.testing.assert_close(sae.W_d.norm(dim=1), torch.ones(F, dtype=torch.float64))


def test_use_is_counted_in_rows_not_in_batches() -> None:
    sae = autoencoder()
    codes = SparseCodes(torch.tensor([[0, 3], [0, 5]]), torch.tensor([[1.0, 0.5], [2.0, 0.0]]))
    sae.count_use(codes, 2)
    sae.count_use(SparseCodes(torch.tensor([[7, 3]]), torch.tensor([[1.0, 0.0]])), 1)
    assert sae.idle[[0, 3, 5, 7, 8]].tolist() == [1, 1, 3, 0, 3]


def test_units_and_bias_come_from_the_rows() -> None:
    sae, x = autoencoder(), 40 * rows(400) + 3
    sae.initialise(x)
    normalised = x * sae.scale
    assert float((normalised - normalised.mean(0)).square().mean()) == pytest.approx(1)
    torch.testing.assert_close(sae.b_d.detach(), geometric_median(normalised))
    torch.testing.assert_close(sae.decode(sae.encode(x)), dense(sae, x)[-1] / sae.scale)
    with pytest.raises(ValueError, match="all equal"):
        sae.initialise(torch.ones(4, D, dtype=torch.float64))


def test_the_geometric_median_ignores_how_far_an_outlier_is() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [1e6, 0.0]])
    found = geometric_median(points, iterations=2000, tolerance=0)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0]), atol=1e-2, rtol=0)


def test_prefixes_must_end_at_all_features() -> None:
    with pytest.raises(ValueError, match="rise to n_features = 24"):
        autoencoder(prefixes=[4, 8])


@pytest.mark.parametrize("kind", [TopK, BatchTopK])
def test_each_prefix_may_choose_for_itself(kind: type) -> None:
    ends, ks = [4, 9, F], [1, 2, K]
    sae, x = autoencoder(kind(K), prefixes=ends, prefix_k=ks).train(), rows()
    out = sae(x)
    p = torch.relu((x - sae.b_d) @ sae.W_e.T + sae.b_e)
    expected = []
    for end, k in zip(ends, ks, strict=True):
        part = p[:, :end]
        least = (
            part.topk(k).values[:, -1:] if kind is TopK else part.flatten().topk(k * N).values[-1]
        )
        expected.append((part * (part >= least)) @ sae.W_d[:end] + sae.b_d)
    torch.testing.assert_close(out.reconstructions, torch.stack(expected))
    parameters = [sae.W_e, sae.W_d, sae.b_e, sae.b_d]
    ours = torch.autograd.grad(out.reconstructions.square().mean(), parameters)
    wanted = torch.autograd.grad(torch.stack(expected).square().mean(), parameters)
    for found, correct in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, correct)
    assert sae.eval()(x).reconstructions.shape == (3, N, D)


def test_choices_of_prefixes_need_their_numbers() -> None:
    with pytest.raises(ValueError, match="one number for each"):
        autoencoder(prefixes=[4, F], prefix_k=[2, K + 1])
    with pytest.raises(ValueError, match="not JumpReLU"):
        autoencoder(JumpReLU(F, K), prefixes=[4, F], prefix_k=[2, K])


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return found


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_no_tensor_of_rows_by_features_exists(kind: str) -> None:
    if _native.load().mode == "reference":
        pytest.skip("the reference is dense")
    n, d, f, k = 256, 8, 2048, 4
    activations = {"topk": TopK(k), "batchtopk": BatchTopK(k)}
    activation = activations.get(kind) or JumpReLU(f, k, initial=2.0)
    sae = SparseAutoencoder(d, f, activation).train()
    sae.idle[: f // 2] = 1000
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        out = sae(x)
        loss = (out.reconstructions - out.normalised).square().mean() + out.penalty
        (loss + sae.auxiliary_loss(out, 1000, d // 2)).backward()
        sae.count_use(out.codes, n)
    assert f * d <= largest.elements < n * f // 4


def test_fidelity_by_hand() -> None:
    x = torch.tensor([[0.0, 10.0, 5.0], [2.0, 10.5, 5.0], [4.0, 11.0, 5.0]])
    xhat = x + torch.tensor([[0.5, 0.0, 0.1], [0.0, 0.5, 0.0], [-0.5, 0.0, 0.0]])
    codes = SparseCodes(torch.tensor([[0, 1], [0, 2], [0, 3]]), torch.tensor([[1.0, 0]] * 3))
    fidelity = Fidelity(3, 4)
    for part in (slice(0, 2), slice(2, 3)):
        here = SparseCodes(codes.indices[part], codes.values[part])
        fidelity.update(x[part], xhat[part], here)
    found = {name: float(value) for name, value in fidelity.compute().items()}
    errors, spread = torch.tensor([0.5, 0.25, 0.01]), torch.tensor([8.0, 0.5, 0.0])
    assert found["r2"] == pytest.approx(float(1 - errors.sum() / spread.sum()))
    whole = float((x - x.mean()).square().sum())
    assert found["r2_global"] == pytest.approx(float(1 - errors.sum() / whole))
    assert found["r2_dimensions"] == pytest.approx(float((1 - errors[:2] / spread[:2]).mean()))
    assert found["l0"] == 1
    assert found["unused_share"] == 0.75
    fidelity.reset()
    with pytest.raises(ValueError, match="no rows"):
        fidelity.compute()
