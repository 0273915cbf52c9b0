"""What an encoder does to an image before its network: resize, crop, scale, normalise.

Images stay uint8 until the device has them. The geometry applies to label images as well, so that a
patch of the network's input is compared with the labels of the very same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale and normalise, as the encoder was trained.

    Attributes:
        resize: (height, width) of all images, whatever their aspect; or the length of the shorter
            edge, the aspect kept.
        crop: (height, width) of the centre kept after that; None: everything, which needs a resize
            to (height, width).
        resample: One of nearest, lanczos, bilinear, bicubic, box, hamming.
        scale: Factor on pixels 0..255.
        mean: Subtracted from each channel (RGB) after scaling.
        std: Divides each channel after that.
    """

    resize: tuple[int, int] | int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: tuple[int, int] | None = None
    resample: str = "bicubic"
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        """Refuse what does not lead to one size."""
        if self.resample not in RESAMPLING:
            raise ConfigError(f"resample {self.resample!r}: expected {', '.join(RESAMPLING)}")
        if self.crop is None and isinstance(self.resize, int):
            raise ConfigError("resizing the shorter edge without a crop gives images of many sizes")
        edges = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
        if self.crop and any(c > e for c, e in zip(self.crop, edges, strict=True)):
            raise ConfigError(f"the crop {self.crop} is larger than the resized image {edges}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"mean and std: three numbers each, std > 0; {self.mean}, {self.std}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        if self.crop is not None:
            return self.crop
        assert not isinstance(self.resize, int)
        return self.resize

    def fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to :attr:`size`.

        Args:
            image: (H, W) or (H, W, 3) uint8.

        Returns:
            The same with H, W of :attr:`size`.

        Raises:
            ValueError: If the image has another shape or type.
        """
        grey = image.ndim == 2
        if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
            raise ValueError(f"expected uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
        return np.array(self._geometry(Image.fromarray(image), RESAMPLING[self.resample]))

    def fit_labels(self, labels: NDArray[Any]) -> NDArray[np.int32]:
        """Bring a label image (H, W), integers, to :attr:`size` by the nearest pixel."""
        picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.int32))
        return np.array(self._geometry(picture, Image.Resampling.NEAREST), dtype=np.int32)

    def normalise(self, images: Tensor) -> Tensor:
        """Make the network's input, on the device of the images.

        Args:
            images: (N, h, w) or (N, h, w, 3) uint8.

        Returns:
            (N, 3, h, w) float32; grey images have three equal channels before normalisation.
        """
        channels = images[..., None].expand(*images.shape, 3) if images.dim() == 3 else images
        scaled = channels.permute(0, 3, 1, 2).float() * self.scale
        mean, std = (images.new_tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return (scaled - mean[:, None, None]) / std[:, None, None]

    def resized_to(self, size: int) -> Preprocessing:
        """The same with the whole image resized to size x size, nothing cropped."""
        return replace(self, resize=(size, size), crop=None)

    def described(self) -> dict[str, Any]:
        """Plain values, for a store's identity."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def _geometry(self, picture: Image.Image, resample: Image.Resampling) -> Image.Image:
        width, height = picture.size
        if isinstance(self.resize, int):
            short = min(width, height)
            to = tuple(int(self.resize * edge / short) for edge in (width, height))
        else:
            to = (self.resize[1], self.resize[0])
        if to != picture.size:
            picture = picture.resize((to[0], to[1]), resample)
        if self.crop is None or self.crop == (picture.size[1], picture.size[0]):
            return picture
        top, left = (picture.size[1] - self.crop[0]) // 2, (picture.size[0] - self.crop[1]) // 2
        return picture.crop((left, top, left + self.crop[1], top + self.crop[0]))


def from_processor_config(config: Mapping[str, Any], file: str | Path) -> Preprocessing:
    """Read a checkpoint's ``preprocessor_config.json``.

    Steps that the file switches off are left out; an absent ``do_center_crop`` means no crop, any
    other absent ``do_...`` of resize, rescale and normalize means yes, as in transformers.

    Args:
        config: The parsed file.
        file: Its name, for errors.

    Raises:
        DataError: If a value is missing, or a step is asked for that is not known here.
    """
    for key, value in config.items():
        known = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
        if key.startswith("do_") and value and key not in known:
            raise DataError(file, key=key, expected="false or absent", found=repr(value))
    if not config.get("do_resize", True):
        raise DataError(file, key="do_resize", expected="true", found="false")
    crop = None
    if config.get("do_center_crop"):
        height, width = _size(config.get("crop_size"), "crop_size", file)
        if height is None or width is None:
            raise DataError(
                file, key="crop_size", expected="height and width", found="shorter edge"
            )
        crop = (height, width)
    tall, wide = _size(config.get("size"), "size", file, square=crop is None)
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize", True):
        mean, std = (_channels(config, key, file) for key in ("image_mean", "image_std"))
    code = config.get("resample", config.get("interpolation", Image.Resampling.BILINEAR))
    names = {int(value): name for name, value in RESAMPLING.items()}
    name = code if isinstance(code, str) else names.get(code, repr(code))
    try:
        return Preprocessing(
            resize=wide if tall is None else (tall, wide),
            crop=crop,
            resample=name,
            scale=scale,
            mean=mean,
            std=std,
        )
    except ConfigError as error:
        raise DataError(
            file, key="size", expected="a resize to one size", found=str(error)
        ) from None


def _size(value: Any, key: str, file: str | Path, *, square: bool = True) -> tuple[int | None, int]:
    """(height, width), or (None, shorter edge)."""
    if isinstance(value, int):
        return (value if square else None), value
    if isinstance(value, Mapping):
        if {"height", "width"} <= set(value):
            return int(value["height"]), int(value["width"])
        if set(value) == {"shortest_edge"}:
            return None, int(value["shortest_edge"])
    raise DataError(
        file, key=key, expected="height and width, or shortest_edge", found=repr(value)[:200]
    )


def _channels(config: Mapping[str, Any], key: str, file: str | Path) -> tuple[float, float, float]:
    value = config.get(key)
    if isinstance(value, (list, tuple)) and len(value) == 3:
        return (float(value[0]), float(value[1]), float(value[2]))
    raise DataError(file, key=key, expected="three numbers", found=repr(value)[:200])
