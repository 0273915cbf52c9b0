"""Boxes by hand, and grounding by a model whose patches are what its texts name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_cxr.metrics.boxes import contrast_to_noise, generalised_iou, inside, iou, pointing
from sagittal_cxr.tasks.grounding import Grounding
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable

SIDE, CELL = 24, 4
BOX = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2)


@given(first=BOX, second=BOX)
def test_iou_is_that_of_pixels(first: tuple, second: tuple) -> None:
    a, b = inside([first], 20, 20), inside([second], 20, 20)
    expected = (a & b).sum() / (a | b).sum()
    assert iou([first], [second])[0, 0] == pytest.approx(expected)
    general = generalised_iou([first], [second])[0, 0]
    assert -1 <= general <= expected + 1e-12
    assert generalised_iou([second], [first])[0, 0] == pytest.approx(general)


def test_boxes_by_hand() -> None:
    found = iou([(0, 0, 2, 2), (5, 5, 0, 0)], [(1, 1, 2, 2), (5, 5, 0, 0)])
    np.testing.assert_allclose(found, [[1 / 7, 0], [0, 0]])
    # A side of negative length is an empty box, not one of negative area.
    assert iou([(3, 3, -2, 2)], [(1, 3, 2, 2)])[0, 0] == 0
    # Apart by one pixel in a hull of 3 x 1.
    assert generalised_iou([(0, 0, 1, 1)], [(2, 0, 1, 1)])[0, 0] == pytest.approx(-1 / 3)
    assert iou(np.empty((0, 4)), [(0, 0, 1, 1)]).shape == (0, 1)
    with pytest.raises(ValueError, match="finite"):
        iou([(0, 0, np.nan, 1)], [(0, 0, 1, 1)])


def test_maps_by_hand() -> None:
    mask = np.zeros((2, 3), bool)
    mask[0] = True
    values = np.array([[1.0, 3, 3], [3, 0, 0]])
    assert pointing(values, mask) == pytest.approx(2 / 3)
    within, without = values[0], values[1]
    expected = (within.mean() - without.mean()) / np.sqrt(within.var() + without.var())
    assert contrast_to_noise(values, mask) == pytest.approx(expected)
    assert contrast_to_noise(-values, mask) == pytest.approx(-expected)
    for degenerate in (np.zeros_like(mask), np.ones_like(mask)):
        assert np.isnan(contrast_to_noise(values, degenerate))
    assert np.isnan(contrast_to_noise(np.ones((2, 3)), mask))


FINDINGS = ["Mass", "Nodule"]


class Grey(nn.Module):
    """A patch's row says how bright and how dark it is; Mass is bright, Nodule dark."""

    def __init__(self, skill: bool = True) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(resize=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
        self.image_projection, self.skill = nn.Identity(), skill

    def image_tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        grid = (SIDE // CELL, SIDE // CELL)
        grey = nn.functional.adaptive_avg_pool2d(pixels[:, :1], grid).flatten(1)
        angle = grey if self.skill else grey * 0
        return torch.stack([angle, 1 - angle.abs()], 2), grid

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([["mass" in text] for text in texts]).long()
        return ids, torch.ones_like(ids)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.tensor([[-1.0, 0], [1, 0]])[input_ids[:, 0]]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A bright Mass and a dark Nodule in each picture, anywhere; pictures are twice as large."""
    rng, rows = np.random.default_rng(0), []
    for number in range(8):
        grey, boxes = np.full((2 * SIDE, 2 * SIDE), 128, np.uint8), []
        places = rng.permutation(9)[:2]
        for finding, level, place in zip(FINDINGS, (250, 5), places, strict=True):
            top, left = (16 * int(p) for p in divmod(int(place), 3))
            grey[top : top + 16, left : left + 16] = level
            boxes.append(
                {"finding": finding, "x": float(left), "y": float(top), "width": 16.0,
                 "height": 16.0, "reader": None}
            )  # fmt: skip
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        rows.append(
            {"dataset": "d", "image": f"{number}.png", "patient": f"d/secret-{number}",
             "split": "test" if number else "val", "view": "PA", "positive": FINDINGS,
             "negative": [], "uncertain": [], "boxes": boxes if number < 7 else []}
        )  # fmt: skip
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows-00000.parquet", index=False)
    described = {
        "version": 1,
        "identity": "0",
        "datasets": [{"name": "d", "root": str(tmp_path)}],
        "counts": {"rows": 8, "files": 1, "labels": {}},
    }
    (tmp_path / "index.json").write_text(json.dumps(described))
    return tmp_path


def run(model: Grey, index: Path) -> dict[tuple[str, str | None], Measure]:
    benchmark = Benchmark("drawn", index)
    found = Grounding(resamples=20).run(model.eval(), benchmark, index, device="cpu", seed=0)
    return {(one.name, one.label): one for one in found}


def test_a_model_that_sees_points_into_the_box_of_what_is_named(index: Path) -> None:
    found = run(Grey(), index)
    assert found["pointing game", None].estimate == 1
    assert found["pointing game", "Nodule"].estimate == 1
    assert found["pointing game", None].n == 6
    assert found["pointing game", None].detail["chance"] == pytest.approx(1 / 9, abs=0.01)
    assert found["pointing game, another finding's name", None].estimate == 0
    assert found["CNR", None].estimate > 1
    assert found["CNR above another finding's name", None].low > 0
    items = pandas.read_parquet(index / "items.parquet")
    assert len(items) == 12
    assert "secret" not in items.to_csv()


def test_a_model_that_is_blind_points_by_chance(index: Path) -> None:
    found = run(Grey(skill=False), index)
    # Its map is flat: every place is highest, so that the share of the area is left.
    assert found["pointing game", None].estimate == pytest.approx(1 / 9, abs=0.01)
    assert np.isnan(found["CNR", None].estimate)
    assert ("CNR above another finding's name", None) not in found


def test_what_it_lacks_is_said(index: Path) -> None:
    class Silent(Grey):
        encode_text = property()

    with pytest.raises(NotApplicable, match="no texts"):
        run(Silent(), index)
    rows = pandas.read_parquet(index / "rows-00000.parquet")
    rows["boxes"] = [[] for _ in range(len(rows))]
    rows.to_parquet(index / "rows-00000.parquet", index=False)
    with pytest.raises(NotApplicable, match="no image"):
        run(Grey(), index)
