"""Predictions of single images on disk: row numbers of the index, never a patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from sagittal_core.errors import DataError

ITEMS = "items.parquet"

Part = tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]


def write_items(
    folder: Path, rows: NDArray[np.int64], labels: Sequence[str], parts: Sequence[Part]
) -> None:
    """Write scores for findings as one line an image and finding.

    Args:
        folder: Of the cell.
        rows: (n,) row numbers.
        labels: C findings.
        parts: Variants (a prompt family, say): name, (n, C) truth with NaN for what does not count,
            (n, C) scores, and (n, C) probabilities or None.
    """
    frames = []
    for variant, truth, scores, likely in parts:
        n, count = truth.shape
        columns: dict[str, Any] = {
            "row": np.repeat(rows, count),
            "label": pandas.Categorical(list(labels) * n),
            "truth": truth.ravel().astype(np.float32),
            "score": scores.ravel(),
            "probability": np.nan if likely is None else likely.ravel(),
        }
        frames.append(pandas.DataFrame(columns).assign(variant=variant))
    write_frame(folder, pandas.concat(frames, ignore_index=True))


def write_frame(folder: Path, frame: pandas.DataFrame) -> None:
    """Write ``items.parquet`` of a cell, the old or the new one at any moment."""
    file = folder / ITEMS
    temporary = file.with_name(f".{file.name}.tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(file)


def read_items(folder: Path) -> pandas.DataFrame | None:
    """Items of a cell; None if its task keeps none.

    Raises:
        DataError: The file is damaged.
    """
    file = folder / ITEMS
    if not file.is_file():
        return None
    try:
        return pandas.read_parquet(file)
    except (OSError, ValueError) as error:
        raise DataError(
            file,
            key="(file)",
            expected="a parquet table",
            found=str(error)[:200],
            hint="remove this cell's folder and run the same command again",
        ) from None
