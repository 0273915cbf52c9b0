"""Feature maps, the decoder and the segmentation task, on masks whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from squares import SIDE, write_index
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.encoders import VisionSpec
from sagittal_core.encoders.efficientnet import EfficientNetLite0
from sagittal_core.encoders.weights import drawn
from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.metrics.masks import dice_and_iou
from sagittal_cxr.nn.feature_maps import EfficientNetMaps, LastMap, TransformerMaps, feature_maps
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.segmentation import SegmentationDecoder, Segmenter, segmentation_loss
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.tasks.mask_pairs import Pair, divide
from sagittal_cxr.tasks.segmentation import Segmentation
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageTextModel:
    folder = tmp_path_factory.mktemp("checkpoints")
    vision = ImageEncoder(VisionSpec("transformers", str(vision_checkpoint(folder / "v"))))
    return ImageTextModel(vision, TextEncoder(str(text_checkpoint(folder / "t"))), dim=8).eval()


def pixels(count: int, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_maps_of_efficientnet_are_those_that_its_head_sees() -> None:
    network = drawn(EfficientNetLite0, 0).eval()
    with torch.no_grad():
        maps = EfficientNetMaps(network)(pixels(1, 64))
        assert [tuple(m.shape[1:]) for m in maps] == [
            (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2),
        ]  # fmt: skip
        head = torch.nn.functional.relu6(network.head_norm(network.head(maps[-1])))
        torch.testing.assert_close(head, network(pixels(1, 64)))
        assert len(EfficientNetMaps(network, 2)(pixels(1, 64))) == 2


def test_maps_of_a_transformer_are_its_patches(model: ImageTextModel) -> None:
    network = model.vision.network
    with torch.no_grad():
        maps = TransformerMaps(network)(pixels(2))
        assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 4)] * 2  # it has two blocks
        tokens, grid = model.image_tokens(pixels(2))
        normed = network.layernorm(maps[-1].flatten(2).transpose(1, 2))
        torch.testing.assert_close(normed, tokens)
        last = LastMap(model.vision)(pixels(2))[0]
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), tokens)
    assert last.shape[2:] == grid


def test_the_kind_of_network_decides_which_maps_there_are(model: ImageTextModel) -> None:
    assert isinstance(feature_maps(model.vision), TransformerMaps)
    other = torch.nn.Module()
    other.network = torch.nn.Identity()
    assert isinstance(feature_maps(other), LastMap)
    with pytest.raises(ConfigError, match="levels 0"):
        feature_maps(model.vision, 0)


@pytest.mark.parametrize("channels", [[8], [4, 8], [3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("grid", [(4, 4), (9, 7)])
def test_a_decoder_takes_any_number_of_maps(channels: list[int], grid: tuple[int, int]) -> None:
    decoder = SegmentationDecoder(channels, width=32, classes=2).eval()
    out = decoder([torch.randn(1, c, *grid) for c in channels], (50, 41))
    assert out.shape == (1, 2, 50, 41)
    out.sum().backward()
    unused = [name for name, p in decoder.named_parameters() if p.grad is None]
    assert not unused


def test_the_loss_of_a_right_mask_is_small_also_where_it_is_empty() -> None:
    masks = torch.zeros(2, 1, 6, 6)
    masks[0, 0, 2:5, 2:5] = 1
    right, wrong = (masks * 2 - 1) * 20, (1 - masks * 2) * 20
    assert segmentation_loss(right, masks) < 1e-3
    assert segmentation_loss(wrong, masks) > 10
    assert segmentation_loss(torch.zeros_like(masks), masks) > np.log(2)


def test_dice_and_iou_by_hand() -> None:
    found, truth = np.zeros((4, 3, 3), bool), np.zeros((4, 3, 3), bool)
    found[0, :2], truth[0, 1:] = True, True  # 6 and 6, 3 in common
    found[1] = truth[1] = True
    found[2, 0, 0] = True  # truth is empty; in the last both are
    dice, iou = dice_and_iou(found, truth)
    np.testing.assert_allclose(dice, [0.5, 1, 0, 1])
    np.testing.assert_allclose(iou, [3 / 9, 1, 0, 1])
    with pytest.raises(ValueError, match="one shape"):
        dice_and_iou(found, truth[:2])


def pair(row: int, patient: str, split: str) -> Pair:
    return Pair(row, Path("x"), "file:x", Path(), patient, split)


@given(
    patients=st.lists(st.sampled_from("abcdefg"), min_size=3, max_size=25), seed=st.integers(0, 4)
)
def test_folds_share_no_patient_and_test_every_pair_once(patients: list[str], seed: int) -> None:
    pairs = [pair(i, name, "train") for i, name in enumerate(patients)]
    if len(set(patients)) < 3:
        with pytest.raises(ConfigError, match="3 folds"):
            divide(pairs, 3, "test", seed)
        return
    folds = divide(pairs, 3, "test", seed)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(len(pairs)))
    for fold in folds:
        assert not {patients[i] for i in fold.train} & {patients[i] for i in fold.test}
        assert len(fold.train) + len(fold.test) == len(pairs)


def test_without_folds_the_splits_count() -> None:
    pairs = [pair(i, str(i), s) for i, s in enumerate(["train", "val", "test", "train"])]
    (fold,) = divide(pairs, None, "test", 0)
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 3], [2])
    with pytest.raises(NotApplicable, match="0 in test"):
        divide(pairs[:2], None, "test", 0)
    with pytest.raises(NotApplicable):
        divide(pairs, None, "train", 0)


def task(**options: object) -> Segmentation:
    settings = {"folds": 2, "width": 16, "lr": 2e-2, "resamples": 50, "epochs": 15}
    return Segmentation(**settings | options)


def run(one: Segmentation, model: ImageTextModel, index: Path, cell: Path) -> dict[str, Measure]:
    cell.mkdir(exist_ok=True)
    benchmark = Benchmark("drawn", index)
    return {m.name: m for m in one.run(model, benchmark, cell, device="cpu", seed=0)}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("masks") / "index")


def test_it_finds_what_the_image_shows(model: ImageTextModel, index: Path, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = run(task(finding="Pneumothorax"), model, index, tmp_path / "cell")
    assert list(found) == [
        f"{metric}{what}"
        for metric in ("Dice", "IoU")
        for what in ("", ", random twin", ", mean mask", " above random twin", " above mean mask")
    ]
    dice, mean = found["Dice"], found["Dice, mean mask"]
    assert dice.estimate > 0.9
    assert mean.estimate < 0.75
    assert dice.n == 12
    assert dice.detail["images"] == 24
    assert dice.detail["empty masks"] == 6
    above = found["Dice above mean mask"]
    assert above.estimate == pytest.approx(dice.estimate - mean.estimate)
    assert above.low is not None
    assert 0 < above.low < above.estimate
    assert found["IoU, mean mask"].estimate < mean.estimate
    items = pandas.read_parquet(tmp_path / "cell" / "items.parquet")
    assert sorted(items["row"]) == list(range(24))
    assert items["Dice"].mean() == pytest.approx(dice.estimate)
    assert "secret" not in items.to_csv()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_images_without_a_mask_count_only_where_a_finding_is_named(
    model: ImageTextModel, index: Path, tmp_path: Path
) -> None:
    found = run(task(epochs=1, twin=False), model, index, tmp_path / "cell")
    assert found["Dice"].detail["images"] == 18
    assert found["Dice"].detail["empty masks"] == 0
    assert not [name for name in found if "twin" in name]


def test_the_encoder_is_trained_where_that_is_asked_for(
    model: ImageTextModel, index: Path, tmp_path: Path
) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    settings = {"frozen": False, "encoder_lr": 1e-3, "twin": False, "folds": None}
    found = run(task(epochs=6, **settings), model, index, tmp_path / "cell")
    assert found["Dice"].detail["encoder"] == "trained"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    frozen = run(task(epochs=6, **settings | {"frozen": True}), model, index, tmp_path / "cell")
    assert frozen["Dice"].estimate != found["Dice"].estimate


def test_a_finished_fold_is_not_done_again(
    model: ImageTextModel, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagittal_cxr.tasks import segmentation

    done: list[str] = []
    fit = segmentation.fit

    def interrupted(*args: object, **options: object) -> list[float]:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(str(options["checkpoint"]))
        return fit(*args, **options)

    one, cell = task(epochs=2, twin=False), tmp_path / "cell"
    monkeypatch.setattr(segmentation, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(one, model, index, cell)
    finished = {f: f.stat().st_mtime_ns for f in cell.glob("fold-*.parquet")}
    assert len(finished) == 1
    assert not list(cell.glob("*.pt"))
    done.clear()
    again = run(one, model, index, cell)
    assert len(done) == 1
    assert {f: f.stat().st_mtime_ns for f in finished} == finished
    monkeypatch.setattr(segmentation, "fit", fit)
    straight = run(one, model, index, tmp_path / "other")
    assert {k: m.estimate for k, m in straight.items()} == {k: m.estimate for k, m in again.items()}


def test_a_mask_of_another_size_is_an_error(model: ImageTextModel, tmp_path: Path) -> None:
    broken = write_index(tmp_path / "index", patients=4, broken=True)
    with pytest.raises(DataError, match="28 x 28 pixels") as caught:
        run(task(), model, broken, tmp_path / "cell")
    assert "secret" not in str(caught.value)


def test_an_index_without_masks_does_not_apply(model: ImageTextModel, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", patients=4)
    rows = pandas.read_parquet(index / "rows-00000.parquet").assign(mask=None)
    rows.to_parquet(index / "rows-00000.parquet", index=False)
    with pytest.raises(NotApplicable, match="no image"):
        run(task(), model, index, tmp_path / "cell")


def test_a_trained_encoder_keeps_its_statistics() -> None:
    network = drawn(EfficientNetLite0, 0)
    segmenter = Segmenter(
        EfficientNetMaps(network), SegmentationDecoder([16, 24, 40, 112, 320], 16)
    )
    segmenter.train()
    assert segmenter.decoder.training
    assert not any(m.training for m in network.modules())
