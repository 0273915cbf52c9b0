"""Masks from run lengths and pictures, and boxes of several readers merged."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))


from sagittal_core.errors import DataError
from sagittal_cxr.masks import load_mask
from sagittal_cxr.readers.boxes import merge_boxes, overlap
from sagittal_cxr.readers.siim import decode_mask
from sagittal_cxr.records import Box


@given(st.data())
def test_decoded_masks_equal_what_was_encoded(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(1, 9)) for _ in range(2))
    flat = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(flat).reshape(height, width)
    code, last, run = [], 0, 0
    for place, inside in enumerate([*mask.T.reshape(-1), False]):  # down the columns
        if inside:
            run += 1
        elif run:
            code += [place - run - last, run]
            last, run = place, 0
    np.testing.assert_array_equal(decode_mask(" ".join(map(str, code)), height, width), mask)


@pytest.mark.parametrize("code", ["1", "1 2 3", "-1", "a b", "3 -1", "0 1048577"])
def test_codes_that_are_none_are_refused(code: str) -> None:
    with pytest.raises(ValueError):
        decode_mask(code)
    with pytest.raises(DataError, match="run lengths"):
        load_mask(code, "")


def test_mask_pictures_are_cut_at_half_their_range(tmp_path: Path) -> None:
    grey = np.array([[0, 127], [128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask("file:a.png", tmp_path), [[False, False], [True, True]])
    with pytest.raises(DataError, match="no such file"):
        load_mask("file:b.png", tmp_path)


BOX = Box("Mass", 0, 0, 10, 10)


def test_overlap_by_hand() -> None:
    assert overlap(BOX, BOX) == 1
    assert overlap(BOX, Box("Mass", 5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap(BOX, Box("Mass", 10, 0, 10, 10)) == 0
    assert overlap(BOX, Box("Mass", 2, 2, 5, 4)) == pytest.approx(20 / 100)


def test_boxes_are_merged_by_finding_and_overlap() -> None:
    a = Box("Mass", 0, 0, 10, 10, "R1")
    b = Box("Mass", 2, 0, 10, 10, "R2")  # overlaps a by 80 / 120
    c = Box("Mass", 100, 0, 10, 10, "R2")
    d = Box("Nodule", 0, 0, 10, 10, "R3")  # another finding at the same place
    merged = merge_boxes([a, b, c, d])
    assert merged == (Box("Mass", 1, 0, 10, 10, "R1+R2"), c, d)
    assert merge_boxes([a, b, c, d], readers=2) == (Box("Mass", 1, 0, 10, 10, "R1+R2"),)
    assert merge_boxes([a, b], threshold=0.7) == (a, b)
    assert merge_boxes([]) == ()
    with pytest.raises(ValueError, match="threshold"):
        merge_boxes([a], threshold=1.0)


def test_a_reader_s_own_two_boxes_are_one_vote() -> None:
    twice = [Box("Mass", 0, 0, 10, 10, "R1"), Box("Mass", 1, 0, 10, 10, "R1")]
    assert merge_boxes(twice, readers=2) == ()


corner = st.floats(0, 100)


@given(st.lists(st.tuples(corner, corner, st.integers(1, 50), st.integers(1, 50)), max_size=8))
def test_merged_boxes_stay_within_what_was_drawn(drawn: list[tuple]) -> None:
    boxes = [Box("Mass", *edges, reader=f"R{n}") for n, edges in enumerate(drawn)]
    merged = merge_boxes(boxes)
    assert len(merged) <= len(boxes)
    assert sum(len((b.reader or "").split("+")) for b in merged) == len(boxes)
    for box in merged:
        assert min(b.x for b in boxes) - 1e-9 <= box.x
        assert box.x + box.width <= max(b.x + b.width for b in boxes) + 1e-9
