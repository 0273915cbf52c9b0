"""``sagittal-cxr curate``: a selector over an index; or what a run decided, as a page."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from sagittal_core.encoders import VisionSpec
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.privacy import without_paths
from sagittal_core.run_folder import RunFolder, write_atomically
from sagittal_core.runs import find_run
from sagittal_cxr import (
    lineage,
    registry,  # noqa: F401 - bare class names in YAML
)
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.curation.offline import StoredPairs, curate_pairs
from sagittal_cxr.curation.page import write_page
from sagittal_cxr.curation.pairs import PairEncoder, embed, open_encoder, refused
from sagittal_cxr.curation.selector import Selector

if TYPE_CHECKING:
    from sagittal_cxr.index import RadiographIndex


def curate(
    index: Path | None = None,
    out: Path = Path("outputs/curate"),
    run: Path | None = None,
    selector: Selector | None = None,
    model: str | None = None,
    vision: VisionSpec | None = None,
    text: str = "minilm",
    reference: str | None = None,
    split: Literal["train", "val", "test", "all"] = "train",
    batch_size: int | None = 480,
    passes: int = 1,
    encode_batch: int = 32,
    shard_pairs: int = 512,
    workers: int = 0,
    device: str = "cpu",
    log_images: bool = False,
    seed: int = 0,
) -> None:
    """Decide which pairs of an index to train on, or show what a finished `fit` decided.

    Writes kept.parquet (row, reason), curation/ (every decision, and the selector's state) and
    report.html. The pairs are embedded once, shard by shard: the same command goes on after it was
    killed. With `run`, nothing is decided: the run's own decisions become its
    curation/report.html.

    Args:
        index: folder that `sagittal-cxr index` wrote; for `run` that of its configuration.
        out: folder of the results.
        run: run folder of `fit`, or its prefix without the hash.
        selector: the rule; PrototypeSelector as published by default.
        model: trained image-text model, by run or exported folder; else the two frozen encoders.
        vision: frozen vision encoder; EfficientNet-Lite0 with its sample weights by default.
        text: frozen sentence encoder: a folder, or minilm.
        reference: second trained model, for selectors that compare with one.
        split: which rows.
        batch_size: pairs that the rule sees at a time, as a global batch of training; null: all.
        passes: times that the rule goes over all pairs; decisions are those of the last.
        encode_batch: pairs that an encoder sees at a time.
        shard_pairs: pairs in a shard of embeddings: what a killed run loses at most.
        workers: loading processes.
        device: cpu or cuda.
        log_images: show example images and their texts in the report.
        seed: of the order of pairs and of the examples.

    Raises:
        ConfigError: settings that do not fit together, or embeddings begun with others.
        DataError: an index, a model or a ledger that cannot be used.
    """
    if run is not None:
        _show_run(run, index, log_images, seed)
        return
    if index is None:
        raise ConfigError("curate: give an index, or a run whose decisions are to be shown")
    if min(passes, encode_batch, shard_pairs) < 1 or workers < 0 or batch_size == 0:
        raise ConfigError("curate: passes and sizes from 1, workers from 0")
    start = time.monotonic()
    opened, rule = _open_index(index), selector or _published()
    _expect_reference(rule, reference)
    rows, notes = _rows(opened, split)
    encoder = open_encoder(model, vision, text, device)
    _expect_losses(rule, encoder)
    options: dict[str, Any] = {
        "batch_size": encode_batch,
        "shard_pairs": shard_pairs,
        "workers": workers,
        "watch": _watched,
    }
    store = embed(opened, rows, encoder, out / "embeddings", **options)
    other, other_store = None, None
    if reference is not None:
        other = open_encoder(reference, None, text, device)
        other_store = embed(opened, rows, other, out / "reference", **options)
    bad = refused(out / "embeddings")
    _write_refused(out / "refused.csv", opened, bad)
    pairs = StoredPairs(
        store,
        encoder.image_dim,
        encoder.scale,
        other_store,
        other.image_dim if other else 0,
        other.scale if other else None,
    )
    ledger = _emptied(out / "curation")
    ledger.begin(opened.identity)
    curate_pairs(pairs, rule, ledger, batch=batch_size, passes=passes, seed=seed)
    decisions = ledger.decisions()
    _write_kept(out / "kept.parquet", decisions, opened.identity)
    notes += [f"{len(bad)} images could not be read: refused.csv."] if bad else []
    notes.append(_said(rule, batch_size, passes))
    settings = {"selector": _plain(rule), "split": split, "batch_size": batch_size, "seed": seed}
    figures = write_page(
        out / "report.html",
        opened,
        decisions,
        config=without_paths(settings | {"passes": passes, "encoders": encoder.identity}),
        notes=notes,
        log_images=log_images,
        seed=seed,
    )
    _print(figures, out / "report.html", time.monotonic() - start)


def _show_run(run: Path, index: Path | None, log_images: bool, seed: int) -> None:
    folder = find_run(run)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    ledger = Ledger(folder / "curation")
    if not ledger.steps():
        raise DataError(
            ledger.folder,
            key="decisions-*.parquet",
            expected="decisions of a run with a selector",
            found="none",
            hint=_without_selector(config),
        )
    if index is None:
        named = (config.get("data") or {}).get("init_args", {}).get("index")
        if named is None:
            raise ConfigError(f"curate: {folder} does not say which index it used; give `index`")
        index = Path(named)
    opened = _open_index(index)
    hint = "name the index that the run was trained on with `index`; row numbers mean nothing here"
    ledger.expect(opened.identity, index, hint)
    page = ledger.folder / "report.html"
    shown = {"model": config.get("model"), "data": config.get("data")}
    notes = [f"Decided in training, in {len(ledger.steps())} global batches."]
    if RunFolder(folder).status() != "finished":
        notes.append("The run is not finished: decisions may still be missing.")
    figures = write_page(
        page,
        opened,
        ledger.decisions(),
        config=without_paths(shown),
        notes=notes,
        log_images=log_images,
        seed=seed,
    )
    _print(figures, page, None)


def _without_selector(config: dict[str, Any]) -> str:
    """Why a run has no decisions."""
    model = (config.get("model") or {}).get("init_args") or {}
    if model.get("selector") is None:
        return "the run has no selector: it trained on everything"
    return "the run was stopped before its first decision; its `fit` command goes on"


def _open_index(folder: Path) -> RadiographIndex:
    from sagittal_cxr.index import RadiographIndex

    return RadiographIndex(folder)


def _published() -> Selector:
    from sagittal_cxr.curation.prototypes import PrototypeSelector

    return PrototypeSelector()


def _expect_reference(rule: Selector, reference: str | None) -> None:
    name = type(rule).__name__
    if rule.needs_reference and reference is None:
        raise ConfigError(f"curate: {name} compares with a second model: give `reference`")
    if reference is not None and not rule.needs_reference:
        raise ConfigError(f"curate: {name} does not use a reference")


def _expect_losses(rule: Selector, encoder: PairEncoder) -> None:
    if rule.needs_losses and encoder.scale is None:
        raise ConfigError(
            f"curate: {type(rule).__name__} decides by losses, which need a trained `model`"
        )


def _rows(index: RadiographIndex, split: str) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of a split that have a text, and what to say of the others."""
    frame = index.frame(["split", "text"])
    wanted = np.ones(len(frame), bool) if split == "all" else (frame["split"] == split).to_numpy()
    silent = (frame["text"].str.strip() == "").to_numpy()
    rows = np.flatnonzero(wanted & ~silent).astype(np.int64)
    if not len(rows):
        raise ConfigError(f"curate: no row of the split {split} has a text")
    without = int((wanted & silent).sum())
    return rows, [f"{without} rows without a text were left out."] if without else []


def _watched(shards: list[int]) -> Iterator[int]:
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(shards, "embedding", console=console, transient=True)
        return
    for number, shard in enumerate(shards):
        sys.stderr.write(f"embedding: shard {number + 1} of {len(shards)}\n")
        yield shard


def _write_refused(file: Path, index: RadiographIndex, bad: list[tuple[int, str]]) -> None:
    import csv
    import io

    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["row", "image", "why"])
    table.writerows([row, index.image_path(row), why] for row, why in bad)
    write_atomically(file, text.getvalue())


def _emptied(folder: Path) -> Ledger:
    """A ledger without steps of an earlier command, which may have been other batches."""
    ledger = Ledger(folder)
    for step in ledger.steps():
        (folder / f"decisions-{step:08d}.parquet").unlink()
    return ledger


def _write_kept(file: Path, decisions: Any, index: str) -> None:
    """The kept rows; the index's identity is among the attributes that pandas reads back."""
    kept = decisions[decisions["kept"]].sort_values("row")[["row", "reason"]]
    kept.attrs[lineage.KEY] = index
    temporary = file.with_name(f".{file.name}.tmp")
    kept.to_parquet(temporary, index=False)
    temporary.replace(file)


def _plain(rule: Selector) -> dict[str, Any]:
    """The rule's name and settings."""
    values = {k: v for k, v in vars(rule).items() if isinstance(v, (int, float, str, type(None)))}
    public = {k: v for k, v in values.items() if not k.startswith("_")}
    return {"class_path": type(rule).__name__, **public}


def _said(rule: Selector, batch_size: int | None, passes: int) -> str:
    aim = "with no target share" if rule.ratio is None else f"with the target share {rule.ratio:g}"
    size = "all pairs at once" if batch_size is None else f"batches of {batch_size} pairs"
    return f"{type(rule).__name__} {aim}, over {size}, pass {passes} of {passes}."


def _print(figures: dict[str, float], page: Path, seconds: float | None) -> None:
    took = "" if seconds is None else f" in {seconds:.0f} s"
    print(
        f"kept {figures['kept']:.0f} of {figures['pairs']:.0f} pairs ({figures['share']:.1%}){took}"
    )
    print(
        f"pairs that repeat another: {figures['duplicates']:.0f} of all,"
        f" {figures['duplicates kept']:.0f} of the kept"
    )
    print(f"report: {page}", flush=True)
