"""Radiographs: every bit kept, and DICOM's tables applied in their order."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from dicom_files import dataset, save

from sagittal_core.errors import DataError
from sagittal_core.volumes import read_radiograph


def test_sixteen_bits_of_a_png_survive(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 255, 256], [4095, 32767, 32768, 65535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_radiograph(tmp_path / "a.png")
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.full_range == (0, 65535)


def test_eight_bits_in_every_container(tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    image = Image.fromarray(grey)
    image.save(tmp_path / "grey.png")
    image.convert("RGB").save(tmp_path / "rgb.png")
    image.convert("RGBA").save(tmp_path / "rgba.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.save(tmp_path / "grey.tif")
    for file in sorted(tmp_path.iterdir()):
        found = read_radiograph(file)
        np.testing.assert_array_equal(found.pixels, grey, err_msg=file.name)
        assert found.pixels.dtype == np.uint8
        assert found.full_range == (0, 255)
    image.convert("RGB").save(tmp_path / "lossy.jpg", quality=95)
    assert np.abs(read_radiograph(tmp_path / "lossy.jpg").pixels.astype(int) - grey).max() < 6


def test_a_turned_picture_is_turned_back(tmp_path: Path) -> None:
    grey = np.zeros((16, 32), np.uint8)
    grey[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(grey).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = read_radiograph(tmp_path / "a.jpg")
    assert found.pixels[:, -8:].min() > 240
    assert found.notes == ("turned as its EXIF orientation says",)


def test_colours_and_hidden_losses_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 0] = 200
    Image.fromarray(colours).save(tmp_path / "red.png")
    with pytest.raises(DataError, match=r"grey picture[\s\S]*channels differ by up to 200"):
        read_radiograph(tmp_path / "red.png")
    (tmp_path / "deep.png").write_bytes(sixteen_bit_rgb())
    with pytest.raises(DataError, match=r"bit depth[\s\S]*16 bits with several channels"):
        read_radiograph(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="readable picture"):
        read_radiograph(tmp_path / "text.png")
    with pytest.raises(DataError, match="no such file"):
        read_radiograph(tmp_path / "none.png")


def test_several_pages_are_refused_and_not_cut_to_the_first(tmp_path: Path) -> None:
    page = Image.fromarray(np.zeros((4, 4), np.uint8))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(DataError, match=r"one picture[\s\S]*2 pages"):
        read_radiograph(tmp_path / "pages.tif")


def test_a_truncated_picture_says_that_it_is(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"readable picture[\s\S]*[Tt]runcated"):
        read_radiograph(tmp_path / "a.jpg")


def test_thirty_two_stored_bits_have_a_range(tmp_path: Path) -> None:
    stored = dataset(np.zeros((2, 2), np.uint16), modality="DX")
    stored.BitsAllocated = stored.BitsStored = 32
    stored.HighBit = 31
    stored.PixelData = np.array([[0, 7], [2**31, 2**32 - 1]], np.uint32).tobytes()
    found = read_radiograph(save(stored, tmp_path / "a.dcm"))
    assert found.full_range == (0, 2**32 - 1)
    assert found.pixels.max() == np.float32(2**32 - 1)


def sixteen_bit_rgb() -> bytes:
    """A 1 x 1 PNG of colour type 2 with 16 bits, which Pillow would read as 8."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" + struct.pack(">HHH", 300, 300, 300))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


STORED = np.array([[0, 100], [500, 4095]], np.uint16)


def test_rescale_then_window_then_inversion(tmp_path: Path) -> None:
    """By hand: 2 x - 200, then a linear window 200 +- 200 to 0..., then upside down."""
    tags = {
        "BitsStored": 12,
        "HighBit": 11,
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": 2,
        "RescaleIntercept": -200,
        "WindowCenter": 200.5,
        "WindowWidth": 401,
    }
    file = save(dataset(STORED, "CR", **tags), tmp_path / "a.dcm")
    plain = read_radiograph(file)
    low, high = -200, 2 * 4095 - 200
    np.testing.assert_array_equal(plain.pixels, low + high - (2.0 * STORED - 200))
    assert plain.full_range == (low, high)
    assert plain.notes == ("MONOCHROME1 inverted",)
    # PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5) of the output range, clipped.
    windowed = read_radiograph(file, window=True)
    share = np.clip(((2.0 * STORED - 200) - 200) / 400 + 0.5, 0, 1)
    assert windowed.windowed
    assert not plain.windowed
    assert windowed.full_range[0] < windowed.full_range[1]
    scaled = (windowed.pixels - windowed.full_range[0]) / np.ptp(windowed.full_range)
    np.testing.assert_allclose(scaled, 1 - share, atol=1e-6)


def test_without_tables_values_are_as_stored(tmp_path: Path) -> None:
    tags = {"BitsStored": 12, "HighBit": 11, "ImagerPixelSpacing": [0.14, 0.15]}
    found = read_radiograph(save(dataset(STORED, "DX", **tags), tmp_path / "a.dcm"), window=True)
    np.testing.assert_array_equal(found.pixels, STORED)
    assert found.pixels.dtype == np.uint16
    assert found.full_range == (0, 4095)
    assert not found.windowed
    assert found.spacing == (0.14, 0.15)
    assert "4711" not in repr(found)


DATA = importlib.util.find_spec("data_store")


@pytest.mark.skipif(DATA is None, reason="needs pydicom-data")
@pytest.mark.parametrize("name", ["RG1", "RG3"])
def test_real_radiographs_in_two_transfer_syntaxes(name: str) -> None:
    """RG1 and RG3 of the DICOM working group's sample set: MONOCHROME1, 15 and 10 bits."""
    assert DATA is not None
    assert DATA.origin is not None
    folder = Path(DATA.origin).parent / "data"
    plain, packed = (read_radiograph(folder / f"{name}_{kind}.dcm") for kind in ("UNCR", "J2KR"))
    np.testing.assert_array_equal(plain.pixels, packed.pixels)
    assert plain.full_range == ((0, 32767) if name == "RG1" else (0, 1023))
    assert plain.notes == ("MONOCHROME1 inverted",)
    # After the inversion the direct beam is dark and the body bright.
    height, width = plain.pixels.shape
    middle = plain.pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    assert np.median(middle) > plain.pixels.min() + 0.3 * np.ptp(plain.pixels)


@pytest.mark.skipif(DATA is None, reason="needs pydicom-data")
def test_real_modality_and_voi_tables() -> None:
    assert DATA is not None
    assert DATA.origin is not None
    folder = Path(DATA.origin).parent / "data"
    modality = read_radiograph(folder / "mlut_18.dcm")
    assert modality.pixels.max() == 65535
    stored = read_radiograph(folder / "vlut_04.dcm")
    shown = read_radiograph(folder / "vlut_04.dcm", window=True)
    assert stored.pixels.max() == 255
    assert shown.pixels.max() == 65535
