"""SAILCompat against a dense re-statement of what SAIL's released code computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sagittal_genai.nn.activations import Encoder
from sagittal_genai.nn.sail_compat import SAILCompat

N, D = 12, 6
PREFIXES, K = [4, 9, 24], [2, 3, 5]


def rows(seed: int = 0) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoencoder(tied: bool = True) -> SAILCompat:
    sae = SAILCompat(D, PREFIXES, K, tied=tied, seed=1).double().train()
    with torch.no_grad():
        sae.b_e.copy_(torch.linspace(-0.2, 0.2, PREFIXES[-1]))
        sae.b_d.copy_(torch.linspace(-0.3, 0.3, D))
    return sae


def kept(p: Tensor, k: int) -> Tensor:
    """BatchTopK without a ReLU, (N, end) dense."""
    chosen = p.flatten().topk(k * len(p)).indices
    return torch.zeros_like(p).flatten().scatter(0, chosen, p.flatten()[chosen]).view_as(p)


def dense(sae: SAILCompat, x: Tensor, theta: float | None = None) -> tuple[list[Tensor], Tensor]:
    """Reconstructions of all levels, and the activations of the largest."""
    p = (x - sae.b_d) @ sae.W_e.T + sae.b_e
    decoder = sae.W_d.detach()  # released: `weight.data`
    found, z = [], p
    for end, k in zip(PREFIXES, K, strict=True):
        z = kept(p[:, :end], k) if theta is None else (p[:, :end] - theta).clamp(min=0)
        found.append(z @ decoder[:end] + sae.b_d)
    return found, z


@pytest.mark.parametrize("tied", [True, False])
def test_training_equals_the_dense_form(tied: bool) -> None:
    sae, x = autoencoder(tied), rows()
    out = sae(x)
    expected = torch.stack(dense(sae, x)[0])
    torch.testing.assert_close(out.reconstructions, expected)
    assert torch.equal(out.normalised, x)
    loss = (out.reconstructions - x).square().mean()
    wanted = torch.stack([(level - x).square().mean() for level in expected]).mean()
    trained = [sae.W_e, sae.b_e, sae.b_d]
    for ours, theirs in zip(
        torch.autograd.grad(loss, trained), torch.autograd.grad(wanted, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_decoder_never_learns() -> None:
    sae, x = autoencoder(tied=False), rows()
    before, encoder = sae.W_d.clone(), sae.W_e.clone()
    optimizer = torch.optim.Adam(sae.parameters(), 0.1)
    (sae(x).reconstructions - x).square().mean().backward()
    assert sae.W_d.grad is None
    optimizer.step()
    assert torch.equal(sae.W_d, before)
    assert not torch.equal(sae.W_e, encoder)


def test_a_tied_matrix_learns_through_the_encoder_alone() -> None:
    sae, x = autoencoder(), rows()
    assert sae.W_d is sae.W_e
    (sae(x).reconstructions - x).square().mean().backward()
    active = torch.zeros(PREFIXES[-1], dtype=torch.bool)
    active[torch.cat([codes.indices for codes in levels_of(sae, x)])] = True
    assert float(sae.W_e.grad[~active].abs().max()) == 0
    # Through the decoder as well, the gradient would be another one.
    p = (x - sae.b_d) @ sae.W_e.T + sae.b_e
    both = [
        kept(p[:, :end], k) @ sae.W_e[:end] + sae.b_d for end, k in zip(PREFIXES, K, strict=True)
    ]
    (other,) = torch.autograd.grad((torch.stack(both) - x).square().mean(), sae.W_e)
    assert float((other - sae.W_e.grad).abs().max()) > 0.01


def levels_of(sae: SAILCompat, x: Tensor) -> list:
    return sae.activation.levels(x, Encoder(sae.W_e, sae.b_e, sae.b_d))


def test_negative_entries_are_kept_where_positive_ones_run_out() -> None:
    sae, x = autoencoder(), rows()
    with torch.no_grad():
        sae.b_e.fill_(-5)
    codes = levels_of(sae, x)[-1]
    assert len(codes.values) == N * K[-1]
    assert float(codes.values.detach().max()) < 0
    assert int(sae.activation.batches) == 0  # no positive entry, no count


def test_theta_is_the_mean_over_all_batches_of_the_least_positive_entry() -> None:
    sae, found = autoencoder(), []
    for seed in range(5):
        sae(rows(seed))
        z = dense(sae, rows(seed))[1]
        found.append(float(z[z > 0].min().detach()))
    assert float(sae.activation.threshold) == pytest.approx(sum(found) / 5)
    assert max(found) > 1.05 * min(found)  # so that no other mean passes


def test_evaluation_subtracts_theta_in_all_levels() -> None:
    sae, x = autoencoder(), rows()
    with pytest.raises(RuntimeError, match="no threshold"):
        sae.eval()(x)
    sae.train()(x)
    theta = float(sae.activation.threshold)
    out = sae.eval()(x)
    expected, z = dense(sae, x, theta)
    torch.testing.assert_close(out.reconstructions, torch.stack(expected))
    torch.testing.assert_close(out.codes.values.sort().values, z[z > 0].sort().values)
    unshrunk = (x - sae.b_d) @ sae.W_e.T + sae.b_e
    assert float(out.codes.values.detach().sum()) == pytest.approx(
        float((unshrunk * (z > 0)).detach().sum()) - theta * int((z > 0).sum())
    )
    torch.testing.assert_close(sae.decode(sae.encode(x)), expected[-1].detach())


def test_rows_have_unit_length_at_first_only() -> None:
    sae, x = autoencoder(), rows()
    torch.testing.assert_close(
        sae.W_e.norm(dim=1), torch.ones(PREFIXES[-1], dtype=torch.float64), atol=1e-6, rtol=0
    )
    optimizer = torch.optim.Adam(sae.parameters(), 0.1)
    (sae(x).reconstructions - x).square().mean().backward()
    sae.project_gradient()
    optimizer.step()
    sae.normalise()
    assert float((sae.W_e.detach().norm(dim=1) - 1).abs().max()) > 0.05


def test_nothing_comes_from_the_rows_and_there_is_no_auxk() -> None:
    sae, x = autoencoder(), 7 * rows() + 3
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    sae.initialise(x)
    changed = [n for n, v in sae.state_dict().items() if not torch.equal(v, before[n])]
    assert changed == ["initialised"]
    with pytest.raises(ValueError, match="aux to 0"):
        sae.auxiliary_loss(sae(x), 10, 4)


def test_k_values_fit_the_prefixes() -> None:
    for wrong in ([2, 3], [2, 3, 25], [0, 3, 5]):
        with pytest.raises(ValueError, match="one number for each"):
            SAILCompat(D, PREFIXES, wrong)
