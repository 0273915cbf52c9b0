"""CheXficient's released layout, on a state drawn here with the names of its public code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import text_checkpoint

from sagittal_core.errors import DataError
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.released import HEAD_WIDTH, MEAN
from sagittal_cxr.runs import load_image_text, save_image_text

WIDTH, PATCH, GRID, DIM = 2 * HEAD_WIDTH, 7, 3, 8
TEXTS = ["no acute finding", "large mass . left effusion , heart normal"]
BLOCK = {
    "norm1.weight": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "ls1.gamma": (WIDTH,),
    "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,),
    "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "mlp.fc2.bias": (WIDTH,),
    "ls2.gamma": (WIDTH,),
}
VISION = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, GRID * GRID + 1, WIDTH),
    "mask_token": (1, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
    "patch_embed.proj.bias": (WIDTH,),
    "norm.weight": (WIDTH,),
    "norm.bias": (WIDTH,),
    **{f"blocks.{n}.{name}": shape for n in range(2) for name, shape in BLOCK.items()},
}


def drawn_state(text: Path) -> dict[str, Tensor]:
    """Names and shapes of the public code's model, at a small size."""
    import transformers

    own = {
        "image_projection.projection.weight": (DIM, WIDTH),
        "image_projection.projection.bias": (DIM,),
        "text_projection.projection.weight": (DIM, 16),
        "text_projection.projection.bias": (DIM,),
        "logit_scale": (),
        "prototypes": (6, 2 * DIM),
        "prototype_usage": (6,),
        "step_count": (1,),
        "batch_prototype_updates": (6, 2 * DIM),
        "batch_update_weight_stats": (1, 2),
        "pending_ema_features": (0, 2 * DIM),
        "pending_ema_similarities": (0, 6),
    }
    shapes = own | {f"image_encoder.model.{name}": shape for name, shape in VISION.items()}
    generator = torch.Generator().manual_seed(0)
    state = {n: 0.2 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    bert = transformers.BertModel.from_pretrained(text).state_dict()
    return state | {f"text_encoder.model.{name}": value.clone() for name, value in bert.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture
def folder(text: Path, tmp_path: Path) -> Path:
    """As a user would have it: the file, and the text encoder's configuration and tokenizer."""
    made = tmp_path / "released"
    shutil.copytree(text, made / "text")
    (made / "text" / "model.safetensors").unlink()
    saved = {"model": drawn_state(text), "epoch": 19, "step": [9], "subset": {3, 5}}
    torch.save(saved, made / "pytorch_model.pth")
    return made


def changed(folder: Path, remove: str = "", **added: Tensor) -> Path:
    saved = torch.load(folder / "pytorch_model.pth", weights_only=True)
    state = {n: v for n, v in saved["model"].items() if not remove or remove not in n}
    torch.save({"model": state | added}, folder / "pytorch_model.pth")
    return folder


def dinov2(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Class token of the network as its paper and code have it, in plain functions."""
    of = {k.removeprefix("image_encoder.model."): v for k, v in state.items()}

    def norm(rows: Tensor, name: str) -> Tensor:
        scale, shift = of[f"{name}.weight"], of[f"{name}.bias"]
        return functional.layer_norm(rows, (WIDTH,), scale, shift, eps=1e-6)

    def linear(rows: Tensor, name: str) -> Tensor:
        return functional.linear(rows, of[f"{name}.weight"], of[f"{name}.bias"])

    patches = functional.conv2d(
        images, of["patch_embed.proj.weight"], of["patch_embed.proj.bias"], stride=PATCH
    )
    rows = patches.flatten(2).transpose(1, 2)
    rows = torch.cat([of["cls_token"].expand(len(rows), -1, -1), rows], 1) + of["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = linear(norm(rows, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        q, k, v = (x.unflatten(-1, (2, HEAD_WIDTH)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / HEAD_WIDTH**0.5).softmax(-1)
        seen = linear((weights @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        rows = rows + of[f"{block}.ls1.gamma"] * seen
        hidden = functional.gelu(linear(norm(rows, f"{block}.norm2"), f"{block}.mlp.fc1"))
        rows = rows + of[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(rows, "norm")[:, 0]


def test_it_encodes_as_the_released_code_does(folder: Path, text: Path) -> None:
    import transformers

    model, state = load_image_text(folder), drawn_state(text)
    images = torch.randn(2, 3, GRID * PATCH, GRID * PATCH, generator=torch.Generator())
    ids, mask = model.tokenize(TEXTS)
    with torch.no_grad():
        rows = dinov2(state, images)
        torch.testing.assert_close(model.image_features(images), rows, rtol=1e-4, atol=1e-4)
        weight, bias = (state[f"image_projection.projection.{n}"] for n in ("weight", "bias"))
        wanted = functional.normalize(functional.linear(rows, weight, bias), dim=1)
        torch.testing.assert_close(model.encode_image(images), wanted, rtol=1e-4, atol=1e-4)
        bert = transformers.BertModel.from_pretrained(text).eval()
        hidden = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(2), mask.sum(1) - 1]
        weight, bias = (state[f"text_projection.projection.{n}"] for n in ("weight", "bias"))
        wanted = functional.normalize(functional.linear(last, weight, bias), dim=1)
        torch.testing.assert_close(model.encode_text(ids, mask), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.logit_scale, state["logit_scale"])
    assert not model.training


def test_the_released_preprocessing_goes_with_it(folder: Path) -> None:
    given = load_image_text(folder).preprocessing
    side = GRID * PATCH
    assert (given.resize, given.crop, given.resample) == (side, (side, side), "bicubic")


def test_it_is_exported_and_has_a_random_twin(folder: Path, tmp_path: Path) -> None:
    model = load_image_text(folder)
    assert model.preprocessing.scale * 255 == pytest.approx(1)
    assert list(model.preprocessing.mean) == pytest.approx(MEAN)
    twin = ImageEncoder(model.vision.spec, twin_seed=0)
    assert twin.dim == WIDTH
    save_image_text(model, tmp_path / "out")
    again = load_image_text(tmp_path / "out")
    ids, mask = again.tokenize(TEXTS)
    with torch.no_grad():
        assert torch.equal(again.encode_text(ids, mask), model.encode_text(ids, mask))


@pytest.mark.parametrize(
    ("remove", "added", "said"),
    [
        ("", {"visual.proj": torch.zeros(2)}, "1 not of this layout: visual.proj"),
        (
            "",
            {"image_encoder.model.register_tokens": torch.zeros(1, 4, WIDTH)},
            "image_encoder.model.register_tokens",
        ),
        ("", {"text_encoder.model.embeddings.other": torch.zeros(2)}, "embeddings.other"),
        ("text_projection", {}, "2 missing: text_projection.projection.weight"),
        ("image_encoder", {}, r"1 missing: image_encoder.model"),
        ("blocks.1.attn.proj.bias", {}, "missing"),
        ("text_encoder.model.encoder.layer.1.output.dense.bias", {}, "missing"),
        ("", {"image_encoder.model.pos_embed": torch.zeros(1, 9, WIDTH)}, "a square grid"),
        ("", {"text_projection.projection.bias": torch.zeros(3)}, r"shapes \(3,\)"),
    ],
)
def test_what_is_not_of_the_layout_is_named(
    folder: Path, remove: str, added: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        load_image_text(changed(folder, remove, **added))


def test_the_text_folder_is_needed(folder: Path) -> None:
    shutil.rmtree(folder / "text")
    with pytest.raises(DataError, match="Bio_ClinicalBERT"):
        load_image_text(folder)


def test_nothing_is_executed_from_the_file(folder: Path) -> None:
    torch.save({"model": {}, "args": Path("x")}, folder / "pytorch_model.pth")
    with pytest.raises(DataError, match="weights_only"):
        load_image_text(folder)
