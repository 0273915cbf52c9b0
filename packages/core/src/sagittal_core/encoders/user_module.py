"""Any network of yours as an encoder: BiomedParse's backbone, a MONAI encoder, a model of yours.

The interface is one method. The class named by ``module`` is an ``nn.Module`` whose ``forward``
takes (N, 3, S, S) float32, normalised, and returns a feature map (N, D, h, w), or a pair of that
map and a pooled row (N, D). Without the pair, the pooled row is the mean over the map's places, as
SAIL pools BiomedParse's last backbone stage. For BiomedParse, in a module of yours::

    class Backbone(torch.nn.Module):                # my_encoders.py
        def __init__(self) -> None:
            super().__init__()
            self.focal = build_focalnet()           # BiomedParse's own code
        def forward(self, images):
            return self.focal(images)["norm3"]      # (N, 1536, 32, 32) at 1024 x 1024

and in the YAML::

    encoder:
      name: module
      module: my_encoders.Backbone
      weights: /models/biomedparse_v1.pt
      weights_prefix: "backbone."                   # names in the file: backbone.focal....
      image_size: 1024
      mean: [0.485, 0.456, 0.406]
      std: [0.229, 0.224, 0.225]

The class is imported when the encoder is loaded, so it may live in any module on the Python path.
The random twin is the class called again under the twin's seed: its own ``__init__`` decides how
weights are drawn and must not load any.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.vision import Features, VisionEncoder, VisionSpec, feature_map
from sagittal_core.encoders.weights import drawn, load_strictly, read_state
from sagittal_core.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def load_user_module(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    """Build the class and load its weights, all of them, or leave them as a seed drew them.

    Raises:
        ConfigError: If the class cannot be built, or returns no feature map.
        DataError: If the weights do not fit.
    """
    if not spec.module or not spec.image_size:
        raise ConfigError("encoder module: set module and image_size")
    if twin_seed is None and not spec.weights:
        raise ConfigError("encoder module: set weights; only a random twin goes without")
    network = drawn(_builder(spec.module, spec.arguments or {}), twin_seed or 0)
    if twin_seed is None:
        assert spec.weights
        load_strictly(network, read_state(spec.weights, spec.weights_prefix), spec.weights)
    mean, std = spec.mean or IMAGENET_MEAN, spec.std or IMAGENET_STD
    preprocessing = Preprocessing(
        resize=(spec.image_size, spec.image_size),
        mean=tuple(mean),  # type: ignore[arg-type]  # its length is checked there
        std=tuple(std),  # type: ignore[arg-type]
    )
    return VisionEncoder(
        network,
        _read,
        preprocessing=preprocessing,
        dim=_width(network, spec),
        name=f"module {spec.module}",
        dtype=spec.dtype,
        twin_seed=twin_seed,
    )


def _builder(class_path: str, arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"encoder: cannot import module {class_path!r}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"encoder: {class_path} is no torch.nn.Module class")

    def build() -> nn.Module:
        try:
            network: nn.Module = cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"encoder: {class_path}: {error}") from None
        return network

    return build


def _read(network: nn.Module, pixels: Tensor) -> Features:
    out = network(pixels)
    values, pooled = out if isinstance(out, (tuple, list)) and len(out) == 2 else (out, None)
    if not isinstance(values, Tensor) or values.dim() != 4 or len(values) != len(pixels):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ConfigError(
            f"encoder: {type(network).__name__} must return a feature map (N, D, h, w), or it and"
            f" (N, D); found {found}"
        )
    return feature_map(values, pooled)


@torch.no_grad()
def _width(network: nn.Module, spec: VisionSpec) -> int:
    """D, from one image: a class need not say it."""
    assert spec.image_size
    return _read(network.eval(), torch.zeros(1, 3, spec.image_size, spec.image_size)).pooled.shape[
        1
    ]
