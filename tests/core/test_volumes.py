"""NIfTI in and out, and the geometry of a volume."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.errors import DataError
from sagittal_core.volumes import Volume, read_nifti, read_volume, write_nifti

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any permutation, flip, obliqueness, spacing and origin."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(random.uniform(0.3, 5, 3))
    affine[:3, 3] = random.uniform(-200, 200, 3)
    return affine


@settings(max_examples=60)
@given(affine=affines(), shape=SHAPES)
def test_canonical_moves_no_voxel_in_the_patient(affine: np.ndarray, shape: tuple) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    turned = Volume(array, affine).canonical()
    # An independent implementation of the same step.
    oracle = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine))
    np.testing.assert_allclose(turned.affine, oracle.affine, atol=1e-9)
    np.testing.assert_array_equal(turned.array, np.asarray(oracle.dataobj))
    assert (np.diag(turned.affine)[:3] > 0).all()
    assert sorted(turned.spacing) == pytest.approx(sorted(Volume(array, affine).spacing))


@settings(max_examples=20)
@given(
    affine=affines(),
    shape=SHAPES,
    kind=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32"]),
    packed=st.booleans(),
)
def test_nifti_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    affine: np.ndarray,
    shape: tuple,
    kind: str,
    packed: bool,
) -> None:
    file = tmp_path_factory.mktemp("n") / ("a.nii.gz" if packed else "a.nii")
    array = (np.arange(np.prod(shape)) * 7 % 251).reshape(shape).astype(kind)
    write_nifti(file, array, affine)
    volume = read_volume(file, modality="CT")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == (np.float32 if kind == "float32" else np.int16)
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-5, atol=1e-3)
    assert volume.modality == "CT"
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_values_that_int16_cannot_hold_are_kept(tmp_path: Path) -> None:
    array = np.array([[[0, 65535]]], np.uint16)
    write_nifti(tmp_path / "a.nii", array, np.eye(4))
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    assert volume.array.tolist() == [[[0.0, 65535.0]]]


def test_real_files_of_nibabel() -> None:
    image = nibabel.load(NIBABEL / "example4d.nii.gz")
    with pytest.raises(DataError, match=r"2 volumes, shape \(128, 96, 24, 2\)[\s\S]*0\.\.1"):
        read_nifti(NIBABEL / "example4d.nii.gz")
    with pytest.raises(DataError, match=r"0\.\.1[\s\S]*2"):
        read_nifti(NIBABEL / "example4d.nii.gz", frame=2)
    second = read_nifti(NIBABEL / "example4d.nii.gz", frame=1)
    np.testing.assert_array_equal(second.array, np.asarray(image.dataobj[..., 1]))
    np.testing.assert_allclose(second.affine, image.affine)
    assert second.spacing == pytest.approx((2.0, 2.0, 2.2), abs=1e-3)
    assert "".join(nibabel.aff2axcodes(second.affine)) == "LAS"
    assert "".join(nibabel.aff2axcodes(second.canonical().affine)) == "RAS"
    big_endian = read_nifti(NIBABEL / "anatomical.nii")
    assert big_endian.array.shape == (33, 41, 25)
    assert big_endian.array.dtype == np.int16
    assert big_endian.array.max() == 30393


def test_not_finite_values_are_refused_or_filled(tmp_path: Path) -> None:
    array = np.array([[[0.0, np.nan], [np.inf, 2.0]]], np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"2 of 4 are NaN or infinite[\s\S]*fill_nan"):
        read_nifti(tmp_path / "a.nii")
    filled = read_nifti(tmp_path / "a.nii", fill_nan=-1)
    assert filled.array.tolist() == [[[0.0, -1.0], [-1.0, 2.0]]]


def test_header_without_orientation_and_in_metres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), None)
    image.header.set_zooms((0.002, 0.003, 0.004))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.spacing == pytest.approx((2, 3, 4))
    assert any("orientation unknown" in note for note in volume.notes)
    assert (np.diag(volume.affine) > 0).all()


def test_a_sform_and_a_qform_that_disagree_are_noted(tmp_path: Path) -> None:
    affine, mirrored = np.diag([2.0, 2, 4, 1]), np.diag([-2.0, 2, 4, 1])
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "same.nii")
    assert read_nifti(tmp_path / "same.nii").notes == ()
    image.set_qform(mirrored, code=1)
    nibabel.save(image, tmp_path / "other.nii")
    volume = read_nifti(tmp_path / "other.nii")
    # The last voxel of the first axis lies at 8 and at -8 mm.
    assert volume.notes == ("sform and qform place a voxel up to 16 mm apart: sform taken",)
    np.testing.assert_array_equal(volume.affine, affine)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.int16), np.eye(4))
    packed = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cut\.nii\.gz[\s\S]*readable NIfTI"):
        read_nifti(tmp_path / "cut.nii.gz")
    write_nifti(tmp_path / "b.nii", np.zeros((4, 4, 4), np.int16), np.eye(4))
    (tmp_path / "b.nii").write_bytes((tmp_path / "b.nii").read_bytes()[:-8])
    with pytest.raises(DataError, match=r"b\.nii[\s\S]*Expected 128 bytes, got 120"):
        read_nifti(tmp_path / "b.nii")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(DataError, match="readable NIfTI"):
        read_nifti(tmp_path / "text.nii")
    with pytest.raises(DataError, match="no such file"):
        read_nifti(tmp_path / "none.nii")
    with pytest.raises(DataError, match=r"folder of DICOM files[\s\S]*nothing there"):
        read_volume(tmp_path / "none")
    flat = nibabel.Nifti1Image(np.zeros((4, 4), np.int16), np.eye(4))
    nibabel.save(flat, tmp_path / "flat.nii")
    with pytest.raises(DataError, match=r"three dimensions[\s\S]*\(4, 4\)"):
        read_nifti(tmp_path / "flat.nii")
    affine = np.eye(4)
    affine[:3, 2] = [1, 0, 0.01]  # nearly along the first axis
    parallel = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), None)
    parallel.set_sform(affine, code=1)
    nibabel.save(parallel, tmp_path / "parallel.nii")
    with pytest.raises(DataError, match="invertible affine"):
        read_nifti(tmp_path / "parallel.nii")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    good = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(DataError, match=r"\.nii or \.nii\.gz"):
        write_nifti(tmp_path / "a.img", good, np.eye(4))
    for bad in (
        good[0],
        good.astype(np.complex64),
        good / 0 if False else np.full_like(good, np.nan),
    ):
        with pytest.raises(DataError, match="finite"):
            write_nifti(tmp_path / "a.nii", bad, np.eye(4))


def test_a_file_says_when_its_orientation_is_unknown(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.float32), affine, oriented=False)
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.notes == ("orientation unknown: stored axes taken as right, anterior, superior",)
    assert volume.spacing == pytest.approx((2, 3, 4))


def test_a_sheared_affine_tells_its_skew() -> None:
    affine = np.eye(4)
    affine[:3, 2] = [0, np.sin(np.radians(12)), np.cos(np.radians(12))]
    volume = Volume(np.zeros((2, 2, 2), np.float32), affine)
    assert volume.skew(1, 2) == pytest.approx(12)
    assert volume.skew(0, 2) == pytest.approx(0, abs=1e-9)
