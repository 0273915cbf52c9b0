"""Data order: exact on every rank, and exact after a resume at any step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import Dataset

from sagittal_core.errors import ConfigError
from sagittal_core.sampling import CounterSampler, ItemKey, ResumableDataLoader
from sagittal_core.seeds import counter_generator


class Keys(Dataset[Tensor]):
    """Returns its key and a draw that depends on the epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: ItemKey) -> Tensor:
        noise = torch.rand(1, generator=counter_generator(0, key.epoch, key.index, "noise"))
        return torch.cat([torch.tensor([float(key.index), float(key.epoch)]), noise])


class Regressor(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.losses: list[float] = []
        self.validated: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        self.losses.append(float(loss))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


SIZES = st.integers(1, 40)


@given(SIZES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_ranks_together_are_one_process(length: int, world: int, batch: int, epoch: int) -> None:
    def keys(rank: int, size: int) -> list[ItemKey]:
        sampler = CounterSampler(length, 7, rank=rank, world_size=size, batch_size=batch)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        return list(sampler)

    ranks = [keys(r, world) for r in range(world)]
    assert len({len(r) for r in ranks}) == 1
    joined = [key for position in zip(*ranks, strict=True) for key in position]
    assert joined == keys(0, 1)[: len(joined)]
    assert length - len(joined) < world
    assert all(key.epoch == epoch for key in joined)


@given(SIZES, st.integers(1, 5))
def test_evaluation_drops_and_repeats_nothing(length: int, world: int) -> None:
    samplers = [CounterSampler(length, 0, False, r, world) for r in range(world)]
    for sampler in samplers:
        sampler.set_epoch(9)
    keys = [key for sampler in samplers for key in sampler]
    assert sorted(keys) == [ItemKey(i, 0) for i in range(length)]
    assert [len(list(s)) for s in samplers] == [len(s) for s in samplers]


def test_epochs_differ_and_repeat() -> None:
    sampler = CounterSampler(50, 1)
    first = [k.index for k in sampler]
    sampler.set_epoch(1)
    second = [k.index for k in sampler]
    sampler.set_epoch(0)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [k.index for k in sampler] == first


def test_rank_out_of_range() -> None:
    with pytest.raises(ValueError, match="rank"):
        CounterSampler(4, 0, rank=2, world_size=2)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}])
def test_resume_ignores_what_workers_prefetched(options: dict[str, Any]) -> None:
    def loader() -> ResumableDataLoader:
        return ResumableDataLoader(Keys(11), seed=3, batch_size=2, **options)

    whole = loader()
    whole.sampler.set_epoch(2)
    expected = list(whole)
    part = loader()
    part.sampler.set_epoch(2)
    iterator = iter(part)
    drawn = [next(iterator) for _ in range(3)]
    resumed = loader()
    resumed.load_state_dict(part.state_dict())
    resumed.sampler.set_epoch(2)
    assert resumed.state_dict() == part.state_dict()
    assert len(resumed) == len(expected)
    torch.testing.assert_close(drawn + list(resumed), expected, rtol=0, atol=0)
    # The epoch after the resumed one is whole again.
    resumed.sampler.set_epoch(3)
    assert len(list(resumed)) == len(expected)


def test_worker_processes_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(ResumableDataLoader(Keys(4), seed=0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("seed", "length", "batch_size", "named"),
    [(1, 8, 2, "seed"), (0, 9, 2, "dataset_length"), (0, 8, 4, "global_batch_size")],
)
def test_state_of_another_order_is_refused(
    seed: int, length: int, batch_size: int, named: str
) -> None:
    state = ResumableDataLoader(Keys(8), seed=0, batch_size=2).state_dict()
    with pytest.raises(ConfigError, match=named):
        ResumableDataLoader(Keys(length), seed=seed, batch_size=batch_size).load_state_dict(state)


def _trainer(folder: Path, callbacks: list[Any], **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        use_distributed_sampler=False,
        **options,
    )


def _loaders() -> tuple[ResumableDataLoader, ResumableDataLoader]:
    return (
        ResumableDataLoader(Keys(10), seed=3, batch_size=2),
        ResumableDataLoader(Keys(3), seed=3, batch_size=2, shuffle=False),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit_train_batches": 4},
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 13},
    ],
    ids=str,
)
def test_lightning_resumes_exactly_from_every_checkpoint(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    every_step = ModelCheckpoint(
        tmp_path, filename="{step}-a", every_n_train_steps=1, save_top_k=-1
    )
    after_validation = ModelCheckpoint(
        tmp_path, filename="{step}-b", save_top_k=-1, save_on_train_epoch_end=False
    )
    pl.seed_everything(0, verbose=False)
    whole = Regressor()
    _trainer(tmp_path, [every_step, after_validation], **options).fit(whole, *_loaders())
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) > 6
    for file in files:
        model = Regressor()
        _trainer(tmp_path, [], **options).fit(model, *_loaders(), ckpt_path=file)
        expected = whole.losses[len(whole.losses) - len(model.losses) :]
        assert model.losses == expected, file.name
        progress = torch.load(file)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        assert len(model.losses) == len(whole.losses) - progress["total"]["ready"], file.name
        assert len(model.validated) % 2 == 0
