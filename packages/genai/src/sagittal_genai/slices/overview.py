"""report.html of a slice folder: how the pictures look, and how many there are of what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.privacy import without_paths
from sagittal_core.report import Report, mosaic
from sagittal_core.seeds import counter_seed
from sagittal_genai.slices.folder import SliceFolder

if TYPE_CHECKING:
    import pandas

_ACROSS = 6  # pictures in a row
_SCANS = 8  # rows a table of pictures


def write_overview(
    folder: Path,
    accounts: Sequence[dict[str, Any]],
    refused: int,
    config: dict[str, Any],
    seed: int,
) -> Path:
    """Write ``report.html`` into a complete folder; it shows patients' images, so it stays there.

    Args:
        folder: of the slices.
        accounts: what happened to each scan.
        refused: scans that could not be used.
        config: of the command; paths are left out.
        seed: of the choice of pictures.
    """
    slices = SliceFolder(folder)
    index = slices.index()
    report = Report("Slices")
    subjects = index["subject"].nunique()
    report.text(
        f"{len(index)} slices of {index['scan'].nunique()} scans of {subjects} subjects;"
        f" {refused} scans refused (refused.csv says why)."
    )
    for text in _notes(accounts):
        report.text(text)
    # A missing orientation (radiographs) is a group of its own.
    groups = index.groupby(["modality", "orientation"], dropna=False, sort=True)
    for (modality, orientation), rows in groups:
        name = f"{modality} {orientation if isinstance(orientation, str) else 'radiographs'}"
        report.picture(name, *_panel(slices, rows, seed))
    _tables(report, index)
    report.config(without_paths(config))
    return report.write(folder / "report.html")


def _panel(slices: SliceFolder, rows: pandas.DataFrame, seed: int) -> tuple[Any, str]:
    """Evenly spaced slices of some scans, outlines of their labels drawn in white."""
    if rows["orientation"].isna().all():
        order = sorted(rows.index, key=lambda i: counter_seed(seed, "shown", str(rows["scan"][i])))
        chosen = order[: _ACROSS * 4]
        chosen = chosen[: len(chosen) // _ACROSS * _ACROSS] or chosen
        width = min(_ACROSS, len(chosen))
        lines = [chosen[i : i + width] for i in range(0, len(chosen), width)]
        caption = f"{len(chosen)} of {len(rows)}, drawn at random"
    else:
        scans = sorted(rows["scan"].unique(), key=lambda s: counter_seed(seed, "shown", str(s)))
        lines = []
        for scan in scans[:_SCANS]:
            mine = rows.index[rows["scan"] == scan]
            places = np.linspace(0, len(mine) - 1, _ACROSS + 2)[1:-1]
            lines.append([mine[round(float(p))] for p in places])
        caption = f"{len(lines)} of {len(scans)} scans, one a row; masks are outlined in white"
    images = [[outlined(slices, rows.loc[i]) for i in line] for line in lines]
    return mosaic(images, window=(0, 255), tile=150), caption


def outlined(slices: SliceFolder, row: Any) -> NDArray[np.uint8]:
    """A picture with the borders of its labels in white."""
    image, labels = slices.image(row).copy(), slices.label(row)
    if labels is not None:
        edge = np.zeros(labels.shape, bool)
        edge[:-1] |= labels[:-1] != labels[1:]
        edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        image[edge] = 255
    return image


def _tables(report: Report, index: pandas.DataFrame) -> None:
    for unit in ("slices", "subjects"):
        counts = []
        for (modality, orientation), rows in index.groupby(
            ["modality", index["orientation"].fillna("-")], sort=True
        ):
            split = rows["split"] if unit == "slices" else rows.groupby("subject")["split"].first()
            each = split.value_counts()
            counts.append(
                [modality, orientation, *(int(each.get(s, 0)) for s in ("train", "val", "test"))]
            )
        report.table(unit, ["modality", "orientation", "train", "val", "test"], counts)
    for column in ("organs", "findings"):
        lists = [names for names in index[column] if names is not None]
        if lists:
            each = Counter(name for names in lists for name in names)
            report.table(
                column,
                ["name", "slices"],
                [[name, count] for name, count in each.most_common()],
                f"of {len(lists)} slices for which they are known",
            )


def _notes(accounts: Sequence[dict[str, Any]]) -> list[str]:
    out = []
    if dropped := sum(a["dropped"] for a in accounts):
        out.append(f"{dropped} slices before the first or after the last with content left out.")
    if moved := [a for a in accounts if a["masks_resampled"]]:
        out.append(f"Masks of {len(moved)} scans lay on another grid: taken at the nearest voxel.")
    if empty := sum(a["masks_empty"] for a in accounts):
        out.append(f"All masks of {empty} scans are empty: their organs count as unknown.")
    noted = Counter(note for a in accounts for note in a["notes"])
    out += [f"{count} scans: {note}." for note, count in noted.most_common(20)]
    return out
