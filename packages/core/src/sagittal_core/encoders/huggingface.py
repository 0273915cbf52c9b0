"""Vision encoders of transformers, from a folder on disk or a hub id.

=========================  ==================================  =====================================
model_type                 pooled row                          tokens
=========================  ==================================  =====================================
dinov2                     class token after the last norm     patch tokens, without the class token
dinov2_with_registers      class token after the last norm     without class and register tokens
dinov3_vit                 class token after the last norm     without class and register tokens
siglip, its vision model   attention pooling (pooler_output)   all, there is no class token
clip, its vision model     class token after the last norm     patch tokens before that norm
vit                        class token after the last norm     patch tokens; a pooler is left out,
                                                               as most checkpoints hold none
deit                       class token after the last norm     without class and distillation token
ijepa                      mean of the patch tokens            all, there is no class token
=========================  ==================================  =====================================

RAD-DINO is a dinov2, MedSigLIP a siglip. Other architectures go through
:mod:`sagittal_core.encoders.user_module`. Nothing is executed from a checkpoint. Of its files,
``preprocessor_config.json`` gives the preprocessing; as no image processor of DINOv3 works without
torchvision, the file is read here. DINOv3's own processor scales before it resizes, we after:
the difference is the rounding of a grey level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing, from_processor_config
from sagittal_core.encoders.vision import Features, VisionEncoder, VisionSpec
from sagittal_core.encoders.weights import drawn
from sagittal_core.errors import ConfigError, DataError


@dataclass(frozen=True)
class _Family:
    """How one model_type is built and read.

    Attributes:
        cls: Name of the class in transformers.
        pooled: "pooler" (the output's pooler_output), "class" (first token) or "mean" (of patches).
        prefix: Tokens before the patches, registers not counted.
        options: Of the class.
        interpolates: Whether another image size needs ``interpolate_pos_encoding``.
    """

    cls: str
    pooled: str
    prefix: int
    options: Mapping[str, Any] = field(default_factory=dict)
    interpolates: bool = False


_NO_POOLER = {"add_pooling_layer": False}
_SIGLIP = _Family("SiglipVisionModel", "pooler", 0, interpolates=True)
_CLIP = _Family("CLIPVisionModel", "pooler", 1, interpolates=True)
FAMILIES = {
    "dinov2": _Family("Dinov2Model", "pooler", 1),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", "pooler", 1),
    "dinov3_vit": _Family("DINOv3ViTModel", "pooler", 1),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "vit": _Family("ViTModel", "class", 1, _NO_POOLER, interpolates=True),
    "deit": _Family("DeiTModel", "class", 2, _NO_POOLER, interpolates=True),
    "ijepa": _Family("IJepaModel", "mean", 0, _NO_POOLER, interpolates=True),
}


def load_transformers(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    """Load what ``spec.weights`` names, a folder or a hub id, or its random twin.

    Raises:
        ConfigError: If transformers is not installed, or an option does not fit.
        DataError: If the checkpoint is of an unknown type, incomplete, or not to be found.
    """
    if not spec.weights:
        raise ConfigError("encoder transformers: set weights, a folder or a hub id")
    transformers = _transformers()
    config, preprocessing = _read_configs(transformers, spec.weights)
    family, options = FAMILIES[config.model_type], dict(FAMILIES[config.model_type].options)
    cls = getattr(transformers, family.cls, None)
    if cls is None:
        raise ConfigError(f"encoder: transformers {transformers.__version__} has no {family.cls}")
    config = getattr(config, "vision_config", config)
    if spec.image_size:
        preprocessing = preprocessing.resized_to(spec.image_size)
    patch = int(config.patch_size)
    if any(side % patch for side in preprocessing.size):
        raise ConfigError(
            f"encoder: image size {preprocessing.size} is no multiple of the patch, {patch}"
        )
    if twin_seed is None:
        network = _pretrained(cls, spec.weights, options)
    else:
        network = drawn(lambda: cls(config, **options), twin_seed)
    prefix = family.prefix + int(getattr(config, "num_register_tokens", 0) or 0)
    own = {"interpolate_pos_encoding": True} if family.interpolates else {}

    def read(net: nn.Module, pixels: Tensor) -> Features:
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        out = net(pixel_values=pixels, **own)
        tokens = out.last_hidden_state[:, prefix:]
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ConfigError(f"encoder: {tokens.shape[1]} tokens for a grid of {grid}")
        pooled = {
            "pooler": lambda: out.pooler_output,
            "class": lambda: out.last_hidden_state[:, 0],
            "mean": lambda: tokens.mean(1),
        }[family.pooled]()
        return Features(pooled, tokens, grid)

    local = Path(spec.weights).exists()
    return VisionEncoder(
        network,
        read,
        preprocessing=preprocessing,
        dim=int(config.hidden_size),
        name=f"transformers {config.model_type}" if local else spec.weights,
        dtype=spec.dtype,
        twin_seed=twin_seed,
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "encoder transformers: not installed; run `pip install 'sagittal-core[encoders]'`"
        ) from None
    return transformers


def _read_configs(transformers: Any, weights: str) -> tuple[Any, Preprocessing]:
    """The model's configuration and its preprocessing."""
    found = {}
    for name in ("config.json", "preprocessor_config.json"):
        file = Path(weights) / name
        if not Path(weights).exists():
            file = _from_hub(transformers, weights, name)
        try:
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                file,
                key=name,
                expected="a checkpoint folder as save_pretrained writes it",
                found=repr(error)[:300],
            ) from None
    kind = found["config.json"].get("model_type")
    if kind not in FAMILIES:
        raise DataError(
            weights,
            key="model_type",
            expected=f"one of {', '.join(FAMILIES)}",
            found=repr(kind),
            hint="load another architecture as name: module, with a class of yours",
        )
    config = transformers.AutoConfig.for_model(**found["config.json"])
    name = "preprocessor_config.json"
    return config, from_processor_config(found[name], f"{weights}: {name}")


def _from_hub(transformers: Any, weights: str, name: str) -> Path:
    if weights.startswith(("/", ".", "~")) or weights.count("/") > 1:
        raise DataError(
            weights, key="weights", expected="a checkpoint folder", found="no such folder"
        )
    try:
        return Path(transformers.utils.cached_file(weights, name))
    except (OSError, ValueError) as error:
        raise DataError(
            weights,
            key=name,
            expected="a folder on disk, or a hub id that is cached or within reach",
            found=str(error).splitlines()[0][:300],
        ) from None


def _pretrained(cls: Any, weights: str, options: dict[str, Any]) -> nn.Module:
    """The network with the checkpoint's weights, none of them left to chance."""
    from safetensors import SafetensorError

    try:
        network, info = cls.from_pretrained(
            weights, output_loading_info=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(
            weights,
            key="weights",
            expected=f"the tensors of {cls.__name__}",
            found=str(error)[:400],
        ) from None
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise DataError(
            weights,
            key="weights",
            expected=f"all tensors of {cls.__name__}",
            found=f"{len(missing)} missing: {', '.join(missing[:4])}",
        )
    loaded: nn.Module = network
    return loaded
