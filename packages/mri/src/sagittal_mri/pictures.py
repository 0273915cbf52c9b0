"""Reconstructions side by side, with their errors: the one picture of all reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor

from sagittal_core.report import mosaic

ERROR_GAIN = 5
WITH_REFERENCE = (
    f"below each image |error| x {ERROR_GAIN}; all grey scales from 0 to the reference's maximum"
)
WITHOUT_REFERENCE = "grey scale from 0 to the 99.9th percentile"


def panel(
    images: Mapping[str, Tensor], reference: Tensor | None = None, *, quarter_turns: int = 0
) -> tuple[Image.Image, str]:
    """Magnitude images in one row and, where there is a reference, their errors below.

    Args:
        images: title to ``(H, W)`` real, on any device.
        reference: ``(H, W)``, put last in the row.
        quarter_turns: counter-clockwise, to stand the anatomy upright; 0 shows the arrays as they
            are stored, rows downwards.

    Returns:
        The picture, and what its caption has to say of the grey scale.
    """
    top = {title: image.detach().cpu().numpy() for title, image in images.items()}
    if reference is None:
        rows = [list(top.values())]
        white = max(float(np.quantile(image, 0.999)) for image in top.values())
    else:
        truth = reference.detach().cpu().numpy()
        errors = [ERROR_GAIN * np.abs(image - truth) for image in top.values()]
        rows = [[*top.values(), truth], [*errors, np.zeros_like(truth)]]
        white = float(truth.max())
    turned = [[np.rot90(image, quarter_turns) for image in row] for row in rows]
    titles = [*top] if reference is None else [*top, "reference"]
    # A slice without signal is black, not an error.
    picture = mosaic(turned, titles, window=(0.0, white if white > 0 else 1.0))
    return picture, WITHOUT_REFERENCE if reference is None else WITH_REFERENCE
