"""A trainable image encoder around any network that core's encoders load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.vision import Features, VisionSpec, load_vision
from sagittal_core.errors import ConfigError
from sagittal_cxr.nn.trainable import freeze_front, freeze_unused

_NORMS = (nn.modules.batchnorm._BatchNorm,)


class ImageEncoder(nn.Module):
    """A network of :func:`sagittal_core.encoders.load_vision`, with gradients.

    Published: DINOv2 ViT-B/14 at 378 px, all of it trained; the pooled row is its class token.

    Args:
        encoder: Which network.
        trained_blocks: Train the last so many blocks and what follows them only; 0: nothing of the
            network; None: everything.
        batch_norm: "frozen" keeps the statistics of batch normalisation as loaded (its weights are
            trained), so an image's row does not depend on the batch, the chunk or the number of
            processes; "train" takes them from each process' batch. Networks without batch
            normalisation do not care.
        crop: Resize the shorter edge to the size and crop the centre, as published; False:
            as core's encoder does, which with ``image_size`` shows the whole image.
        mean: Of each channel of scaled values, in place of the checkpoint's.
        std: As mean.
        twin_seed: Draw the weights by this seed instead of loading them.

    Attributes:
        dim: Width D of a row.
        preprocessing: Of images.
    """

    def __init__(
        self,
        encoder: VisionSpec,
        trained_blocks: int | None = None,
        batch_norm: Literal["frozen", "train"] = "frozen",
        crop: bool = False,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        twin_seed: int | None = None,
    ) -> None:
        super().__init__()
        if encoder.dtype != "float32":
            raise ConfigError(
                f"encoder: dtype {encoder.dtype}; weights are trained in float32, for faster"
                " arithmetic set trainer.precision"
            )
        loaded = load_vision(encoder, twin_seed=twin_seed)
        self.spec, self.trained_blocks, self.batch_norm = encoder, trained_blocks, batch_norm
        self.dim = loaded.dim
        self.preprocessing = _changed(loaded.preprocessing, crop, mean, std)
        self.network, self._read = loaded.network.requires_grad_(True), loaded.read
        freeze_unused(self.network, self(torch.zeros(1, 3, *self.preprocessing.size)).pooled)
        freeze_front(self.network, trained_blocks, "trained_blocks")
        self.train()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Switch dropout and the like; a network that is not trained stays in evaluation mode."""
        super().train(mode)
        if self.trained_blocks == 0:
            self.network.eval()
        elif self.batch_norm == "frozen":
            for module in self.network.modules():
                if isinstance(module, _NORMS):
                    module.eval()
        return self

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's row depends on the others of its batch in training."""
        norms = any(isinstance(module, _NORMS) for module in self.network.modules())
        return norms and self.batch_norm == "train" and self.trained_blocks != 0

    def forward(self, images: Tensor) -> Features:
        """Features of (B, 3, H, W), preprocessed: pooled (B, D), tokens (B, h w, D), grid."""
        features: Features = self._read(self.network, images)
        return features


def _changed(
    given: Preprocessing, crop: bool, mean: list[float] | None, std: list[float] | None
) -> Preprocessing:
    changes: dict[str, Any] = {"resize": min(given.size), "crop": given.size} if crop else {}
    changes |= {} if mean is None else {"mean": tuple(mean)}
    changes |= {} if std is None else {"std": tuple(std)}
    return replace(given, **changes)


def preprocessor_config(preprocessing: Preprocessing) -> dict[str, object]:
    """The same as a ``preprocessor_config.json`` of transformers."""
    from sagittal_core.encoders.preprocessing import RESAMPLING

    resize, crop = preprocessing.resize, preprocessing.crop
    return {
        "do_resize": True,
        "size": {"shortest_edge": resize}
        if isinstance(resize, int)
        else {"height": resize[0], "width": resize[1]},
        "do_center_crop": crop is not None,
        **({} if crop is None else {"crop_size": {"height": crop[0], "width": crop[1]}}),
        "resample": int(RESAMPLING[preprocessing.resample]),
        "do_rescale": True,
        "rescale_factor": preprocessing.scale,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
