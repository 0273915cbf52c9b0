"""Local models from disk: a tiny random one in the format of the real ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm import LocalModel, Message, Request

WORDS = [
    "liver",
    "spleen",
    "left",
    "right",
    "kidney",
    "which",
    "organ",
    "is",
    "it",
    "user",
    "assistant",
    ":",
    "and",
    "with",
    "axial",
]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
ASK = (Message("user", "which organ is it"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 20 words, random weights, saved as transformers saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "tiny-lm"
    words = {word: i for i, word in enumerate(["<unk>", "<end>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(folder, device="cpu", options_per_pass=2)


def by_hand(model: LocalModel, prompt: list[int], option: list[int]) -> float:
    """The chain rule, one token after the other, without padding or batches."""
    network, _ = model._load()
    total = 0.0
    for i, token in enumerate(option):
        with torch.no_grad():
            logits = network(torch.tensor([prompt + option[:i]])).logits[0, -1]
        total += float(logits.double().log_softmax(0)[token])
    return total


def test_choices_follow_the_chain_rule_whatever_their_length(model: LocalModel) -> None:
    options = ["liver", "left kidney and spleen", "spleen", "axial liver", "right kidney"]
    scores = model.choose(ASK, options)
    _, tokenizer = model._load()
    prompt = tokenizer("user : which organ is it assistant : ")["input_ids"]
    encoded = [tokenizer(option)["input_ids"] for option in options]
    expected = [by_hand(model, prompt, option) for option in encoded]
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
    assert scores.tokens.tolist() == [1, 4, 1, 2, 2]


def test_many_conversations_score_as_each_alone(model: LocalModel) -> None:
    """Padding on the left and other rows of a batch change nothing."""
    talks = [
        (Message("user", text),)
        for text in ("which", "which organ is it", "left and right kidney with it", "it")
    ]
    for options in (["liver", "spleen", "kidney"], ["left liver", "it"]):
        together = model.choose_many(talks, options)
        for talk, found in zip(talks, together, strict=True):
            alone = model.choose(talk, options)
            np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=1e-5)
            np.testing.assert_array_equal(found.tokens, alone.tokens)
    assert model.choose_many([], ["liver"]) == []


def test_answers_of_one_token_are_named_once_each(model: LocalModel) -> None:
    options = ["liver", " liver", "left kidney", "spleen", ""]
    assert model.one_token(options) == ["liver", "spleen"]


def test_greedy_is_the_most_likely_token_each_time(model: LocalModel) -> None:
    reply = model.complete(Request(ASK, max_tokens=5))
    network, tokenizer = model._load()
    ids = tokenizer("user : which organ is it assistant : ")["input_ids"]
    start = len(ids)
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 1:
            break
    assert reply.text == tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert (reply.prompt_tokens, reply.completion_tokens) == (start, len(ids) - start)
    assert reply.outcome == ("truncated" if ids[-1] != 1 else "ok")


def test_sampling_is_a_function_of_seed_and_sample(model: LocalModel) -> None:
    def text(**options: int) -> str:
        torch.manual_seed(int(torch.randint(99, ()).item()))  # the global state is of no account
        return model.complete(Request(ASK, max_tokens=12, temperature=1.5, **options)).text

    assert text() == text()
    assert len({text(seed=0), text(seed=1), text(sample=1), text(sample=2)}) == 4


def test_sampling_leaves_the_global_generator_alone(model: LocalModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.complete(Request(ASK, max_tokens=3, temperature=1.0))
    assert torch.equal(torch.rand(1), expected)


def test_a_prompt_that_does_not_fit_is_told(model: LocalModel) -> None:
    reply = model.complete(Request((Message("user", "liver " * 60),), max_tokens=10))
    assert reply.outcome == "transport"
    assert "context" in reply.detail
    with pytest.raises(DataError, match="64"):
        model.choose((Message("user", "liver " * 60),), ["spleen"])


def test_an_empty_option_is_an_error(model: LocalModel) -> None:
    with pytest.raises(DataError, match="at least one token"):
        model.choose(ASK, ["liver", ""])


def test_images_need_a_model_that_sees(model: LocalModel) -> None:
    with pytest.raises(ConfigError, match="without images"):
        model.complete(Request((Message("user", "is it", images=(b"x",)),)))


def test_names_and_identities_hold_no_path(folder: Path, model: LocalModel) -> None:
    assert model.name == "tiny-lm"
    assert str(folder.parent) not in model.identity
    copy = LocalModel(folder, device="cpu")
    assert copy.identity == model.identity
    assert LocalModel(folder, dtype="bfloat16").identity != model.identity


def test_other_weights_are_another_model(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "m")
    before = LocalModel(tmp_path / "m").identity
    file = tmp_path / "m" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    assert LocalModel(tmp_path / "m").identity != before


def test_what_is_no_model_is_named(tmp_path: Path, folder: Path) -> None:
    import shutil

    with pytest.raises(DataError, match="no such file"):
        LocalModel(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="safetensors or GGUF"):
        LocalModel(tmp_path / "empty").complete(Request(ASK))
    with pytest.raises(ConfigError, match="dtype"):
        LocalModel(folder, dtype="float8")
    shutil.copytree(folder, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"safetensors or GGUF[\s\S]*not fully covered"):
        LocalModel(tmp_path / "cut").complete(Request(ASK))


def test_pickled_weights_are_not_read(tmp_path: Path, folder: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        LocalModel(tmp_path / "m").complete(Request(ASK))


def test_a_model_without_a_chat_template_is_named(tmp_path: Path, folder: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="chat_template"):
        LocalModel(tmp_path / "m").complete(Request(ASK))


SEEING = (
    "{% for m in messages %}{{ m.role }} : {% for part in m.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A random image-text model: 4 image tokens from a 16 x 16 picture."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    path = tmp_path_factory.mktemp("models") / "tiny-vlm"
    words = {word: i for i, word in enumerate(["<unk>", "<end>", "<image>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="<end>",
        extra_special_tokens={"image_token": "<image>"},
    )
    LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_resize=True
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=SEEING,
    ).save_pretrained(path)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = LlamaConfig(
        vocab_size=len(words),
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.5,
        **size,
    )
    vision = CLIPVisionConfig(
        image_size=16, patch_size=8, num_attention_heads=2, initializer_range=1.0, **size
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
    LlavaForConditionalGeneration(config).save_pretrained(path)
    return LocalModel(path, sees_images=True, device="cpu")


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_text_model_answers_by_what_it_sees(seeing: LocalModel) -> None:
    options = ["liver", "left kidney", "spleen"]
    ask = [(Message("user", "which organ is it", images=(png(i),)),) for i in range(2)]
    scores = [seeing.choose(messages, options).logprobs for messages in ask]
    assert not np.allclose(*scores, atol=1e-3)
    np.testing.assert_allclose(
        scores[0], [seeing.choose(ask[0], [o]).logprobs[0] for o in options], atol=1e-4
    )
    two = Request((Message("user", "which organ", images=(png(0), png(1))),), max_tokens=3)
    reply = seeing.complete(two)
    assert reply.completion_tokens >= 1
    assert reply.prompt_tokens == len(["user", ":", "which", "organ", "assistant", ":"]) + 2 * 4
