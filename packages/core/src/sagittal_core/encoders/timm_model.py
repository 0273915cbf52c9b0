"""Models of timm, by name: an optional extra, ``pip install 'sagittal-core[timm]'``.

timm requires torchvision, which must come from the same index as torch; so nothing else here
depends on it. Weights come from a file (``weights``), never from a hub unasked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.vision import Features, VisionEncoder, VisionSpec, feature_map
from sagittal_core.encoders.weights import drawn, load_strictly, read_state
from sagittal_core.errors import ConfigError


def load_timm(spec: VisionSpec, twin_seed: int | None) -> VisionEncoder:
    """Load ``spec.model`` with the weights in ``spec.weights``, or its random twin.

    Tokens are the patch tokens of ``forward_features`` without its prefix tokens, or the places of
    its map; the pooled row is ``forward_head(..., pre_logits=True)``, the row that the model's own
    classifier would see. Preprocessing is the model's ``pretrained_cfg``, but the whole image is
    resized to the input, nothing cropped.

    Raises:
        ConfigError: If timm is not installed, the model unknown, or weights are not given.
        DataError: If the weights do not fit.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision beside another torch: RuntimeError
        raise ConfigError(
            f"encoder timm: cannot import it ({error}); run `pip install 'sagittal-core[timm]'`,"
            " with torch and torchvision from one index"
        ) from None
    if not spec.model:
        raise ConfigError("encoder timm: set model, a name that timm.list_models() has")
    if twin_seed is None and not spec.weights:
        raise ConfigError("encoder timm: set weights; only a random twin goes without")
    network = drawn(lambda: _create(timm, spec.model or "", spec.image_size), twin_seed or 0)
    if twin_seed is None:
        assert spec.weights
        # The classifier is not built; a file may hold its tensors all the same.
        heads = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        state = {
            name: value
            for name, value in read_state(spec.weights).items()
            if name.rpartition(".")[0] not in heads
        }
        load_strictly(network, state, spec.weights)
    config: dict[str, Any] = dict(network.pretrained_cfg)  # type: ignore[arg-type]
    size = (spec.image_size,) * 2 if spec.image_size else tuple(config["input_size"][-2:])
    preprocessing = Preprocessing(
        resize=(int(size[0]), int(size[1])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resample=config.get("interpolation", "bicubic"),
    )
    network.eval()
    with torch.no_grad():
        tried = _read(network, torch.zeros(1, 3, *preprocessing.size))
    if any(side % count for side, count in zip(preprocessing.size, tried.grid, strict=True)):
        raise ConfigError(
            f"encoder timm: image size {preprocessing.size} is no multiple of the grid {tried.grid}"
        )
    return VisionEncoder(
        network,
        _read,
        preprocessing=preprocessing,
        dim=tried.pooled.shape[1],
        name=f"timm {spec.model}",
        dtype=spec.dtype,
        twin_seed=twin_seed,
    )


def _create(timm: Any, model: str, image_size: int | None) -> nn.Module:
    """The network without its classifier; convolutional ones take any size and no ``img_size``."""
    options = {"pretrained": False, "num_classes": 0}
    try:
        if image_size:
            try:
                network: nn.Module = timm.create_model(model, img_size=image_size, **options)
                return network
            except TypeError:
                pass
        network = timm.create_model(model, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"encoder timm: {model}: {error}") from None
    return network


def _read(network: Any, pixels: Tensor) -> Features:
    out = network.forward_features(pixels)
    pooled = network.forward_head(out, pre_logits=True)
    if out.dim() == 4:
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        return feature_map(out.permute(0, 3, 1, 2) if channels_last else out, pooled)
    height, width = network.patch_embed.dynamic_feat_size(tuple(pixels.shape[2:]))
    return Features(pooled, out[:, network.num_prefix_tokens :], (height, width))
