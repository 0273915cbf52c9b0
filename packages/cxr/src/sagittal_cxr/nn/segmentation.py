"""A decoder that makes a mask of an encoder's feature maps: a U-Net's upper half."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 4
"""Doublings of resolution before the last, bilinear, step."""


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    )


class SegmentationDecoder(nn.Module):
    """Feature maps to logits at every pixel.

    From the deepest map upwards: a transposed convolution doubles the resolution (batch
    normalisation, GELU), the next shallower map joins, brought to the same size (for a vision
    transformer all maps lie on one grid, so that they are enlarged), a 3 x 3 convolution merges.
    Four times, then bilinear to the size of the image. Where there are fewer than five maps, the
    last steps merge nothing.

    Args:
        channels: Of the maps, shallow to deep.
        width: Channels at the deepest step; halved with each, 16 at least.
        classes: Masks; each has a logit of its own.
    """

    def __init__(self, channels: Sequence[int], width: int = 128, classes: int = 1) -> None:
        super().__init__()
        widths = [max(16, width >> step) for step in range(STEPS + 1)]
        deep_first = list(channels)[::-1]
        skips = [*deep_first[1 : STEPS + 1], *[0] * (STEPS + 1 - len(deep_first))]
        self.enter = _conv(deep_first[0], widths[0], 1)
        self.up, self.lateral, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for before, after, skip in zip(widths, widths[1:], skips, strict=False):
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(before, after, 2, 2, bias=False),
                    nn.BatchNorm2d(after),
                    nn.GELU(),
                )
            )
            self.lateral.append(_conv(skip, after, 1) if skip else nn.Identity())
            self.merge.append(_conv(2 * after if skip else after, after, 3))
        self.head = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (N, classes, *size) of maps [(N, C, h, w), ...], shallow to deep."""
        deep_first = list(maps)[::-1]
        x = self.enter(deep_first[0])
        for step, (up, lateral, merge) in enumerate(
            zip(self.up, self.lateral, self.merge, strict=True)
        ):
            x = up(x)
            if step + 1 < len(deep_first):
                skip = lateral(deep_first[step + 1])
                if skip.shape[-2:] != x.shape[-2:]:
                    skip = functional.interpolate(skip, x.shape[-2:], mode="bilinear")
                x = torch.cat([x, skip], 1)
            x = merge(x)
        return functional.interpolate(self.head(x), size, mode="bilinear")


class Segmenter(nn.Module):
    """An encoder's maps with a decoder, trained together.

    The encoder stays in evaluation mode: its batch normalisation keeps the statistics that it came
    with, as batches are small here.

    Args:
        maps: From :func:`sagittal_cxr.nn.feature_maps.feature_maps`.
        decoder: Of them.
    """

    def __init__(self, maps: nn.Module, decoder: SegmentationDecoder) -> None:
        super().__init__()
        self.maps, self.decoder = maps, decoder

    def train(self, mode: bool = True) -> Segmenter:
        """Switch the decoder only."""
        super().train(mode)
        self.maps.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of (N, 3, H, W)."""
        size = (pixels.shape[2], pixels.shape[3])
        logits: Tensor = self.decoder(self.maps(pixels), size)
        return logits


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy of pixels plus 1 - soft Dice of images, the mean over the batch.

    Args:
        logits: (N, K, H, W).
        masks: (N, K, H, W), 0 or 1.
    """
    masks = masks.to(logits.dtype)
    pixels = functional.binary_cross_entropy_with_logits(logits, masks)
    given = logits.sigmoid()
    both = (given * masks).sum((2, 3))
    # 1 in both parts: an empty mask that is found empty costs nothing.
    dice = (2 * both + 1) / (given.sum((2, 3)) + masks.sum((2, 3)) + 1)
    return pixels + 1 - dice.mean()
