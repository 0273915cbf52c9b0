"""Sources say what there is, subjects are never divided, and identifiers stay at home."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from dicom_files import rotated, write_series
from volume_files import body, radiographs, totalsegmentator

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.volumes import write_nifti
from sagittal_genai.slices.class_table import class_table
from sagittal_genai.slices.cut import Job, cut_scan
from sagittal_genai.slices.folder import FolderWriter
from sagittal_genai.slices.plan import make_plan, typed_metadata
from sagittal_genai.slices.radiograph_table import RadiographTable
from sagittal_genai.slices.scans import RadiographInput, Scan
from sagittal_genai.slices.settings import CT, MR, Radiographs, Settings
from sagittal_genai.slices.split import Split
from sagittal_genai.slices.totalsegmentator import TotalSegmentator
from sagittal_genai.slices.volume_files import VolumeEntry, VolumeFiles

HOW = Settings(32, "pad", 0.02, CT({"ct thorax abdomen": [50, 500]}), MR(), Radiographs())
NIH = {"view": "view_position", "sex": "patient_sex", "age": "patient_age"}


def people(count: int, seed: int = 0, scans: int = 2) -> list[Scan]:
    random = np.random.default_rng(seed)
    out = []
    for n in range(count):
        about = {"sex": str(random.choice(["M", "F"])), "age": float(random.integers(20, 95))}
        about["institute"] = str(random.choice(list("ABC")))
        kind = str(random.choice(["CT", "MR"]))
        for k in range(scans):
            image = RadiographInput(Path(f"{n}-{k}"))
            out.append(Scan(f"{n}-{k}", f"s{n}", kind, image, metadata=dict(about)))
    return out


@settings(max_examples=40)
@given(
    count=st.integers(1, 80),
    seed=st.integers(0, 99),
    val=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    test=st.sampled_from([0.0, 0.15, 0.3]),
)
def test_shares_are_kept_and_subjects_never_divided(
    count: int, seed: int, val: float, test: float
) -> None:
    scans = people(count, seed)
    split = Split(val_share=val, test_share=test, seed=seed)
    assigned = split.assign(scans)
    assert [replace(s, split=None) for s in assigned] == scans
    sides = {(s.subject, s.split) for s in assigned}
    assert len(sides) == count, "a subject is in two splits"
    size = Counter(side for _, side in sides)
    assert abs(size["val"] - val * count) < 1
    # Drawn from those that val left: up to one more or less of them, and one for its own rounding.
    assert abs(size["test"] - test * count) < 1 + test / (1 - val)
    again = split.assign(list(reversed(scans)))
    assert {(s.name, s.split) for s in again} == {(s.name, s.split) for s in assigned}


def test_strata_are_alike_in_every_part() -> None:
    scans = people(400, scans=1)
    assigned = Split(val_share=0.25, test_share=0.25, strata=["modality", "sex"]).assign(scans)
    table = pandas.DataFrame(
        [{"stratum": s.modality + s.metadata["sex"], "split": s.split} for s in assigned]
    )
    counts = pandas.crosstab(table["stratum"], table["split"])
    # Within a stratum of n subjects, each part holds n / 4 to within one or two.
    assert (counts["val"] - counts.sum(axis=1) / 4).abs().max() <= 1
    assert (counts["test"] - counts.sum(axis=1) / 4).abs().max() <= 2
    other = Split(val_share=0.25, test_share=0.25, seed=1).assign(scans)
    assert [s.split for s in other] != [s.split for s in assigned]


def test_held_out_institutes_and_given_splits() -> None:
    scans = people(60)
    assigned = Split(test={"institute": ["A", "B"]}, val_share=0.5).assign(scans)
    held = {s.split for s in assigned if s.metadata["institute"] in "AB"}
    rest = {s.split for s in assigned if s.metadata["institute"] == "C"}
    assert held == {"test"}
    assert rest == {"train", "val"}
    given = [replace(s, split="val") for s in scans[:2]] + scans[2:]
    assert {s.split for s in Split(val_share=0).assign(given)[:2]} == {"val"}
    with pytest.raises(ConfigError, match="would be in val and in train"):
        Split().assign([replace(scans[0], split="val"), replace(scans[1], split="train")])
    with pytest.raises(ConfigError, match="inside and outside val"):
        Split().assign([replace(scans[0], split="val"), scans[1]])
    with pytest.raises(ConfigError, match="train, val, test, found 'dev'"):
        Split().assign([replace(scans[0], split="dev")])
    with pytest.raises(ConfigError, match="no scan has a column 'clinic'"):
        Split(test={"clinic": ["A"]}).assign(scans)
    with pytest.raises(ConfigError, match="shares must be"):
        Split(val_share=0.7, test_share=0.7).assign(scans)


def test_columns_get_one_type_each() -> None:
    image = RadiographInput(Path("x"))
    rows = [
        {"age": 40, "kvp": 120, "contrast": True, "mixed": 1},
        {"age": 41.5, "kvp": np.int64(100), "mixed": "b", "rare": float("nan")},
    ]
    scans, columns = typed_metadata(
        [Scan(str(n), "s", "CR", image, metadata=row) for n, row in enumerate(rows)]
    )
    assert columns == {
        "age": "double",
        "kvp": "int64",
        "contrast": "bool",
        "mixed": "string",
        "rare": "string",
    }
    assert scans[0].metadata == {
        "age": 40.0,
        "kvp": 120,
        "contrast": True,
        "mixed": "1",
        "rare": None,
    }
    with pytest.raises(ConfigError, match="may not be called split"):
        typed_metadata([Scan("a", "s", "CR", image, metadata={"split": "x"})])


def test_totalsegmentator_layout(tmp_path: Path) -> None:
    folder = totalsegmentator(tmp_path / "ct")
    (folder / "s0003" / "ct.nii.gz").unlink()
    (folder / "s0099").mkdir()
    (folder / "s0099" / "ct.nii.gz").touch()
    found = TotalSegmentator(str(folder)).find()
    assert [s.name for s in found.scans] == [f"ct-s000{n}" for n in (0, 1, 2, 4, 5, 6, 7)]
    reasons = {r.scan: r.reason for r in found.refused}
    assert reasons == {"ct-s0003": "listed in meta.csv, no file", "ct-s0099": "no row in meta.csv"}
    first = found.scans[0]
    assert [m.name for m in first.input.masks] == ["brain", "liver"]
    assert first.metadata["sex"] == "M"
    assert first.metadata["totalsegmentator_split"] == "train"
    assert first.split is None
    plan = make_plan([TotalSegmentator(str(folder))], HOW, Split(test={"institute": ["A", "D"]}))
    assert plan.classes == {1: "brain", 2: "liver"}
    assert {s.split for s in plan.scans if s.metadata["institute"] in "AD"} == {"test"}
    with pytest.raises(DataError, match=r"meta\.csv"):
        TotalSegmentator(str(tmp_path)).find()
    with pytest.raises(ConfigError, match="2 names stand for more than one scan") as error:
        make_plan([TotalSegmentator(str(folder), limit=2)] * 2, HOW, Split())
    assert "ct-s0000" in str(error.value)
    rows = pandas.read_csv(folder / "meta.csv", sep=";").assign(gender=np.nan)
    rows.loc[1, "image_id"] = None
    rows.to_csv(folder / "meta.csv", sep=";", index=False)
    bare = TotalSegmentator(str(folder), limit=3).find()
    assert [s.name for s in bare.scans] == ["ct-s0000", "ct-s0002"]
    assert [(r.scan, r.reason) for r in bare.refused] == [("row 2", "no image_id")]
    assert "sex" not in bare.scans[0].metadata


def test_a_radiograph_table_keeps_patients_private(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih")
    (folder / "images" / "00000003_001.png").unlink()
    source = RadiographTable(
        str(folder / "labels.csv"),
        str(folder / "images"),
        subject="patient_id",
        findings="finding_labels",
        metadata=NIH,
        salt="x",
    )
    found = source.find()
    assert len(found.scans) == 19
    assert [r.reason for r in found.refused] == ["no such file"]
    assert [s.findings for s in found.scans[:3]] == [
        (),
        ("Edema", "Effusion"),
        ("Edema", "Effusion"),
    ]
    assert found.scans[4].findings is None, "an empty cell is unknown, not nothing"
    assert len({s.subject for s in found.scans}) == 10
    assert found.scans[0].metadata == {"view": "PA", "sex": "M", "age": 20}
    for scan in found.scans:
        assert scan.input.path.stem not in f"{scan.name} {scan.subject} {scan.metadata}"
        assert not scan.subject.startswith("10")
    again = RadiographTable(**(vars(source) | {"table": str(source.table), "salt": "y"}))
    assert {s.subject for s in again.find().scans}.isdisjoint({s.subject for s in found.scans})


def test_mistakes_in_a_table_are_named(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih", patients=2)
    table = folder / "labels.csv"
    with pytest.raises(DataError, match=r"key:      subject[\s\S]*patient_id"):
        RadiographTable(str(table)).find()
    rows = pandas.read_csv(table)
    pandas.concat([rows, rows[:1]]).to_csv(table, index=False)
    with pytest.raises(DataError, match="1 of 5 rows repeat one"):
        RadiographTable(str(table), subject="patient_id").find()
    with pytest.raises(DataError, match="a CSV table"):
        RadiographTable(str(tmp_path / "none.csv")).find()
    (tmp_path / "semi.csv").write_text("image;subject\na.png;1\n")
    with pytest.raises(DataError, match=r"image;subject[\s\S]*separated by commas"):
        RadiographTable(str(tmp_path / "semi.csv")).find()


def test_rows_without_a_file_or_a_subject_are_refused(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih", patients=3)
    rows = pandas.read_csv(folder / "labels.csv")
    rows.loc[[1, 2], "image"] = None
    rows["patient_id"] = rows["patient_id"].astype("Int64")
    rows.loc[4, "patient_id"] = None
    rows.to_csv(folder / "labels.csv", index=False)
    found = RadiographTable(
        str(folder / "labels.csv"), str(folder / "images"), subject="patient_id"
    ).find()
    assert len(found.scans) == 3
    assert [(r.scan, r.reason) for r in found.refused] == [
        ("row 2", "no image"),
        ("row 3", "no image"),
        ("row 5", "no patient_id"),
    ]


def test_a_split_column_of_the_table_is_kept(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih", patients=4)
    rows = pandas.read_csv(folder / "labels.csv")
    rows["fold"] = ["train"] * 4 + ["test"] * 4
    rows.to_csv(folder / "labels.csv", index=False)
    source = RadiographTable(
        str(folder / "labels.csv"), str(folder / "images"), subject="patient_id", split="fold"
    )
    plan = make_plan([source], HOW, Split())
    assert [s.split for s in plan.scans] == ["train"] * 4 + ["test"] * 4
    rows["fold"] = ["train", "test"] * 4
    rows.to_csv(folder / "labels.csv", index=False)
    with pytest.raises(ConfigError, match=r"would be in train and in test[\s\S]*_001\.png"):
        make_plan([source], HOW, Split())
    rows["fold"] = ["training", "test"] * 4
    rows.to_csv(folder / "labels.csv", index=False)
    with pytest.raises(DataError, match=r"fold[\s\S]*or nothing[\s\S]*training"):
        source.find()


def test_volume_files_by_pattern_with_masks(tmp_path: Path) -> None:
    values, organ, affine = body()
    for name in ("p1_a", "p1_b", "p2_a"):
        write_nifti(tmp_path / "ct" / f"{name}.nii.gz", values, affine)
        write_nifti(tmp_path / "seg" / f"{name}_seg.nii.gz", organ.astype(np.uint8), affine)
    entry = VolumeEntry(
        str(tmp_path / "ct" / "*.nii.gz"),
        modality="CT",
        subject_pattern=r"(p\d+)_",
        labels=str(tmp_path / "seg" / "{stem}_seg.nii.gz"),
        classes={1: "liver"},
        metadata={"study_type": "ct thorax abdomen"},
    )
    plan = make_plan([VolumeFiles([entry])], HOW, Split(val_share=0.5))
    assert [(s.name, s.subject) for s in plan.scans] == [
        ("p1_a", "p1"),
        ("p1_b", "p1"),
        ("p2_a", "p2"),
    ]
    assert plan.classes == {1: "liver"}
    assert all(s.input.masks[0].path.is_file() for s in plan.scans)
    with pytest.raises(ConfigError, match=r"labels with \{stem\}"):
        VolumeFiles([replace(entry, labels="one.nii")]).find()
    with pytest.raises(ConfigError, match="go together"):
        VolumeFiles([replace(entry, classes=None)]).find()
    with pytest.raises(DataError, match="nothing there"):
        VolumeFiles([replace(entry, image=str(tmp_path / "*.mha"))]).find()
    with pytest.raises(ConfigError, match="give its modality"):
        VolumeFiles([replace(entry, modality=None)]).find()
    refused = VolumeFiles([replace(entry, subject_pattern="(q)")]).find().refused
    assert [r.scan for r in refused] == ["p1_a", "p1_b", "p2_a"]
    optional = VolumeFiles([replace(entry, subject_pattern=r"(q)?p\d_")]).find()
    assert len(optional.refused) == 3, "a group that took no part names no subject"
    wrong = replace(entry, metadata={"study_type": "ct knee"})
    with pytest.raises(ConfigError, match="ct knee"):
        make_plan([VolumeFiles([wrong])], HOW, Split())
    with pytest.raises(ConfigError, match="modality 'PT' of a volume"):
        make_plan([VolumeFiles([replace(entry, modality="PT")])], HOW, Split())


def test_dicom_folders_bring_their_own_metadata(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    affine = rotated((0, 0, np.pi), (1, 1, 3), (0, 0, 0))
    write_series(tmp_path / "Doe_Jane", array, affine, modality="MR", uid="1.2.345")
    found = VolumeFiles([VolumeEntry(str(tmp_path / "Doe_Jane"), metadata={"sex": "X"})]).find()
    (scan,) = found.scans
    assert scan.modality == "MR"
    assert scan.metadata["age"] == 67.0
    assert scan.metadata["sex"] == "X", "what the configuration says wins"
    assert scan.name == f"{scan.subject}-345"
    assert "Doe" not in scan.name
    write_series(tmp_path / "Doe_Jane", array, affine, modality="MR", uid="1.2.9", prefix="z")
    found = VolumeFiles([VolumeEntry(str(tmp_path / "Doe_Jane"))]).find()
    assert not found.scans
    assert "1.2.345 (MR, 4 images); 1.2.9 (MR, 4 images)" in found.refused[0].reason
    chosen = VolumeFiles([VolumeEntry(str(tmp_path / "Doe_Jane"), series="1.2.9")]).find()
    assert chosen.scans[0].input.series == "1.2.9"
    assert "set series" in found.refused[0].reason
    (tmp_path / "empty").mkdir()
    (refused,) = VolumeFiles([VolumeEntry(str(tmp_path / "empty"))]).find().refused
    assert refused.reason == "expected one series; set series to one of them; found no DICOM image"


def test_one_echo_of_a_series_is_chosen_by_select(tmp_path: Path) -> None:
    affine, array = np.diag([1.0, 1, 3, 1]), np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    for echo in (1, 2):
        tags = {"modality": "MR", "EchoNumbers": echo, "prefix": f"e{echo}-"}
        write_series(tmp_path / "mr", echo * array, affine, **tags)
    both = VolumeEntry(str(tmp_path / "mr"), name="mr")
    for entry, refused in ((both, 1), (replace(both, select={"EchoNumbers": 2}), 0)):
        plan = make_plan([VolumeFiles([entry])], HOW, Split())
        writer = FolderWriter(tmp_path / f"out{refused}", plan.identity, plan.classes)
        job = Job(writer, HOW, plan.columns)
        if refused:
            with pytest.raises(DataError, match=r"EchoNumbers[\s\S]*select"):
                cut_scan(job, plan.scans[0])
        else:
            assert cut_scan(job, plan.scans[0]) == 8


def test_a_mask_edited_in_place_is_noticed_and_a_copy_is_not(tmp_path: Path) -> None:
    values, organ, affine = body((64, 64, 16))
    write_nifti(tmp_path / "a.nii.gz", values, affine)
    write_nifti(tmp_path / "seg.nii", organ.astype(np.uint8), affine)
    entry = VolumeEntry(str(tmp_path / "a.nii.gz"), modality="MR", name="a")
    entry = replace(entry, labels=str(tmp_path / "seg.nii"), classes={1: "liver"})

    def fingerprint() -> str:
        return make_plan([VolumeFiles([entry])], HOW, Split()).scans[0].fingerprint

    before = fingerprint()
    (tmp_path / "seg.nii").write_bytes((tmp_path / "seg.nii").read_bytes())
    assert fingerprint() == before
    edited = organ.astype(np.uint8)
    edited[32, 32, 8] = 1 - edited[32, 32, 8]
    write_nifti(tmp_path / "seg.nii", edited, affine)
    assert fingerprint() != before


def test_class_tables_from_everywhere(tmp_path: Path) -> None:
    table = {1: "spleen", 5: "liver"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(table))
    (tmp_path / "c.csv").write_text("id,name\n1,spleen\n5,liver\n")
    (tmp_path / "map_to_binary.py").write_text(
        f"import nothing_that_exists\nclass_map = {{'total': {table!r}, 'body': {{1: 'trunk'}}}}\n"
    )
    for source in (
        table,
        str(tmp_path / "c.yaml"),
        str(tmp_path / "c.csv"),
        f"{tmp_path}/map_to_binary.py:total",
    ):
        assert class_table(source) == table
    with pytest.raises(DataError, match=r"total_mr[\s\S]*total, body"):
        class_table(f"{tmp_path}/map_to_binary.py:total_mr")
    with pytest.raises(DataError, match="each once"):
        class_table({1: "liver", 2: "liver"})
    with pytest.raises(DataError, match="each once"):
        class_table({0: "background"})
    (tmp_path / "bad.csv").write_text("number,organ\n1,spleen\n")
    with pytest.raises(DataError, match=r"bad\.csv"):
        class_table(str(tmp_path / "bad.csv"))


def test_nothing_to_cut(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih", patients=1)
    for file in (folder / "images").iterdir():
        file.unlink()
    source = RadiographTable(str(folder / "labels.csv"), subject="patient_id")
    with pytest.raises(
        ConfigError, match=r"no scan in the sources, 2 refused, the first: .*no such"
    ):
        make_plan([source], HOW, Split())
