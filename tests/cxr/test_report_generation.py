"""A report generator sees the image, writes what it was taught, and is told from one that does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language import language_checkpoint

from sagittal_core.errors import ConfigError
from sagittal_core.llm.weights import read_model
from sagittal_cxr.nn.report_generator import IGNORED, ReportGenerator, pooled_tokens
from sagittal_cxr.tasks.report_generation import encode_reports, others
from sagittal_cxr.tasks.task import NotApplicable
from sagittal_cxr.tasks.training import Plan, fit

DIM = 6
END = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_checkpoint(tmp_path_factory.mktemp("language"))


def generator(folder: Path, trained: str = "projector") -> tuple[ReportGenerator, Any]:
    language, tokenizer = read_model(folder, device="cpu", dtype="float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ReportGenerator(language, DIM, trained, rank=2).eval(), tokenizer


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, DIM, generator=torch.Generator().manual_seed(seed))


PROMPT = torch.tensor([5, 6])


def test_tokens_are_averaged_over_a_grid() -> None:
    values = torch.arange(24.0).reshape(1, 24, 1)  # 4 x 6, row-major
    found = pooled_tokens(values, (4, 6), 2)[0, :, 0]
    rows = values.reshape(4, 6)
    expected = [rows[r : r + 2, c : c + 3].mean() for r in (0, 2) for c in (0, 3)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_loss_is_that_of_each_token_after_those_before_it(folder: Path) -> None:
    model, _ = generator(folder)
    labels = torch.tensor([[3, 4, END, IGNORED], [7, END, IGNORED, IGNORED]])
    found = model.loss(tokens(2), PROMPT, labels)
    # One report at a time, one position at a time, nothing padded.
    words = model.language.get_input_embeddings()
    each = []
    for one, row in zip(tokens(2), labels, strict=True):
        real = row[row != IGNORED]
        for place, wanted in enumerate(real):
            before = torch.cat([model.projector(one), words(PROMPT), words(real[:place])])
            logits = model.language(inputs_embeds=before[None]).logits[0, -1]
            each.append(-logits.log_softmax(0)[wanted])
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize("trained", ["projector", "lora", "full"])
def test_only_what_is_asked_for_is_trained(trained: str, folder: Path) -> None:
    if trained == "lora":
        pytest.importorskip("peft")
    model, _ = generator(folder, trained)
    model.loss(tokens(1), PROMPT, torch.tensor([[3, END]])).backward()
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    asked = {name for name, p in model.named_parameters() if p.requires_grad}
    assert graded == asked
    assert {name for name in asked if name.startswith("projector")} == {
        f"projector.{name}" for name, _ in model.projector.named_parameters()
    }
    language = {name for name in asked if name.startswith("language")}
    if trained == "projector":
        assert not language
    elif trained == "lora":
        assert language
        assert all("lora_" in name for name in language)
    else:
        assert len(language) == len(list(model.language.parameters()))


def test_the_prefix_begins_with_the_size_of_words(folder: Path) -> None:
    model, _ = generator(folder)
    words = model.language.get_input_embeddings().weight
    size = model.projector(tokens(3)).pow(2).mean().sqrt()
    torch.testing.assert_close(size, words.pow(2).mean().sqrt(), rtol=1e-3, atol=0)


def test_another_way_of_training_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="projector, lora or full"):
        generator(folder, "half")


def test_greedy_reports_are_those_of_the_likeliest_token(folder: Path) -> None:
    model, _ = generator(folder)
    found = model.generate(tokens(3), PROMPT, 5, [END])
    words = model.language.get_input_embeddings()
    for one, written in zip(tokens(3), found, strict=True):
        before = torch.cat([model.projector(one), words(PROMPT)])
        expected: list[int] = []
        while len(expected) < 5:
            with torch.no_grad():
                best = int(model.language(inputs_embeds=before[None]).logits[0, -1].argmax())
            if best == END:
                break
            expected.append(best)
            before = torch.cat([before, words(torch.tensor([best]))])
        assert written == expected


def test_reports_are_cut_and_counted(folder: Path) -> None:
    _, tokenizer = generator(folder)
    labels, cut = encode_reports(tokenizer, [" no pleural effusion", "clear"], 3)
    no, pleural, effusion, clear = (
        tokenizer.convert_tokens_to_ids(w) for w in ("no", "pleural", "effusion", "clear")
    )
    assert labels.tolist() == [[no, pleural, effusion], [clear, END, IGNORED]]
    assert cut == 1


def taught(
    folder: Path, checkpoint: Path, trained: str = "projector", stop: int | None = None
) -> tuple[Any, list[float], Any]:
    """Two kinds of image, a report for each; optionally interrupted at a step."""
    model, tokenizer = generator(folder, trained)
    kind = torch.arange(8) % 2
    images = tokens(8) * 0.3 + kind[:, None, None] * 2
    texts = ["no pleural effusion .", "large left pleural effusion ."]
    labels, _ = encode_reports(tokenizer, [texts[k] for k in kind], 8)
    calls = 0

    def loss(chosen: np.ndarray) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if stop is not None and calls > stop:
            raise KeyboardInterrupt
        return model.loss(images[chosen], PROMPT, labels[chosen])

    plan = Plan(epochs=30, batch=4, save_every=7)
    losses = fit(
        model, loss, {"projector": 1e-2, "language": 1e-2},
        rows=8, plan=plan, checkpoint=checkpoint, seed=5,
    )  # fmt: skip
    rows = model.generate(images[:2], PROMPT, 8, [END])
    return model, losses, [tokenizer.decode(row) for row in rows]


def test_it_writes_what_the_image_is_of(folder: Path, tmp_path: Path) -> None:
    _, losses, written = taught(folder, tmp_path / "head.pt", "full")
    assert losses[-1] < 0.1 < losses[0]
    assert written == ["no pleural effusion .", "large left pleural effusion ."]


def test_an_interrupted_training_ends_where_it_would_have(folder: Path, tmp_path: Path) -> None:
    whole, losses, _ = taught(folder, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        taught(folder, tmp_path / "parts.pt", stop=24)
    parts, again, _ = taught(folder, tmp_path / "parts.pt")
    assert again == losses
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    # The checkpoint holds what was trained, not the language model.
    state = torch.load(tmp_path / "parts.pt", weights_only=True)["module"]
    assert {name.split(".")[0] for name in state} == {"projector"}


@given(
    patients=st.lists(st.sampled_from("abcdef"), min_size=2, max_size=20).filter(
        lambda names: len(set(names)) > 1
    ),
    seed=st.integers(0, 5),
)
def test_shuffled_images_are_of_other_patients(patients: list[str], seed: int) -> None:
    names = np.array(patients)
    taken = others(names, seed)
    assert (names[taken] != names).all()
    most = max(patients.count(name) for name in set(patients))
    if most <= len(patients) // 2:
        assert sorted(taken.tolist()) == list(range(len(patients)))


def test_one_patient_has_no_other() -> None:
    with pytest.raises(NotApplicable, match="two patients"):
        others(np.array(["a", "a"]), 0)
