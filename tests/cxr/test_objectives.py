"""Contrastive losses against their definition, in one process, in chunks and in two processes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from ddp_pairs import KEPT, OBJECTIVES, Step, batch, result
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.errors import ConfigError
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.gradient_cache import in_chunks
from sagittal_cxr.in_batch import PairRows
from sagittal_cxr.objectives import InfoNCE, SigLIP


def unit(count: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.normalize(rows, dim=1)


@given(st.integers(1, 6), st.integers(0, 99), st.floats(-1, 3))
def test_infonce_is_its_definition(count: int, seed: int, log_scale: float) -> None:
    x, y, scale = unit(count, seed), unit(count, seed + 100), math.exp(log_scale)
    total = 0.0
    for i in range(count):
        for a, b in ((x, y), (y, x)):
            exps = [math.exp(scale * float(a[i] @ b[j])) for j in range(count)]
            total -= math.log(exps[i] / sum(exps)) / 2
    found = InfoNCE()(x, y, torch.tensor(log_scale, dtype=torch.float64), None)
    assert float(found) == pytest.approx(total / count, rel=1e-6, abs=1e-9)


@given(st.integers(1, 6), st.integers(0, 99), st.floats(-1, 3), st.floats(-10, 1))
def test_siglip_is_its_definition(count: int, seed: int, log_scale: float, bias: float) -> None:
    x, y, scale = unit(count, seed), unit(count, seed + 100), math.exp(log_scale)
    costs = torch.zeros(count, count).double()
    for i in range(count):
        for j in range(count):
            logit = (1 if i == j else -1) * (scale * float(x[i] @ y[j]) + bias)
            costs[i, j] = math.log1p(math.exp(-logit))
    given_scale, given_bias = (
        torch.tensor(log_scale, dtype=torch.float64),
        torch.tensor(bias, dtype=torch.float64),
    )
    found = SigLIP().per_pair(x, y, given_scale, given_bias)
    torch.testing.assert_close(found, (costs.sum(0) + costs.sum(1)) / 2, rtol=1e-6, atol=1e-9)
    assert float(found.mean()) == pytest.approx(float(costs.sum()) / count, rel=1e-6)
    with pytest.raises(ConfigError, match="logit_bias"):
        SigLIP()(x, y, given_scale, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoints")
    vision_checkpoint(made / "vision")
    text_checkpoint(made / "text")
    return made


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_batch_in_chunks_has_the_gradient_of_the_batch(
    objective: str, chunk: int, folder: Path
) -> None:
    found = []
    for size in (None, chunk):
        step = Step(folder, objective, size)
        found.append(result(step, step, list(range(6)), KEPT["two and three"]))
    assert len(found[0]) > 1000
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_every_chunk_is_encoded_twice_and_none_is_larger_than_asked() -> None:
    sizes: list[int] = []
    weight = torch.ones(3, requires_grad=True)

    def encode(values: torch.Tensor) -> torch.Tensor:
        sizes.append(len(values))
        return (values * weight).sin()

    rows = in_chunks(encode, 2, torch.ones(5, 3))
    assert sizes == [2, 2, 1]
    rows.sum().backward()
    assert sorted(sizes) == [1, 1, 2, 2, 2, 2]
    with torch.no_grad():
        assert torch.equal(in_chunks(encode, 2, torch.ones(5, 3)), rows)


def test_dropout_draws_the_same_in_the_second_pass() -> None:
    weight = torch.ones(50, requires_grad=True)

    def encode(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(values * weight, 0.5)

    torch.manual_seed(0)
    rows = in_chunks(encode, 2, torch.ones(4, 50))
    rows.sum().backward()
    # Rows are linear in the weight of 1, so a column's gradient is its sum.
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, rows.detach().sum(0))
    assert 0 < float((rows == 0).float().mean()) < 1


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradient_of_the_joined_batch(
    folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, torch.multiprocessing as mp\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from ddp_pairs import work\n"
        "if __name__ == '__main__':\n"
        "    mp.spawn(work, (sys.argv[2],), nprocs=2)\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parent), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert len(ranks[0]) == 12
    for name in ranks[0]:
        objective, _, kept = name.split(" ", 2)
        step = Step(folder, objective)
        one = result(step, step, list(range(6)), KEPT[kept])
        assert float(one[1:].norm()) > 1e-3
        for rank in ranks:
            torch.testing.assert_close(rank[name], one, rtol=1e-9, atol=1e-12, msg=name)


def test_pairs_left_out_do_not_count(folder: Path) -> None:
    step = Step(folder, "InfoNCE")
    kept = [i for i, k in enumerate(KEPT["two and three"]) if k]
    some = result(step, step, list(range(6)), KEPT["two and three"])
    alone = result(step, step, kept, [True] * 6)
    torch.testing.assert_close(some, alone, rtol=1e-9, atol=1e-12)
    assert batch(step, kept).rows.tolist() == kept


def test_retrieval_in_blocks_counts_the_very_same_text_and_not_the_batches() -> None:
    network = SimpleNamespace(dim=4, logit_scale=torch.zeros(()), logit_bias=None)
    # Pair 0 and 1 have one text and each other's image; 2 is right; 3 finds the text of 2.
    images = torch.eye(4)[[1, 0, 2, 2]]
    texts = torch.eye(4)
    ids = torch.tensor([[7, 8, 0], [7, 8, 0], [7, 9, 9], [7, 6, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]])
    found = []
    for parts in ([[3, 1], [2, 0]], [[0, 1, 2, 3]]):
        rows = PairRows()
        for part in parts:
            pairs = PairBatch(torch.zeros(len(part)), ids[part], mask[part], torch.tensor(part))
            rows.add(pairs, images[part], texts[part])
        found.append(rows.compute(network, InfoNCE(), block=4))  # type: ignore[arg-type]
    assert found[0] == found[1]
    assert float(found[0]["r1_image_to_text"]) == 0.75
    # Text 3 is like no image; the first of equals is none of its own.
    assert float(found[0]["r1_text_to_image"]) == 0.75
    loss = InfoNCE()(images, texts, torch.zeros(()), None)
    torch.testing.assert_close(found[0]["loss"], loss)
    halves = PairRows()
    halves.add(PairBatch(torch.zeros(4), ids, mask, torch.arange(4)), images, texts)
    split = halves.compute(network, InfoNCE(), block=3)  # type: ignore[arg-type]
    wanted = [InfoNCE()(images[i : i + 2], texts[i : i + 2], torch.zeros(()), None) for i in (0, 2)]
    torch.testing.assert_close(split["loss"], sum(wanted) / 2)
    assert PairRows().compute(network, InfoNCE(), block=4) == {}  # type: ignore[arg-type]
