"""What the curation study counts, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from curation_pool import Pool, Radiographs
from sagittal_core.resampling import Resamples
from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.scores import RandomSelector
from study_curation import Heads, choose, relative, sums


def pool(original: list[int], wrong: list[bool], tail: list[bool]) -> Pool:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(len(original), dim, generator=generator) for dim in (12, 8)]
    images, texts = (torch.nn.functional.normalize(part, dim=1) for part in rows)
    patient = np.array([f"p{number // 2}" for number in original])
    arrays = (np.array(original), np.zeros(len(original), int), np.array(wrong))
    return Pool(*arrays, patient, np.array(tail), images, texts)


def test_a_wrong_text_is_neither_a_duplicate_nor_of_the_tail() -> None:
    # Radiographs 0 (three times, once with a wrong text) and 1 of patient p0, 2 and 3 of p1.
    mine = pool([0, 0, 0, 1, 2, 3, 3], [False, False, True, False, True, False, False], [True] * 7)
    kept = np.array([True, True, True, True, True, True, False])
    found = sums(mine, kept, {"p0": 0, "p1": 1})
    # Kept, near-duplicates, tail radiographs, wrong texts.
    assert found.tolist() == [[4.0, 1.0, 2.0, 1.0], [2.0, 0.0, 1.0, 1.0]]
    assert sums(mine, np.zeros(7, bool), {"p0": 0, "p1": 1}).tolist() == [[0.0] * 4] * 2


def test_shares_are_relative_to_the_control_and_resampled_by_patient() -> None:
    found = np.array([[10.0, 1, 2, 0]] * 6)
    control = np.array([[10.0, 4, 1, 0]] * 6)
    sampled = Resamples([str(n) for n in range(6)], 50)
    assert relative(found, control, sampled, 1) == pytest.approx([0.25] * 3)
    found[0, 2] = 8
    estimate, low, high = relative(found, control, sampled, 2)
    assert estimate == pytest.approx(3.0)
    assert low < estimate < high


def test_every_pair_is_decided_over_in_whatever_batches() -> None:
    mine = pool(list(range(50)), [False] * 50, [False] * 50)
    for batch in (None, 16):
        for selector in (RandomSelector(0.3), PrototypeSelector(ratio=0.3, thin="radius")):
            assert choose(selector, mine, None, batch, 0).sum() == 15


def test_heads_bring_what_belongs_together_together() -> None:
    mine = pool(list(range(60)), [False] * 60, [False] * 60)
    learnt = Heads(mine, 60, 0).of(mine)
    assert learnt.images.shape == learnt.texts.shape == (60, 64)
    before = Heads(mine, 0, 0).of(mine)
    gained = [(p.images * p.texts).sum(1).mean() for p in (before, learnt)]
    assert gained[1] > gained[0] + 0.05  # of noise, in 60 steps


def test_radiographs_are_read_with_their_tail_and_near_duplicates_are_near(tmp_path: Path) -> None:
    table = ["image,finding_labels,patient_id"]
    grey = np.linspace(40, 200, 100 * 80).reshape(80, 100).astype(np.uint8)
    for number in range(22):
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        finding = "Mass" if number == 21 else "No Finding" if number == 20 else "Pneumonia"
        table.append(f"{number}.png,{finding},{number // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(table) + "\n")
    data = Radiographs(tmp_path / "labels.csv", tmp_path)
    assert data.tail_names == ["Mass"]
    assert data.tail.tolist() == [False] * 21 + [True]
    assert "mass" in data.report(21, 0).lower()
    copies = [data.image(0, copy, 0) for copy in (0, 1, 1, 2)]
    assert (copies[0] == grey).all()
    assert (copies[1] == copies[2]).all()
    assert copies[1].shape != copies[3].shape or (copies[1] != copies[3]).any()
    assert all(
        side >= 0.93 * whole for side, whole in zip(copies[1].shape, grey.shape, strict=True)
    )
    assert abs(float(copies[1].mean()) / float(grey.mean()) - 1) < 0.1
