"""DICOM series: order, geometry, values, privacy, and what does not add up."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from dicom_files import dataset, rotated, save, write_series

from sagittal_core.errors import DataError
from sagittal_core.privacy import pseudonym
from sagittal_core.volumes import list_series, read_dicom_series, read_radiograph, read_volume

REAL = Path(pydicom.__file__).parent / "data" / "test_files"
AFFINE = rotated((0, 0, np.pi), (0.8, 0.7, 2.5), (90, 80, -40))


def ramp(shape: tuple[int, int, int] = (5, 4, 6)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 50


@settings(max_examples=12)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    seed=st.integers(0, 1000),
)
def test_oblique_shuffled_series_equals_simpleitk(
    tmp_path_factory: pytest.TempPathFactory, angles: tuple, spacing: tuple, seed: int
) -> None:
    """Voxels and affine come back, and a second implementation agrees on where they lie."""
    sitk = pytest.importorskip("SimpleITK")
    folder = tmp_path_factory.mktemp("series")
    affine = rotated(angles, spacing, (3.0, -20.0, 11.0))
    order = np.random.default_rng(seed).permutation(6)
    write_series(folder, ramp(), affine, order=order)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, ramp())
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.array.dtype == np.int16
    assert volume.modality == "CT"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    for voxel in itertools.product((0, 4), (0, 3), (0, 5)):
        there = np.array(image.TransformIndexToPhysicalPoint(voxel)) * [-1, -1, 1]
        np.testing.assert_allclose((volume.affine @ [*voxel, 1])[:3], there, atol=1e-4)
        assert image.GetPixel(voxel) == volume.array[voxel]


def test_rescale_differs_from_slice_to_slice(tmp_path: Path) -> None:
    files = write_series(tmp_path, np.full((2, 2, 3), 100, np.int16), AFFINE)
    for slope, file in enumerate(files, start=1):
        data = pydicom.dcmread(file)
        data.RescaleSlope, data.RescaleIntercept = slope, -1000
        data.save_as(file)
    volume = read_dicom_series(tmp_path)
    assert volume.array[0, 0].tolist() == [-900, -800, -700]
    assert volume.array.dtype == np.int16
    data.RescaleSlope = 0.25
    data.PixelData = np.full((2, 2), 101, np.int16).tobytes()
    data.save_as(file)
    assert read_dicom_series(tmp_path).array[0, 0].tolist() == [-900, -800, -974.75]


def test_two_series_need_a_choice_and_strangers_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "a", ramp(), AFFINE, uid="1.2.3")
    write_series(tmp_path / "b", ramp() + 7, AFFINE, uid="1.2.4", prefix="other")
    (tmp_path / "readme.txt").write_text("no image")
    listing = list_series(tmp_path)
    assert [(s.uid, s.modality, len(s.files)) for s in listing.series] == [
        ("1.2.3", "CT", 6),
        ("1.2.4", "CT", 6),
    ]
    assert [p.name for p in listing.skipped] == ["readme.txt"]
    with pytest.raises(DataError, match=r"one series[\s\S]*1\.2\.3 \(CT, 6 images\); 1\.2\.4"):
        read_dicom_series(tmp_path)
    with pytest.raises(DataError, match=r"expected: 9\.9[\s\S]*1\.2\.3"):
        read_dicom_series(tmp_path, series="9.9")
    volume = read_dicom_series(tmp_path, series="1.2.4")
    np.testing.assert_array_equal(volume.array, ramp() + 7)
    assert volume.notes[0] == "1 files hold no DICOM image"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM image in 0 files"):
        read_dicom_series(tmp_path / "empty")


def test_missing_slices_are_counted(tmp_path: Path) -> None:
    files = write_series(tmp_path, ramp((3, 3, 9)), AFFINE, order=[4, 1, 0, 8, 2, 5, 7, 3, 6])
    files[0].unlink()
    with pytest.raises(DataError, match="1 missing: gaps after slice 4 of 8"):
        read_dicom_series(tmp_path)
    files[5].unlink()  # slice 5
    with pytest.raises(DataError, match="2 missing: gaps after slice 4 of 7"):
        read_dicom_series(tmp_path)


def test_uneven_slices_say_how_uneven(tmp_path: Path) -> None:
    files = write_series(tmp_path, ramp(), AFFINE)
    data = pydicom.dcmread(files[2])
    moved = np.add(data.ImagePositionPatient, [0, 0, 0.6])
    data.ImagePositionPatient = np.round(moved, 6).tolist()
    data.save_as(files[2])
    with pytest.raises(DataError, match=r"distances from 1\.900 to 3\.100 mm"):
        read_dicom_series(tmp_path)


def test_two_echoes_in_a_series_need_select(tmp_path: Path) -> None:
    write_series(tmp_path, ramp(), AFFINE, modality="MR", EchoTime=10.0, prefix="a")
    write_series(tmp_path, ramp() + 9, AFFINE, modality="MR", EchoTime=80.0, prefix="b")
    with pytest.raises(DataError, match=r"12 slices at 6 positions[\s\S]*differ in EchoTime"):
        read_dicom_series(tmp_path)
    second = read_volume(tmp_path, select={"EchoTime": 80.0})
    np.testing.assert_array_equal(second.array, ramp() + 9)
    with pytest.raises(DataError, match=r"EchoTime[\s\S]*10\.0"):
        read_dicom_series(tmp_path, select={"EchoTime": 81.0})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], r"5 x .*1 x "),
        ("PixelSpacing", [2.0, 2.0], r"5 x \[0\.7, 0\.8\]"),
        ("PatientID", "SECRET-2", "2 different ones"),
    ],
)
def test_slices_that_differ_are_named(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    files = write_series(tmp_path, ramp(), AFFINE)
    data = pydicom.dcmread(files[3])
    setattr(data, key, value)
    data.save_as(files[3])
    with pytest.raises(DataError, match=rf"{key}[\s\S]*{message}") as error:
        read_dicom_series(tmp_path)
    assert "SECRET" not in str(error.value)
    assert "MRN" not in str(error.value)


def test_gantry_tilt_is_noted_and_kept_in_the_affine(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[1, 2] = 2 * np.tan(np.radians(15))
    write_series(tmp_path, ramp(), affine)
    volume = read_dicom_series(tmp_path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.notes[0] == "slices are sheared by 15.0 degrees (gantry tilt)"
    assert volume.skew(1, 2) == pytest.approx(15, abs=1e-3)


def test_ct_without_a_rescale_is_noted(tmp_path: Path) -> None:
    write_series(tmp_path / "raw", ramp(), AFFINE)
    assert read_volume(tmp_path / "raw").notes == (
        "CT without a rescale: stored values taken as Hounsfield units",
    )
    write_series(tmp_path / "hu", ramp(), AFFINE, RescaleSlope=1, RescaleIntercept=-1024)
    assert read_volume(tmp_path / "hu").notes == ()
    write_series(tmp_path / "mr", ramp(), AFFINE, modality="MR")
    assert read_volume(tmp_path / "mr").notes == ()


def test_nothing_that_names_the_patient_is_kept(tmp_path: Path) -> None:
    write_series(tmp_path, ramp(), AFFINE, ManufacturerModelName="Scanner 3")
    volume = read_dicom_series(tmp_path, salt="s")
    assert volume.metadata == {
        "subject": pseudonym("MRN-4711", "s"),
        "age": 67.0,
        "sex": "F",
        "scanner_model": "Scanner 3",
        "slice_thickness_mm": 2.5,
    }
    for secret in ("Doe", "Jane", "4711", "1950"):
        assert secret not in repr(volume)


def test_pseudonyms_need_the_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGITTAL_CACHE", str(tmp_path / "one"))
    monkeypatch.delenv("SAGITTAL_SALT", raising=False)
    own = pseudonym("4711")
    assert own == pseudonym("4711") != pseudonym("4712")
    assert (tmp_path / "one" / "salt").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("SAGITTAL_CACHE", str(tmp_path / "two"))
    assert pseudonym("4711") != own
    monkeypatch.setenv("SAGITTAL_SALT", "shared")
    assert pseudonym("4711") == pseudonym("4711", "shared") != own


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless"])
def test_transfer_syntaxes_hold_the_same_volume(tmp_path: Path, syntax: str) -> None:
    files = write_series(tmp_path, ramp((40, 33, 3)), AFFINE)
    for file in files:
        data = pydicom.dcmread(file)
        data.compress(getattr(pydicom.uid, syntax), generate_instance_uid=False)
        data.save_as(file)
    np.testing.assert_array_equal(read_dicom_series(tmp_path).array, ramp((40, 33, 3)))


def test_real_ct_slice_in_hounsfield_units(tmp_path: Path) -> None:
    (tmp_path / "CT_small.dcm").write_bytes((REAL / "CT_small.dcm").read_bytes())
    volume = read_dicom_series(tmp_path)
    raw = pydicom.dcmread(REAL / "CT_small.dcm")
    np.testing.assert_array_equal(volume.array[:, :, 0], raw.pixel_array.T.astype(int) - 1024)
    assert volume.spacing == pytest.approx((0.661468, 0.661468, 5.0))
    # Rows run to the patient's left, columns to posterior: both against RAS.
    assert np.sign(np.diag(volume.affine)).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_expb.dcm",
        pytest.param(
            "MR_small_padded.dcm", marks=pytest.mark.filterwarnings("ignore:The pixel data is 8320")
        ),
    ],
)
def test_real_mr_slice_in_every_transfer_syntax(name: str) -> None:
    plain, other = (read_radiograph(REAL / n) for n in ("MR_small.dcm", name))
    np.testing.assert_array_equal(other.pixels, plain.pixels)


def test_a_real_study_of_several_series() -> None:
    """One CT scan, localizers, and radiographs side by side: one series can be read."""
    folder = REAL / "dicomdirtests" / "98892001"
    listing = list_series(folder)
    assert sorted(len(one.files) for one in listing.series) == [2, 5]
    volume = read_dicom_series(
        folder, series=next(s.uid for s in listing.series if len(s.files) == 5)
    )
    assert volume.array.shape == (16, 16, 5)
    assert volume.spacing[2] == 2.5
    localizer = next(s.uid for s in listing.series if len(s.files) == 2)
    with pytest.raises(DataError, match="ImageOrientationPatient"):
        read_dicom_series(folder, series=localizer)
    with pytest.raises(DataError, match="one series"):
        read_dicom_series(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MR_truncated.dcm", r"PixelData[\s\S]*8130 vs 8192"),
        ("rtdose.dcm", r"NumberOfFrames[\s\S]*15[\s\S]*single frames"),
        ("test-SR.dcm", r"an image[\s\S]*none \(modality SR\)"),
        ("SC_rgb_rle.dcm", r"MONOCHROME1 or MONOCHROME2[\s\S]*RGB, 3 samples"),
        ("README.txt", r"a DICOM file[\s\S]*InvalidDicomError"),
    ],
)
def test_real_files_that_are_no_grey_image(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_radiograph(REAL / name)


def test_missing_geometry_is_named(tmp_path: Path) -> None:
    save(dataset(np.zeros((2, 2), np.int16)), tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"ImagePositionPatient[\s\S]*3 numbers[\s\S]*none"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("PixelSpacing", [0.0, 0.0], r"2 numbers above 0[\s\S]*\[0\.0, 0\.0\]"),
        ("PixelSpacing", [0.7], "2 numbers"),
        ("ImagePositionPatient", [0.0, 0.0], "3 numbers"),
    ],
)
def test_geometry_that_is_none_is_named(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    files = write_series(tmp_path, ramp(), AFFINE)
    data = pydicom.dcmread(files[2])
    setattr(data, key, value)
    data.save_as(files[2])
    with pytest.raises(DataError, match=rf"im002[\s\S]*{key}[\s\S]*{message}"):
        read_dicom_series(tmp_path)


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG lossless needs a plug-in under GPL-3, which is never installed unasked."""
    import importlib.util

    from sagittal_core.volumes import dicom_pixels

    def missing(*args: object, **options: object) -> None:
        raise RuntimeError("Unable to decode: no plugin")

    find = importlib.util.find_spec
    monkeypatch.setattr("pydicom.pixels.pixel_array", missing)
    monkeypatch.setattr(
        dicom_pixels.importlib.util, "find_spec", lambda n: None if n == "libjpeg" else find(n)
    )
    data = pydicom.dcmread(REAL / "CT_small.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    with pytest.raises(DataError, match=r"JPEG Lossless[\s\S]*no plugin[\s\S]*volumes-gpl"):
        dicom_pixels.grey_values(data, REAL / "CT_small.dcm")
