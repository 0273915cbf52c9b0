"""Pictures are turned, windowed and cut as they say, and labels lie on them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from volume_files import ball, body

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.volumes import Volume, write_nifti
from sagittal_genai.slices import SliceFolder
from sagittal_genai.slices.cut import Job, cut_scan
from sagittal_genai.slices.folder import FolderWriter, merge_indices, read_account
from sagittal_genai.slices.masks import on_grid, read_masks
from sagittal_genai.slices.planes import displayed, grey_picture, label_picture, square
from sagittal_genai.slices.scans import Labels, Organ, RadiographInput, Scan, VolumeInput
from sagittal_genai.slices.settings import (
    CT,
    MR,
    Radiographs,
    Settings,
    Window,
    chosen_planes,
    n4_corrected,
    percentile_window,
)

ORIENTATIONS = [
    "".join(codes)
    for pairs in itertools.permutations(["LR", "PA", "IS"])
    for codes in itertools.product(*pairs)
]


def how(**changes: object) -> Settings:
    values: dict = {
        "size": 32,
        "fit": "pad",
        "foreground": 0.02,
        "ct": CT({"ct body": [50, 500]}),
        "mr": MR(),
        "radiographs": Radiographs(),
    }
    return Settings(**(values | changes))


def cut(
    folder: Path, scan: Scan, classes: dict[int, str] | None = None, **changes: object
) -> pandas.DataFrame:
    writer = FolderWriter(folder, {}, classes or {})
    cut_scan(Job(writer, how(**changes), {}), scan)
    merge_indices(folder, [scan.name])
    writer.describe(scans=1)
    return SliceFolder(folder).index()


def ct_scan(file: Path, masks: tuple = (), **changes: object) -> Scan:
    values: dict = {"name": "a", "subject": "s", "modality": "CT", "split": "train"}
    values |= {"input": VolumeInput(file, masks), "metadata": {"study_type": "CT  Body"}}
    return Scan(**(values | changes))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_pictures_follow_radiological_convention_however_a_file_is_stored(codes: str) -> None:
    array = np.zeros((8, 6, 4), np.float32)
    array[4:] += 1  # right
    array[:, 3:] += 10  # anterior
    array[:, :, 2:] += 100  # superior
    image = nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    wanted = nibabel.orientations.axcodes2ornt(codes)
    stored = image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
    )
    volume = Volume(np.asarray(stored.dataobj), stored.affine).canonical()
    axial = displayed(volume.array, "axial", 0)
    assert axial.shape == (6, 8)
    assert axial[0, 0] == 11  # right on the left, anterior up
    assert axial[0, -1] == 10
    assert axial[-1, 0] == 1
    coronal = displayed(volume.array, "coronal", 0)
    assert coronal[0, 0] == 101  # right on the left, superior up
    assert coronal[-1, -1] == 0
    sagittal = displayed(volume.array, "sagittal", 7)
    assert sagittal[0, 0] == 111  # anterior on the left, superior up
    assert sagittal[0, -1] == 101
    assert sagittal[-1, 0] == 11


@settings(max_examples=40)
@given(
    height=st.floats(1, 500),
    width=st.floats(1, 500),
    size=st.integers(8, 64),
    fit=st.sampled_from(["pad", "crop"]),
)
def test_squares_keep_proportions(height: float, width: float, size: int, fit: str) -> None:
    raster = square((height, width), size, fit)
    assert (max if fit == "pad" else min)(raster.shape) == size
    assert (
        abs(raster.shape[0] / size - height / (max if fit == "pad" else min)(height, width))
        <= 1 / size
    )
    picture = label_picture(np.ones((3, 5), np.uint8), raster)
    assert picture.shape == (size, size)
    shown = [min(n, size) for n in raster.shape]
    assert picture.sum() == shown[0] * shown[1]


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=st.integers(16, 48))
def test_labels_lie_where_the_grey_values_do(seed: int, size: int) -> None:
    """Nearest label and Lanczos grey of the same disc agree up to its border."""
    random = np.random.default_rng(seed)
    rows, columns = random.integers(20, 60, 2)
    y, x = np.mgrid[:rows, :columns]
    disc = (y - rows / 2) ** 2 + (x - columns / 2) ** 2 < (min(rows, columns) / 3) ** 2
    raster = square((float(rows), float(columns)), size, "pad")
    grey = grey_picture(255 * disc.astype(np.float32), raster) > 127
    label = label_picture(disc.astype(np.uint8), raster) > 0
    assert (grey != label).sum() <= 0.5 * 2 * np.pi * np.sqrt(label.sum() / np.pi) + 4


def test_a_ball_in_oblong_voxels_is_round(tmp_path: Path) -> None:
    shape, affine = (30, 40, 10), np.diag([2.0, 1.5, 6.0, 1.0])
    affine[:3, 3] = [-29, -29.25, -27]
    inside = ball(shape, affine, (0, 0, 0), 20)
    write_nifti(tmp_path / "i.nii", np.where(inside, 300, -1000).astype(np.int16), affine)
    index = cut(tmp_path / "s", ct_scan(tmp_path / "i.nii"))
    folder = SliceFolder(tmp_path / "s")
    assert set(index["orientation"]) == {"sagittal", "coronal", "axial"}
    for _, rows in index.groupby("orientation"):
        image = folder.image(rows.iloc[len(rows) // 2]) > 127
        down, across = image.any(1).sum(), image.any(0).sum()
        assert abs(int(down) - int(across)) <= 3, rows["orientation"].iloc[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ct": CT({"a": [40.0]})}, r"ct\.windows\['a'\].*\[40\.0\]"),
        ({"ct": CT({"a": [40.0, float("nan")]})}, "width > 0"),
        ({"mr": MR([1.0, 50.0, 99.0])}, "expected two, rising"),
        ({"radiographs": Radiographs(percentiles=[99.0, 1.0])}, "expected two, rising"),
    ],
)
def test_settings_that_are_none_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        how(**changes).check([])


def test_windows_are_linear_and_clipped(tmp_path: Path) -> None:
    window = Window(-200, 300)
    assert window.scale(np.array([-1000, -200, 50, 300, 900])).tolist() == [0, 0, 127.5, 255, 255]
    assert how().ct.window(ct_scan(tmp_path)) == window
    with pytest.raises(ConfigError, match=r"'ct knee' \(1 scans\), 'ct hip'[\s\S]*it has: ct body"):
        how().ct.expect_windows(
            [ct_scan(tmp_path, metadata={"study_type": kind}) for kind in ("CT knee", "CT hip")]
        )
    values = np.concatenate([np.zeros(1000), np.arange(1, 1001)])
    low, high = percentile_window(values, [10, 90], "f", positive=True)
    assert (low, high) == pytest.approx((100.9, 900.1))
    with pytest.raises(DataError, match="3 everywhere"):
        percentile_window(np.full(5, 3), [1, 99], "f", positive=True)


def test_planes_by_name_and_by_voxels() -> None:
    assert chosen_planes("all", (1, 1, 1), (9, 9, 9)) == ["sagittal", "coronal", "axial"]
    assert chosen_planes("native", (1, 1, 5), (99, 99, 120)) == ["axial"]
    assert chosen_planes("native", (4, 1, 1), (20, 99, 99)) == ["sagittal"]
    assert chosen_planes("native", (1.5, 1.5, 1.5), (99, 20, 99)) == ["coronal"]
    assert chosen_planes(["axial", "sagittal"], (1, 1, 1), (9, 9, 9)) == ["sagittal", "axial"]
    with pytest.raises(ConfigError, match="native or a list of sagittal"):
        chosen_planes("oblique", (1, 1, 1), (9, 9, 9))


def test_organs_are_those_in_the_written_slice(tmp_path: Path) -> None:
    values, organ, affine = body()
    write_nifti(tmp_path / "i.nii", values, affine)
    write_nifti(tmp_path / "m.nii", organ.astype(np.uint8), affine)
    classes = {1: "brain", 2: "liver"}
    scan = ct_scan(tmp_path / "i.nii", (Organ(tmp_path / "m.nii", "liver", 0.5),))
    index = cut(tmp_path / "s", scan, classes)
    folder = SliceFolder(tmp_path / "s")
    assert folder.classes == classes
    across = organ.any((1, 2)).sum(), organ.any((0, 2)).sum(), organ.any((0, 1)).sum()
    assert len(index) == sum(across), "slices without an organ before and after are left out"
    assert index["organs"].tolist() == [["liver"]] * len(index)
    first = index.iloc[0]
    assert first["image"] == f"images/a/sagittal-{np.flatnonzero(organ.any((1, 2)))[0]:04d}.png"
    middle = index[index["orientation"] == "axial"].iloc[across[2] // 2]
    label = folder.label(middle)
    assert label is not None
    assert set(np.unique(label)) == {0, 2}
    assert folder.image(middle)[label == 2].mean() > 200  # the organ is the brightest thing
    assert (label[:, :16] > 0).sum() > (label[:, 16:] > 0).sum()  # at the patient's right


def test_slices_of_air_are_dropped_without_masks(tmp_path: Path) -> None:
    values, _, affine = body()
    write_nifti(tmp_path / "i.nii", values, affine)
    index = cut(tmp_path / "s", ct_scan(tmp_path / "i.nii"), foreground=0.05)
    share = {axis: (values > -175).mean(tuple({0, 1, 2} - {axis})) for axis in range(3)}
    kept = {axis: np.flatnonzero(part >= 0.05) for axis, part in share.items()}
    assert len(index) == sum(int(np.ptp(k)) + 1 for k in kept.values())
    assert index["organs"].isna().all()
    assert read_account(tmp_path / "s", "a")["dropped"] == 60 - len(index)
    assert SliceFolder(tmp_path / "s").label(index.iloc[0]) is None
    write_nifti(tmp_path / "air.nii", np.full((4, 4, 4), -1000, np.int16), affine)
    with pytest.raises(DataError, match="something in them"):
        cut(tmp_path / "t", ct_scan(tmp_path / "air.nii"))


def test_empty_masks_mean_unknown_organs(tmp_path: Path) -> None:
    values, organ, affine = body()
    write_nifti(tmp_path / "i.nii", values, affine)
    write_nifti(tmp_path / "m.nii", np.zeros_like(organ, np.uint8), affine)
    scan = ct_scan(tmp_path / "i.nii", (Organ(tmp_path / "m.nii", "liver", 0.5),))
    index = cut(tmp_path / "s", scan, {1: "liver"})
    assert len(index) > 10
    assert index["organs"].isna().all()
    assert read_account(tmp_path / "s", "a")["masks_empty"]


def test_planes_with_skewed_axes_are_left_out(tmp_path: Path) -> None:
    values, _, affine = body()
    affine[1, 2] = 2 * np.tan(np.radians(20))
    write_nifti(tmp_path / "i.nii", values, affine)
    index = cut(tmp_path / "s", ct_scan(tmp_path / "i.nii"))
    assert set(index["orientation"]) == {"coronal", "axial"}
    *_, note = read_account(tmp_path / "s", "a")["notes"]
    assert note == "no sagittal slices: their axes miss a right angle by 20 degrees"


def test_masks_on_other_grids(tmp_path: Path) -> None:
    values, organ, affine = body()
    volume = Volume(values, affine).canonical()
    coarse = affine.copy()
    coarse[:3, :3] *= 2
    coarse[:3, 3] += 1
    half = Volume(organ[::2, ::2, ::2].astype(np.int16), coarse)
    found, moved, short = on_grid(half, volume, tmp_path)
    assert moved
    assert not short
    part = Volume(half.array[:, :, :4], coarse)
    assert on_grid(part, volume, tmp_path).short, "8 of 16 slices"
    assert (found > 0).sum() == pytest.approx(8 * half.array.sum(), rel=0.01)
    assert ((found > 0) & organ).sum() > 0.6 * organ.sum()
    far = affine.copy()
    far[:3, 3] += 1000
    with pytest.raises(DataError, match="one beside it"):
        on_grid(Volume(half.array, far), volume, tmp_path)
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    with pytest.raises(DataError, match="a rotated mask"):
        on_grid(Volume(half.array, turned), volume, tmp_path)
    # A mask stored with other axes is the same mask.
    flipped = nibabel.Nifti1Image(organ.astype(np.uint8), affine).as_reoriented(
        np.array([[1, -1], [2, 1], [0, -1]])
    )
    nibabel.save(flipped, tmp_path / "f.nii")
    labels, moved_masks, _ = read_masks([Organ(tmp_path / "f.nii", "x", 0.5)], volume, {"x": 3})
    np.testing.assert_array_equal(labels == 3, organ)
    assert moved_masks == 0


def test_class_numbers_are_mapped_and_unknown_ones_refused(tmp_path: Path) -> None:
    values, organ, affine = body()
    volume = Volume(values, affine)
    write_nifti(tmp_path / "m.nii", np.where(organ, 300, 7).astype(np.int16), affine)
    masks = [Labels(tmp_path / "m.nii", {7: "fat", 300: "liver"})]
    labels, *_ = read_masks(masks, volume, {"fat": 1, "liver": 2})
    np.testing.assert_array_equal(labels, np.where(organ, 2, 1))
    with pytest.raises(DataError, match=r"0 or one of the 1 classes[\s\S]*\[300\]"):
        read_masks([Labels(tmp_path / "m.nii", {7: "fat"})], volume, {"fat": 1})
    many = {f"c{n}": n + 1 for n in range(300)}
    labels, *_ = read_masks([Labels(tmp_path / "m.nii", {7: "c0", 300: "c299"})], volume, many)
    assert labels.dtype == np.uint16
    assert labels.max() == 300


def test_radiographs_of_eight_and_sixteen_bits(tmp_path: Path) -> None:
    grey = np.zeros((40, 20), np.uint8)
    grey[:20] = 77
    Image.fromarray(grey).save(tmp_path / "a.png")
    deep = np.linspace(1000, 3000, 800).reshape(40, 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "b.png")
    for name in "ab":
        scan = Scan(name, "s", "CR", RadiographInput(tmp_path / f"{name}.png"), findings=())
        index = cut(tmp_path / name, scan)
        image = SliceFolder(tmp_path / name).image(index.iloc[0])
        assert index["findings"].tolist() == [[]]
        assert index["orientation"].isna().all()
        assert image.shape == (32, 32)
        assert image[:, :8].max() == image[:, 24:].max() == 0, "padded at both sides"
        if name == "a":
            assert (image[:14, 9:23] == 77).all(), "8 bits are not stretched"
        else:
            assert image.max() > 250
            assert image[:2, 9:23].max() < 20


def test_n4_flattens_a_bias_field() -> None:
    """On every second voxel too, of an oblong grid: the field lies where it was found."""
    pytest.importorskip("SimpleITK")
    shape = (34, 32, 12)
    x = np.linspace(-1, 1, shape[0])
    field = np.exp(0.7 * x)[:, None, None] * np.ones(shape)
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    tissue = np.where(ball(shape, affine, (16.5, 15.5, 13.75), 13), 100.0, 0)
    values, inside = tissue * field, tissue > 0
    before = values[inside].std() / values[inside].mean()
    after = n4_corrected(values, shrink=2)[inside]
    assert after.std() / after.mean() < 0.5 * before


def test_a_folder_of_other_slices_is_refused(tmp_path: Path) -> None:
    FolderWriter(tmp_path / "s", {"size": 224}, {1: "liver"})
    with pytest.raises(ConfigError, match="another size: found 224, expected 112"):
        FolderWriter(tmp_path / "s", {"size": 112}, {1: "liver"})
    with pytest.raises(ConfigError, match="another classes"):
        FolderWriter(tmp_path / "s", {"size": 224}, {1: "brain"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError, match="no slice folder"):
        FolderWriter(tmp_path / "other", {}, {})
    with pytest.raises(DataError, match=r"has not finished[\s\S]*goes on"):
        SliceFolder(tmp_path / "s")
    with pytest.raises(DataError, match=r"slices\.json"):
        SliceFolder(tmp_path)


def test_missing_scans_and_pictures_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 20), 9, np.uint8)).save(tmp_path / "a.png")
    scan = Scan("a", "s", "CR", RadiographInput(tmp_path / "a.png"))
    index = cut(tmp_path / "s", scan)
    folder = SliceFolder(tmp_path / "s")
    with pytest.raises(DataError, match=r"colour[\s\S]*image, scan"):
        folder.index(["colour"])
    (tmp_path / "s" / index["image"][0]).unlink()
    with pytest.raises(DataError, match="a picture of the folder"):
        folder.image(index.iloc[0])
    (tmp_path / "s" / "index" / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"1 scans[\s\S]*0"):
        folder.index()


def test_more_classes_than_eight_bits_survive_the_label_picture(tmp_path: Path) -> None:
    values, organ, affine = body()
    write_nifti(tmp_path / "i.nii", values, affine)
    write_nifti(tmp_path / "m.nii", organ.astype(np.uint8), affine)
    classes = {n + 1: f"c{n:03d}" for n in range(300)}
    scan = ct_scan(tmp_path / "i.nii", (Organ(tmp_path / "m.nii", "c299", 0.5),))
    index = cut(tmp_path / "s", scan, classes)
    label = SliceFolder(tmp_path / "s").label(index.iloc[len(index) // 2])
    assert label is not None
    assert np.unique(label).tolist() == [0, 300]
    assert index["organs"][0] == ["c299"]
