"""Radiographs and their reports as training data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.sampling import ItemKey, ResumableDataLoader
from sagittal_cxr import lineage
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.image_cache import ImageCache
from sagittal_cxr.nn.image_text import ImageTextModel

if TYPE_CHECKING:
    from sagittal_cxr.index import RadiographIndex

SPLITS = ("train", "val", "test")
Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
_ANOTHER = (
    "give --fresh to train on the index as it is now (the old run is kept beside it), or build the"
    " old one again; `sagittal-cxr evaluate` measures a model on another index"
)


class Pair(NamedTuple):
    """One radiograph with its text.

    Attributes:
        image: (H, W) uint8, fitted to the encoder's size.
        text: As the index has it.
        row: Row number in the index.
    """

    image: NDArray[np.uint8]
    text: str
    row: int


class Pairs(Dataset[Pair]):
    """Some rows of an index.

    Args:
        index: Where from.
        texts: Of all rows of the index.
        rows: Which (n,) int64.
        preprocessing: Of the images.
        cache: Of fitted images.
    """

    def __init__(
        self,
        index: RadiographIndex,
        texts: Sequence[str],
        rows: NDArray[np.int64],
        preprocessing: Preprocessing,
        cache: ImageCache | None = None,
    ) -> None:
        self.index, self.texts, self.rows = index, texts, rows
        self.preprocessing, self.cache = preprocessing, cache

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: ItemKey) -> Pair:
        row = int(self.rows[key.index])
        image = None if self.cache is None else self.cache.image(row)
        return Pair(self.read(row) if image is None else image, self.texts[row], row)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The image (H, W) uint8 from its file."""
        from sagittal_cxr.images import load_grey

        return self.preprocessing.fit(load_grey(self.index.image_path(row)))


class RadiographReports(lightning.LightningDataModule):
    """Image-text pairs of an index folder, as ``sagittal-cxr index`` writes it.

    Pairs without a text are left out, and those that repeat an earlier pair unless ``duplicates``
    is "keep"; how many is printed and logged. Preprocessing and tokens are those of the model that
    is trained. Batch i of all processes together is batch i of one process with as many times the
    ``batch_size``.

    The run folder and its checkpoints record the identity of the index: a run is neither resumed
    nor tested on another one, even under the same path.

    Args:
        index: The index folder.
        batch_size: Pairs a step and process.
        duplicates: "drop" or "keep" pairs that repeat another one's pixels or text.
        cache: Folder for decoded images of the encoder's size; None: every epoch decodes them anew.
        num_workers: Loading processes; threads while the cache is filled.
        seed: Of the order.

    Attributes:
        identity: Of the index, once it is open.
        counts: Pairs used and left out, by name, once it is open.
    """

    def __init__(
        self,
        index: str,
        batch_size: int = 64,
        duplicates: Literal["drop", "keep"] = "drop",
        cache: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if duplicates not in ("drop", "keep"):
            raise ConfigError(f"data: duplicates {duplicates!r}; expected drop or keep")
        self.folder, self.batch_size, self.duplicates = Path(index), batch_size, duplicates
        self.cache_folder = None if cache is None else Path(cache)
        self.num_workers, self.seed = num_workers, seed
        self.identity: str | None = None
        self.counts: dict[str, int] = {}
        self._pairs: dict[str, Pairs] = {}
        self._kept: NDArray[np.int64] | None = None
        self._tokenize: Tokenize | None = None

    def connect(self, network: ImageTextModel) -> None:
        """Open the index for a model; the trainer's own is taken otherwise.

        Raises:
            DataError: The index is damaged.
        """
        from sagittal_cxr.index import RadiographIndex

        index = RadiographIndex(self.folder)
        self.identity = index.identity
        frame = index.frame(["split", "text", "duplicate_of"])
        split, texts = frame["split"].to_numpy(), [text or "" for text in frame["text"]]
        empty = np.array([not text.strip() for text in texts], bool)
        double = frame["duplicate_of"].to_numpy() >= 0
        use = ~empty & ~(double if self.duplicates == "drop" else np.zeros_like(double))
        fit, self._tokenize = network.preprocessing, network.tokenize
        cache = None
        if self.cache_folder is not None:
            cache = ImageCache(self.cache_folder, len(frame), index.identity, fit)
        for name in SPLITS:
            here = split == name
            rows = np.flatnonzero(here & use).astype(np.int64)
            self._pairs[name] = Pairs(index, texts, rows, fit, cache)
            self.counts |= {
                f"data/{name}_pairs": len(rows),
                f"data/{name}_without_text": int((here & empty).sum()),
                f"data/{name}_duplicates": int((here & ~empty & ~use).sum()),
            }
        _say(_counted(self.counts))

    def prepare_data(self) -> None:
        """Fill the cache with what this stage needs, once a machine."""
        if self.cache_folder is None:
            return
        self.setup()
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        for name in ("train", "val") if fitting else ("val", "test"):
            pairs = self._pairs[name]
            assert pairs.cache is not None
            shown = partial(_track, name=name)
            pairs.cache.fill(pairs.rows, pairs.read, self.num_workers, shown)

    def setup(self, stage: str | None = None) -> None:
        """Open the index, once.

        Raises:
            DataError: The index is damaged, or the run was begun on another one.
        """
        if not self._pairs:
            assert self.trainer is not None
            self.connect(self.trainer.lightning_module.network)  # type: ignore[arg-type]
        if self.trainer is not None:
            self._claim(self.trainer)

    def _claim(self, trainer: lightning.Trainer) -> None:
        """Write the index's identity to a new run; refuse a run that another index began."""
        # Not trainer.log_dir, which waits for all ranks: one of them prepares the data alone.
        first = trainer.loggers[0] if trainer.loggers else None
        own = getattr(first, "log_dir", None) or getattr(first, "save_dir", None)
        run = Path(own or trainer.default_root_dir)
        begun = (run / "checkpoints" / "last.ckpt").is_file()
        fitting = trainer.state.fn == "fit"
        if (run / lineage.FILE).is_file() or (fitting and begun):
            lineage.expect(run, self.identity, self.folder, _ANOTHER)
        elif fitting and trainer.is_global_zero:
            lineage.record(run, self.identity)

    def facts(self) -> dict[str, Any]:
        """What the run's report says of the data: the index's identity, and counts."""
        known = {"index": lineage.shown(self.identity)} if self.identity else {}
        return known | {name.removeprefix("data/"): count for name, count in self.counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the identity of the index."""
        return {lineage.KEY: self.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See to it that a checkpoint is of this index.

        Raises:
            DataError: It is of another one.
        """
        before = state_dict[lineage.KEY]
        if before != self.identity:
            raise DataError(
                str(getattr(self.trainer, "ckpt_path", None) or "checkpoint"),
                key=f"{type(self).__name__}.{lineage.KEY}",
                expected=f"the identity of {self.folder}, {lineage.shown(self.identity)}",
                found=f"{lineage.shown(before)}: the index was built anew, or is another one",
                hint=_ANOTHER,
            )

    def keep(self, rows: Tensor | NDArray[np.int64] | None) -> None:
        """Train on these rows only from the next loader on; None: on all.

        Raises:
            ValueError: A row is none of the training rows.
        """
        if rows is None:
            self._kept = None
            return
        kept = np.unique(np.asarray(rows, np.int64))
        every = self._pairs["train"].rows
        if not np.isin(kept, every).all():
            raise ValueError("rows to keep must be training rows")
        if self._kept is None or not np.array_equal(kept, self._kept):
            _say(f"training on {len(kept)} of {len(every)} pairs")
        self._kept = kept

    def train_dataloader(self) -> ResumableDataLoader:
        """Shuffled pairs, by a permutation of seed and epoch alone."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        if hasattr(module, "rows_to_train"):
            self.keep(module.rows_to_train(module.current_epoch))
        pairs = self._need("train")
        if self._kept is not None:
            pairs = Pairs(pairs.index, pairs.texts, self._kept, pairs.preprocessing, pairs.cache)
        return self._loader(pairs, shuffle=True)

    def val_dataloader(self) -> ResumableDataLoader:
        """Validation pairs in order."""
        return self._loader(self._need("val"), shuffle=False)

    def test_dataloader(self) -> ResumableDataLoader:
        """Test pairs in order."""
        return self._loader(self._need("test"), shuffle=False)

    def on_after_batch_transfer(self, batch: PairBatch, dataloader_idx: int) -> PairBatch:
        """Bytes (B, H, W) cross to the device, and become the network's input there."""
        normalise = self._pairs["train"].preprocessing.normalise
        return batch._replace(images=normalise(batch.images))

    def _need(self, name: str) -> Pairs:
        if not len(self._pairs[name]):
            raise ConfigError(f"{self.folder}: no pair to use in its split {name}")
        return self._pairs[name]

    def _loader(self, pairs: Pairs, shuffle: bool) -> ResumableDataLoader:
        assert self._tokenize is not None
        if self.num_workers:
            # The tokenizer has run in this process; a fork of it must not use its threads.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return ResumableDataLoader(
            pairs,
            seed=self.seed,
            batch_size=self.batch_size,
            shuffle=shuffle,
            collate_fn=_Collate(self._tokenize),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class _Collate:
    """Tokens of a batch's texts, its images as bytes (B, H, W)."""

    def __init__(self, tokenize: Tokenize) -> None:
        self.tokenize = tokenize

    def __call__(self, pairs: list[Pair]) -> PairBatch:
        images = torch.from_numpy(np.stack([pair.image for pair in pairs]))
        rows = torch.tensor([pair.row for pair in pairs], dtype=torch.int64)
        return PairBatch(images, *self.tokenize([pair.text for pair in pairs]), rows)


def _counted(counts: dict[str, int]) -> str:
    lines = []
    for name in SPLITS:
        used, empty, double = (
            counts[f"data/{name}_{what}"] for what in ("pairs", "without_text", "duplicates")
        )
        left = f"left out: {empty} without text, {double} duplicates"
        lines.append(f"{name}: {used} pairs ({left})")
    return "\n".join(lines)


def _track(blocks: list[Any], name: str) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        blocks,
        f"decoding {name}",
        console=console,
        transient=True,
        disable=not (blocks and console.is_terminal),
    )


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
