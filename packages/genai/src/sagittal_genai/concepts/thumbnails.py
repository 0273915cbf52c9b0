"""Small pictures of rows, ready to be embedded or shown to a model."""

from __future__ import annotations

import base64
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from sagittal_core.errors import DataError
from sagittal_genai.slices import SliceFolder

if TYPE_CHECKING:
    import pandas

_BOX = (255, 176, 0)


class Pictures:
    """Images of the rows of an index, from a slice folder.

    Args:
        folder: What ``slice`` wrote.
        index: With ``image``; for rows of tokens also ``token``, ``grid_h`` and ``grid_w``.

    Raises:
        DataError: It is no complete slice folder.
    """

    def __init__(self, folder: Path, index: pandas.DataFrame) -> None:
        self.folder = SliceFolder(folder)
        self._names = index["image"].astype(str).to_numpy()
        grid = ("token", "grid_h", "grid_w")
        self._grid = index[list(grid)].to_numpy() if set(grid) <= set(index.columns) else None

    def image(self, row: int, size: int) -> Image.Image:
        """RGB, its longer side ``size`` pixels; a token's place is marked.

        Raises:
            DataError: There is no such picture, or it cannot be read.
        """
        name = PurePosixPath(self._names[row])
        if name.is_absolute() or ".." in name.parts:
            raise DataError(
                self.folder.folder, key="image", expected="names inside the folder", found=str(name)
            )
        picture = Image.fromarray(self.folder.image({"image": str(name)})).convert("RGB")
        share = size / max(picture.size)
        fitted = tuple(max(1, round(side * share)) for side in picture.size)
        picture = picture.resize((fitted[0], fitted[1]), Image.Resampling.LANCZOS)
        box = self.box(row, picture.size)
        if box:
            ImageDraw.Draw(picture).rectangle(box, outline=_BOX, width=max(1, size // 72))
        return picture

    def box(self, row: int, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom of a token in a picture of this width and height, or None."""
        if self._grid is None or int(self._grid[row][0]) < 0:
            return None
        token, rows, columns = (int(v) for v in self._grid[row])
        down, across = divmod(token, columns)
        width, height = size[0] / columns, size[1] / rows
        left, top = across * width, down * height
        return left, top, left + width - 1, top + height - 1

    def png(self, row: int, size: int = 448) -> bytes:
        """A PNG file."""
        buffer = io.BytesIO()
        self.image(row, size).save(buffer, "PNG")
        return buffer.getvalue()

    def data_uri(self, row: int, size: int) -> str:
        """A JPEG as a ``data:`` address."""
        buffer = io.BytesIO()
        self.image(row, size).save(buffer, "JPEG", quality=82, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
