"""What a finished store says of itself: refused.csv, counts, report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagittal_core.privacy import without_paths
from sagittal_core.report import Report
from sagittal_core.run_folder import write_atomically
from sagittal_core.store import EmbeddingStore
from sagittal_genai.embedding.predict import account_file

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_SHOWN = 2000  # rows in the picture
_GROUPS = ("modality", "orientation", "view", "split")


@dataclass(frozen=True)
class Account:
    """What became of the slices."""

    slices: int
    rows: int
    background: int
    refused: int
    seconds: float  # of encoding, summed over processes; two encoders share them
    encoders: int


def finish_store(folder: Path, identity: Mapping[str, Any]) -> Account:
    """Write refused.csv and report.html of a complete store.

    Args:
        folder: The store.
        identity: Of its encoder, shown in the report.

    Returns:
        The counts.
    """
    store = EmbeddingStore(folder)
    parts = [
        json.loads(account_file(folder, number).read_text(encoding="utf-8"))
        for number in range(int(store.description["shards"]))
    ]
    refused = [entry for part in parts for entry in part["refused"]]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("image", "reason"), *refused])
    write_atomically(folder / "refused.csv", text.getvalue())
    account = Account(
        slices=sum(part["slices"] for part in parts),
        rows=len(store),
        background=sum(part["background"] for part in parts),
        refused=len(refused),
        seconds=sum(part["seconds"] for part in parts),
        encoders=max(part["encoders"] for part in parts),
    )
    _report(store, account, identity).write(folder / "report.html")
    return account


def _report(store: EmbeddingStore, account: Account, identity: Mapping[str, Any]) -> Report:
    index = store.index()
    twin = identity.get("twin_seed")
    report = Report("Embeddings of a random twin" if twin is not None else "Embeddings")
    report.text(
        f"{account.rows} rows of width {store.dim}, stored as {store.description['dtype']}, from"
        f" {account.slices} slices; {account.background} patches without content were left out and"
        f" {account.refused} pictures refused (refused.csv lists them)."
    )
    if account.seconds:
        report.text(
            f"Encoding took {account.seconds:.0f} s of a process, {account.encoders} encoder(s) on"
            f" each slice: {account.slices / account.seconds:.1f} slices/s and"
            f" {account.rows / account.seconds:.1f} rows/s of each."
        )
    if len(index):
        report.picture(*_picture(store, index))
        for column in _GROUPS:
            if column in index and index[column].notna().any():
                _tabulate(report, index, column)
    report.config(without_paths({"store": store.description}))
    return report


def _tabulate(report: Report, index: pandas.DataFrame, column: str) -> None:
    rows = [
        [str(value), len(part), part["image"].nunique(), part["subject"].nunique()]
        for value, part in index.groupby(column, sort=True)
    ]
    report.table(f"by {column}", [column, "rows", "slices", "subjects"], rows)


def _picture(store: EmbeddingStore, index: pandas.DataFrame) -> tuple[str, Figure, str]:
    """Rows along their first two principal components."""
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(store) - 1, _SHOWN).astype(np.int64))
    values = store.rows(chosen).double()
    values = values - values.mean(0)
    # Of the covariance: a few hundred to a few thousand columns at most.
    spread, axes = np.linalg.eigh((values.T @ values).numpy())
    places = values.numpy() @ axes[:, ::-1][:, :2]
    share = spread[::-1][:2] / max(float(spread.sum()), 1e-30)
    column = next((c for c in _GROUPS if c in index and index[c].nunique() > 1), "split")
    groups = index[column].iloc[chosen].astype(str).to_numpy()
    figure = Figure(figsize=(6.5, 5))
    axis = figure.subplots()
    for group in np.unique(groups):
        inside = groups == group
        axis.scatter(places[inside, 0], places[inside, 1], s=6, alpha=0.6, label=group)
    axis.set_xlabel(f"first component ({share[0]:.0%} of variance)")
    axis.set_ylabel(f"second component ({share[1]:.0%})")
    axis.legend(title=column, markerscale=2)
    return "principal components", figure, f"of {len(chosen)} rows, evenly spaced in the store"
