"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variant, Google, 2020) in plain torch.

Lite means: no squeeze-and-excitation, ReLU6 in place of swish, and a stem and head of fixed width.
Convolutions are padded as TensorFlow's "SAME" does, more at the end than at the beginning, because
the released weights were trained so. Batch normalisation has TensorFlow's epsilon, 1e-3.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sagittal_core.encoders.weights import load_strictly, read_state

EPSILON = 1e-3
# Repeats, kernel, stride of the first, expansion and output channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Names in the released state dict -> ours.
_NAMES = {
    "_conv_stem": "stem",
    "_bn0": "stem_norm",
    "_conv_head": "head",
    "_bn1": "head_norm",
    "_fc": "classifier",
}
_BLOCK_NAMES = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}


class SameConv2d(nn.Conv2d):
    """A convolution whose output is ceil(input / stride), padded as TensorFlow's "SAME"."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        # functional.pad wants the last dimension first.
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] == pads[2] == pads[3]:
            return functional.conv2d(
                x, self.weight, self.bias, self.stride, pads[0], self.dilation, self.groups
            )
        return super().forward(functional.pad(x, pads))


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


class Block(nn.Module):
    """An inverted residual block: 1 x 1 expansion, depthwise convolution, linear 1 x 1 projection.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        expansion: Factor of the width between; 1: no expansion layer.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion != 1:
            self.expand = _conv(inputs, wide)
            self.expand_norm = nn.BatchNorm2d(wide, EPSILON)
        self.depthwise = _conv(wide, wide, kernel, stride, groups=wide)
        self.depthwise_norm = nn.BatchNorm2d(wide, EPSILON)
        self.project = _conv(wide, outputs)
        self.project_norm = nn.BatchNorm2d(outputs, EPSILON)
        self.expands, self.adds = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        y = functional.relu6(self.expand_norm(self.expand(x))) if self.expands else x
        y = functional.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network, initialised as its authors do.

    Convolutions are normal with variance 2 / fan-out (for depthwise ones the kernel's area), the
    classifier uniform in +-1 / sqrt(classes), batch normalisation the identity: weight 1, bias 0,
    running mean 0 and variance 1.
    """

    width = 1280

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, 2)
        self.stem_norm = nn.BatchNorm2d(32, EPSILON)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, 1 if number else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inputs, self.width)
        self.head_norm = nn.BatchNorm2d(self.width, EPSILON)
        self.classifier = nn.Linear(self.width, 1000)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """The head's feature map, before the mean over places.

        Args:
            x: (N, 3, H, W), values (pixel - 127) / 128 of 0..255; H and W multiples of 32.

        Returns:
            (N, 1280, H / 32, W / 32).

        Raises:
            ValueError: If H or W is no multiple of 32.
        """
        if x.shape[2] % 32 or x.shape[3] % 32:
            raise ValueError(f"height and width must be multiples of 32, got {tuple(x.shape[2:])}")
        x = functional.relu6(self.stem_norm(self.stem(x)))
        return functional.relu6(self.head_norm(self.head(self.blocks(x))))

    def classify(self, x: Tensor) -> Tensor:
        """ImageNet logits (N, 1000); without dropout."""
        logits: Tensor = self.classifier(self(x).mean((2, 3)))
        return logits


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 * module.groups / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


def load_efficientnet_lite0(file: str | Path) -> EfficientNetLite0:
    """The network with released weights, in evaluation mode.

    Args:
        file: State dict with the names of the ``efficientnet_pytorch`` family (what the sample data
            ``efficientnet_lite0`` is).

    Raises:
        sagittal_core.errors.DataError: If the file is no state dict, or a tensor is missing,
            unknown or misshapen.
    """
    state = {_renamed(key): value for key, value in read_state(file).items()}
    network = EfficientNetLite0()
    load_strictly(network, state, file)
    return network.eval()


def _renamed(key: str) -> str:
    """``_blocks.3._bn1.weight`` -> ``blocks.3.depthwise_norm.weight``; unknown names stay."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block:
        return f"blocks.{block[1]}.{_BLOCK_NAMES.get(block[2], block[2])}.{block[3]}"
    layer, _, tensor = key.partition(".")
    return f"{_NAMES.get(layer, layer)}.{tensor}"
