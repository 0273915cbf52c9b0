"""Radiographs at the size an encoder wants, decoded once and kept on disk.

Reading a JPEG or DICOM file takes longer than what small encoders do with it. A cache is a folder
named after what decides its pixels, and holds::

    cache.json     the same in words
    pixels.u8      (rows of the index, H, W) uint8; places of rows not used stay holes
    done.u8        (rows of the index,) uint8, 1 once a row's pixels are on disk
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.run_folder import write_atomically

VERSION = 1
_BLOCK = 128  # images between two writes to disk: what a stopped run does again at most


class ImageCache:
    """Fitted images by row number.

    Args:
        folder: Parent of all caches.
        rows: Rows of the index.
        identity: Of the index.
        preprocessing: Whose ``fit`` the images went through.
    """

    def __init__(
        self, folder: Path, rows: int, identity: str, preprocessing: Preprocessing
    ) -> None:
        geometry = ("resize", "crop", "resample")  # scaling comes later
        described: dict[str, Any] = {
            "version": VERSION,
            "index": identity,
            "rows": rows,
            "fit": {key: preprocessing.described()[key] for key in geometry},
        }
        text = json.dumps(described, sort_keys=True)
        self.folder = folder / f"images-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "cache.json", text)
        self._pixels = _mapped(self.folder / "pixels.u8", (rows, *preprocessing.size))
        self._done = _mapped(self.folder / "done.u8", (rows,))

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of ``rows`` that are not there yet."""
        return rows[self._done[rows] == 0]

    def fill(
        self,
        rows: NDArray[np.int64],
        read: Callable[[int], NDArray[np.uint8]],
        threads: int = 1,
        track: Callable[[list[Any]], Iterable[Any]] = iter,
    ) -> None:
        """Read the missing ones of ``rows``; a kill costs one block.

        Args:
            rows: Row numbers.
            read: Gives the fitted image (H, W) of a row.
            threads: That read at a time.
            track: Shows progress over a list of blocks.
        """
        missing = self.missing(rows)
        blocks = [missing[n : n + _BLOCK] for n in range(0, len(missing), _BLOCK)]
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for block in track(blocks):
                for row, image in zip(block, pool.map(read, block.tolist()), strict=True):
                    self._pixels[row] = image
                self._pixels.flush()
                self._done[block] = 1
                self._done.flush()

    def image(self, row: int) -> NDArray[np.uint8] | None:
        """The fitted image (H, W) of a row; None: not there yet."""
        return np.array(self._pixels[row]) if self._done[row] else None


def _mapped(file: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    size = int(np.prod(shape))
    with file.open("ab") as opened:
        if opened.tell() != size:
            opened.truncate(size)
    return np.memmap(file, np.uint8, "r+", shape=shape)
