"""An index of drawn radiographs with bright squares, masks of them, and reports that say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
from PIL import Image

SIDE = 28
NOTHING = "no pleural effusion ."
LEFT = "large left pleural effusion ."
RIGHT = "cardiomegaly is present ."


def write_index(
    folder: Path, patients: int = 12, images: int = 2, broken: bool = False, source: str = "report"
) -> Path:
    """Pictures with one bright square each, the mask; every fourth has none, nor a mask.

    The report says which: no effusion, one on the left, or an enlarged heart.
    """
    rng, rows = np.random.default_rng(0), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(patients * images):
        grey = rng.normal(60, 8, (SIDE, SIDE))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        empty, text = number % 4 == 3, NOTHING
        if not empty:
            top, left = 7 * rng.integers(0, 3, 2)
            text = LEFT if left == 0 else RIGHT
            mask[top : top + 14, left : left + 14] = 255
        grey[mask > 0] += 130
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"images/{number}.png")
        if broken:
            mask = mask[:20]
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
        rows.append(
            {
                "dataset": "drawn",
                "image": f"images/{number}.png",
                "patient": f"drawn/secret-{number // images}",
                "study": str(number),
                "view": "PA",
                "split": ("train", "train", "val", "test")[number // images % 4],
                "sex": None,
                "age": float("nan"),
                "findings": text,
                "impression": None,
                "text": text,
                "text_source": source,
                "positive": [] if empty else ["Pneumothorax"],
                "negative": ["Pneumothorax"] if empty else [],
                "uncertain": [],
                "boxes": [],
                "mask": None if empty else f"file:masks/{number}.png",
                "width": SIDE,
                "height": SIDE,
                "duplicate_of": -1,
            }
        )
    pandas.DataFrame(rows).to_parquet(folder / "rows-00000.parquet", index=False)
    described = {
        "version": 1,
        "identity": "0" * 64,
        "sections": {},
        "datasets": [{"name": "drawn", "root": str(folder)}],
        "counts": {"rows": len(rows), "files": 1, "labels": {"Pneumothorax": len(rows)}},
    }
    (folder / "index.json").write_text(json.dumps(described))
    return folder
