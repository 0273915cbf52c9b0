"""The readout of one-token answers: in context, batch independent, with its mass."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from sagittal_core.errors import ConfigError, DataError
from sagittal_risk.nn.answer_model import AnswerModel, LoRASettings
from sagittal_risk.prompts import prompt, read_percent

_spec = importlib.util.spec_from_file_location("tiny_lm", Path(__file__).parent / "tiny_lm.py")
tiny_lm = importlib.util.module_from_spec(_spec)
sys.modules["tiny_lm"] = tiny_lm
_spec.loader.exec_module(tiny_lm)

PROMPTS = [
    prompt("Age: 61 years;\nSex: Female."),
    prompt("Age: 53 years;\nSex: Male;\nSystolic blood pressure: 125 mmHg;\nDiabetes: Yes."),
    prompt("Sex: Male."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm.save_tiny(tmp_path_factory.mktemp("lm") / "tiny", PROMPTS)


@pytest.fixture(scope="module")
def model(folder: Path) -> AnswerModel:
    return AnswerModel(str(folder)).eval()


def test_a_batch_answers_as_each_prompt_alone(model: AnswerModel) -> None:
    with torch.no_grad():
        together = model(PROMPTS).logprobs
        alone = torch.cat([model([text]).logprobs for text in PROMPTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_risk_and_mass_are_those_of_the_whole_vocabulary(model: AnswerModel) -> None:
    """Against the logits of the model itself, without padding or position tricks."""
    with torch.no_grad():
        answers = model(PROMPTS)
        for number, text in enumerate(PROMPTS):
            joined = [
                model.tokenizer(text + a, add_special_tokens=False)["input_ids"]
                for a in ("No", "Yes")
            ]
            no, yes = joined[0][-1], joined[1][-1]
            p = model.network(input_ids=torch.tensor([joined[0][:-1]])).logits[0, -1].softmax(-1)
            assert float(answers.mass[number]) == pytest.approx(float(p[no] + p[yes]), rel=1e-4)
            expected = float(p[yes] / (p[no] + p[yes]))
            assert float(answers.risk[number]) == pytest.approx(expected, rel=1e-4)


def test_the_context_is_that_of_prompt_and_answer_together(model: AnswerModel) -> None:
    """Two line breaks are one token at the end of a text and two before a word."""
    context, (no, yes) = model.encode(PROMPTS[0])
    alone = model.tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"]
    assert context != alone
    assert model.tokenizer.decode([*context, yes]) == PROMPTS[0] + "Yes"
    assert model.tokenizer.decode([*context, no]) == PROMPTS[0] + "No"


def test_after_a_space_an_answer_is_another_token(folder: Path) -> None:
    spaced = AnswerModel(str(folder), answers=(" No", " Yes"))
    plain = AnswerModel(str(folder))
    assert set(spaced.encode("Answer:")[1]).isdisjoint(plain.encode("Answer:\n")[1])


def test_an_answer_of_several_tokens_is_refused(folder: Path) -> None:
    model = AnswerModel(str(folder), answers=("unlikely", "probable"))
    with pytest.raises(ConfigError, match="one token each"):
        model(PROMPTS)


def test_two_equal_answers_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="two different ones"):
        AnswerModel(str(folder), answers=("Yes", "Yes"))(PROMPTS)


def test_a_prompt_that_is_too_long_is_refused_not_cut(folder: Path) -> None:
    with pytest.raises(DataError, match="up to 16 tokens"):
        AnswerModel(str(folder), longest=16)(PROMPTS)


def test_only_adapters_are_trained_and_begin_as_nothing(folder: Path, model: AnswerModel) -> None:
    tuned = AnswerModel(str(folder), lora=LoRASettings(rank=4, dropout=0.0)).eval()
    names = [name for name, _ in tuned.trainable()]
    assert len(names) == 2 * 2 * 3  # two factors, two layers, three targets
    assert all("lora_" in name for name in names)
    with torch.no_grad():
        torch.testing.assert_close(tuned(PROMPTS).logprobs, model(PROMPTS).logprobs)


def test_the_loss_is_that_of_the_answer_token_and_falls(folder: Path) -> None:
    torch.manual_seed(0)
    tuned = AnswerModel(str(folder), lora=LoRASettings(rank=4, dropout=0.0))
    labels = torch.tensor([1.0, 0.0, 1.0])
    answers = tuned(PROMPTS)
    by_hand = -torch.stack([answers.logprobs[i, int(l)] for i, l in enumerate(labels)]).mean()
    torch.testing.assert_close(tuned.loss(answers, labels), by_hand)
    optimiser = torch.optim.Adam([p for _, p in tuned.trainable()], lr=0.02)
    first = float(tuned.loss(tuned(PROMPTS), labels).detach())
    for _ in range(30):
        optimiser.zero_grad()
        loss = tuned.loss(tuned(PROMPTS), labels)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < first - 0.3


def test_a_target_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="w_query"):
        AnswerModel(str(folder), lora=LoRASettings(targets=("w_query",)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"risk_percent": 1}', 0.01),
        ('{"risk_percent": 0.5}', 0.005),
        ('The answer is {"risk_percent": "12.5 %"}.', 0.125),
        ('{"note": 3} {"risk_percent": 100}', 1.0),
    ],
)
def test_a_stated_risk_has_its_unit(text: str, value: float) -> None:
    assert read_percent(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["12 %", '{"risk": 12}', '{"risk_percent": 120}', '{"risk_percent": "high"}', "{}"]
)
def test_what_is_no_stated_risk(text: str) -> None:
    with pytest.raises(ValueError):
        read_percent(text)
