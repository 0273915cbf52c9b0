"""Metrics against hand-computed cases and scikit-image."""

from __future__ import annotations

import pytest
import torch

from sagittal_mri.metrics import nrmse, psnr, ssim


def test_psnr_and_nrmse_by_hand() -> None:
    reference = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]])
    image = reference + 0.5
    assert float(psnr(image, reference)) == pytest.approx(18.0618, abs=1e-3)  # 20 log10(4 / 0.5)
    assert float(nrmse(image, reference)) == pytest.approx(1.0 / 5.0)  # ||.5|| = 1, ||r|| = 5


def test_pixels_outside_the_mask_do_not_count() -> None:
    reference = torch.rand(1, 16, 16)
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    image = reference + 0.01
    spoiled = torch.where(mask, image, torch.tensor(9.0))
    torch.testing.assert_close(psnr(spoiled, reference, mask), psnr(image, reference, mask))
    torch.testing.assert_close(nrmse(spoiled, reference, mask), nrmse(image, reference, mask))


def test_ssim_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(2, 24, 20, generator=generator)
    image = reference + 0.1 * torch.randn(2, 24, 20, generator=generator)
    expected = [
        metrics.structural_similarity(
            r.double().numpy(), x.double().numpy(), win_size=7, data_range=float(r.max())
        )
        for r, x in zip(reference, image, strict=True)
    ]
    torch.testing.assert_close(ssim(image, reference), torch.tensor(expected, dtype=torch.float32))
