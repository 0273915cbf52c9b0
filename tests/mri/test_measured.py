"""Measured files as training data: what is read, drawn, cached, refused and warned of."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from kspace_files import columns, discs, full_kspace, write_file
from raw_files import Line, header_xml, write_ismrmrd

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ItemKey
from sagittal_mri.data import measured_scans
from sagittal_mri.data.batch import ReconBatch
from sagittal_mri.data.io import index_kspace, read_kspace, read_slice
from sagittal_mri.data.measured import MeasuredMRI, list_files
from sagittal_mri.physics.coils import root_sum_of_squares
from sagittal_mri.physics.fourier import ifft2c
from sagittal_mri.physics.masks import column_density

FULL = full_kspace(discs())


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder of two fully sampled files of two slices; their noise differs."""
    for seed, name in enumerate("ab"):
        write_file(tmp_path / "full" / f"{name}.h5", full_kspace(discs(), seed=seed))
    return tmp_path / "full"


@pytest.fixture
def undersampled(tmp_path: Path) -> Path:
    """A folder of three files with masks of their own."""
    for seed in range(3):
        write_file(tmp_path / "under" / f"{seed}.h5", FULL, columns(48, seed=seed))
    return tmp_path / "under"


def data(**options: object) -> MeasuredMRI:
    settings: dict = {"accelerations": [2.0], "calibration": 16}
    return MeasuredMRI(**(settings | options))


def scans(module: MeasuredMRI, role: str = "train") -> list[ReconBatch]:
    module.setup()
    return [module.scans[role][i] for i in range(len(module.scans[role]))]


# --- fully sampled files ------------------------------------------------------------------------


def test_fully_sampled_slices_are_undersampled_once_and_for_all(full: Path) -> None:
    first, again = scans(data(train=str(full))), scans(data(train=str(full)))
    assert len(first) == 4
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    masks = [scan.acquired for scan in first]
    assert not any(torch.equal(masks[0], other) for other in masks[1:])
    other_seed = scans(data(train=str(full), seed=1))
    assert not torch.equal(masks[0], other_seed[0].acquired)


def test_the_file_is_the_reference_and_the_density_is_known(full: Path) -> None:
    scan = scans(data(train=str(full / "a.h5")))[1]
    kept = scan.acquired[0]
    torch.testing.assert_close(scan.reference_kspace[0], FULL[1])
    assert torch.equal(scan.kspace[0], FULL[1] * kept)
    torch.testing.assert_close(scan.reference[0], root_sum_of_squares(ifft2c(FULL[1])))
    torch.testing.assert_close(scan.density[0], column_density(48, 2.0, 16).float())
    assert int(scan.calibration.sum()) == 16
    assert bool(kept[scan.calibration[0]].all())


def test_metrics_count_bright_pixels_inside_the_reconstruction_matrix(tmp_path: Path) -> None:
    write_file(tmp_path / "a.h5", FULL, image_shape=(32, 20))
    scan = scans(data(train=str(tmp_path)))[0]
    inside = torch.zeros(48, dtype=torch.bool)
    inside[14:34] = True
    level = 0.1 * torch.quantile(scan.reference[0][:, inside].flatten(), 0.99)
    assert torch.equal(scan.body[0], (scan.reference[0] > level) & inside)
    assert 0 < int(scan.body.sum()) < 32 * 20


def test_zero_padding_at_the_edges_is_no_gap(tmp_path: Path) -> None:
    mask = torch.ones(1, 48, dtype=torch.bool)
    mask[:, :3] = mask[:, 45:] = False
    write_file(tmp_path / "a.h5", FULL, mask)
    scan = scans(data(train=str(tmp_path)))[0]
    assert not bool(scan.acquired[0, ~mask[0]].any())
    assert bool(scan.density.min() > 0)


def test_undersampled_files_are_no_reference(undersampled: Path) -> None:
    with pytest.raises(DataError, match=r"0\.h5[\s\S]*fully sampled[\s\S]*accelerations: null"):
        scans(data(train=str(undersampled)))


# --- undersampled files -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*acquired by none")
def test_undersampled_files_are_taken_as_acquired(undersampled: Path) -> None:
    found = scans(data(train=str(undersampled), accelerations=None))
    for index, scan in enumerate(found):
        mask = columns(48, seed=index // 2)
        assert torch.equal(scan.acquired, mask)
        torch.testing.assert_close(scan.kspace[0], FULL[index % 2] * mask)
        assert not scan.has_reference
        assert int(scan.number) == index
        assert bool(((scan.density > 0) & (scan.density <= 1)).all())
        assert bool((scan.density[scan.calibration] == 1).all())
    with pytest.raises(ConfigError, match="Supervised"):
        found[0].truth()


def test_columns_of_no_training_mask_are_warned_of(tmp_path: Path) -> None:
    masks = [columns(48, seed=seed) for seed in range(2)]
    for name, mask in zip("ab", masks, strict=True):
        write_file(tmp_path / f"{name}.h5", FULL, mask)
    missing = int((~(masks[0] | masks[1])).sum())
    assert missing
    with pytest.warns(UserWarning, match=rf"{missing} of 48 columns are acquired by none of the 2"):
        data(train=str(tmp_path), accelerations=None).setup("fit")


def test_masks_that_cover_all_columns_are_not_warned_of(tmp_path: Path) -> None:
    outer = ~columns(48)
    outer[:, 16:32] = True
    write_file(tmp_path / "a.h5", FULL, columns(48))
    write_file(tmp_path / "b.h5", FULL, outer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data(train=str(tmp_path), accelerations=None).setup("fit")


def test_too_few_central_columns(tmp_path: Path) -> None:
    mask = columns(48)
    mask[0, 48 // 2 + 7] = False  # leaves 14 columns about the centre
    write_file(tmp_path / "a.h5", FULL, mask)
    options: dict = {"train": str(tmp_path), "accelerations": None}
    with (
        pytest.warns(UserWarning, match="acquired by none"),
        pytest.raises(
            DataError, match=r"a\.h5[\s\S]*at least 16[\s\S]*found: +14[\s\S]*calibration: 14"
        ),
    ):
        scans(data(**options))
    with pytest.warns(UserWarning, match="acquired by none"):
        assert int(scans(data(**options, calibration=None))[0].calibration.sum()) == 14


def test_single_missing_positions_are_refused(tmp_path: Path) -> None:
    mask = torch.ones(32, 48, dtype=torch.bool)
    mask[:5] = False
    write_file(tmp_path / "a.h5", FULL, mask)
    with pytest.raises(DataError, match=r"a\.h5[\s\S]*whole columns"):
        scans(data(train=str(tmp_path)))


# --- both ---------------------------------------------------------------------------------------


def test_known_noise_is_whitened(tmp_path: Path) -> None:
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.25])).to(torch.complex64)
    write_file(tmp_path / "a.h5", FULL, noise_covariance=covariance)
    scan = scans(data(train=str(tmp_path)))[0]
    expected = FULL[0] / torch.tensor([2.0, 1.0, 0.5])[:, None, None]
    torch.testing.assert_close(scan.reference_kspace[0], expected)


def test_noise_that_cannot_be_whitened_names_the_file(tmp_path: Path) -> None:
    singular = torch.ones(3, 3, dtype=torch.complex64)
    write_file(tmp_path / "a.h5", FULL, noise_covariance=singular)
    with pytest.raises(DataError, match=r"a\.h5[\s\S]*slice 0[\s\S]*not positive definite"):
        scans(data(train=str(tmp_path)))


def test_maps_are_estimated_once(full: Path, tmp_path: Path, monkeypatch) -> None:
    options: dict = {"train": str(full), "cache_dir": str(tmp_path / "maps")}
    first = scans(data(**options))

    def fail(kspace: torch.Tensor, width: int) -> torch.Tensor:
        raise AssertionError("maps were estimated again")

    monkeypatch.setattr(measured_scans, "calibration_maps", fail)
    again = scans(data(**options))
    assert all(torch.equal(a.maps, b.maps) for a, b in zip(first, again, strict=True))
    with pytest.raises(AssertionError, match="again"):
        scans(data(**options, calibration=14))


def test_ragged_files_train_one_by_one(full: Path) -> None:
    write_file(full / "c.h5", full_kspace(discs(1, (28, 40)), coils=4))
    with pytest.raises(ConfigError, match=r"\(3, 32, 48\), \(4, 28, 40\): set batch_size: 1"):
        data(train=str(full), batch_size=2).setup("fit")
    module = data(train=str(full), accelerations=[1.5])
    module.setup("fit")
    shapes = {tuple(batch.kspace.shape) for batch in module.train_dataloader()}
    assert shapes == {(1, 3, 32, 48), (1, 4, 28, 40)}


@pytest.mark.filterwarnings("ignore:.*acquired by none")
@pytest.mark.parametrize("accelerations", [[2.0], None])
def test_windows_of_rows_make_batches(full: Path, undersampled: Path, accelerations) -> None:
    train = str(full if accelerations else undersampled)
    module = data(train=train, accelerations=accelerations, readout_rows=14, batch_size=2)
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert {tuple(b.kspace.shape) for b in batches} == {(2, 3, 14, 48)}
    with pytest.raises(ConfigError, match=r"1\.\.32"):
        data(train=train, accelerations=accelerations, readout_rows=40).setup("fit")


def test_workers_read_the_same_and_report_bad_files(full: Path) -> None:
    alone, helped = data(train=str(full)), data(train=str(full), num_workers=1)
    alone.setup("fit")
    helped.setup("fit")
    for one, two in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    broken = FULL.clone()
    broken[0, 0, 0, 0] = torch.nan
    file = full / "b.h5"
    import h5py

    with h5py.File(file, "r+") as opened:
        opened["kspace"][...] = broken.numpy()
    with pytest.raises(DataError, match=r"b\.h5[\s\S]*finite"):
        list(helped.train_dataloader())


def test_only_headers_are_read_at_the_start(full: Path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a slice was read")

    monkeypatch.setattr("sagittal_mri.data.measured.read_slice", fail)
    monkeypatch.setattr(measured_scans, "read_slice", fail)
    module = data(train=str(full), test=str(full / "a.h5"), accelerations=[2.0])
    with pytest.raises(ConfigError, match=r"train and test share a scan: .*a\.h5"):
        module.setup("fit")
    data(train=str(full)).setup("fit")


def test_a_copy_in_another_role_is_refused(full: Path, tmp_path: Path) -> None:
    copy = tmp_path / "test" / "renamed.h5"
    copy.parent.mkdir()
    shutil.copyfile(full / "b.h5", copy)
    with pytest.raises(ConfigError, match=r"train and test share a scan: .*b\.h5.*renamed\.h5"):
        data(train=str(full), test=str(copy)).setup("fit")
    with copy.open("r+b") as file:  # a scan of the same size is another scan
        file.seek(-700, 2)
        file.write(b"another")
    data(train=str(full), test=str(copy)).setup("fit")


def test_a_moved_file_keeps_its_columns_and_maps(full: Path, tmp_path: Path) -> None:
    options: dict = {"cache_dir": str(tmp_path / "maps")}
    before = scans(data(train=str(full), **options))
    kept = sorted(f.name for f in (tmp_path / "maps").iterdir())
    full.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a.h5").rename(tmp_path / "elsewhere" / "patient.h5")
    after = scans(data(train=str(tmp_path / "elsewhere"), **options))
    assert {s.acquired.numpy().tobytes() for s in before} == {
        s.acquired.numpy().tobytes() for s in after
    }
    assert sorted(f.name for f in (tmp_path / "maps").iterdir()) == kept


def test_roles_that_are_not_given(full: Path) -> None:
    module = data(train=str(full))
    module.setup("fit")
    assert module.val_dataloader() == []
    with pytest.raises(ConfigError, match=r"init_args\.test is not set"):
        module.test_dataloader()
    with pytest.raises(ConfigError, match="need `train`"):
        data(test=str(full), accelerations=None).setup("test")


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="at least 12"):
        data(calibration=8)
    with pytest.raises(ConfigError, match="a number of columns"):
        data(calibration=None)


def test_an_acceleration_beyond_the_calibration_names_the_numbers(full: Path) -> None:
    with pytest.raises(ConfigError, match=r"16 calibration.*acceleration 4.0 allows on 48 columns"):
        data(train=str(full), accelerations=[4.0]).setup("fit")


def test_files_of_a_role(full: Path) -> None:
    a, b = full / "a.h5", full / "b.h5"
    (full / "notes.txt").write_text("not k-space")
    assert list_files("train", str(full)) == [a, b]
    assert list_files("train", str(full.parent / "**" / "a.h*")) == [a]
    assert list_files("train", [str(b), str(a), str(full)]) == [a, b]
    with pytest.raises(ConfigError, match=r"train: .*missing stands for no file"):
        list_files("train", str(full / "missing"))


# --- ISMRMRD ------------------------------------------------------------------------------------


def interleaved(path: Path, masks: torch.Tensor, kspace: torch.Tensor) -> Path:
    """Slices acquired in turn, line by line; ``masks`` is ``(slices, phase)``."""
    height, width = kspace.shape[-2:]
    xml = header_xml((height, width, 1), (height, width, 1), limits=(width - 1, width // 2))
    lines = [
        Line(kspace[s, :, :, step].numpy(), step=step, slice=s)
        for step in range(width)
        for s in range(len(kspace))
        if masks[s, step]
    ]
    return write_ismrmrd(path, xml, lines)


@pytest.mark.filterwarnings("ignore:.*acquired by none")
def test_ismrmrd_slices_with_masks_of_their_own(tmp_path: Path) -> None:
    masks = torch.cat([columns(48, seed=s) for s in range(2)])
    file = interleaved(tmp_path / "a.h5", masks, FULL)
    index = index_kspace(file)
    assert (index.layout, index.slices, index.coils) == ("ismrmrd", (0, 1), 3)
    assert index.grid == (32, 48)
    assert torch.equal(index.columns, masks)
    found = scans(data(train=str(tmp_path), accelerations=None))
    for number, scan in enumerate(found):
        assert torch.equal(scan.acquired[0], masks[number])
        assert torch.equal(scan.kspace[0], FULL[number] * masks[number])


def test_one_slice_equals_that_of_the_whole_file(tmp_path: Path, full: Path) -> None:
    every = torch.ones(2, 48, dtype=torch.bool)
    for file in (interleaved(tmp_path / "raw.h5", every, FULL), full / "a.h5"):
        whole = read_kspace(file)
        for position in range(2):
            part = read_slice(index_kspace(file), position)
            assert torch.equal(part.kspace[0], whole.kspace[position])
            assert part.image_shape == whole.image_shape


def test_a_contrast_is_selected(tmp_path: Path) -> None:
    xml = header_xml((32, 48, 1), (32, 48, 1), limits=(47, 24))
    lines = [
        Line(FULL[contrast, :, :, step].numpy(), step=step, counters={"contrast": contrast})
        for step in range(48)
        for contrast in range(2)
    ]
    write_ismrmrd(tmp_path / "a.h5", xml, lines)
    with pytest.raises(DataError, match=r"a\.h5[\s\S]*one contrast"):
        data(train=str(tmp_path)).setup("fit")
    module = data(train=str(tmp_path), select={"contrast": 1})
    torch.testing.assert_close(scans(module)[0].reference_kspace[0], FULL[1])


def test_radial_files_are_refused(tmp_path: Path) -> None:
    xml = header_xml((32, 32, 1), (32, 32, 1), trajectory="radial")
    traj = np.zeros((32, 2), np.float32)
    lines = [Line(FULL[0, :, :, 0].numpy(), step=k, traj=traj) for k in range(20)]
    write_ismrmrd(tmp_path / "a.h5", xml, lines)
    with pytest.raises(DataError, match=r"a\.h5[\s\S]*Cartesian[\s\S]*non-Cartesian"):
        data(train=str(tmp_path)).setup("fit")


def test_items_are_numbered_not_named(full: Path) -> None:
    module = data(train=str(full))
    module.setup("fit")
    scan = module.train_dataloader().dataset[ItemKey(3, 0)]
    assert int(scan.number) == 3
    assert all(isinstance(field, torch.Tensor) for field in scan)
