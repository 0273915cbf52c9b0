"""CheXficient's released checkpoint, in the layout of its public code.

The names are those that the modules of that code give (github.com/cwangrun/CheXficient at 93b55e9,
``models_clip.py``, ``util/projection.py``, ``util/misc.py``, ``dinov2/models``). They lie under
"model" of a file that torch saved::

    image_encoder.model.*                   DINOv2 by its own names, without registers
    text_encoder.model.*                    BERT as transformers names it
    {image,text}_projection.projection.*    a linear layer with a bias each
    logit_scale                             () logarithm of the scale
    prototypes, ...                         the state of its curation: not needed to encode

Written from the code: no released file was at hand to try it on.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sagittal_core.encoders.vision import VisionSpec
from sagittal_core.encoders.weights import read_state
from sagittal_core.errors import DataError
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder

WEIGHTS = "pytorch_model.pth"
MAX_TOKENS = 256
HEAD_WIDTH = 64  # of every DINOv2; the number of heads is in no tensor
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

_VISION = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls2.gamma": "layer_scale2.lambda1",
}
_TEXT = re.compile(
    r"embeddings\.((word|position|token_type)_embeddings\.weight|LayerNorm\.(weight|bias))"
    r"|encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.(dense|LayerNorm)"
    r"|intermediate\.dense|output\.(dense|LayerNorm))\.(weight|bias)"
)
_NOT_USED = re.compile(
    r"prototypes|prototype_usage|step_count|batch_prototype_updates|batch_update_weight_stats"
    r"|pending_ema_(features|similarities)"
    r"|text_encoder\.model\.(pooler\.dense\.(weight|bias)|embeddings\.position_ids)"
)
_OWN = {
    "logit_scale": "logit_scale",
    "image_projection.projection.weight": "image_projection.weight",
    "image_projection.projection.bias": "image_projection.bias",
    "text_projection.projection.weight": "text_projection.weight",
    "text_projection.projection.bias": "text_projection.bias",
}


def read_released(folder: Path) -> ImageTextModel:
    """Read a folder with ``pytorch_model.pth`` as released, and ``text/``.

    Args:
        folder: ``text/`` in it holds config.json and the tokenizer of Bio_ClinicalBERT, which are
            not in the released file.

    Returns:
        The model in evaluation mode, with the released preprocessing: shorter edge to the size of
        the position embeddings, centre crop, CLIP's mean and deviation.

    Raises:
        DataError: Names that are not of this layout, missing ones, or shapes that do not fit.
    """
    file = folder / WEIGHTS
    vision, text, own = _sorted(read_state(file), file)
    made = Path(tempfile.mkdtemp(prefix="chexficient-"))
    try:
        _write_vision(made / "vision", vision, file)
        _write_text(made / "text", text, folder / "text")
        encoder = ImageEncoder(VisionSpec("transformers", str(made / "vision")))
        texts = TextEncoder(str(made / "text"), pooling="eos", max_length=MAX_TOKENS)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    # A random twin of the encoder is built from its configuration, so that stays as long as it.
    (made / "vision" / "model.safetensors").unlink()
    shutil.rmtree(made / "text")
    weakref.finalize(encoder, shutil.rmtree, made, ignore_errors=True)
    width = len(own["image_projection.weight"])
    network = ImageTextModel(encoder, texts, dim=width)
    network.add_projection_biases()
    wrong = {
        name: tuple(value.shape)
        for name, value in own.items()
        if value.shape != network.get_parameter(name).shape
    }
    if wrong:
        raise DataError(
            file,
            key=", ".join(wrong),
            expected=f"projections of {encoder.dim} and {texts.dim} to {width} dimensions",
            found=f"shapes {', '.join(map(str, wrong.values()))}",
        )
    with torch.no_grad():
        for name, value in own.items():
            network.get_parameter(name).copy_(value)
    return network.eval()


def _sorted(
    state: dict[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the vision encoder, the text encoder (by transformers' names) and what is left."""
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        if name in _OWN:
            own[_OWN[name]] = value
        elif name.startswith("image_encoder.model.") and (
            renamed := _vision_names(name.removeprefix("image_encoder.model."), value)
        ):
            vision |= renamed
        elif name.startswith("text_encoder.model.") and _TEXT.fullmatch(
            inner := name.removeprefix("text_encoder.model.")
        ):
            text[inner] = value
        elif not _NOT_USED.fullmatch(name):
            unknown.append(name)
    missing = [name for name, ours in _OWN.items() if ours not in own]
    missing += [] if vision else ["image_encoder.model.*"]
    missing += [] if text else ["text_encoder.model.*"]
    if unknown or missing:
        parts = [("not of this layout", unknown), ("missing", missing)]
        raise DataError(
            file,
            key="model",
            expected="the names of CheXficient's public code",
            found="; ".join(
                f"{len(names)} {what}: {', '.join(names[:4])}" for what, names in parts if names
            ),
        )
    return vision, text, own


def _vision_names(name: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor of DINOv2's code under the names of its checkpoints in transformers; {}: unknown."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    names, inner, front = (_VISION, name, "") if block is None else (_BLOCK, block[2], "")
    if block is not None:
        front = f"encoder.layer.{block[1]}."
        if match := re.fullmatch(r"attn\.qkv\.(weight|bias)", inner):
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            return {f"{front}attention.attention.{n}.{match[1]}": p for n, p in parts}
    if inner in names:
        return {front + names[inner]: value}
    stem, _, kind = inner.rpartition(".")
    if stem in names and kind in ("weight", "bias"):
        return {f"{front}{names[stem]}.{kind}": value}
    return {}


def _write_vision(folder: Path, state: dict[str, Tensor], file: Path) -> None:
    """A checkpoint as transformers reads it, whose sizes follow from the tensors."""
    names = ("embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight")
    first = "encoder.layer.0.mlp.fc1.weight"
    absent = [name for name in (*names, first) if name not in state]
    grid = 0 if absent else math.isqrt(state[names[0]].shape[1] - 1)
    width = 0 if absent else state[names[0]].shape[2]
    if absent or grid**2 + 1 != state[names[0]].shape[1] or width % HEAD_WIDTH:
        raise DataError(
            file,
            key="image_encoder.model",
            expected=f"a DINOv2: a square grid and heads of {HEAD_WIDTH}",
            found=f"no {', '.join(absent)}" if absent else f"{tuple(state[names[0]].shape)}",
        )
    patch = state[names[1]].shape[-1]
    size = grid * patch
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layer.")}
    config = {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // HEAD_WIDTH,
        "mlp_ratio": state[first].shape[0] // width,
        "image_size": size,
        "patch_size": patch,
    }
    processor = {
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "image_mean": MEAN,
        "image_std": STD,
    }
    _write(folder, state, {"config.json": config, "preprocessor_config.json": processor})


def _write_text(folder: Path, state: dict[str, Tensor], given: Path) -> None:
    """The given configuration and tokenizer beside the released weights."""
    if not (given / "config.json").is_file():
        raise DataError(
            given,
            key="config.json",
            expected="configuration and tokenizer of Bio_ClinicalBERT",
            found="no such file",
            hint=f"the released file holds weights only: put them into {given}",
        )
    _write(folder, state, {})
    for file in given.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt"):
            shutil.copyfile(file, folder / file.name)


def _write(folder: Path, state: dict[str, Tensor], described: dict[str, dict[str, Any]]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {name: value.float().contiguous().clone() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, values in described.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
