import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from raw_files import noise

from sagittal_core.errors import DataError
from sagittal_mri.data import writers
from sagittal_mri.data.fastmri import read_fastmri
from sagittal_mri.data.io import read_kspace
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.data.writers import write_kspace_h5, write_nifti, write_reconstruction_h5


def sized(low, high):
    return st.integers(low, high)


@st.composite
def records(draw):
    """Records of ragged shapes, with and without everything optional."""
    slices, coils = draw(sized(1, 3)), draw(sized(1, 20))
    rows, columns = draw(sized(1, 13)), draw(sized(1, 13))
    seed = draw(sized(0, 2**31))
    random = np.random.default_rng(seed)
    cartesian = draw(st.booleans())
    kspace = torch.from_numpy(noise((slices, coils, rows, columns), seed))
    trajectory = None
    if cartesian:
        image_shape = (rows, draw(sized(1, columns)))
        mask = torch.from_numpy(random.random((draw(st.sampled_from([1, rows])), columns)) < 0.5)
        mask[0, 0] = True
        kspace = kspace * mask
    else:
        image_shape = (draw(sized(1, 20)), draw(sized(1, 20)))
        mask = torch.ones(rows, 1, dtype=torch.bool)
        values = random.uniform(-np.pi, np.pi, (rows, columns, 2))
        trajectory = torch.from_numpy(values.astype(np.float32))
    reference = torch.from_numpy(random.random((slices, *image_shape)).astype(np.float32))
    factor = torch.from_numpy(noise((coils, coils), seed + 1))
    affine = torch.from_numpy(random.standard_normal((4, 4)))
    return KspaceRecord(
        kspace=kspace,
        mask=mask,
        trajectory=trajectory,
        image_shape=image_shape,
        source=Path("memory"),
        reference=draw(st.sampled_from([None, reference])),
        noise_covariance=draw(st.sampled_from([None, factor @ factor.mH])),
        voxel_size_mm=draw(st.sampled_from([None, (0.7, 1.3, 3.0)])),
        affine=draw(st.sampled_from([None, affine])),
        attributes=draw(st.sampled_from([{}, {"acquisition": "AXT1", "max": 0.5}])),
        patient_id=draw(st.sampled_from([None, "p1"])),
    )


def assert_same(found, record):
    for name in ("kspace", "mask", "trajectory", "reference", "noise_covariance", "affine"):
        ours, theirs = getattr(found, name), getattr(record, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.equal(ours, theirs), name
    for name in ("image_shape", "attributes", "patient_id"):
        assert getattr(found, name) == getattr(record, name), name
    if record.voxel_size_mm is None:
        assert found.voxel_size_mm is None
    else:
        assert found.voxel_size_mm == pytest.approx(record.voxel_size_mm)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(record=records())
def test_a_record_survives_the_file(tmp_path, record):
    path = tmp_path / "record.h5"
    write_kspace_h5(path, record)
    assert_same(read_kspace(path), record)


@pytest.fixture
def record():
    affine = torch.tensor(
        [[0.0, -1.5, 0.0, 3.0], [2.0, 0.0, 0.0, -7.0], [0, 0, 4.0, 1.0], [0, 0, 0, 1.0]],
        dtype=torch.float64,
    )
    return KspaceRecord(
        kspace=torch.from_numpy(noise((3, 2, 8, 10))),
        mask=torch.ones(1, 10, dtype=torch.bool),
        trajectory=None,
        image_shape=(8, 6),
        source=Path("patient-name.h5"),
        voxel_size_mm=(2.0, 1.5, 4.0),
        affine=affine,
        patient_id="secret",
        attributes={"acquisition": "AXT1"},
    )


def test_affine_follows_the_slices_that_were_read(tmp_path, record):
    write_kspace_h5(tmp_path / "k.h5", record)
    part = read_fastmri(tmp_path / "k.h5", range(2, 3))
    expected = record.affine.numpy() @ (0, 0, 2, 1)
    assert part.affine.numpy()[:, 3] == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_reconstruction_h5(tmp_path, record, dtype):
    images = torch.rand(3, 8, 6).to(dtype)
    path = tmp_path / "new" / "recon.h5"
    write_reconstruction_h5(path, images, record, {"method": "cg-sense"})
    with h5py.File(path) as file:
        assert np.array_equal(file["reconstruction"][()], images.numpy())
        assert file.attrs["method"] == "cg-sense"
        assert file.attrs["acquisition"] == "AXT1"
        assert np.array_equal(file.attrs["affine"], record.affine.numpy())
    content = path.read_bytes()
    assert b"secret" not in content
    assert b"patient-name" not in content


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_keeps_values_and_affine(tmp_path, record, name):
    volume = torch.rand(3, 8, 6)
    write_nifti(tmp_path / name, volume, affine=record.affine)
    found = nibabel.load(tmp_path / name)
    assert found.shape == (8, 6, 3)
    assert np.array_equal(found.get_fdata(), volume.permute(1, 2, 0).double().numpy())
    assert found.affine == pytest.approx(record.affine.numpy())
    assert found.header.get_zooms() == pytest.approx((2.0, 1.5, 4.0))
    assert found.header.get_xyzt_units()[0] == "mm"
    assert int(found.header["sform_code"]) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_nifti_of_unknown_orientation_says_so(tmp_path):
    write_nifti(tmp_path / "v.nii", np.ones((3, 8, 6)), voxel_size_mm=(2.0, 1.5, 4.0))
    found = nibabel.load(tmp_path / "v.nii")
    assert found.header.get_zooms() == pytest.approx((2.0, 1.5, 4.0))
    assert int(found.header["sform_code"]) == int(found.header["qform_code"]) == 0


def test_images_that_do_not_fit(tmp_path, record):
    path = tmp_path / "r.h5"
    with pytest.raises(DataError, match=r"\(3, 8, 6\).*\n.*\(3, 8, 8\)"):
        write_reconstruction_h5(path, torch.rand(3, 8, 8), record)
    with pytest.raises(DataError, match="NaN"):
        write_reconstruction_h5(path, torch.full((3, 8, 6), torch.nan), record)
    with pytest.raises(DataError, match="slices, h, w"):
        write_nifti(tmp_path / "v.nii", torch.rand(8, 6))
    with pytest.raises(DataError, match="magnitude"):
        write_nifti(tmp_path / "v.nii", torch.rand(3, 8, 6) + 0j)
    with pytest.raises(DataError, match=r"\.nii or \.nii\.gz"):
        write_nifti(tmp_path / "v.img", torch.rand(3, 8, 6))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, record, monkeypatch):
    path = tmp_path / "k.h5"
    write_kspace_h5(path, record)
    before = path.read_bytes()

    def fail(record):
        raise RuntimeError("disk full")

    monkeypatch.setattr(writers, "_header", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_kspace_h5(path, record)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
