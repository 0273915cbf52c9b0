"""The encoders are what their checkpoints say, and only what is asked for is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.encoders import VisionSpec, load_vision
from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.runs import load_image_text, save_image_text

TEXTS = ["no acute finding", "large mass . left effusion , heart normal", "clear"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return str(vision_checkpoint(folder / "v")), str(text_checkpoint(folder / "t"))


@pytest.fixture
def model(folders: tuple[str, str]) -> ImageTextModel:
    vision = ImageEncoder(VisionSpec("transformers", folders[0]))
    return ImageTextModel(vision, TextEncoder(folders[1]), dim=8)


def pixels(count: int, side: int = 28) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_image_encoder_is_cores_with_gradients(folders: tuple[str, str]) -> None:
    spec = VisionSpec("transformers", folders[0])
    frozen, trained = load_vision(spec), ImageEncoder(spec).eval()
    for one, other in zip(frozen(pixels(2))[:2], trained(pixels(2))[:2], strict=True):
        torch.testing.assert_close(one, other)
    assert not any(p.requires_grad for p in frozen.network.parameters())


def test_every_trained_parameter_gets_a_gradient_and_the_mask_token_is_none(
    model: ImageTextModel,
) -> None:
    images, texts = model.encode_image(pixels(3)), model.encode_text(*model.tokenize(TEXTS))
    (model.logit_scale.exp() * (images @ texts.T)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["vision.network.embeddings.mask_token"]


@pytest.mark.parametrize("pooling", ["eos", "cls", "mean"])
def test_pooling_ignores_padding(pooling: str, folders: tuple[str, str]) -> None:
    text = TextEncoder(folders[1], pooling=pooling).eval()  # type: ignore[arg-type]
    together = text(*text.tokenize(TEXTS))
    for row, one in zip(together, TEXTS, strict=True):
        ids, mask = text.tokenize([one])
        torch.testing.assert_close(text(ids, mask)[0], row)
        hidden = text.tokens(ids, mask)[0]
        assert ids[0, -1] == text.tokenizer.sep_token_id
        wanted = {"eos": hidden[-1], "cls": hidden[0], "mean": hidden.mean(0)}[pooling]
        torch.testing.assert_close(row, wanted)


def test_long_texts_are_cut_and_still_end_with_the_last_token(folders: tuple[str, str]) -> None:
    text = TextEncoder(folders[1], max_length=5)
    ids, mask = text.tokenize(["no acute finding large small left"])
    assert (ids.shape, int(mask.sum())) == ((1, 5), 5)
    assert ids[0, -1] == text.tokenizer.sep_token_id
    with pytest.raises(ConfigError, match="300"):
        TextEncoder(folders[1], max_length=301)


def test_unit_rows_and_what_lies_before_the_projection(model: ImageTextModel) -> None:
    images = model.encode_image(pixels(2))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    tokens, grid = model.image_tokens(pixels(2))
    assert (tokens.shape, grid) == ((2, 16, 16), (4, 4))
    rows = model.image_projection(model.image_features(pixels(2)))
    torch.testing.assert_close(rows / rows.norm(dim=1, keepdim=True), images)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(100)
    ids, mask = model.tokenize(TEXTS)
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)


def test_blocks_that_are_not_trained(folders: tuple[str, str]) -> None:
    spec = VisionSpec("transformers", folders[0])
    names = [n for n, p in ImageEncoder(spec, 1).network.named_parameters() if p.requires_grad]
    assert names
    assert all(n.startswith(("layernorm", "encoder.layer.1", "layers.1")) for n in names), names
    assert any("layernorm" in n for n in names)
    still = TextEncoder(folders[1], trained_blocks=0)
    assert not any(p.requires_grad for p in still.parameters())
    assert not any(module.training for module in still.network.modules())
    with pytest.raises(ConfigError, match="2 blocks"):
        ImageEncoder(spec, 3)


def test_batch_normalisation_stays_unless_asked() -> None:
    spec = VisionSpec(image_size=32)
    for how, moves in (("frozen", False), ("train", True)):
        encoder = ImageEncoder(spec, batch_norm=how, twin_seed=0)  # type: ignore[arg-type]
        encoder.train()
        before = encoder.network.stem_norm.running_mean.clone()  # type: ignore[union-attr,operator]
        encoder(pixels(2, 32))
        now = encoder.network.stem_norm.running_mean  # type: ignore[union-attr]
        assert torch.equal(before, now) != moves  # type: ignore[arg-type]
        assert encoder.uses_batch_statistics == moves
        assert encoder.network.stem_norm.weight.requires_grad  # type: ignore[union-attr]
        assert not encoder.network.classifier.weight.requires_grad  # type: ignore[union-attr]


def test_an_exported_model_stands_alone(
    model: ImageTextModel, folders: tuple[str, str], tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_image_text(model, tmp_path / "out")
    again, model = load_image_text(tmp_path / "out"), model.eval()
    assert not again.training
    assert again.preprocessing == model.preprocessing
    ids, mask = again.tokenize(TEXTS)
    assert torch.equal(ids, model.tokenize(TEXTS)[0])
    with torch.no_grad():
        assert torch.equal(again.encode_text(ids, mask), model.encode_text(ids, mask))
        assert torch.equal(again.encode_image(pixels(2)), model.encode_image(pixels(2)))
    assert torch.equal(again.logit_scale, model.logit_scale)
    (tmp_path / "out" / "image_text.json").write_text('{"version": 9}')
    with pytest.raises(DataError, match="version 9"):
        load_image_text(tmp_path / "out")


def test_an_exported_twin_of_efficientnet_with_a_bias(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    vision = ImageEncoder(VisionSpec(image_size=64), crop=True, mean=[100.0] * 3, twin_seed=3)
    model = ImageTextModel(vision, TextEncoder(folders[1]), dim=8, logit_bias=-10.0).eval()
    save_image_text(model, tmp_path / "out")
    again = load_image_text(tmp_path / "out")
    assert float(again.logit_bias.detach()) == -10  # type: ignore[union-attr]
    assert again.preprocessing == model.preprocessing
    assert (again.preprocessing.resize, again.preprocessing.crop) == (64, (64, 64))
    assert (again.preprocessing.mean, again.preprocessing.std) == ((100.0,) * 3, (128.0,) * 3)
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels(1, 64)), model.encode_image(pixels(1, 64)))


def test_half_precision_weights_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision"):
        ImageEncoder(VisionSpec(dtype="float16"))
    with pytest.raises(DataError, match=r"config\.json"):
        TextEncoder(str(tmp_path))
