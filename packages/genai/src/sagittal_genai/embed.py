"""``sagittal-genai embed``: a folder of slices in, an embedding store (and its twin's) out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import RichProgressBar

from sagittal_core.encoders import VisionEncoder, VisionSpec, load_vision
from sagittal_core.encoders.vision import DTYPES
from sagittal_core.errors import ConfigError
from sagittal_core.store import ShardWriter
from sagittal_genai.embedding.overview import finish_store
from sagittal_genai.embedding.plan import measure, print_plan, write_plan
from sagittal_genai.embedding.predict import EmbedSlices, Lines
from sagittal_genai.embedding.source import Slices
from sagittal_genai.slices import SliceFolder


def embed(
    slices: Path,
    out: Path = Path("outputs/embeddings"),
    encoder: VisionSpec | None = None,
    what: Literal["pooled", "tokens"] = "pooled",
    background: Literal["drop", "keep"] = "drop",
    random_twin: bool = False,
    twin_seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float16",
    batch_size: int = 32,
    shard_slices: int = 512,
    workers: int = 0,
    trainer: dict[str, Any] | None = None,
    plan: int | None = None,
    plan_results: Path | None = None,
) -> None:
    """Encode slices with a vision encoder into an embedding store.

    The same command goes on after it was stopped. Pictures that cannot be read are listed in the
    store's refused.csv and counted in its report.html.

    Args:
        slices: the folder that `sagittal-genai slice` wrote.
        out: the store; a random twin's lies beside it, with -random after its name.
        encoder: which; EfficientNet-Lite0 with its sample weights by default.
        what: pooled, one row a slice; or tokens, one row a patch with the organs in it.
        background: drop or keep the tokens of patches that have one grey value only.
        random_twin: also write a second store, of the same network with weights drawn anew.
        twin_seed: decides the twin's weights.
        dtype: float32, float16 or bfloat16, of the stored rows.
        batch_size: slices at a time.
        shard_slices: slices in a shard: what a stopped run loses at most.
        workers: loading processes of each rank.
        trainer: options of lightning.Trainer, such as accelerator, devices, strategy, num_nodes.
        plan: write nothing; measure the rate on some slices and print bytes, shards and hours of a
            store of so many rows.
        plan_results: file for the plan's figures.

    Raises:
        ConfigError: settings that do not fit, or a store begun with others.
        DataError: a slice folder or weights that cannot be used.
    """
    if batch_size < 1 or shard_slices < 1 or workers < 0:
        raise ConfigError("embed: batch_size and shard_slices from 1, workers from 0")
    start = time.monotonic()
    source = Slices(SliceFolder(slices), shard_slices)
    spec = encoder or VisionSpec()
    encoders = [load_vision(spec)]
    if random_twin:
        encoders.append(load_vision(spec, twin_seed=twin_seed))
    stores = [out, out.with_name(f"{out.name}-random")][: len(encoders)]
    tokens, drop = what == "tokens", background == "drop"

    def open_writers() -> list[ShardWriter]:
        rule = {"what": what} | ({"background": background} if tokens else {})
        return [
            ShardWriter(
                store,
                dim=one.dim,
                dtype=DTYPES[dtype],
                shards=source.shards,
                identity={**one.identity, **rule, **source.identity()},
            )
            for store, one in zip(stores, encoders, strict=True)
        ]

    module = EmbedSlices(
        encoders,
        source,
        open_writers,
        tokens=tokens,
        drop_background=drop,
        batch_size=batch_size,
        workers=workers,
    )
    if plan is not None:
        load = measure(module, _trainer(trainer))
        print_plan(load, plan, shard_slices)
        if plan_results is not None:
            write_plan(plan_results, load, plan, shard_slices)
        return
    _predict(module, _trainer(trainer), stores, encoders, start)


def _trainer(options: dict[str, Any] | None) -> lightning.Trainer:
    bar = RichProgressBar() if sys.stdout.isatty() else Lines()
    fixed: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "enable_progress_bar": sys.stdout.isatty(),
        "callbacks": [bar],
    }
    given = {"devices": 1, **(options or {})}
    for key in given:
        if key in fixed:
            raise ConfigError(f"embed: trainer.{key} is set by embed itself")
    try:
        return lightning.Trainer(**given, **fixed)
    except (
        TypeError,
        ValueError,
        lightning.pytorch.utilities.exceptions.MisconfigurationException,
    ) as error:
        raise ConfigError(f"embed: trainer: {error}") from None


def _predict(
    module: EmbedSlices,
    trainer: lightning.Trainer,
    stores: Sequence[Path],
    encoders: Sequence[VisionEncoder],
    start: float,
) -> None:
    trainer.predict(module, return_predictions=False)
    trainer.strategy.barrier("embedded")
    if not trainer.is_global_zero:
        return
    seconds = time.monotonic() - start
    for store, encoder in zip(stores, encoders, strict=True):
        account = finish_store(store, encoder.identity)
        print(
            f"{store}: {account.rows} rows of {account.slices} slices,"
            f" {account.background} background patches left out, {account.refused} refused",
            flush=True,
        )
    if module.written_slices:
        print(
            f"{seconds:.0f} s: {module.written_slices / seconds:.1f} slices/s and"
            f" {module.written_rows / seconds:.1f} rows/s of each of {len(stores)} encoder(s),"
            " loading of weights included, on rank 0 of "
            f"{trainer.world_size}",
            flush=True,
        )
