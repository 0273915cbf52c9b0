"""SIIM-ACR Pneumothorax Segmentation 2019: DICOM, masks as run lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import need_table, read_table
from sagittal_cxr.records import Record

SIZE = 1024
_BETWEEN = "|"  # of several masks of one picture, each a row of the table


class SIIM:
    """Pictures anywhere under the root as ``<ImageId>.dcm``; one row a mask.

    SIIM names no patients: every picture counts as one. (Its pictures are of ChestX-ray14.)

    Args:
        suffix: of the pictures.
    """

    has_reports = False

    def __init__(self, suffix: str = ".dcm") -> None:
        self.suffix = suffix

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, in the order in which the table first names it.

        Raises:
            DataError: if the table is missing or damaged, or a picture has a mask and -1.
        """
        file = need_table(root, "*train-rle*.csv", "*train_rle*.csv")
        # The published header has a space before EncodedPixels.
        table = read_table(file, ["image", "code"], positions={0: "image", 1: "code"})
        codes: dict[str, list[str]] = {}
        for name, code in zip(table["image"], table["code"], strict=True):
            codes.setdefault(name.strip(), []).append(" ".join(code.split()))
        places = {
            path.name: path.relative_to(root).as_posix() for path in root.rglob(f"*{self.suffix}")
        }
        for name, mine in codes.items():
            masks = list(dict.fromkeys(code for code in mine if code != "-1"))
            if (masks and "-1" in mine) or "" in mine:
                raise DataError(
                    file,
                    key=" EncodedPixels",
                    expected="run lengths, or -1 alone",
                    found=f"{len(mine)} rows of one picture that do not agree",
                )
            yield Record(
                image=places.get(name + self.suffix, name + self.suffix),
                patient=name,
                study=name,
                labels={"Pneumothorax": int(bool(masks))},
                mask=_BETWEEN.join(masks) or None,
            )


def decode_mask(code: str, height: int = SIZE, width: int = SIZE) -> NDArray[np.bool_]:
    """The mask of SIIM's run lengths.

    A code is pairs of numbers: pixels to skip since the end of the run before, and pixels of the
    run. Pixels are counted down the columns, from the left. Several codes, joined by ``|``, are
    masks of one picture; together they are their union.

    Args:
        code: as in the table.
        height: of the picture, in pixels.
        width: as ``height``.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: if a code is no list of such pairs, or runs past the picture.
    """
    flat = np.zeros(height * width, bool)
    for one in code.split(_BETWEEN):
        numbers = np.array(one.split(), np.int64)  # ValueError for what is no number
        if len(numbers) % 2 or (numbers < 0).any():
            raise ValueError(f"run lengths are pairs of numbers from 0, got {len(numbers)} numbers")
        ends = numbers.cumsum()
        if len(ends) and ends[-1] > flat.size:
            raise ValueError(f"runs end at pixel {ends[-1]} of {flat.size} ({height} x {width})")
        for start, end in zip(ends[0::2], ends[1::2], strict=True):
            flat[start:end] = True
    return flat.reshape(width, height).T.copy()
