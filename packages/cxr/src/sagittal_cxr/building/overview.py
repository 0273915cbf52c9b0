"""report.html of an index: how many there are of what, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sagittal_core.privacy import without_paths
from sagittal_core.report import Report, mosaic
from sagittal_core.seeds import counter_seed
from sagittal_cxr.building.settings import Refusal
from sagittal_cxr.building.splits import SPLITS
from sagittal_cxr.images import load_grey
from sagittal_cxr.index import RadiographIndex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 24  # sample pictures
_ACROSS = 6
_SIDE = 224


def write_overview(
    index: RadiographIndex,
    refused: Sequence[Refusal],
    notes: Sequence[Refusal],
    settings: Mapping[str, Any],
    seed: int,
    pictures: bool,
) -> Path:
    """Write ``report.html`` of a finished index; it names no patient and no file.

    Args:
        index: to describe.
        refused: what is not in it.
        notes: what is, but should be looked at.
        settings: of the command; paths are left out.
        seed: of the choice of pictures.
        pictures: whether to show some.
    """
    counts = index.description["counts"]
    report = Report("Index of radiographs")
    report.text(
        f"{counts['rows']:,} radiographs of {counts['patients']:,} patients in"
        f" {len(counts['splits'])} data sets; {len(refused):,} rows refused (refused.csv says why)."
    )
    for text in _sentences(counts, notes):
        report.text(text)
    if pictures:
        report.picture("samples", *_samples(index, seed))
    if counts["labels"]:
        report.picture("findings", _prevalence(counts), "rows with each, most frequent first")
    _tables(report, counts, refused)
    report.config(without_paths(settings))
    return report.write(index.folder / "report.html")


def _sentences(counts: Mapping[str, Any], notes: Sequence[Refusal]) -> list[str]:
    out = []
    for kind, number in Counter(note.why for note in notes).most_common():
        out.append(
            f"Pictures noted as '{kind}': {number:,} (notes.csv lists them). Nothing was changed;"
            " look at them."
        )
    if counts["duplicates"]:
        out.append(
            f"Rows that are the same as an earlier one: {counts['duplicates']:,}, of which"
            f" {counts['duplicates_across_splits']:,} in another split than it."
        )
    return out


def _tables(report: Report, counts: Mapping[str, Any], refused: Sequence[Refusal]) -> None:
    rows: list[list[Any]] = []
    for name, splits in counts["splits"].items():
        for unit in ("rows", "patients"):
            rows.append([name, unit, *(splits.get(s, {}).get(unit, 0) for s in SPLITS)])
    report.table("splits", ["data set", "of", *SPLITS], rows)
    for title, key in (("views", "views"), ("texts", "text_sources")):
        pairs = [
            [name, value, number]
            for name, values in counts[key].items()
            for value, number in values.items()
        ]
        report.table(title, ["data set", title[:-1], "rows"], pairs)
    labels = sorted(counts["labels"].items(), key=lambda pair: (-pair[1]["positive"], pair[0]))
    if labels:
        rows = [
            [name, n["positive"], n["negative"], n["uncertain"], _share(n["positive"], counts)]
            for name, n in labels
        ]
        columns = ["finding", "present", "absent", "uncertain", "present, % of all rows"]
        caption = "rows in none of the three were not judged"
        report.table("findings", columns, rows, caption)
    kinds = Counter((r.dataset, r.why.partition(":")[0]) for r in refused)
    if kinds:
        rows = [[name, kind, number] for (name, kind), number in kinds.most_common()]
        report.table("refused", ["data set", "why", "rows"], rows)


def _share(number: int, counts: Mapping[str, Any]) -> str:
    return f"{100 * number / counts['rows']:.2g}"


def _prevalence(counts: Mapping[str, Any]) -> Figure:
    """Rows with each finding on a logarithmic axis: the tail is what one has to know of."""
    from matplotlib.figure import Figure

    values = sorted((n["positive"] for n in counts["labels"].values()), reverse=True)
    names = sorted(counts["labels"], key=lambda n: (-counts["labels"][n]["positive"], n))
    few = len(names) <= 40
    figure = Figure(figsize=(8, 4.5 if few else 3.5), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(values)), [max(v, 0.5) for v in values], color="#35618f", width=0.8)
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.5)
    axis.set_ylabel("rows")
    axis.set_xlabel("" if few else f"{len(names)} findings by rank")
    if few:
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize="small")
    return figure


def _samples(index: RadiographIndex, seed: int) -> tuple[Image.Image, str]:
    frame = index.frame(["dataset", "image"])
    keys = zip(frame["dataset"], frame["image"], strict=True)
    order = np.argsort([counter_seed(seed, "shown", d, i) for d, i in keys], kind="stable")
    chosen = [int(row) for row in order[:_SHOWN]]
    chosen = chosen[: len(chosen) // _ACROSS * _ACROSS] or chosen
    tiles = []
    for row in chosen:
        picture = Image.fromarray(load_grey(index.image_path(row)))
        picture.thumbnail((_SIDE, _SIDE))
        square = Image.new("L", (_SIDE, _SIDE))
        square.paste(picture, ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2))
        tiles.append(np.asarray(square))
    width = min(_ACROSS, len(tiles))
    lines = [tiles[i : i + width] for i in range(0, len(tiles), width)]
    return mosaic(lines, window=(0, 255), tile=150), f"{len(chosen)} drawn at random"
