"""Feature maps of several depths of a vision network, for what predicts a value at every pixel.

=====================  ==========================================================================
network                maps, shallow to deep
=====================  ==========================================================================
EfficientNet-Lite0     the last block at each resolution: 1/2, 1/4, 1/8, 1/16 and 1/32 of the input
transformers           patch tokens after each of the last blocks, all on the grid of patches
any other              its patch tokens, one map
=====================  ==========================================================================
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sagittal_core.encoders.efficientnet import EfficientNetLite0
from sagittal_core.encoders.huggingface import FAMILIES
from sagittal_core.errors import ConfigError


class EfficientNetMaps(nn.Module):
    """Maps of the stages of an EfficientNet-Lite0.

    Args:
        network: Its classifier and head are not used.
        levels: The deepest so many of the five.
    """

    def __init__(self, network: EfficientNetLite0, levels: int = 5) -> None:
        super().__init__()
        self.network = network
        blocks: Any = network.blocks
        # A map ends where the next block halves the resolution.
        last = [i for i in range(len(blocks) - 1) if blocks[i + 1].depthwise.stride[0] == 2]
        self._ends = set([*last, len(blocks) - 1][-levels:])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps [(N, C, h, w), ...] of (N, 3, H, W), shallow to deep."""
        net = self.network
        x = pixels.to(memory_format=torch.channels_last)
        x = functional.relu6(net.stem_norm(net.stem(x)))
        maps = []
        for number, block in enumerate(net.blocks):
            x = block(x)
            if number in self._ends:
                maps.append(x)
        return maps


class TransformerMaps(nn.Module):
    """Patch tokens after the last blocks of a vision transformer of transformers, as maps.

    Args:
        network: A vision model of a family that core's encoders know.
        levels: Number of blocks, fewer if the network has fewer.

    Raises:
        ConfigError: If the family is not known.
    """

    def __init__(self, network: Any, levels: int = 5) -> None:
        super().__init__()
        self.network = network
        config = network.config
        if config.model_type not in FAMILIES:
            raise ConfigError(
                f"feature maps: {config.model_type}; expected one of {', '.join(FAMILIES)}"
            )
        family = FAMILIES[config.model_type]
        self._prefix = family.prefix + int(getattr(config, "num_register_tokens", 0) or 0)
        self._options = {"interpolate_pos_encoding": True} if family.interpolates else {}
        self._patch = int(config.patch_size)
        self._levels = min(levels, int(config.num_hidden_layers))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps [(N, D, h, w), ...] of (N, 3, H, W), shallow to deep."""
        grid = (pixels.shape[2] // self._patch, pixels.shape[3] // self._patch)
        out = self.network(pixel_values=pixels, output_hidden_states=True, **self._options)
        return [
            states[:, self._prefix :].transpose(1, 2).unflatten(2, grid)
            for states in out.hidden_states[-self._levels :]
        ]


class LastMap(nn.Module):
    """The patch tokens of any encoder as its one map.

    Args:
        encoder: Returns :class:`sagittal_core.encoders.Features` of pixels (N, 3, H, W).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[(N, D, h, w)] of (N, 3, H, W)."""
        _, tokens, grid = self.encoder(pixels)
        return [tokens.transpose(1, 2).unflatten(2, grid)]


def feature_maps(encoder: nn.Module, levels: int = 5) -> nn.Module:
    """The module that gives an encoder's maps.

    Args:
        encoder: With its bare network as the attribute ``network``.
        levels: Maps at most.

    Raises:
        ConfigError: If levels is less than 1.
    """
    if levels < 1:
        raise ConfigError(f"feature maps: levels {levels}; expected 1 or more")
    network: Any = encoder.network
    if isinstance(network, EfficientNetLite0):
        return EfficientNetMaps(network, levels)
    if getattr(getattr(network, "config", None), "model_type", None) in FAMILIES:
        return TransformerMaps(network, levels)
    return LastMap(encoder)
