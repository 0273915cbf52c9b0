"""The panel of all reports: what stands where, turned how, on which grey scale."""

import numpy as np
import pytest
import torch

from sagittal_mri.pictures import WITH_REFERENCE, WITHOUT_REFERENCE, panel


def tile(picture, row, column):
    """Mean grey of the middle of a tile of a square-tiled panel."""
    pixels = np.asarray(picture.convert("L"), float)
    top, side = 28, 224
    y, x = top + row * (side + 6) + side // 2, column * (side + 6) + side // 2
    return pixels[y - 20 : y + 20, x - 20 : x + 20].mean()


def test_errors_lie_below_their_images_on_the_scale_of_the_reference():
    reference = torch.full((16, 16), 2.0)
    picture, caption = panel({"a": torch.full((16, 16), 1.9), "b": reference}, reference)
    assert caption == WITH_REFERENCE
    assert tile(picture, 0, 0) == pytest.approx(255 * 0.95, abs=1)
    assert tile(picture, 0, 2) == pytest.approx(255, abs=1)
    assert tile(picture, 1, 0) == pytest.approx(255 * 5 * 0.05, abs=1)
    assert tile(picture, 1, 1) == pytest.approx(0, abs=1)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_quarter_turn_puts_the_last_columns_on_top(turns):
    image = torch.zeros(16, 16)
    image[:, 8:] = 1.0
    picture, caption = panel({"a": image}, quarter_turns=turns)
    assert caption == WITHOUT_REFERENCE
    pixels = np.asarray(picture.convert("L"), float)[28:]
    bright = pixels[:100].mean() if turns else pixels[:, 124:].mean()
    dark = pixels[124:].mean() if turns else pixels[:, :100].mean()
    assert bright > 200
    assert dark < 50


def test_a_slice_without_signal_is_black():
    for reference in (None, torch.zeros(8, 8)):
        picture, _ = panel({"a": torch.zeros(8, 8)}, reference)
        assert np.asarray(picture)[40:].max() == 0
