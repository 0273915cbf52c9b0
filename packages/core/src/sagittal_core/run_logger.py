"""The logger of every run folder: a table of metrics, and the latest pictures as PNG files."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sagittal_core.run_folder import write_atomically

Picture = NDArray[np.uint8] | Image.Image


def log_picture(module: LightningModule, name: str, picture: Picture, caption: str) -> None:
    """Hand a picture to the run folder and to every other logger that takes pictures.

    The latest picture of each name stands in the run's ``report.html``. Pictures may show patients:
    call this for user data only if the user asked for it (``log_images: true``).

    Args:
        module: The module that made it, inside a run; without loggers nothing happens.
        name: Such as ``"val/panel"``.
        picture: A Pillow image or uint8 pixels, ``(H, W)`` or ``(H, W, 3)``.
        caption: What the reader sees. No patient identifiers.
    """
    for logger in module.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [picture], step=module.global_step, caption=[caption])


class RunLogger(Logger):
    """Writes metrics to a CSV file, row by row, and pictures to ``pictures/`` beside it.

    Args:
        file: The CSV file. A resumed run keeps its earlier rows.
        first_step: Rows of an existing file at or after this step are dropped: they were written
            after the checkpoint that is resumed from, and their steps run again.
    """

    def __init__(self, file: Path, first_step: int) -> None:
        super().__init__()
        self.file = file
        self._first_step = first_step
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """Empty: a run folder has one version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.file.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` beside the table holds them."""

    @rank_zero_only
    def log_image(
        self, key: str, images: Sequence[Picture], *, step: int | None, caption: Sequence[str]
    ) -> None:
        """Keep the picture in place of the last one of this name, if there was one."""
        (picture,), (text,) = images, caption
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        notes = PngInfo()
        notes.add_itxt("Title", key)
        notes.add_itxt("Description", text)
        folder = self.file.parent / "pictures"
        folder.mkdir(exist_ok=True)
        target = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', key)}.png"
        temporary = folder / f".{target.name}.{os.getpid()}.tmp"
        image.save(temporary, "PNG", pnginfo=notes)
        temporary.replace(target)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        row = {"step": -1 if step is None else step, **{k: float(v) for k, v in metrics.items()}}
        if self._columns is None:
            self._columns = []
            self._rewrite(self._columns, self._earlier())
        if new := [key for key in row if key not in self._columns]:
            rows = read_metrics(self.file)
            self._columns += new
            self._rewrite(self._columns, rows)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _earlier(self) -> list[dict[str, str]]:
        rows = [row for row in read_metrics(self.file) if int(row["step"]) < self._first_step]
        assert self._columns is not None
        for row in rows:
            self._columns += [key for key in row if key not in self._columns]
        return rows

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.file, text.getvalue())


def read_metrics(file: Path) -> list[dict[str, str]]:
    """Return the rows of a metrics table as text; none if there is no file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))
