"""Data order as a function of (seed, epoch), and a loader that resumes at the next batch.

Lightning stores a loader's ``state_dict`` in every checkpoint and gives it back on resume. Because
the order is counter based, the state is two integers, and worker prefetch does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_generator


class ItemKey(NamedTuple):
    """What a dataset's ``__getitem__`` is given: which item, and in which epoch it is drawn.

    Seed an item's own randomness with ``counter_seed(seed, key.epoch, sample_id, purpose)``.
    """

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    epoch: int


class CounterSampler(Sampler[ItemKey]):
    """Yields one rank's :class:`ItemKey` of an epoch; the permutation is ``f(seed, epoch)``.

    Rank ``r`` of ``w`` takes positions ``r, r + w, ...``, so batch ``i`` of all ranks together is
    batch ``i`` of one process with ``w`` times the batch size.

    With ``shuffle`` (training) the last ``length % world_size`` positions of the permutation, other
    items in every epoch, are dropped: all ranks then take the same number of steps. Without
    (evaluation) nothing is dropped nor repeated: ranks may differ by one item, so an evaluation
    step must hold no collective, and the epoch stays 0 whatever ``set_epoch`` is told.

    Args:
        length: Number of items in the dataset.
        seed: Seed of the run.
        shuffle: True for training, False for evaluation.
        rank: Index of this process.
        world_size: Number of processes.
        batch_size: Items a batch and process; used with ``start_batch`` only.
        start_batch: Batches of the epoch to leave out at its start.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.start_batch = start_batch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this. Evaluation stays at 0."""
        if self.shuffle:
            self.epoch = epoch

    def __iter__(self) -> Iterator[ItemKey]:
        epoch, first = self.epoch, self.start_batch * self.batch_size
        if self.shuffle:
            generator = counter_generator(self.seed, epoch, "permutation")
            order = torch.randperm(self.length, generator=generator).tolist()
            order = order[: self.length - self.length % self.world_size]
        else:
            order = list(range(self.length))
        for index in order[self.rank :: self.world_size][first:]:
            yield ItemKey(index, epoch)

    def __len__(self) -> int:
        """Return the items of a whole epoch on this rank, whatever ``start_batch`` is."""
        if self.shuffle:
            return self.length // self.world_size
        return len(range(self.rank, self.length, self.world_size))


class _Carrying(Dataset[Any]):
    """Hands a DataError over as a value: PyTorch turns one that a worker raises to RuntimeError."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: ItemKey) -> Any:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


class _FirstError:
    """Collates a batch of :class:`_Carrying`, of which an error is all that matters."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        return next((i for i in items if isinstance(i, DataError)), None) or self.collate(items)


class ResumableDataLoader(DataLoader[Any]):
    """A ``DataLoader`` over :class:`CounterSampler` that continues at the next batch on resume.

    The dataset is indexed with :class:`ItemKey`. Rank and world size are those of the process group
    if one is initialised (build the loader in ``train_dataloader()``, as Lightning expects), so the
    trainer needs ``use_distributed_sampler: false``, which the command line sets.

    Evaluation loaders (``shuffle=False``) always start at their first batch. A ``DataError`` of the
    dataset arrives as itself also from worker processes.

    Args:
        dataset: A map-style dataset with ``__len__`` and ``__getitem__(key: ItemKey)``.
        seed: Seed of the run.
        batch_size: Items a batch and process.
        shuffle: True for training, False for evaluation.
        **options: Further ``DataLoader`` options (``num_workers``, ``collate_fn``, ...).

    Raises:
        ConfigError: For a batch size below 1 or a negative number of workers.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        seed: int,
        batch_size: int = 1,
        shuffle: bool = True,
        **options: Any,
    ) -> None:
        if batch_size < 1 or options.get("num_workers", 0) < 0:
            raise ConfigError(
                "expected batch_size >= 1 and num_workers >= 0, found"
                f" {batch_size} and {options.get('num_workers', 0)}"
            )
        grouped = dist.is_available() and dist.is_initialized()
        sampler = CounterSampler(
            len(dataset),  # type: ignore[arg-type]
            seed,
            shuffle=shuffle,
            rank=dist.get_rank() if grouped else 0,
            world_size=dist.get_world_size() if grouped else 1,
            batch_size=batch_size,
        )
        # An own generator: the base seed of the workers must not advance the global random state.
        options.setdefault("generator", counter_generator(seed, "workers"))
        if options.get("num_workers"):
            dataset = _Carrying(dataset)
            options["collate_fn"] = _FirstError(options.get("collate_fn") or default_collate)
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **options)
        self._order = sampler
        self._epoch, self._batch = 0, 0
        self._resuming = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, thus lazy: Lightning makes the first iterator before it sets the epoch.
        epoch = self._order.epoch
        start = self._batch if self._resuming and epoch == self._epoch else 0
        self._resuming = False
        self._epoch, self._batch = epoch, start
        self._order.start_batch = start
        for number, batch in enumerate(super().__iter__(), start + 1):
            if isinstance(batch, DataError):
                raise batch
            self._batch = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the next batch is: plain integers, equal on all ranks."""
        return {**self._identity(), "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a state of :meth:`state_dict`; ignored by an evaluation loader.

        Raises:
            ConfigError: If the state belongs to another order: another seed, dataset length or
                global batch size.
        """
        if not self._order.shuffle:
            return
        for key, here in self._identity().items():
            if state[key] != here:
                raise ConfigError(
                    f"cannot resume in the middle of an epoch: {key} was {state[key]} when the"
                    f" checkpoint was written and is {here} now"
                )
        self._epoch, self._batch = state["epoch"], state["batch"]
        self._resuming = True

    def _identity(self) -> dict[str, int]:
        order = self._order
        return {
            "seed": order.seed,
            "dataset_length": order.length,
            "global_batch_size": order.batch_size * order.world_size,
        }
