"""The page of a curation: what was kept, what was dropped and why, and what that does to the tail.

Pictures and texts of patients are on it only if that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagittal_core.errors import DataError
from sagittal_core.report import Report, mosaic
from sagittal_core.seeds import counter_seed
from sagittal_cxr import lineage
from sagittal_cxr.curation.summary import (
    Prevalence,
    by_column,
    by_reason,
    latest,
    prevalences,
    redundant,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from sagittal_cxr.index import RadiographIndex

_COLUMNS = ["dataset", "view", "patient", "positive", "duplicate_of"]
_TILE = 160
_SHOWN = 6  # examples of each reason
_LONG = 400  # characters of a text shown


def write_page(
    file: Path,
    index: RadiographIndex,
    decisions: pandas.DataFrame,
    *,
    config: Mapping[str, Any],
    notes: Sequence[str] = (),
    log_images: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Write the page.

    Args:
        file: The HTML file.
        index: What the rows are rows of.
        decisions: Of the curation, as the ledger keeps them.
        config: Shown at the end; without paths.
        notes: Paragraphs shown first, after the summary.
        log_images: Show example images with their texts.
        seed: Of the examples and the resampling.

    Returns:
        The figures of its first lines by name.

    Raises:
        DataError: If there are no decisions, or they are of rows that the index does not have.
    """
    decided = latest(decisions)
    frame = index.frame(_COLUMNS)
    rows = decided["row"].to_numpy()
    if not len(rows) or rows[0] < 0 or rows[-1] >= len(frame):
        there = f"rows {rows[0]} to {rows[-1]}" if len(rows) else "none"
        raise DataError(
            file.parent,
            key="decisions",
            expected=f"decisions over rows 0 to {len(frame) - 1} of the index",
            found=there,
        )
    mine, kept = frame.iloc[rows], decided["kept"].to_numpy(bool)
    report = Report("What curation kept")
    figures = _summary(report, decided, mine, kept)
    for note in notes:
        report.text(note)
    report.text(f"Rows are those of the index {lineage.shown(index.identity)}.")
    found = prevalences(mine["positive"].tolist(), kept, mine["patient"].tolist(), seed=seed)
    if found and kept.any():
        report.picture(
            "prevalence among kept pairs, relative to all",
            draw_prevalences(found),
            "Right of 1: more common among what was kept. Bars: 95 % bootstrap over patients; none"
            " where fewer than five patients have the finding, or do not.",
        )
    if log_images:
        _examples(report, index, decided, seed)
    _tables(report, decided, mine, kept, found)
    report.config(config)
    report.write(file)
    return figures


def draw_prevalences(found: Sequence[Prevalence]) -> Figure:
    """A point and its interval for each finding, the rarest at the top."""
    from matplotlib.figure import Figure

    known = [one for one in found if np.isfinite(one.ratio)]
    figure = Figure(figsize=(6.4, 0.8 + 0.28 * len(known)), layout="constrained")
    axis = figure.subplots()
    for place, one in enumerate(reversed(known)):
        if one.low is not None and one.high is not None:
            axis.plot([one.low, one.high], [place, place], color="0.6", linewidth=3)
        axis.plot(one.ratio, place, "o", color="C0", markersize=5)
    axis.axvline(1.0, color="0.3", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(known)), [f"{o.name}, n = {o.positives}" for o in reversed(known)])
    axis.set_xlabel("share among kept / share among all")
    _, right = axis.get_xlim()
    axis.set_xlim(-0.02 * right, right)  # a point at 0 is seen whole
    return figure


def _summary(
    report: Report, decided: pandas.DataFrame, mine: pandas.DataFrame, kept: NDArray[np.bool_]
) -> dict[str, float]:
    copies, copies_kept = redundant(_groups(decided["row"].to_numpy(), mine), kept)
    figures = {
        "pairs": float(len(kept)),
        "kept": float(kept.sum()),
        "share": float(kept.mean()),
        "duplicates": float(copies),
        "duplicates kept": float(copies_kept),
    }
    patients = mine["patient"].nunique()
    report.text(
        f"{int(kept.sum())} of {len(kept)} pairs kept ({kept.mean():.1%}), of"
        f" {mine['patient'][kept].nunique()} of {patients} patients."
    )
    report.text(
        f"{copies} pairs repeat the pixels or the text of another one ({copies / len(kept):.1%});"
        f" {copies_kept} of the kept ones do ({copies_kept / max(1, kept.sum()):.1%})."
    )
    return figures


def _groups(rows: NDArray[np.int64], mine: pandas.DataFrame) -> NDArray[np.int64]:
    """The same number for pairs that are duplicates of each other."""
    first = mine["duplicate_of"].to_numpy()
    return np.where(first >= 0, first, rows)


def _tables(
    report: Report,
    decided: pandas.DataFrame,
    mine: pandas.DataFrame,
    kept: NDArray[np.bool_],
    found: Sequence[Prevalence],
) -> None:
    report.table(
        "reasons",
        ["reason", "kept", "pairs", "share of all"],
        [[why, "yes" if k else "no", n, f"{share:.1%}"] for why, k, n, share in by_reason(decided)],
        "Of the last decision over each pair, or the last that kept it.",
    )
    rows = []
    for one in found:
        ends = "" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]"
        share_kept = f"{one.share_kept:.1%}" if np.isfinite(one.share_kept) else "none kept"
        ratio = f"{one.ratio:.2f}{ends}" if np.isfinite(one.ratio) else ""
        rows.append([one.name, one.positives, one.kept, f"{one.share:.1%}", share_kept, ratio])
    if rows:
        report.table(
            "findings",
            ["finding", "pairs", "kept", "share of all", "share of kept", "ratio [95 %]"],
            rows,
            f"Positive labels, the rarest first; intervals over {mine['patient'].nunique()}"
            " patients, none where fewer than five of them have the finding, or do not.",
        )
    for column, title in (("dataset", "data sets"), ("view", "views")):
        counts = by_column(mine[column].tolist(), kept)
        cells = [[name, n, k, f"{k / n:.1%}"] for name, n, k in counts]
        report.table(title, [column, "pairs", "kept", "share kept"], cells)


def _examples(report: Report, index: RadiographIndex, decided: pandas.DataFrame, seed: int) -> None:
    """Some pairs of each reason: a row of images, and their texts in a table."""
    texts = index.frame(["text"])["text"]
    lines = []
    for reason, kept, count, _ in by_reason(decided):
        members = decided["row"][(decided["reason"] == reason) & (decided["kept"] == kept)]
        drawn = sorted(members, key=lambda row: counter_seed(seed, "example", int(row)))[:_SHOWN]
        tiles, titles = [], []
        for row in drawn:
            image = _thumbnail(index, int(row))
            if image is not None:
                tiles.append(image)
                titles.append(f"row {row}")
        if tiles:
            verdict = "kept" if kept else "dropped"
            report.picture(
                f"{reason} ({verdict})",
                mosaic([tiles], titles, window=(0.0, 255.0), tile=_TILE),
                f"{len(tiles)} of {count} pairs, drawn at random.",
            )
        lines += [[reason, int(row), str(texts[row])[:_LONG]] for row in drawn]
    report.table("texts of the examples", ["reason", "row", "text"], lines)


def _thumbnail(index: RadiographIndex, row: int) -> NDArray[np.uint8] | None:
    """A square picture on black; None: the file cannot be read any more."""
    from sagittal_cxr.images import load_grey

    try:
        picture = Image.fromarray(load_grey(index.image_path(row)))
    except DataError:
        return None
    picture.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    page = Image.new("L", (_TILE, _TILE))
    page.paste(picture, ((_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
    return np.asarray(page)
