"""Frozen vision encoders behind one interface: pooled and per-patch features of images.

==========================  ======================================================================
``VisionSpec.name``         what it loads
==========================  ======================================================================
``efficientnet_lite0``      EfficientNet-Lite0 with the sample data's ImageNet weights, or another
                            state dict of the same names
``transformers``            a checkpoint folder or hub id of transformers (DINOv2, DINOv3, SigLIP,
                            CLIP, ViT, ...): see :mod:`sagittal_core.encoders.huggingface`
``timm``                    a model of timm by name, with weights from a file: see
                            :mod:`sagittal_core.encoders.timm_model`
``module``                  any ``nn.Module`` that returns a feature map, by its class: see
                            :mod:`sagittal_core.encoders.user_module`
==========================  ======================================================================

Each has a *random twin*: the same architecture and preprocessing with weights drawn anew by the
architecture's own initialisation. What a probe finds in the twin's features too is no evidence of
what the encoder has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.errors import ConfigError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Features(NamedTuple):
    """What an encoder says about N images.

    Attributes:
        pooled: (N, D) float32, one row an image.
        tokens: (N, h * w, D) float32, one row a patch, row-major; no class or register token.
        grid: (h, w), patches down and across.
    """

    pooled: Tensor
    tokens: Tensor
    grid: tuple[int, int]


@dataclass
class VisionSpec:
    """Which encoder, as a YAML gives it.

    Attributes:
        name: efficientnet_lite0, transformers, timm or module.
        weights: Folder, file or hub id; efficientnet_lite0 has the sample data as its default.
        model: The model's name in timm.
        module: Class of a user's module, such as my_encoders.Backbone.
        arguments: Its arguments.
        weights_prefix: Only tensors whose names begin with this are loaded into the module, without
            it ("backbone.").
        image_size: Side of the network's square input, to which the whole image is resized; None:
            as the checkpoint says, a crop of the centre included.
        mean: Of each channel, in units of the full range; for a user's module.
        std: As mean.
        dtype: float32, float16 or bfloat16 for the network's arithmetic.
    """

    name: str = "efficientnet_lite0"
    weights: str | None = None
    model: str | None = None
    module: str | None = None
    arguments: dict[str, Any] | None = None
    weights_prefix: str = ""
    image_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    dtype: str = "float32"


class VisionEncoder(nn.Module):
    """A frozen network with its preprocessing and the values that identify both.

    Use it so: ``encoder(encoder.preprocessing.normalise(images))`` with images that
    ``preprocessing.fit`` brought to size. Rows do not depend on the batch they came in, up to
    rounding.

    Args:
        network: The network; set to evaluation mode, no gradients.
        read: Turns the network and its input (N, 3, H, W) into features.
        preprocessing: Of images.
        dim: Width D of a row.
        name: Of the encoder, without a path.
        dtype: Of the arithmetic.
        twin_seed: Seed of a random twin; None for real weights.

    Attributes:
        read: As given. To train the network instead, take ``network``, switch its gradients on and
            call ``read(network, pixels)`` outside of this module.
    """

    def __init__(
        self,
        network: nn.Module,
        read: Callable[[nn.Module, Tensor], Features],
        *,
        preprocessing: Preprocessing,
        dim: int,
        name: str,
        dtype: str = "float32",
        twin_seed: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ConfigError(f"encoder: dtype {dtype!r}; expected {', '.join(DTYPES)}")
        self.preprocessing, self.dim = preprocessing, dim
        self.identity: dict[str, Any] = {
            "encoder": name,
            "weights": weights_sha256(network),
            "twin_seed": twin_seed,
            "arithmetic": dtype,
            "preprocessing": preprocessing.described(),
        }
        self.read, self._dtype = read, DTYPES[dtype]
        self.network = network.eval().requires_grad_(False).to(self._dtype)

    def train(self, mode: bool = True) -> VisionEncoder:
        """Stay in evaluation mode, whatever a trainer asks for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Features of (N, 3, H, W) float32 from :meth:`Preprocessing.normalise`."""
        pooled, tokens, grid = self.read(self.network, pixels.to(self._dtype))
        return Features(pooled.float(), tokens.float(), grid)


def feature_map(values: Tensor, pooled: Tensor | None = None) -> Features:
    """Features of a map (N, D, h, w): its places are the tokens, their mean is the pooled row."""
    tokens = values.flatten(2).transpose(1, 2)
    pooled = values.mean((2, 3)) if pooled is None else pooled
    return Features(pooled, tokens, (values.shape[2], values.shape[3]))


def load_vision(
    spec: VisionSpec | Mapping[str, Any] | str = "efficientnet_lite0",
    *,
    twin_seed: int | None = None,
) -> VisionEncoder:
    """Load an encoder, or its random twin.

    Args:
        spec: Which; a mapping has the fields of :class:`VisionSpec`, a text is a name alone.
        twin_seed: Draw the weights by this seed instead of loading them.

    Raises:
        ConfigError: If the name or an option is unknown, or an option does not belong to the name.
        DataError: If the weights do not fit.
    """
    if isinstance(spec, str):
        spec = VisionSpec(name=spec)
    elif not isinstance(spec, VisionSpec):
        unknown = sorted(set(spec) - {f.name for f in fields(VisionSpec)})
        if unknown:
            raise ConfigError(f"encoder: unknown option {', '.join(unknown)}")
        spec = VisionSpec(**spec)
    if spec.name not in _LOADERS:
        raise ConfigError(f"encoder: name {spec.name!r}; expected {', '.join(_LOADERS)}")
    loader, allowed = _LOADERS[spec.name]
    always = {"name", "weights", "image_size", "dtype"}
    for field in fields(VisionSpec):
        given = getattr(spec, field.name) != field.default
        if given and field.name not in always | allowed:
            raise ConfigError(f"encoder: {field.name} is no option of {spec.name}")
    return loader(spec, twin_seed)


def _efficientnet(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    """EfficientNet-Lite0: pooled 1280 is the mean of the head's map, whose places are the tokens.

    The preprocessing (pixel - 127) / 128 is that of Google's release for the Lite family. The wheel
    does not say so; it is confirmed by the classifier, whose answers on photographs are surer with
    it than with ImageNet's mean and deviation. The whole image is resized to a square; the 12.5 %
    border that ImageNet evaluation crops away is kept, as in medicine it may hold the finding.
    """
    from sagittal_core import sample_data
    from sagittal_core.encoders.efficientnet import EfficientNetLite0, load_efficientnet_lite0
    from sagittal_core.encoders.weights import drawn

    if twin_seed is None:
        network = load_efficientnet_lite0(spec.weights or sample_data.path("efficientnet_lite0"))
    else:
        network = drawn(EfficientNetLite0, twin_seed)
    size = spec.image_size or 224
    if size % 32:
        raise ConfigError(f"encoder: image_size {size}; expected a multiple of 32")
    preprocessing = Preprocessing(
        resize=(size, size), scale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3
    )
    return VisionEncoder(
        # Channels last is twice as fast for depthwise convolutions on a CPU.
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        lambda net, x: feature_map(net(x.to(memory_format=torch.channels_last))),
        preprocessing=preprocessing,
        dim=EfficientNetLite0.width,
        name="efficientnet_lite0",
        dtype=spec.dtype,
        twin_seed=twin_seed,
    )


def _transformers(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    from sagittal_core.encoders.huggingface import load_transformers

    return load_transformers(spec, twin_seed)


def _timm(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    from sagittal_core.encoders.timm_model import load_timm

    return load_timm(spec, twin_seed)


def _module(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    from sagittal_core.encoders.user_module import load_user_module

    return load_user_module(spec, twin_seed)


_Loader = Callable[[VisionSpec, "int | None"], VisionEncoder]
_LOADERS: dict[str, tuple[_Loader, set[str]]] = {
    "efficientnet_lite0": (_efficientnet, set()),
    "transformers": (_transformers, set()),
    "timm": (_timm, {"model"}),
    "module": (_module, {"module", "arguments", "weights_prefix", "mean", "std"}),
}
