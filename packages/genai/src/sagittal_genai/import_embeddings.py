"""``sagittal-genai import-embeddings``: SAIL's parquet files in, an embedding store out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from sagittal_core.encoders.vision import DTYPES
from sagittal_core.errors import ConfigError
from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_genai.embedding.sail_parquet import open_files, read_part


def import_embeddings(
    files: list[Path],
    out: Path = Path("outputs/embeddings"),
    encoder: str = "unknown",
    split: list[str] | None = None,
    organs: list[str] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float16",
    shard_rows: int = 16384,
) -> None:
    """Turn parquet files of embeddings, as SAIL's code writes them, into an embedding store.

    The same command goes on after it was stopped.

    Args:
        files: parquet files with the columns embedding, embedding_shape, embedding_dtype, image_id.
        out: the store.
        encoder: name of the encoder that made them.
        split: train, val or test of each file, in their order; without it the files have a column
            split.
        organs: columns of 0 and 1 that become the list of a slice's organs.
        dtype: float32, float16 or bfloat16, of the stored rows.
        shard_rows: rows in a shard.

    Raises:
        ConfigError: settings that do not fit, or a store begun with others.
        DataError: a file that is not of that kind.
    """
    from rich.progress import track

    if not files or shard_rows < 1:
        raise ConfigError("import-embeddings: name files, and shard_rows from 1")
    if split is not None and (len(split) != len(files) or set(split) - {"train", "val", "test"}):
        raise ConfigError("import-embeddings: split is train, val or test for each file, in order")
    start = time.monotonic()
    source = open_files(files, split or [None] * len(files), shard_rows, organs or [])
    writer = ShardWriter(
        out,
        dim=source.dim,
        dtype=DTYPES[dtype],
        shards=len(source.parts),
        identity={
            "encoder": encoder,
            "source": source.sha256,
            "shard_rows": shard_rows,
            "split": split,
            "organs": organs,
            "what": "pooled",
        },
    )
    for number in track(writer.missing(), "importing"):
        try:
            writer.write(number, *read_part(source.parts[number], source.dim, organs or []))
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise ConfigError(
                f"import-embeddings: shard {number}: {error}; choose dtype bfloat16 or float32"
            ) from None
    seconds = time.monotonic() - start
    print(f"{out}: {len(EmbeddingStore(out))} rows of width {source.dim} in {seconds:.0f} s")
