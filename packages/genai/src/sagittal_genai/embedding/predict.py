"""Slices through encoders into stores, by Lightning's predict loop: ranks share the shards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sagittal_core.encoders import VisionEncoder
from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import write_atomically
from sagittal_core.store import ShardWriter
from sagittal_genai.embedding.rows import Layout, lay_out
from sagittal_genai.embedding.source import Chunk, ChunkDataset, Slices

if TYPE_CHECKING:
    import pandas


@dataclass
class Part:
    """What a rank has of the shard that it is working on."""

    rows: list[list[Tensor]]  # one list for each encoder
    index: list[pandas.DataFrame] = field(default_factory=list)
    slices: int = 0
    background: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0  # of encoding and laying out


class EmbedSlices(lightning.LightningModule):
    """Writes the features of slices, shard by shard, into one store for each encoder.

    Args:
        encoders: The encoder, and perhaps its random twin; of one preprocessing.
        slices: All slices.
        open_writers: Opens the stores' writers, in the order of the encoders; called on rank 0
            before any other rank.
        tokens: One row for each patch instead of one for each slice.
        drop_background: Leave out patches of one grey value.
        batch_size: Slices at a time.
        workers: Loading processes of a rank.
    """

    def __init__(
        self,
        encoders: Sequence[VisionEncoder],
        slices: Slices,
        open_writers: Callable[[], list[ShardWriter]],
        *,
        tokens: bool,
        drop_background: bool,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.encoders = torch.nn.ModuleList(encoders)
        self.slices, self._open_writers = slices, open_writers
        self.tokens, self.drop_background = tokens, drop_background
        self.batch_size, self.workers = batch_size, workers
        self.writers: list[ShardWriter] = []
        self._missing: list[list[int]] = []
        self._part: Part | None = None
        self.written_slices = self.written_rows = 0

    def setup(self, stage: str) -> None:
        """Open the stores, rank 0 first, and agree on what is missing."""
        strategy = self.trainer.strategy
        if self.trainer.is_global_zero:
            self.writers = self._open_writers()
        strategy.barrier("stores")
        if not self.trainer.is_global_zero:
            self.writers = self._open_writers()
        # A rank that looks later would find what another has just written.
        self._missing = strategy.broadcast([writer.missing() for writer in self.writers])

    def predict_dataloader(self) -> DataLoader[Chunk]:
        """Chunks of this rank's shards."""
        todo = sorted(set().union(*self._missing))
        mine = todo[self.trainer.global_rank :: self.trainer.world_size]
        return chunk_loader(self.slices, mine, self.preprocessing, self)

    @property
    def preprocessing(self) -> Any:
        """Of all encoders."""
        return self.encoders[0].preprocessing

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Leave a chunk where it is; only its images go, in :meth:`features`."""
        return batch

    def features(self, chunk: Chunk) -> tuple[Layout, list[Tensor]]:
        """Layout of a chunk and each encoder's rows in it, on the CPU."""
        pixels = self.preprocessing.normalise(chunk.images.to(self.device))
        layout, rows = None, []
        for encoder in self.encoders:
            features = encoder(pixels)
            if layout is None:
                layout = lay_out(
                    chunk,
                    self.slices.index,
                    features.grid,
                    tokens=self.tokens,
                    drop_background=self.drop_background,
                    classes=self.slices.folder.classes,
                )
            rows.append(layout.rows(features).cpu())
        assert layout is not None
        return layout, rows

    def predict_step(self, chunk: Chunk, batch_index: int) -> int:
        """Embed a chunk; with a shard's last one, write the shard. Returns the chunk's slices."""
        part = self._part = self._part or Part(rows=[[] for _ in self.encoders])
        part.slices += len(chunk.rows)
        part.refused += [(self.slices.images[row], reason) for row, reason in chunk.refused]
        if chunk.rows:
            begin = time.monotonic()
            layout, rows = self.features(chunk)
            part.seconds += time.monotonic() - begin
            part.background += layout.background
            part.index.append(layout.index)
            for collected, new, writer in zip(part.rows, rows, self.writers, strict=True):
                collected.append(new.to(writer.dtype))
        if chunk.last:
            self._write(chunk.shard, part)
            self._part = None
        if self.trainer.received_sigterm:  # Lightning takes the signal, and goes on
            raise SystemExit(143)
        return len(chunk.rows)

    def _write(self, shard: int, part: Part) -> None:
        import pandas

        empty = self.slices.index.iloc[:0]
        index = pandas.concat(part.index, ignore_index=True) if part.index else empty
        account = {
            "slices": part.slices,
            "rows": len(index),
            "background": part.background,
            "refused": part.refused,
            "seconds": round(part.seconds, 3),
            "encoders": len(self.encoders),
        }
        for writer, missing, rows in zip(self.writers, self._missing, part.rows, strict=True):
            if shard not in missing:
                continue
            joined = torch.cat(rows) if rows else torch.empty(0, writer.dim, dtype=writer.dtype)
            file = account_file(writer.folder, shard)
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, json.dumps(account))
            try:
                writer.write(shard, joined, index)
            except ValueError as error:
                raise ConfigError(
                    f"embed: shard {shard}: {error}; choose dtype bfloat16 or float32"
                ) from None
        self.written_slices += part.slices
        self.written_rows += len(index)


def account_file(store: Path, shard: int) -> Path:
    """Where a store says what became of a shard's slices; there before the shard is."""
    return store / "accounts" / f"{shard:05d}.json"


def chunk_loader(
    slices: Slices, shards: Sequence[int], preprocessing: Any, module: EmbedSlices
) -> DataLoader[Chunk]:
    """Chunks of some shards, in order."""
    dataset = ChunkDataset(slices, shards, module.batch_size, preprocessing, labels=module.tokens)
    return DataLoader(
        dataset, batch_size=None, num_workers=module.workers, collate_fn=_as_it_is, shuffle=False
    )


def _as_it_is(chunk: Any) -> Any:
    """A chunk arrives as it was read."""
    return chunk


class Lines(lightning.Callback):
    """One line of text every few seconds, for output that is no terminal.

    Args:
        every_seconds: Least time between two lines.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self._start = self._shown = 0.0

    def on_predict_start(self, trainer: Any, module: Any) -> None:
        """Start the clock."""
        self._start = self._shown = time.monotonic()

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show a line if enough time has passed."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._shown < self.every_seconds:
            return
        self._shown = now
        total, done = trainer.num_predict_batches[0], batch_idx + 1
        left = (now - self._start) * (total - done) / done
        print(f"embedding: batch {done} of {total}, about {left:.0f} s left", flush=True)  # noqa: T201
