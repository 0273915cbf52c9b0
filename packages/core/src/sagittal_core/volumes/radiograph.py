"""Radiographs: DICOM, and PNG, JPEG or TIFF of up to 16 bits, without clipping."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sagittal_core.errors import DataError
from sagittal_core.volumes.dicom_pixels import (
    grey_values,
    has_window,
    one_line,
    read_dataset,
    window_range,
)
from sagittal_core.volumes.dicom_tags import safe_metadata

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Radiograph:
    """A radiograph; what absorbs much is bright.

    Attributes:
        pixels: ``(H, W)`` uint8 of 8-bit pictures, uint16 where values are such integers, float32
            otherwise.
        full_range: black and white of the stored encoding: 0..255 of 8-bit pictures, what the
            stored bits can express after the file's tables for DICOM.
        windowed: whether a VOI LUT or window of the file was applied; ``full_range`` is then what
            it shows black and white.
        spacing: mm between rows and between columns, or None.
        metadata: as the file tells, without anything that names a person.
        notes: what a reader had to assume.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    full_range: tuple[float, float]
    windowed: bool = False
    spacing: tuple[float, float] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_radiograph(
    path: str | Path, *, window: bool = False, salt: str | None = None
) -> Radiograph:
    """Read one radiograph; the suffix decides between a picture and DICOM.

    DICOM goes through modality LUT or rescale, then (``window``) VOI LUT or window, then the
    inversion of MONOCHROME1 or of presentation LUT shape INVERSE, in this order and once.

    Args:
        path: picture, or any other name: DICOM.
        window: apply the DICOM file's VOI LUT or window, where it has one.
        salt: of the subject's pseudonym.

    Raises:
        DataError: if it cannot be read, has several frames, or is in colour.
    """
    file = Path(path)
    return _picture(file) if file.suffix.lower() in PICTURES else _dicom(file, window, salt)


def _dicom(file: Path, window: bool, salt: str | None) -> Radiograph:
    dataset = read_dataset(file)
    values = grey_values(dataset, file, window=window)
    windowed = window and has_window(dataset)
    low, high = _range(dataset, values, file, windowed)
    notes = []
    # The two tags say the same thing twice (PS3.3 C.8.11.3.1.2), so one inversion is for both.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        notes.append("MONOCHROME1 inverted")
    elif dataset.get("PresentationLUTShape") == "INVERSE":
        notes.append("presentation LUT shape INVERSE inverted")
    if notes:
        values = (low + high) - values
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    known = bool(spacing) and min(float(v) for v in spacing) > 0
    return Radiograph(
        _unsigned(values),
        (float(low), float(high)),
        windowed,
        (float(spacing[0]), float(spacing[1])) if known else None,
        safe_metadata(dataset, salt),
        tuple(notes),
    )


def _range(dataset: Any, values: NDArray[Any], file: Path, windowed: bool) -> tuple[Any, Any]:
    """What is shown black and white; without a window, what the stored bits can express."""
    from pydicom.pixels import apply_modality_lut

    if windowed:
        low, high = window_range(dataset, file)
    else:
        bits = int(dataset.BitsStored)
        signed = int(dataset.get("PixelRepresentation", 0)) == 1
        ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        mapped = apply_modality_lut(np.array([ends], np.int64), dataset)
        low, high = sorted((mapped.min().item(), mapped.max().item()))
    # A file may hold more than its header says; a table need not be monotonic.
    low, high = min(low, values.min().item()), max(high, values.max().item())
    whole = all(float(v).is_integer() for v in (low, high)) and values.dtype.kind in "iu"
    return (int(low), int(high)) if whole else (float(low), float(high))


def _unsigned(values: NDArray[Any]) -> NDArray[np.uint16] | NDArray[np.float32]:
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint16)
    return values.astype(np.float32)


def _picture(file: Path) -> Radiograph:
    try:
        with Image.open(file) as opened:
            if (pages := int(getattr(opened, "n_frames", 1))) > 1:
                raise DataError(file, key="pages", expected="one picture", found=f"{pages} pages")
            opened.load()
            image, turned = ImageOps.exif_transpose(opened), opened.getexif().get(0x0112, 1) != 1
    except FileNotFoundError:
        raise DataError(file, key="path", expected="a picture", found="no such file") from None
    except DataError:
        raise
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # whose message is the path
        found = type(error).__name__ if unknown else one_line(error)
        raise DataError(file, key="image", expected="a readable picture", found=found) from error
    pixels: NDArray[Any]
    if image.mode in ("RGB", "RGBA", "LA", "P", "PA", "1"):
        _expect_eight_bits(file)
        pixels = _one_channel(file, image)
    elif image.mode in ("L", "I;16", "I;16B", "I", "F"):
        pixels = np.asarray(image)
    else:
        raise DataError(file, key="mode", expected="a grey picture", found=image.mode)
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise DataError(file, key="pixels", expected="finite values", found="NaN or infinite")
        pixels = _unsigned(pixels)
    top = {"uint8": 255.0, "uint16": 65535.0}.get(str(pixels.dtype), float(pixels.max()))
    low = 0.0 if pixels.dtype.kind == "u" else float(pixels.min())
    notes = ("turned as its EXIF orientation says",) if turned else ()
    return Radiograph(pixels, (low, top), notes=notes)


def _expect_eight_bits(file: Path) -> None:
    """Pillow cuts 16-bit PNGs with several channels to 8 bits without a word."""
    with file.open("rb") as opened:
        head = opened.read(26)
    if head[:8] == _PNG and head[24] == 16:
        raise DataError(
            file,
            key="bit depth",
            expected="16-bit PNG with one channel, or 8 bits",
            found="16 bits with several channels",
            hint="save it as 16-bit grey",
        )


def _one_channel(file: Path, image: Image.Image) -> NDArray[np.uint8]:
    """The grey of a picture stored in colours; alpha is left out."""
    channels = np.asarray(image.convert("RGB"))
    difference = int((channels.max(2).astype(int) - channels.min(2)).max())
    # JPEG's colour transform leaves a grey picture off by a level or two.
    if difference > 8:
        raise DataError(
            file,
            key="channels",
            expected="a grey picture",
            found=f"colours (channels differ by up to {difference} of 255)",
        )
    return channels[..., 1].copy() if difference == 0 else np.asarray(image.convert("L"))
