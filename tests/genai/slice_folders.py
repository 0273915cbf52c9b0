"""Small slice folders as ``sagittal-genai slice`` leaves them, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow

from sagittal_genai.slices.folder import FolderWriter, merge_indices

CLASSES = {1: "liver", 2: "spleen", 7: "heart"}
SPLITS = ("train", "val", "test")


def write_slices(folder: Path, scans: int = 3, slices: int = 4, size: int = 64) -> Path:
    """Scans of round bright things on black; the last scan has no masks."""
    writer = FolderWriter(folder, {"made": "test", "size": size}, CLASSES)
    rows, columns = np.mgrid[:size, :size] / size
    names = [f"scan{number}" for number in range(scans)]
    for number, scan in enumerate(names):
        generator = np.random.default_rng(number)
        images, organs = [], []
        for place in range(slices):
            y, x = generator.uniform(0.3, 0.7, 2)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < 0.06
            texture = generator.integers(60, 255, (size, size))
            labels = np.where(inside, np.where(columns < x, 1, 2), 0).astype(np.uint8)
            picture = np.where(inside, texture, 0).astype(np.uint8)
            images.append(writer.picture("images", scan, f"axial-{place:04d}", picture))
            if number < scans - 1:
                writer.picture("labels", scan, f"axial-{place:04d}", labels)
                organs.append(["liver", "spleen"])
            else:
                organs.append(None)
        lists = pyarrow.list_(pyarrow.string())
        table = pyarrow.table(
            {
                "image": images,
                "scan": [scan] * slices,
                "subject": [scan] * slices,
                "split": [SPLITS[number % 3]] * slices,
                "modality": ["CT"] * slices,
                "orientation": ["axial"] * slices,
                "slice": pyarrow.array(range(slices), pyarrow.int32()),
                "organs": pyarrow.array(organs, lists),
                "findings": pyarrow.array([None] * slices, lists),
                "age": [40 + number] * slices,
            }
        )
        writer.finish(scan, table)
    merge_indices(folder, names)
    writer.describe(scans=scans, slices=scans * slices)
    return folder
