"""Pixels of one DICOM image, with its look-up tables applied in the standard's order."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes.record import need

# Whose decoder is under GPL-3 and therefore in an extra of its own.
_LIBJPEG = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


def read_dataset(file: Path, *, pixels: bool = True) -> Any:
    """Parse a DICOM file.

    Raises:
        DataError: if it is none, or is damaged.
    """
    pydicom = need("pydicom", file)
    try:
        return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except FileNotFoundError:
        raise DataError(file, key="path", expected="a DICOM file", found="no such file") from None
    except Exception as error:  # pydicom raises a dozen different ones on damaged files
        raise DataError(
            file, key="header", expected="a DICOM file", found=type(error).__name__
        ) from error


def grey_values(dataset: Any, file: Path, *, window: bool = False) -> NDArray[Any]:
    """Decode one grey image: modality LUT or rescale, then, where asked, VOI LUT or window.

    Args:
        dataset: what :func:`read_dataset` gave.
        file: for messages.
        window: apply the file's own VOI LUT or window (the first of several); nothing happens
            where the file has none.

    Returns:
        (H, W), an integer dtype where every value is an integer, float64 otherwise. MONOCHROME1 is
        not inverted.

    Raises:
        DataError: if it holds no image, several frames or colours, cannot be decoded, or the
            pixels do not fit the header.
    """
    from pydicom.pixels import apply_modality_lut, pixel_array

    _expect_one_grey_image(dataset, file)
    try:
        stored = pixel_array(dataset)
    except Exception as error:  # decoders and plug-ins raise many different ones
        syntax = dataset.file_meta.get("TransferSyntaxUID", None)
        raise DataError(
            file,
            key="PixelData",
            expected="pixels that an installed decoder reads and that fit the header",
            found=f"{getattr(syntax, 'name', 'no transfer syntax')}: {one_line(error)}",
            hint=_hint(str(syntax)),
        ) from error
    # Integers before the VOI LUT, whose index they are.
    values = _as_integers(apply_modality_lut(stored, dataset))
    if window and has_window(dataset):
        values = _as_integers(apply_window(values, dataset, file))
    if not np.isfinite(values).all():
        raise DataError(file, key="PixelData", expected="finite values", found="NaN or infinite")
    return values


def has_window(dataset: Any) -> bool:
    """Whether the file says how to show its values: a VOI LUT, or a window with both numbers."""
    if _voi_table(dataset) is not None:
        return True
    return None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth"))


def apply_window(values: NDArray[Any], dataset: Any, file: Path) -> NDArray[Any]:
    """Apply the VOI LUT, or else the window, the first of several.

    Args:
        values: after modality LUT or rescale.
        dataset: one for which :func:`has_window` is true.
        file: for messages.

    Raises:
        DataError: if the table or the window is none.
    """
    from pydicom.pixels import apply_voi_lut

    try:
        return apply_voi_lut(values, dataset, index=0, prefer_lut=True)
    except Exception as error:  # what pydicom raises depends on what is wrong
        key = "WindowCenter" if _voi_table(dataset) is None else "VOILUTSequence"
        raise DataError(
            file,
            key=key,
            expected="a window or table that can be applied",
            found=one_line(error),
        ) from error


def window_range(dataset: Any, file: Path) -> tuple[float, float]:
    """What :func:`apply_window` shows black and white: the ends of its output.

    Those of a table are 0 and its largest entry: some tables of 12 bits say that they have 16.
    """
    table = _voi_table(dataset)
    if table is not None:
        entries, first = int(table.LUTDescriptor[0]) or 2**16, int(table.LUTDescriptor[1])
        shown = apply_window(np.arange(first, first + entries), dataset, file)
        return 0.0, float(shown.max())
    with np.errstate(over="ignore"):  # a sigmoid's tail
        ends = apply_window(np.array([[-(2.0**52), 2.0**52]]), dataset, file)
    return float(ends.min()), float(ends.max())


def _voi_table(dataset: Any) -> Any:
    """The first item of the VOI LUT sequence, None where there is none or it is empty."""
    sequence = dataset.get("VOILUTSequence")
    if not sequence or None in (sequence[0].get("LUTDescriptor"), sequence[0].get("LUTData")):
        return None
    return sequence[0]


def _expect_one_grey_image(dataset: Any, file: Path) -> None:
    if "PixelData" not in dataset:
        raise DataError(
            file,
            key="PixelData",
            expected="an image",
            found=f"none (modality {dataset.get('Modality', 'unknown')})",
        )
    frames, samples = str(dataset.get("NumberOfFrames") or 1), dataset.get("SamplesPerPixel", 1)
    if frames != "1":
        raise DataError(
            file,
            key="NumberOfFrames",
            expected="1: one file a slice",
            found=frames,
            hint="convert enhanced (multi-frame) objects to single frames or NIfTI first",
        )
    if samples != 1 or not str(dataset.get("PhotometricInterpretation", "")).startswith("MONO"):
        raise DataError(
            file,
            key="PhotometricInterpretation",
            expected="MONOCHROME1 or MONOCHROME2",
            found=f"{dataset.get('PhotometricInterpretation', 'none')}, {samples} samples a pixel",
        )


def _as_integers(values: NDArray[Any]) -> NDArray[Any]:
    """Integers as such: a rescale by 1 and -1024 makes floats of them."""
    if values.dtype.kind != "f":
        return values
    rounded = np.rint(values)
    if np.array_equal(rounded, values) and np.abs(values).max(initial=0) < 2**31:
        return rounded.astype(np.int32)
    return values


def one_line(error: Exception) -> str:
    """What an exception says, on one line of at most 200 characters, or its type."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _hint(syntax: str) -> str:
    if syntax in _LIBJPEG and importlib.util.find_spec("libjpeg") is None:
        return (
            "JPEG lossless and 12-bit JPEG need `pip install 'sagittal-core[volumes-gpl]'`"
            " (pylibjpeg-libjpeg, GPL-3)"
        )
    if any(importlib.util.find_spec(name) is None for name in ("openjpeg", "rle", "jpeg_ls")):
        return "decoders are missing: `pip install 'sagittal-core[volumes]'`"
    return ""
