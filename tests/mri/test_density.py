"""The density estimated from masks: bounds, accuracy, and when masks say too little."""

from __future__ import annotations

import pytest
import torch

from sagittal_mri.physics.density import ColumnDensity, central_columns
from sagittal_mri.physics.masks import calibration_columns, column_density, draw_columns


def draws(count: int, width: int = 96, acceleration: float = 4.0) -> list[torch.Tensor]:
    density = column_density(width, acceleration, 12)
    generator = torch.Generator().manual_seed(width)
    return [draw_columns(density, 12, generator).mask for _ in range(count)]


@pytest.mark.parametrize("width", [15, 16])
def test_central_columns_are_those_of_a_calibration_block(width: int) -> None:
    for size in (1, 4, 5, width):
        assert central_columns(calibration_columns(width, size)) == size
    assert central_columns(torch.zeros(width, dtype=torch.bool)) == 0
    block = calibration_columns(width, 5)
    block[0] = True  # not contiguous: does not count
    assert central_columns(block) == 5


def test_estimates_are_probabilities_whatever_was_drawn() -> None:
    always, never = torch.ones(32, dtype=torch.bool), torch.zeros(32, dtype=torch.bool)
    for masks in ([always], [never], draws(1), [*draws(1), *draws(1, 80)]):
        for width in (masks[0].numel(), 50):
            density = ColumnDensity(masks)(width)
            assert density.shape == (width,)
            assert bool(((density > 0) & (density <= 1)).all())
    with pytest.raises(ValueError, match="no masks"):
        ColumnDensity([])


def test_few_masks_do_better_than_their_frequencies() -> None:
    truth = column_density(96, 4.0, 12)
    errors = []
    for masks in torch.stack(draws(60)).split(6):  # ten training sets of six scans
        estimate, frequency = ColumnDensity(list(masks))(96), masks.double().mean(0)
        errors.append([float((p - truth).square().mean()) for p in (estimate, frequency)])
    ours, naive = torch.tensor(errors).mean(0).sqrt()
    assert float(ours) < 0.8 * float(naive)


def test_many_masks_give_the_density() -> None:
    truth = column_density(96, 4.0, 12)
    estimate = ColumnDensity(draws(2000))(96)
    # four standard errors of a frequency of 2000 draws
    torch.testing.assert_close(estimate.double(), truth, atol=0.045, rtol=0)
    assert bool((estimate[calibration_columns(96, 12)] == 1).all())


def test_a_width_that_was_never_seen_takes_the_profile_of_the_others() -> None:
    estimate = ColumnDensity(draws(500))(128)
    truth = column_density(128, 4.0, 16)  # the same block and acceleration relative to the width
    outer = ~calibration_columns(128, 24)
    assert float((estimate - truth)[outer].abs().mean()) < 0.04


def test_columns_that_no_mask_acquires_are_found() -> None:
    one, other = draws(2)
    assert torch.equal(ColumnDensity([one]).never_acquired()[96], ~one)
    assert torch.equal(ColumnDensity([one, other]).never_acquired()[96], ~(one | other))
    # Masks of one width say nothing of another.
    (narrow,) = draws(1, 80)
    found = ColumnDensity([one, narrow]).never_acquired()
    assert torch.equal(found[96], ~one)
    assert torch.equal(found[80], ~narrow)
    assert not ColumnDensity([one, ~one]).never_acquired()[96].any()
