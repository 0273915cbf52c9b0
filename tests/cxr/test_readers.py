"""Every reader on its data set's published layout, with the traps of the tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import published
from published import read

from sagittal_core.errors import DataError
from sagittal_cxr.masks import load_mask
from sagittal_cxr.readers import Refused
from sagittal_cxr.readers.siim import decode_mask
from sagittal_cxr.records import Box


@pytest.mark.parametrize("name", sorted(published.ALL))
def test_every_picture_is_found_where_it_lies(name: str, tmp_path: Path) -> None:
    records, _ = read(name, published.ALL[name](tmp_path))
    assert records
    for record in records:
        assert (tmp_path / record.image).is_file(), record.image
        assert record.patient
        assert record.study
        assert set(record.labels.values()) <= {1, 0, -1}
    assert len({r.image for r in records}) == len(records)


def test_mimic_cxr_builds_paths_joins_tables_and_splits_reports(tmp_path: Path) -> None:
    published.mimic_cxr(tmp_path)
    records, refused = read("mimic_cxr", tmp_path, reports="reports")
    assert not refused
    first = records[0]
    assert first.image == "files/p10/p10000032/s50414267/aaaa-1.jpg"
    assert (first.patient, first.study, first.view) == ("10000032", "50414267", "PA")
    assert first.findings == "The heart is large.  There is a small left effusion."
    assert first.impression == "Cardiomegaly and effusion."
    assert first.labels == {"Cardiomegaly": 1, "Pleural Effusion": 1}
    assert [r.view for r in records] == ["PA", "LATERAL", "AP", None, "LATERAL"]
    assert [r.split for r in records] == ["train", "train", "train", "val", "test"]  # "validate"
    assert records[3].labels == {"Cardiomegaly": -1, "Lung Opacity": 0}
    assert records[1].impression is None
    assert (records[4].findings, records[4].labels) == (None, {})  # no report, not in the labels
    without, _ = read("mimic_cxr", tmp_path, labels=None)
    assert all(r.findings is None and not r.labels for r in without)


def test_mimic_cxr_refuses_what_the_split_does_not_list(tmp_path: Path) -> None:
    published.mimic_cxr(tmp_path)
    file = tmp_path / "mimic-cxr-2.0.0-split.csv.gz"
    table = pandas.read_csv(file, dtype=str)
    table.iloc[1:].to_csv(file, index=False)
    records, refused = read("mimic_cxr", tmp_path)
    assert len(records) == 4
    assert refused[0].why.startswith("no split")
    table["split"] = table["split"].replace("validate", "dev")
    table.to_csv(file, index=False)
    with pytest.raises(DataError, match=r"train, validate, test[\s\S]*'dev'"):
        read("mimic_cxr", tmp_path)
    with pytest.raises(DataError, match="no folder files in it"):
        read("mimic_cxr", tmp_path, reports="nowhere")


def test_chexpert_cuts_the_archive_s_name_off_its_paths(tmp_path: Path) -> None:
    published.chexpert(tmp_path)
    records, _ = read("chexpert", tmp_path)
    assert records[0].image == "train/patient00001/study1/view1_frontal.jpg"
    assert (records[0].patient, records[0].study) == ("patient00001", "patient00001/study1")
    assert [r.view for r in records] == ["AP", "LATERAL", "PA", "AP"]
    assert [r.split for r in records] == ["train"] * 3 + ["val"]
    assert [r.sex for r in records] == ["F", "F", "M", None]
    assert records[2].labels["Edema"] == -1
    assert "No Finding" not in records[2].labels  # blank: not judged
    assert len(records[3].labels) == 14


def test_chexpert_takes_tables_by_name_and_refuses_strange_cells(tmp_path: Path) -> None:
    published.chexpert(tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "chexpert_train.csv")
    records, _ = read("chexpert", tmp_path, tables={"train": "chexpert_train.csv"})
    assert len(records) == 3
    text = (tmp_path / "chexpert_train.csv").read_text()
    (tmp_path / "chexpert_train.csv").write_text(text.replace("-1.0,1.0", "2.0,1.0", 1))
    with pytest.raises(DataError, match=r"key:      Cardiomegaly[\s\S]*'2.0'"):
        read("chexpert", tmp_path, tables={"train": "chexpert_train.csv"})
    (tmp_path / "chexpert_train.csv").write_text(text.replace("/train/", "/learn/"))
    with pytest.raises(DataError, match="does not end so") as caught:
        read("chexpert", tmp_path, tables={"train": "chexpert_train.csv"})
    assert "patient0" not in caught.value.found


def test_chexpert_plus_joins_reports_and_labels(tmp_path: Path) -> None:
    published.chexpert_plus(tmp_path)
    labels = "chexbert_labels/impression_fixed.json"
    records, _ = read("chexpert_plus", tmp_path, labels=labels)
    assert records[0].image == "PNG/train/patient42142/study5/view1_frontal.png"
    assert records[0].findings == "Clear lungs, no effusion."
    assert records[0].impression == "1. Normal."
    assert records[0].labels == {"No Finding": 1, "Pneumonia": -1, "Pleural Effusion": 0}
    assert (records[1].findings, records[1].view) == (None, "LATERAL")
    assert [r.split for r in records] == ["train", "train", "val"]
    plain, _ = read("chexpert_plus", tmp_path, folder="", suffix=None)
    assert plain[0].image == "train/patient42142/study5/view1_frontal.jpg"


def test_nih_reads_past_its_broken_headers(tmp_path: Path) -> None:
    published.nih(tmp_path)
    records, refused = read("nih", tmp_path)
    assert [r.image for r in records[::3]] == [
        "images_001/images/00000001_000.png",
        "images_002/images/00000003_000.png",
    ]
    assert records[0].boxes == (Box("Cardiomegaly", 225.08, 547.02, 86.78, 79.19),)
    assert records[1].boxes[0].finding == "Infiltration"  # the box table's "Infiltrate"
    assert records[1].labels["Pleural Thickening"] == 1  # "Pleural_Thickening"
    assert records[1].labels["No Finding"] == 0
    assert sum(records[2].labels.values()) == records[2].labels["No Finding"] == 1
    assert len(records[2].labels) == 15
    assert [r.age for r in records] == [57, 58, None, 74]  # 414 is nobody's age
    assert [r.split for r in records] == ["train", "train", "train", "test"]
    assert refused == [
        Refused("00000009_000.png", "box without a picture: Data_Entry does not list it")
    ]
    half, _ = read("nih", tmp_path, size=512)
    assert half[0].boxes[0].x == pytest.approx(112.54)


def test_nih_knows_its_findings(tmp_path: Path) -> None:
    published.nih(tmp_path)
    file = tmp_path / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace("Hernia", "Hiatus"))
    with pytest.raises(DataError, match=r"Pleural Thickening, Hernia[\s\S]*'Hiatus'"):
        read("nih", tmp_path)
    file.write_text(file.read_text().replace("Hiatus", "No Finding|Mass"))
    with pytest.raises(DataError, match="No Finding alone"):
        read("nih", tmp_path)


def test_padchest_parses_lists_and_refuses_what_it_excludes(tmp_path: Path) -> None:
    published.padchest(tmp_path)
    records, refused = read("padchest", tmp_path, absent=["pneumonia"])
    assert records[0].labels == {"pneumonia": 0, "normal": 1}
    assert records[1].labels == {"pneumonia": 0, "kyphosis": 1, "pleural effusion": 1}
    assert records[2].labels == {}  # no labels: not judged, so pneumonia isn't absent either
    assert [r.view for r in records] == ["PA", "LATERAL", "COSTAL"]
    assert [r.age for r in records] == [84, 86, 35]
    assert records[0].findings is None
    assert [r.why for r in refused] == [
        "excluded: labelled exclude",
        "no name: ImageID or PatientID is empty",
    ]
    spanish, _ = read("padchest", tmp_path, reports=True)
    assert spanish[0].findings == "sin hallazg patolog ."


def test_padchest_evaluates_no_code(tmp_path: Path) -> None:
    published.padchest(tmp_path)
    (file,) = tmp_path.glob("*.csv.gz")
    table = pandas.read_csv(file, dtype=str, keep_default_na=False)
    for bad in ("__import__('os').getcwd()", "('normal',)", "[1]", "normal"):
        table.loc[0, "Labels"] = bad
        table.to_csv(file, index=False)
        with pytest.raises(DataError, match="a list such as"):
            read("padchest", tmp_path)


def test_vindr_counts_votes_and_keeps_every_reader_s_boxes(tmp_path: Path) -> None:
    published.vindr(tmp_path)
    records, _ = read("vindr", tmp_path)
    aa, bb, cc = records
    assert aa.labels == {
        "Cardiomegaly": 1,
        "Pleural effusion": -1,  # one of three
        "Other diseases": 0,
        "No Finding": 0,
    }
    assert bb.labels["No Finding"] == 1
    assert bb.labels["Other diseases"] == -1
    assert cc.labels == {
        "Cardiomegaly": 0,
        "Pleural effusion": 1,  # the consensus counts alone
        "Other diseases": 0,  # "Other disease" in the table of the test set
        "No Finding": 0,
    }
    assert [b.reader for b in aa.boxes] == ["R1", "R2", "R3", "R2"]
    assert aa.boxes[0] == Box("Cardiomegaly", 10, 10, 100, 50, "R1")
    assert [r.split for r in records] == ["train", "train", "test"]
    strict, _ = read("vindr", tmp_path, agreement=3)
    assert strict[0].labels["Cardiomegaly"] == 1
    merged, _ = read("vindr", tmp_path, boxes="merged")
    assert merged[0].boxes[0] == Box("Cardiomegaly", 12, 12, 100, 50, "R1+R2")
    assert len(merged[0].boxes) == 3


def test_vindr_as_kaggle_has_it(tmp_path: Path) -> None:
    published.write(
        tmp_path / "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
        "aa,No finding,14,R11,,,,\naa,No finding,14,R7,,,,\n"
        "aa,Cardiomegaly,3,R10,691,1375,1653,1831\n",
    )
    records, _ = read("vindr", tmp_path)
    assert records[0].labels == {"Cardiomegaly": -1, "No Finding": 1}
    assert records[0].boxes == (Box("Cardiomegaly", 691, 1375, 962, 456, "R10"),)


def test_rsna_gathers_boxes_and_finds_patients(tmp_path: Path) -> None:
    published.rsna(tmp_path)
    records, _ = read("rsna", tmp_path)
    assert [r.labels for r in records] == [
        {"Lung Opacity": 0, "No Finding": 1},
        {"Lung Opacity": 0, "No Finding": 0},
        {"Lung Opacity": 1, "No Finding": 0},
    ]
    assert records[2].boxes == (
        Box("Lung Opacity", 264, 152, 213, 379),
        Box("Lung Opacity", 562, 152, 256, 453),
    )
    assert [r.patient for r in records] == ["n1", "n2", "n3"]
    name = "pneumonia-challenge-dataset-mappings_2018.json"
    mapped, _ = read("rsna", tmp_path, mapping=name)
    assert [r.patient for r in mapped] == ["13", "13", "44"]
    file = tmp_path / "stage_2_train_labels.csv"
    file.write_text(file.read_text().replace("n1,,,,,0", "n1,,,,,1"))
    with pytest.raises(DataError, match="'1' with 0 of 4 numbers"):
        read("rsna", tmp_path)


def test_siim_joins_masks_and_finds_nested_files(tmp_path: Path) -> None:
    published.siim(tmp_path)
    records, _ = read("siim", tmp_path)
    assert records[1].image == "dicom-images-train/9.2/8.2/1.2.2.dcm"
    assert [r.labels["Pneumothorax"] for r in records] == [0, 1]
    assert records[0].mask is None
    assert records[1].mask is not None
    mask = decode_mask(records[1].mask)
    # Column 1 from the top: three pixels; then, 1021 later, two in column 2; and the first pixel.
    wanted = np.zeros((1024, 1024), bool)
    wanted[0, 0] = True
    wanted[0:3, 1] = True
    wanted[0:2, 2] = True
    np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_array_equal(load_mask(records[1].mask, tmp_path), wanted)
    file = tmp_path / "train-rle.csv"
    file.write_text(file.read_text() + "\n1.2.1,5 5\n")
    with pytest.raises(DataError, match="do not agree"):
        read("siim", tmp_path)


def test_openi_reads_sections_headings_and_views(tmp_path: Path) -> None:
    published.openi(tmp_path)
    records, refused = read("openi", tmp_path, views="indiana_projections.csv")
    assert [r.image.rpartition("/")[2] for r in records] == [
        "CXR1_1_IM-0001-3001.png",
        "CXR1_1_IM-0001-4001.png",
        "CXR2_2_IM-0001-1001.png",
    ]
    assert [r.view for r in records] == ["LATERAL", "FRONTAL", "FRONTAL"]
    assert records[0].findings == "Clear. XXXX"
    assert records[0].labels == {"normal": 1}
    assert (records[2].findings, records[2].impression) == (None, "Large heart.")
    assert records[2].labels == {"Cardiomegaly": 1, "Pleural Effusion": 1}
    assert [r.patient for r in records] == ["1", "1", "2"]
    assert refused == [
        Refused("ecgen-radiology/10.xml", "report without a picture: no parentImage")
    ]
    (tmp_path / "ecgen-radiology/2.xml").write_text("<a>")
    _, refused = read("openi", tmp_path)
    assert refused[0].why.startswith("unreadable report: ")


def test_openi_reads_its_archive_alike(tmp_path: Path) -> None:
    import shutil
    import tarfile

    published.openi(tmp_path)
    folder, _ = read("openi", tmp_path)
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(tmp_path / "ecgen-radiology", "ecgen-radiology")
    shutil.rmtree(tmp_path / "ecgen-radiology")
    packed, _ = read("openi", tmp_path)
    assert packed == folder


def test_brax_ages_and_pictures(tmp_path: Path) -> None:
    published.brax(tmp_path)
    records, _ = read("brax", tmp_path)
    assert [r.age for r in records] == [85, 40]
    assert [r.view for r in records] == ["PA", "LATERAL"]
    assert records[1].labels == {"Cardiomegaly": 1, "Consolidation": -1, "Pneumothorax": 0}
    dicom, _ = read("brax", tmp_path, pictures="dicom")
    assert dicom[0].image == "Anonymized_DICOMs/x.dcm"


def test_rexgradient_joins_pictures_to_reports(tmp_path: Path) -> None:
    published.rexgradient(tmp_path)
    records, refused = read("rexgradient", tmp_path)
    assert not refused
    assert [r.patient for r in records] == ["pGRDN1", "pGRDN1", "pGRDN2", "pGRDN3"]
    assert [r.split for r in records] == ["train", "train", "train", "test"]
    assert [r.view for r in records] == ["PA", "LATERAL", None, None]
    assert records[0].image == "deid_png/pGRDN1_ACC1_s1/0.png"
    assert (records[2].findings, records[2].impression) == (None, "Pneumonia.")
    assert records[0].age == 45
    file = tmp_path / "metadata/train_metadata_view_position.json"
    file.write_text(file.read_text().replace("pGRDN2_ACC2_s2", "pGRDN9_ACC2_s2"))
    _, refused = read("rexgradient", tmp_path)
    assert refused[0].why == "no report: not in train_metadata.csv"
    file.write_text(file.read_text().replace('["PA", "LAT"]', '["PA"]'))
    with pytest.raises(DataError, match="as long ImageViewPosition"):
        read("rexgradient", tmp_path)
