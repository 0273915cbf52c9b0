"""A small residual U-Net that denoises complex images, used inside the unrolled networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two 3x3 convolutions, each followed by a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.first(x), 0.1)
        return functional.leaky_relu(self.second(x), 0.1)


class UNetDenoiser(nn.Module):
    """Residual U-Net on complex images as two real channels (Ronneberger et al., MICCAI 2015).

    No normalisation layers: the scale of the image carries the noise level. The last convolution
    starts at zero, so an untrained network returns its input and training starts from the classical
    reconstruction.

    Args:
        channels: features at full resolution; doubled at each level.
        levels: number of 2x downsamplings.
    """

    def __init__(self, channels: int = 24, levels: int = 2) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(levels + 1)]
        self.down = nn.ModuleList(
            _Block(2 if i == 0 else widths[i - 1], w) for i, w in enumerate(widths)
        )
        self.up = nn.ModuleList(
            _Block(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(levels))
        )
        self.last = nn.Conv2d(channels, 2, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.get_parameter("bias"))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, H, W)`` complex to ``(B, H, W)`` complex, any H and W."""
        x = torch.view_as_real(image).permute(0, 3, 1, 2)
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.up)
        x = functional.pad(x, (0, -width % multiple, 0, -height % multiple))
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.avg_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skips.pop()], 1))
        change = self.last(x)[..., :height, :width]
        return image + torch.view_as_complex(change.permute(0, 2, 3, 1).contiguous())
