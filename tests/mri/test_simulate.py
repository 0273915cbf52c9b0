"""The simulator: reproducible scans, honest splits, no leak from the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sagittal_core.errors import DataError
from sagittal_mri.data.batch import crop_readout
from sagittal_mri.data.simulate import SimulatedScans, load_magnitude, split_slices
from sagittal_mri.physics.coils import root_sum_of_squares
from sagittal_mri.physics.fourier import ifft2c


def phantom(slices: int = 4, shape: tuple[int, int] = (32, 40)) -> torch.Tensor:
    rows = torch.linspace(-1, 1, shape[0])[:, None]
    columns = torch.linspace(-1, 1, shape[1])[None]
    radius = rows**2 / 0.7 + columns**2 / 0.8
    return torch.stack([(radius < 1).float() * (0.5 + 0.1 * i) for i in range(slices)])


def scans(**options: object) -> SimulatedScans:
    settings: dict = {"coils": 3, "calibration": 16, "accelerations": (1.8,), "noise": 0.02}
    return SimulatedScans(phantom(), [10, 11, 12, 13], **(settings | options))


def test_a_scan_is_a_function_of_seed_and_number() -> None:
    first, again, other = scans()[2], scans(cache=False)[2], scans(seed=1)[2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.kspace, other.kspace)


def test_only_acquired_columns_hold_samples_and_the_reference_is_clean() -> None:
    scan = scans()[0]
    columns = scan.acquired[0]
    assert bool((scan.kspace[..., ~columns] == 0).all())
    noise = (scan.kspace - scan.reference_kspace)[..., columns]
    assert float(noise.abs().square().mean().sqrt()) == pytest.approx(0.02, rel=0.1)
    expected = root_sum_of_squares(ifft2c(scan.reference_kspace))
    torch.testing.assert_close(scan.reference, expected)


def test_maps_and_scale_come_from_the_calibration_block_alone() -> None:
    scan = scans(noise=0.0)[0]
    from sagittal_mri.data.simulate import make_scan

    kspace = scan.kspace[0] * scan.calibration[0]  # everything else removed
    again = make_scan(kspace, scan.acquired[0], scan.density[0], scan.calibration[0], index=0)
    torch.testing.assert_close(again.maps, scan.maps)
    torch.testing.assert_close(again.scale, scan.scale)


def test_a_window_of_rows_is_the_same_problem() -> None:
    scan = scans(noise=0.0)[0]
    window = crop_readout(scan, 5, 16)
    whole = scan.operator().adjoint(scan.kspace)
    torch.testing.assert_close(
        window.operator().adjoint(window.kspace), whole[:, 5:21], atol=1e-5, rtol=1e-4
    )


def test_no_training_slice_neighbours_a_held_out_slice() -> None:
    split = split_slices(130, block=10, gap=5)
    held_out = split["val"] + split["test"]
    assert min(abs(i - j) for i in split["train"] for j in held_out) > 5
    assert min(abs(i - j) for i in split["val"] for j in split["test"]) > 5
    with pytest.raises(ValueError, match="leave none for"):
        split_slices(12)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((4, 4)), "not all 0"),
        (-np.ones((4, 4)), "magnitudes"),
        (np.ones(4), "2 or 3 axes"),
    ],
)
def test_bad_volumes_are_named(tmp_path: Path, array: np.ndarray, message: str) -> None:
    file = tmp_path / "bad.npy"
    np.save(file, array)
    with pytest.raises(DataError, match=message) as caught:
        load_magnitude(file)
    assert "bad.npy" in str(caught.value)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "cut.npy"
    np.save(file, np.ones((8, 8)))
    file.write_bytes(file.read_bytes()[:140])
    with pytest.raises(DataError, match=r"cut\.npy"):
        load_magnitude(file)
