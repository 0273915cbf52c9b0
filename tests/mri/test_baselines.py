"""CG-SENSE and the search for its parameters."""

from __future__ import annotations

import torch

from sagittal_mri.baselines import LAMBDAS, cg_iterates, cg_sense, tune_cg_sense
from sagittal_mri.data.simulate import SimulatedScans
from sagittal_mri.metrics import psnr


def scans(noise: float) -> SimulatedScans:
    """Two scans of a disc."""
    rows, columns = torch.linspace(-1, 1, 40)[:, None], torch.linspace(-1, 1, 48)[None]
    disc = (rows**2 + columns**2 < 0.6).float().expand(2, -1, -1)
    return SimulatedScans(
        disc, [90, 91], accelerations=(2.0,), coils=4, calibration=16, noise=noise
    )


def test_iterates_are_those_of_separate_runs() -> None:
    scan = scans(0.01)[0]
    operator, rhs = scan.operator(), scan.adjoint()
    images = cg_iterates(operator, rhs, 0.01, 5)
    for count in (1, 3, 5):
        torch.testing.assert_close(images[count - 1], cg_sense(operator, rhs, 0.01, count))


def test_tuning_finds_the_best_of_its_grid() -> None:
    chosen = [scans(0.1)[i] for i in range(2)]
    lam, iterations, score = tune_cg_sense(chosen)

    def mean_psnr(lam: float, iterations: int) -> float:
        values = [
            psnr(cg_sense(s.operator(), s.adjoint(), lam, iterations).abs(), s.reference, s.body)
            for s in chosen
        ]
        return float(torch.cat(values).mean())

    assert abs(score - mean_psnr(lam, iterations)) < 1e-3
    for other in LAMBDAS:
        assert score >= mean_psnr(other, iterations) - 1e-3
    for other in (1, 2, 6, 20):
        assert score >= mean_psnr(lam, other) - 1e-3


def test_noisier_scans_are_stopped_earlier() -> None:
    quiet, noisy = tune_cg_sense([scans(0.003)[0]]), tune_cg_sense([scans(0.2)[0]])
    assert (noisy[0], -noisy[1]) > (quiet[0], -quiet[1])
