"""The propositions of UNITS: splitting-based risks are weighted supervised risks."""

from __future__ import annotations

import pytest
import torch

from sagittal_mri.partitions import SSDU, Acquisition, KWeightedSSDU, Supervised

DRAWS = 40_000


def _law(columns: int = 32, batch: int = DRAWS) -> tuple[Acquisition, torch.Tensor]:
    """Independent columns and their probability, drawn ``batch`` times; four are calibration."""
    generator = torch.Generator().manual_seed(0)
    density = 0.15 + 0.6 * torch.rand(columns, generator=generator)
    calibration = torch.zeros(columns, dtype=torch.bool)
    calibration[columns // 2 - 2 : columns // 2 + 2] = True
    density[calibration] = 1
    acquired = (torch.rand(batch, columns, generator=generator) < density) | calibration
    law = Acquisition(acquired, density.expand(batch, -1), calibration.expand(batch, -1))
    return law, density


def _split(partition: SSDU, law: Acquisition) -> list:
    # One long generator serves all draws here: the partition asks one uniform row per scan.
    generator = torch.Generator().manual_seed(7)
    return partition(law, [generator] * law.acquired.shape[0])


def test_input_and_target_partition_the_acquired_columns() -> None:
    law, _ = _law(batch=200)
    for view in _split(SSDU(0.4, views=2, judge_calibration=False), law):
        assert not bool((view.input & view.target).any())
        assert bool(((view.input | view.target) == law.acquired).all())
        assert not bool((view.target & law.calibration).any())


def test_calibration_is_input_and_judged() -> None:
    law, _ = _law(batch=200)
    judged = _split(SSDU(0.4), law)[0]
    held_out = _split(SSDU(0.4, judge_calibration=False), law)[0]
    assert bool((judged.input == held_out.input).all())
    assert bool((judged.target == held_out.target | law.calibration).all())


def test_p1_split_risk_is_a_weighted_supervised_risk() -> None:
    """P1: given the input set, E ||M_T r||^2 = sum_k P(k in T | I) |r_k|^2."""
    law, density = _law()
    residual = torch.randn(32, generator=torch.Generator().manual_seed(1)).square()
    view = _split(SSDU(0.4, judge_calibration=False), law)[0]
    outside = ~view.input
    # given k outside I, k is a target with the probability of P3, independently for every column
    chance = density * 0.4 / (1 - density * 0.6)
    chance[law.calibration[0]] = 0
    observed = (view.target * residual).sum(1)
    expected = (outside * chance * residual).sum(1)
    gap = observed - expected
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / DRAWS**0.5


def test_p2_inverse_probability_weights_give_the_supervised_risk() -> None:
    """P2: with weights 1 / P(k in T | I) the expectation is the supervised risk outside I."""
    law, _ = _law()
    residual = torch.randn(32, generator=torch.Generator().manual_seed(1)).square()
    split = KWeightedSSDU(0.4, judge_calibration=False, max_weight=1e9)
    view = _split(split, law)[0]
    weighted = (view.weight * view.target * residual).sum(1)
    supervised = (~view.input * residual).sum(1)
    gap = weighted - supervised
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / DRAWS**0.5
    unweighted = (view.target * residual).sum(1) - supervised
    assert abs(float(unweighted.mean())) > 40 * float(unweighted.std()) / DRAWS**0.5


def test_p3_the_weight_is_millards_one_minus_k() -> None:
    """P3: P(k in T | k not in I) = p (1 - q) / (1 - p q) = 1 - K, K = (1 - p) / (1 - p q)."""
    law, density = _law()
    view = _split(KWeightedSSDU(0.4, max_weight=1e9), law)[0]
    outer = ~law.calibration[0]
    observed = (view.target.sum(0) / (~view.input).sum(0).clamp(min=1))[outer]
    k = ((1 - density) / (1 - density * 0.6))[outer]
    error = 4 * 0.5 / (~view.input).sum(0)[outer].min() ** 0.5
    torch.testing.assert_close(observed, 1 - k, atol=float(error), rtol=0)
    torch.testing.assert_close(1 / view.weight[0][outer], 1 - k)


def test_supervised_targets_everything() -> None:
    law, _ = _law(batch=3)
    (view,) = Supervised()(law, [])
    assert bool(view.target.all())
    assert bool((view.input == law.acquired).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, "rho must lie"),
        ({"rho": 1.0}, "rho must lie"),
        ({"resample": "daily"}, "'step' or 'fixed'"),
        ({"views": 0}, "at least 1"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSDU(**options)
