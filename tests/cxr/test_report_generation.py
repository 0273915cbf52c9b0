"""A report generator sees the image, writes what it was taught, and is told from one blind."""

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
from squares import LEFT, NOTHING, RIGHT, write_index
from tiny_language import language_checkpoint
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.encoders import VisionSpec
from sagittal_core.errors import ConfigError
from sagittal_core.llm.weights import read_model
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.report_generator import IGNORED, ReportGenerator, pooled_tokens
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.tasks.report_generation import ReportGeneration, encode_reports, others
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable
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


def test_lora_begins_as_the_model_that_it_changes(folder: Path) -> None:
    pytest.importorskip("peft")
    plain, changed = (generator(folder, trained)[0] for trained in ("projector", "lora"))
    changed.projector.load_state_dict(plain.projector.state_dict())
    written = [model.generate(tokens(3), PROMPT, 5, [END]) for model in (plain, changed)]
    assert written[0] == written[1]


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

    plan = Plan(epochs=30, batch=4, save_seconds=0)
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageTextModel:
    folder = tmp_path_factory.mktemp("checkpoints")
    vision = ImageEncoder(VisionSpec("transformers", str(vision_checkpoint(folder / "v"))))
    return ImageTextModel(vision, TextEncoder(str(text_checkpoint(folder / "t"))), dim=8).eval()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("reports") / "index", patients=24)


def task(folder: Path, **options: object) -> ReportGeneration:
    settings = {
        "language": str(folder),
        "trained": "full",
        "prompt": "lungs:",
        "max_tokens": 8,
        "lr": 1e-2,
        "language_lr": 1e-2,
        "epochs": 40,
        "sentence_encoder": None,
        "resamples": 50,
    }
    return ReportGeneration(**settings | options)


def run(
    one: ReportGeneration, model: ImageTextModel, index: Path, cell: Path
) -> dict[tuple[str, str | None], Measure]:
    cell.mkdir(exist_ok=True)
    benchmark = Benchmark("drawn", index)
    return {(m.name, m.label): m for m in one.run(model, benchmark, cell, device="cpu", seed=0)}


def test_reports_of_what_the_image_shows_are_above_every_control(
    folder: Path, model: ImageTextModel, index: Path, tmp_path: Path
) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    cell = tmp_path / "cell"
    found = run(task(folder), model, index, cell)
    for metric in ("rule_labels_f1 micro-14", "BLEU-1", "ROUGE-L"):
        own = found[metric, None]
        assert own.estimate > 0.85, metric
        assert own.n == 6
        for arm in ("most frequent report", "shuffled images"):
            other, above = found[f"{metric}, {arm}", None], found[f"{metric} above {arm}", None]
            assert other.estimate < own.estimate
            assert above.estimate == pytest.approx(own.estimate - other.estimate)
            assert above.low is not None
    assert found["rule_labels_f1", "Pleural Effusion"].estimate > 0.7
    detail = found["BLEU-4", None].detail
    assert detail["training reports"] == 24
    assert detail["training reports cut"] == detail["empty reports"] == 0
    assert detail["references"] == {"report": 12}
    import pandas

    items = pandas.read_parquet(cell / "items.parquet")
    assert set(items["generated"]) <= {NOTHING, LEFT, RIGHT}
    assert items["nearest report"].isin([NOTHING, LEFT, RIGHT]).all()
    assert "secret" not in items.to_csv()
    assert found["distinct reports", None].estimate == pytest.approx(
        items["generated"].nunique() / 12
    )
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_generator_that_says_one_thing_gains_nothing_from_the_image(
    folder: Path, model: ImageTextModel, index: Path, tmp_path: Path
) -> None:
    # One step of a frozen random language model: the same words whatever the image.
    one = task(folder, trained="projector", lr=1e-6, epochs=1, batch=64)
    found = run(one, model, index, tmp_path / "cell")
    assert found["ROUGE-L above shuffled images", None].estimate == pytest.approx(0, abs=0.05)
    assert found["distinct reports", None].estimate < 0.5


def test_a_finished_part_is_not_done_again(
    folder: Path, model: ImageTextModel, index: Path, tmp_path: Path, monkeypatch
) -> None:
    from sagittal_cxr.tasks import report_generation, report_images

    one, cell = task(folder, epochs=1), tmp_path / "cell"
    first = run(one, model, index, cell)

    def never(*args: object, **options: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(report_images, "_encoded", never)
    monkeypatch.setattr(report_generation, "fit", never)
    again = run(one, model, index, cell)
    assert {k: m.estimate for k, m in again.items()} == pytest.approx(
        {k: m.estimate for k, m in first.items()}, nan_ok=True
    )
    with pytest.raises(AssertionError, match="done again"):
        run(task(folder, epochs=2), model, index, cell)


def test_pseudo_reports_are_no_references_unless_asked_for(
    folder: Path, model: ImageTextModel, tmp_path: Path
) -> None:
    index = write_index(tmp_path / "index", patients=8, source="template")
    with pytest.raises(NotApplicable, match="references: any"):
        run(task(folder), model, index, tmp_path / "cell")
    one = task(folder, references="any", epochs=1, train_rows=5, test_rows=3)
    found = run(one, model, index, tmp_path / "cell")
    detail = found["BLEU-1", None].detail
    assert detail["references"] == {"template": 3}
    assert detail["training reports"] == 5
    assert found["BLEU-1", None].low is None  # two patients


def test_there_are_no_figures_of_train(
    folder: Path, model: ImageTextModel, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match="not for train"):
        task(folder).run(
            model, Benchmark("drawn", index, split="train"), tmp_path, device="cpu", seed=0
        )
