"""Grey levels of radiographs: DICOM's order, every transfer syntax, 16 bits, negatives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from dicom_files import dataset, save

from sagittal_core.errors import DataError
from sagittal_core.volumes import Radiograph, read_radiograph
from sagittal_cxr.images import inversion_score, load_grey, looks_inverted, to_grey

_STORE = importlib.util.find_spec("data_store")
needs_pydicom_data = pytest.mark.skipif(_STORE is None, reason="needs pydicom-data")
LUNGS = Path("/work/shared/data/lung_pairs")  # not part of the project: see its README


def real(name: str) -> Path:
    assert _STORE is not None
    assert _STORE.origin is not None
    return Path(_STORE.origin).parent / "data" / f"{name}.dcm"


def shipped(name: str) -> Path:
    """A file of pydicom or of pydicom-data, nothing fetched."""
    import pydicom.data

    file = Path(pydicom.data.__file__).parent / "test_files" / f"{name}.dcm"
    return file if file.is_file() else real(name)


def chest(height: int = 120, width: int = 100) -> np.ndarray:
    """A crude frontal chest: air, a body, two lungs darker than what is between them; 0..4095."""
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    image = np.full((height, width), 200.0)
    image[((columns - 0.5) / 0.46) ** 2 + ((rows - 0.6) / 0.55) ** 2 < 1] = 3000
    for middle in (0.28, 0.72):
        image[((columns - middle) / 0.15) ** 2 + ((rows - 0.45) / 0.3) ** 2 < 1] = 1200
    return image.astype(np.uint16)


TAGS = {"BitsStored": 12, "HighBit": 11}


@needs_pydicom_data
@pytest.mark.parametrize(
    ("name", "tolerance"), [("RG1_J2KR", 0), ("RG1_UNCI", 3), ("RG1_J2KI", 3), ("RG3_J2KR", 0)]
)
def test_transfer_syntaxes_of_a_real_radiograph_agree(name: str, tolerance: int) -> None:
    """UNCI and J2KI are of lossy origin, the others exact."""
    plain = load_grey(real(f"{name[:3]}_UNCR")).astype(int)
    other = load_grey(real(name)).astype(int)
    assert np.abs(plain - other).max() <= tolerance
    if tolerance:  # and they are not the same file
        assert np.abs(plain - other).mean() > 0.01


@needs_pydicom_data
def test_the_real_radiograph_is_shown_as_anatomy_wants_it() -> None:
    """RG1 is stored as MONOCHROME1. Air beside the neck and lungs must come out dark."""
    grey = load_grey(real("RG1_UNCR"))
    height, width = grey.shape
    spine = np.median(grey[height // 3 : height // 2, int(0.46 * width) : int(0.54 * width)])
    lung = np.median(grey[height // 6 : height // 3, int(0.62 * width) : int(0.74 * width)])
    air = np.median(grey[height // 40 : height // 16, : width // 16])
    assert lung < spine - 60
    assert air < spine - 150
    assert not looks_inverted(grey)
    assert looks_inverted(255 - grey)
    # Read without the inversion, it is the negative.
    from pydicom import dcmread

    stored = dcmread(real("RG1_UNCR")).pixel_array
    assert looks_inverted((stored // 128).astype(np.uint8))


@needs_pydicom_data
def test_look_up_tables_are_applied_exactly() -> None:
    """mlut_18 and vlut_04 hold one pattern behind a modality and a VOI table: by hand."""
    from pydicom import dcmread

    for name, sequence in (("mlut_18", "ModalityLUTSequence"), ("vlut_04", "VOILUTSequence")):
        file = dcmread(real(name))
        item = file[sequence].value[0]
        first, table = item.LUTDescriptor[1], np.asarray(item.LUTData)
        stored = file.pixel_array.astype(int)
        wanted = table[np.clip(stored - first, 0, len(table) - 1)]
        found = read_radiograph(real(name), window=True)
        np.testing.assert_array_equal(found.pixels, wanted, err_msg=name)
    shown = load_grey(real("vlut_04"))
    np.testing.assert_array_equal(shown, np.rint(wanted / wanted.max() * 255).astype(np.uint8))


@pytest.mark.parametrize("name", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "Deflated"])
def test_what_pydicom_can_write_is_read_alike(name: str, tmp_path: Path) -> None:
    from pydicom import uid

    plain = save(dataset(chest(), "DX", **TAGS), tmp_path / "plain.dcm")
    packed = dataset(chest(), "DX", **TAGS)
    if name == "Deflated":
        packed.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    else:
        packed.compress(getattr(uid, name))
    file = save(packed, tmp_path / "packed.dcm")
    np.testing.assert_array_equal(load_grey(file), load_grey(plain))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("MR_small", f"MR_small_{kind}") for kind in ("RLE", "implicit", "bigendian", "expb")),
        *(("MR_small", f"MR_small_{kind}") for kind in ("jp2klossless", "jpeg_ls_lossless")),
        pytest.param("JPEG2000_UNC", "JPEG2000", marks=needs_pydicom_data),
    ],
)
def test_files_that_pydicom_ships_in_many_syntaxes_agree(name: str, other: str) -> None:
    np.testing.assert_array_equal(load_grey(shipped(name)), load_grey(shipped(other)))


@needs_pydicom_data
def test_jpeg_of_twelve_bits_shows_what_the_lossless_one_shows() -> None:
    """One bone scan as JPEG lossless (process 14) and, 12 bits, as lossy JPEG extended."""
    pytest.importorskip("libjpeg")
    lossless, lossy = load_grey(shipped("JPEG-LL")), load_grey(shipped("JPGExtended"))
    assert lossless.shape == lossy.shape == (1024, 256)
    assert np.corrcoef(lossless.ravel(), lossy.ravel())[0, 1] > 0.98


def test_big_endian_is_read_alike(tmp_path: Path) -> None:
    from pydicom import uid

    plain = save(dataset(chest(), "DX", **TAGS), tmp_path / "plain.dcm")
    swapped = dataset(chest(), "DX", **TAGS)
    swapped.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    swapped.PixelData = chest().astype(">u2").tobytes()
    file = save(swapped, tmp_path / "swapped.dcm")
    np.testing.assert_array_equal(load_grey(file), load_grey(plain))


@pytest.mark.parametrize(
    ("tags", "inverted"),
    [
        ({}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1600, "WindowWidth": 3200}])
def test_inverted_once_whatever_says_so(
    tags: dict, inverted: bool, window: dict, tmp_path: Path
) -> None:
    stored = 4095 - chest() if inverted else chest()
    if inverted and window:  # the window holds stored values
        window = {"WindowCenter": 4095 - 1600, "WindowWidth": 3200}
    grey = load_grey(save(dataset(stored, "DX", **TAGS | tags | window), tmp_path / "a.dcm"))
    plain = to_grey(Radiograph(chest(), (0, 4095)))
    assert not looks_inverted(grey)
    assert np.corrcoef(grey.ravel(), plain.ravel())[0, 1] > 0.98


STORED = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_by_their_formulas(kind: str, tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to 0..255."""
    center, width = 1000.0, 600.0
    tags = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": kind}
    grey = load_grey(save(dataset(STORED, "DX", **TAGS | tags), tmp_path / "a.dcm"))
    x = STORED.astype(float)
    share = {
        "LINEAR": np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((x - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - center) / width)),
    }[kind]
    assert np.abs(grey - 255 * share).max() < 0.51 + 255 * 1e-3


def test_a_window_wider_than_the_pixels_keeps_its_black_and_white(tmp_path: Path) -> None:
    """Half of the window lies below 0: the darkest pixel is grey, not stretched to black."""
    tags = {"WindowCenter": 0, "WindowWidth": 8192}
    grey = load_grey(save(dataset(STORED, "DX", **TAGS | tags), tmp_path / "a.dcm"))
    assert abs(int(grey.min()) - 127) <= 1
    assert grey.max() == 255


def test_the_first_of_several_windows_and_none_where_one_is_half_there(tmp_path: Path) -> None:
    tags = {"WindowCenter": [1000, 3000], "WindowWidth": [100, 50]}
    grey = load_grey(save(dataset(STORED, "DX", **TAGS | tags), tmp_path / "a.dcm"))
    assert (grey.reshape(-1)[1100:] == 255).all()
    half = save(dataset(STORED, "DX", **TAGS, WindowCenter=100), tmp_path / "b.dcm")
    assert not read_radiograph(half, window=True).windowed
    assert load_grey(half).max() == 255
    bad = save(dataset(STORED, "DX", **TAGS, WindowCenter=100, WindowWidth=0), tmp_path / "c.dcm")
    with pytest.raises(DataError, match=r"key:      WindowCenter"):
        load_grey(bad)


def test_a_voi_table_after_a_rescale_takes_integers(tmp_path: Path) -> None:
    """A rescale makes floats, whose use as an index a warning forbids; the order is kept."""
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [256, 100, 12]  # says 12 bits, holds 10
    table.LUTData = np.arange(0, 1024, 4, dtype=np.uint16).tobytes()
    data = dataset(STORED, "DX", **TAGS, RescaleSlope=1, RescaleIntercept=-1000)
    data.VOILUTSequence = [table]
    found = read_radiograph(save(data, tmp_path / "a.dcm"), window=True)
    index = np.clip(STORED.astype(int) - 1000 - 100, 0, 255)
    np.testing.assert_array_equal(found.pixels, 4 * index)
    assert found.full_range == (0, 1020)
    assert load_grey(tmp_path / "a.dcm").max() == 255


@given(arrays(np.uint16, (9, 7), elements=st.integers(0, 65535)))
def test_sixteen_bits_keep_their_order_and_are_never_cut_at_255(pixels: np.ndarray) -> None:
    grey = to_grey(Radiograph(pixels, (0, 65535)), percentiles=(0, 100))
    assert grey.dtype == np.uint8
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(grey.ravel()[order].astype(int)) >= 0).all()
    if pixels.min() < pixels.max():
        assert (grey[pixels == pixels.min()] == 0).all()
        assert (grey[pixels == pixels.max()] == 255).all()
        step = np.ptp(pixels.astype(int)) / 255
        restored = pixels.min() + grey * step
        assert np.abs(restored - pixels).max() <= step / 2 + 1e-2
    else:
        assert not grey.any()


def test_a_sixteen_bit_png_uses_all_grey_levels(tmp_path: Path) -> None:
    """PIL's conversion to L would make all but the first row white."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = load_grey(tmp_path / "a.png")
    assert len(np.unique(grey)) == 256
    assert (grey == 255).mean() < 0.01
    assert np.abs(grey.astype(int) - (ramp >> 8)).max() <= 2


def test_percentiles_hold_against_a_few_extreme_pixels() -> None:
    pixels = np.full((100, 100), 1000, np.uint16)
    pixels[:50] = 2000
    pixels[0, :10] = 65535  # a burnt-in letter
    grey = to_grey(Radiograph(pixels, (0, 65535)))
    assert grey[99, 0] == 0
    assert grey[40, 0] == 255
    with pytest.raises(ValueError, match="percentiles"):
        to_grey(Radiograph(pixels, (0, 65535)), percentiles=(50, 50))


def test_almost_constant_and_signed_pictures() -> None:
    pixels = np.zeros((100, 100), np.float32)
    assert not to_grey(Radiograph(pixels, (0, 1))).any()
    pixels[0, 0] = -5
    grey = to_grey(Radiograph(pixels, (-5, 1)))
    assert (grey[0, 0], grey[1, 1]) == (0, 255)


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(40, 90, (30, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_grey(tmp_path / "a.png"), pixels)
    tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    file = save(dataset(pixels, "DX", **tags), tmp_path / "a.dcm")
    np.testing.assert_array_equal(load_grey(file), pixels)


@given(arrays(np.uint8, (40, 30)))
def test_a_negative_has_minus_the_score(image: np.ndarray) -> None:
    assert inversion_score(255 - image) == pytest.approx(-inversion_score(image), abs=1.0)


def test_collimation_does_not_change_the_judgement() -> None:
    grey = to_grey(Radiograph(chest(), (0, 4095)))
    framed = np.full((200, 220), 255, np.uint8)
    framed[40:160, 60:160] = grey
    assert not looks_inverted(grey)
    assert not looks_inverted(framed)
    assert looks_inverted(255 - grey)


@pytest.mark.study
@pytest.mark.skipif(not LUNGS.is_dir(), reason="needs the development data")
def test_lungs_of_real_radiographs_are_darker_than_what_is_beside_them() -> None:
    """On 90 pictures with masks of the lungs: what the rule of thumb relies on, and how it errs."""
    from sagittal_cxr.masks import load_mask

    darker, flagged, missed = 0, 0, 0
    files = sorted((LUNGS / "images").glob("*.jpg"))
    for file in files:
        grey = load_grey(file)
        lung = load_mask(f"file:masks/{file.stem}.png", LUNGS)
        rows = np.flatnonzero(lung.any(1))
        band = np.zeros_like(lung)
        band[rows[0] : rows[-1], lung.any(0).nonzero()[0][0] : lung.any(0).nonzero()[0][-1]] = True
        darker += np.median(grey[lung]) < np.median(grey[band & ~lung])
        flagged += looks_inverted(grey)
        missed += not looks_inverted(255 - grey)
    assert len(files) == 90
    assert darker >= 88
    assert flagged <= 3
    assert missed <= 3
