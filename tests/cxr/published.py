"""Small folders laid out as the public chest X-ray data sets are, headers and all."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from dicom_files import dataset, save

from sagittal_cxr.readers import Refused, make_reader
from sagittal_cxr.records import Record

CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old man with cough

 FINDINGS:

 The heart is large.  There is a small left effusion.

 IMPRESSION:

 Cardiomegaly and effusion.
"""


def write(file: Path, text: str) -> Path:
    """Write a text, gzipped where the name ends in .gz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def picture(file: Path, seed: int = 0, bits: int = 8, size: tuple[int, int] = (24, 20)) -> Path:
    """A picture of noise, (height, width) = size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    if file.suffix in (".dcm", ".dicom"):
        tags = {"BitsStored": 12, "HighBit": 11, "ViewPosition": "PA"}
        return save(dataset(random.integers(0, 4096, size, np.uint16), "DX", **tags), file)
    kind = np.uint8 if bits == 8 else np.uint16
    Image.fromarray(random.integers(0, 2**bits, size, kind)).save(file)
    return file


def mimic_cxr(root: Path) -> Path:
    """Three patients; the second study has two pictures, the last no report."""
    rows = [
        ("aaaa-1", 10000032, 50414267, "PA", "train"),
        ("aaaa-2", 10000032, 50414268, "LL", "train"),
        ("aaaa-3", 10000032, 50414268, "AP", "train"),
        ("bbbb-1", 10000764, 57375967, "", "validate"),
        ("cccc-1", 11000001, 58000000, "LATERAL", "test"),
    ]
    head = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows"
    table = [f"{d},{p},{s},CHEST (PA AND LAT),{view},3056" for d, p, s, view, _ in rows]
    write(root / "mimic-cxr-2.0.0-metadata.csv.gz", "\n".join([head, *table, ""]))
    table = [f"{d},{s},{p},{split}" for d, p, s, _, split in rows]
    head = "dicom_id,study_id,subject_id,split"
    write(root / "mimic-cxr-2.0.0-split.csv.gz", "\n".join([head, *table, ""]))
    labels = [
        "10000032,50414267,,,1.0,,,,,,,,1.0,,,",
        "10000032,50414268,1.0,,,,,,,,,,,,,",
        "10000764,57375967,,,-1.0,0.0,,,,,,,,,,",
    ]
    head = "subject_id,study_id," + ",".join(sorted(CHEXPERT.split(",")))
    assert head.count(",") == 15
    # MIMIC's columns are in alphabetical order, the rows above are not: place them by name.
    names = CHEXPERT.split(",")
    table = []
    for row in labels:
        patient, study, *values = row.split(",")
        cells = dict(zip(names, values, strict=True))
        table.append(",".join([patient, study, *(cells[n] for n in sorted(names))]))
    for kind in ("chexpert", "negbio"):
        write(root / f"mimic-cxr-2.0.0-{kind}.csv.gz", "\n".join([head, *table, ""]))
    for number, (d, p, s, _, _) in enumerate(rows):
        picture(root / f"files/p{str(p)[:2]}/p{p}/s{s}/{d}.jpg", number)
        if s != 58000000:
            text = REPORT if s != 50414268 else "FINDINGS: Clear lungs.\n"
            write(root / f"reports/files/p{str(p)[:2]}/p{p}/s{s}.txt", text)
    return root


def chexpert(root: Path) -> Path:
    """train.csv and valid.csv of CheXpert-v1.0-small."""
    head = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}"
    start = "CheXpert-v1.0-small"
    train = [
        f"{start}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        f"{start}/train/patient00001/study1/view2_lateral.jpg,Female,68,Lateral,,1.0,,,,,,,,,0.0,,,,1.0",
        f"{start}/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    ]
    valid = [
        f"{start}/valid/patient64541/study1/view1_frontal.jpg,Unknown,0,Frontal,AP"
        + ",0.0,1.0,1.0,1.0"
        + ",0.0" * 10
    ]
    write(root / "train.csv", "\n".join([head, *train, ""]))
    write(root / "valid.csv", "\n".join([head, *valid, ""]))
    for number, row in enumerate([*train, *valid]):
        picture(root / row.partition(",")[0].removeprefix(start + "/"), number)
    return root


def chexpert_plus(root: Path) -> Path:
    """The table of reports, CheXbert's labels, pictures as PNG."""
    head = "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,section_findings"
    head += ",section_impression,age,sex,split"
    rows = [
        'train/patient42142/study5/view1_frontal.jpg,x,Frontal,AP,p1,"Clear lungs,\nno effusion.",'
        '"1. Normal.",34.0,Female,train',
        "train/patient42142/study5/view2_lateral.jpg,x,Lateral,,p1,,Normal.,34.0,Female,train",
        "valid/patient64600/study1/view1_frontal.jpg,x,Frontal,PA,p2,,Edema.,71.0,Male,valid",
    ]
    write(root / "df_chexpert_plus_240401.csv", "\n".join([head, *rows, ""]))
    labels = {"path_to_image": "train/patient42142/study5/view1_frontal.jpg", "Edema": None}
    labels |= {"No Finding": 1.0, "Pleural Effusion": 0.0, "Pneumonia": -1.0}
    write(root / "chexbert_labels/impression_fixed.json", json.dumps(labels) + "\n")
    for number, row in enumerate(rows):
        picture(root / "PNG" / Path(row.partition(",")[0]).with_suffix(".png"), number)
    return root


def nih(root: Path) -> Path:
    """Data_Entry and BBox_List with the headers that do not fit their columns."""
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"
    head += ",View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    rows = [
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,Infiltration|Pleural_Thickening,1,1,58,M,PA,2894,2729,0.143,0.143",
        "00000002_000.png,No Finding,0,2,414,F,AP,2500,2048,0.168,0.168",
        "00000003_000.png,Hernia,0,3,074Y,F,PA,2582,2991,0.143,0.143",
    ]
    write(root / "Data_Entry_2017_v2020.csv", "\n".join([head, *rows, ""]))
    boxes = [
        "00000001_000.png,Cardiomegaly,225.08,547.02,86.78,79.19",
        "00000001_001.png,Infiltrate,1.0,2.0,3.0,4.0",
        "00000009_000.png,Mass,1.0,2.0,3.0,4.0",
    ]
    write(
        root / "BBox_List_2017.csv",
        "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes]),
    )
    names = [row.partition(",")[0] for row in rows]
    write(root / "train_val_list.txt", "\n".join(names[:3]))
    write(root / "test_list.txt", names[3])
    for number, name in enumerate(names):
        picture(root / f"images_{1 + number // 2:03d}/images" / name, number)
    return root


def padchest(root: Path) -> Path:
    """Labels as Python lists, 16-bit pictures in numbered folders, one excluded, one unlabelled."""
    head = ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM"
    head += ",Projection,Report,Labels"
    rows = [
        "0,1_a.png,0,20140915,s1,p1,1930.0,F,PA, sin hallazg patolog .,['normal']",
        "1,2_b.png,0,20150914,s2,p2,1929.0,M,L, cifosis .,"
        "\"['kyphosis', ' pleural effusion', '']\"",
        "2,3_c.png,1,20150914,s3,p3,,M,AP_horizontal, x .,['exclude']",
        "3,4_d.png,1,20150914,s4,p4,1980,F,COSTAL,,",
        "4,,1,20150914,s5,p5,1980,F,PA,,['normal']",
    ]
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    write(root / name, "\n".join([head, *rows, ""]))
    for number, place in enumerate(("0/1_a.png", "0/2_b.png", "1/3_c.png", "1/4_d.png")):
        picture(root / place, number, bits=16)
    return root


VINDR = "image_id,rad_id,Cardiomegaly,Pleural effusion,Other diseases,No finding"


def vindr(root: Path) -> Path:
    """PhysioNet's tables: three readers of a training picture, one consensus of a test picture."""
    rows = [
        "aa,R1,1,0,0,0",
        "aa,R2,1,1,0,0",
        "aa,R3,1,0,0,0",
        "bb,R1,0,0,0,1",
        "bb,R2,0,0,0,1",
        "bb,R3,0,0,1,0",
    ]
    write(root / "annotations/image_labels_train.csv", "\n".join([VINDR, *rows, ""]))
    head = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
    boxes = [
        "aa,R1,Cardiomegaly,10,10,110,60",
        "aa,R2,Cardiomegaly,14,14,114,64",
        "aa,R3,Cardiomegaly,300,300,320,310",
        "aa,R2,Pleural effusion,10,10,110,60",
        "bb,R1,No finding,,,,",
        "bb,R2,No finding,,,,",
        "bb,R3,Other diseases,1,1,5,5",
    ]
    write(root / "annotations/annotations_train.csv", "\n".join([head, *boxes, ""]))
    head = "image_id,Cardiomegaly,Pleural effusion,Other disease,No finding"
    write(root / "annotations/image_labels_test.csv", f"{head}\ncc,0,1,0,0\n")
    head = "image_id,class_name,x_min,y_min,x_max,y_max"
    write(root / "annotations/annotations_test.csv", f"{head}\ncc,Pleural effusion,1,2,3,4\n")
    for number, name in enumerate(("train/aa", "train/bb", "test/cc")):
        picture(root / f"{name}.dicom", number)
    return root


def rsna(root: Path) -> Path:
    """One row a box, the detailed classes, and the mapping to ChestX-ray14."""
    rows = ["n1,,,,,0", "n2,,,,,0", "n3,264.0,152.0,213.0,379.0,1", "n3,562.0,152.0,256.0,453.0,1"]
    write(
        root / "stage_2_train_labels.csv", "\n".join(["patientId,x,y,width,height,Target", *rows])
    )
    classes = "patientId,class\nn1,Normal\nn2,No Lung Opacity / Not Normal\nn3,Lung Opacity\n"
    write(root / "stage_2_detailed_class_info.csv", classes + "n3,Lung Opacity\n")
    mapping = [
        {"subset_img_id": "n1", "img_id": "00000013_000.png"},
        {"subset_img_id": "n2", "img_id": "00000013_004.png"},
        {"subset_img_id": "n3", "img_id": "00000044_000.png"},
    ]
    name = "pneumonia-challenge-dataset-mappings_2018.json"
    write(root / name, json.dumps(mapping))
    for number in (1, 2, 3):
        picture(root / f"stage_2_train_images/n{number}.dcm", number)
    return root


def siim(root: Path) -> Path:
    """The header with its leading space; one picture without, one with two masks."""
    rows = ["1.2.1,-1", "1.2.2,1024 3 1021 2", "1.2.2,0 1"]
    write(root / "train-rle.csv", "\n".join(["ImageId, EncodedPixels", *rows, ""]))
    for number in (1, 2):
        picture(root / f"dicom-images-train/9.{number}/8.{number}/1.2.{number}.dcm", number)
    return root


def openi(root: Path) -> Path:
    """Three reports: two pictures; none; only an impression."""
    write(
        root / "ecgen-radiology/1.xml",
        _xml("1", ["3001", "4001"], "Clear. XXXX", "Normal.", ["normal"]),
    )
    write(root / "ecgen-radiology/10.xml", _xml("10", [], "Clear.", "Normal.", ["normal"]))
    majors = ["Cardiomegaly/mild", "Pleural Effusion/left", "No Indexing"]
    write(root / "ecgen-radiology/2.xml", _xml("2", ["1001"], None, "Large heart.", majors))
    views = "uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Lateral\n"
    views += "1,1_IM-0001-4001.dcm.png,Frontal\n2,2_IM-0001-1001.dcm.png,Frontal\n"
    write(root / "indiana_projections.csv", views)
    for number, name in enumerate(("1_1_IM-0001-3001", "1_1_IM-0001-4001", "2_2_IM-0001-1001")):
        picture(root / f"NLMCXR_png/CXR{name}.png", number)
    return root


def _xml(
    number: str, images: list[str], findings: str | None, impression: str, majors: list[str]
) -> str:
    parts = "".join(
        f'<parentImage id="CXR{number}_{number}_IM-0001-{one}"><caption>PA</caption></parentImage>'
        for one in images
    )
    text = f'<AbstractText Label="FINDINGS">{findings}</AbstractText>' if findings else ""
    heads = "".join(f"<major>{name}</major>" for name in majors)
    return (
        f'<?xml version="1.0"?><eCitation><uId id="CXR{number}"/><Abstract>'
        f'<AbstractText Label="INDICATION">XXXX</AbstractText>{text}'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract>'
        f"<MeSH>{heads}<automatic>ignored</automatic></MeSH>{parts}</eCitation>"
    )


def brax(root: Path) -> Path:
    """master_spreadsheet_update.csv."""
    head = f"DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,{CHEXPERT}"
    head += ",ViewPosition,Rows,Columns,Manufacturer"
    place = "images/id_a/Study_1/Series_1/image-1.png"
    rows = [
        f"Anonymized_DICOMs/x.dcm,{place},a,M,85 or more,A1,20100101,1.0{',' * 14}PA,10,10,x",
        f"Anonymized_DICOMs/y.dcm,{place.replace('_a', '_b')},b,F,40,A2,20100101"
        ",,,1.0,,,,-1.0,,,0.0,,,,,RL,10,10,x",
    ]
    write(root / "master_spreadsheet_update.csv", "\n".join([head, *rows, ""]))
    for number, row in enumerate(rows):
        picture(root / row.split(",")[1], number)
    return root


def rexgradient(root: Path) -> Path:
    """Two studies of train, one of test; paths that start from the metadata folder."""
    head = "id,StudyInstanceUid,PatientSex,PatientAge,Indication,Findings,Impression"
    rows = {
        "train": [
            "pGRDN1_ACC1_s1,u1,F,045Y,cough,Clear lungs.,No acute disease.",
            "pGRDN2_ACC2_s2,u2,M,,pain,,Pneumonia.",
        ],
        "test": ["pGRDN3_ACC3_s3,u3,M,070Y,,Clear.,"],
    }
    for split, lines in rows.items():
        write(root / f"metadata/{split}_metadata.csv", "\n".join([head, *lines, ""]))
        about = {}
        for line in lines:
            study = line.partition(",")[0]
            views = ["PA", "LAT"] if study.startswith("pGRDN1_") else ["UNKNOWN"]
            paths = [f"../deid_png/{study}/{n}.png" for n in range(len(views))]
            about[study] = {"ImagePath": paths, "ImageViewPosition": views}
            for number, path in enumerate(paths):
                picture(root / path.removeprefix("../"), number, bits=16)
        write(root / f"metadata/{split}_metadata_view_position.json", json.dumps(about))
    return root


ALL = {
    "brax": brax,
    "chexpert": chexpert,
    "chexpert_plus": chexpert_plus,
    "mimic_cxr": mimic_cxr,
    "nih": nih,
    "openi": openi,
    "padchest": padchest,
    "rexgradient": rexgradient,
    "rsna": rsna,
    "siim": siim,
    "vindr": vindr,
}


def read(name: str, root: Path, **options: object) -> tuple[list[Record], list[Refused]]:
    found = list(make_reader(name, options).read(root))
    records = [r for r in found if isinstance(r, Record)]
    return records, [r for r in found if isinstance(r, Refused)]
