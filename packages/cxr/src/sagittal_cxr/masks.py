"""The masks that records name: pictures beside the images, or SIIM's run lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes import read_radiograph
from sagittal_cxr.readers.siim import decode_mask

_FILE = "file:"


def load_mask(mask: str, root: str | Path) -> NDArray[np.bool_]:
    """The mask of an index row.

    Args:
        mask: column ``mask``: ``file:`` and a picture's path relative to the root (what is brighter
            than half of its type's range is inside), or run lengths of a 1024 x 1024 picture.
        root: of the row's data set.

    Returns:
        (H, W) bool.

    Raises:
        DataError: if the picture cannot be read, or the code is none.
    """
    if mask.startswith(_FILE):
        file = Path(root) / mask.removeprefix(_FILE)
        found = read_radiograph(file)
        return np.asarray(found.pixels > sum(found.full_range) / 2)
    try:
        return decode_mask(mask)
    except ValueError as error:
        raise DataError(
            "mask", key="run lengths", expected="a code of SIIM", found=str(error)
        ) from None
