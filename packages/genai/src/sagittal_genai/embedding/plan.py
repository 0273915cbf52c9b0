"""What a large store costs, computed from a measured rate."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import io
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sagittal_core.encoders.vision import DTYPES
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.privacy import command_line
from sagittal_core.results import Table, write_results
from sagittal_genai.embedding.predict import EmbedSlices, chunk_loader

SECONDS = 20.0  # of measuring, at most, after one chunk to warm up


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        slices: Slices measured.
        rows: Rows that they gave, of one encoder.
        seconds: Reading, encoding and laying out, without writing.
        dim: Width of a row.
        index_bytes: Of the metadata, for each row, in parquet.
        encoders: How many were run on each slice.
        device: Where.
    """

    slices: int
    rows: int
    seconds: float
    dim: int
    index_bytes: float
    encoders: int
    device: str


@torch.no_grad()
def measure(module: EmbedSlices, trainer: Any) -> Load:
    """Run the first slices through the encoders for a while.

    Raises:
        ConfigError: If several devices are asked for: the plan is of one.
        DataError: If no slice can be read.
    """
    import pandas

    if trainer.world_size != 1:
        raise ConfigError("embed: measure the plan with trainer.devices 1, and divide its hours")
    module.to(trainer.strategy.root_device)
    shards = range(module.slices.shards)
    slices = rows = 0
    seconds, tables = 0.0, []
    begin = None
    for chunk in chunk_loader(module.slices, shards, module.preprocessing, module):
        if not chunk.rows:
            continue
        layout, _ = module.features(chunk)
        if begin is None and len(module.slices.images) > len(chunk.rows):
            begin = time.monotonic()  # the first chunk warms up
            continue
        slices, rows = slices + len(chunk.rows), rows + len(layout.index)
        tables.append(layout.index)
        begin = begin or time.monotonic()
        seconds = time.monotonic() - begin
        if seconds > SECONDS:
            break
    if not rows or not seconds:
        raise DataError(
            module.slices.folder.folder,
            key="images",
            expected="readable slices, more than one batch of them",
            found=f"{slices} to measure",
            hint="lower batch_size",
        )
    stored = io.BytesIO()
    pandas.concat(tables, ignore_index=True).to_parquet(stored, index=False)
    return Load(
        slices=slices,
        rows=rows,
        seconds=seconds,
        dim=module.encoders[0].dim,  # type: ignore[arg-type]
        index_bytes=stored.tell() / rows,
        encoders=len(module.encoders),
        device=str(module.device),
    )


def plan_rows(load: Load, rows: int, shard_slices: int) -> tuple[list[list[str]], list[list[str]]]:
    """Bytes by type, and time, of a store of ``rows`` rows.

    Returns:
        Table of (type, GiB of rows, GiB of index), and of (what, value).
    """
    slices = math.ceil(rows * load.slices / load.rows)
    sizes = [
        [
            name,
            f"{rows * load.dim * dtype.itemsize / 2**30:.1f}",
            f"{rows * load.index_bytes / 2**30:.2f}",
        ]
        for name, dtype in DTYPES.items()
    ]
    return sizes, [
        ["rows", f"{rows:,}"],
        ["slices", f"{slices:,}"],
        [f"shards of {shard_slices} slices", f"{math.ceil(slices / shard_slices):,}"],
        ["measured slices", f"{load.slices:,}"],
        ["slices/s", f"{load.slices / load.seconds:.1f}"],
        ["rows/s", f"{load.rows / load.seconds:.1f}"],
        ["encoders run on each slice", str(load.encoders)],
        [f"hours on one {load.device}", f"{slices * load.seconds / load.slices / 3600:.1f}"],
    ]


def print_plan(load: Load, rows: int, shard_slices: int) -> None:
    """Print :func:`plan_rows`."""
    sizes, cost = plan_rows(load, rows, shard_slices)
    for name, value in cost:
        print(f"{name:28} {value}")
    for name, gibibytes, index in sizes:
        print(f"{name:28} {gibibytes} GiB of rows, {index} GiB of index, each encoder")


def write_plan(file: Path, load: Load, rows: int, shard_slices: int) -> None:
    """Write the plan's figures as results."""
    sizes, cost = plan_rows(load, rows, shard_slices)
    tables: dict[str, Table] = {
        "size": (["stored as", "rows (GiB)", "index (GiB)"], sizes),
        "cost": (["", "planned"], cost),
    }
    write_results(
        file,
        command=command_line("sagittal-genai", sys.argv[1:]),
        seeds=[],
        n={"measured slices": load.slices, "measured rows": load.rows},
        tables=tables,
    )
