"""Times the way of radiographs from file to batch, and how many rows a second are indexed.

Runs alone: ``python benchmarks/bench_cxr_input.py [--quick] [--peers FOLDER]``. Every format holds
one real radiograph, RG1 of pydicom-data (a chest of 1955 x 1841 pixels and 15 bits), written as
data sets write theirs; each file is shifted by some pixels. A batch is 224 x 224 x 3, float32.

Peers are a plain loop of PIL and torch, and torchxrayvision's own reader, crop and resize, where it
can be imported from FOLDER (``pip install --target FOLDER --no-deps torchxrayvision torchvision``):
otherwise its rows say why not. A peer that cannot read a format, or reads it wrongly, is said so.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import torch
import yaml
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.results import write_results
from sagittal_cxr.cli import run
from sagittal_cxr.images import load_grey

SIZE, BATCH = 224, 4  # fewer than the files, so that every worker has some
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(resize=(SIZE, SIZE), mean=MEAN, std=STD)
Reader = Callable[[str], Tensor]


class Files(Dataset[Tensor]):
    def __init__(self, files: list[str], reader: Reader) -> None:
        self.files, self.reader = files, reader

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        return self.reader(self.files[number])


def sagittal(file: str) -> Tensor:
    """What the data module does for an item; the batch is normalised as a whole."""
    return torch.from_numpy(PREPROCESSING.fit(load_grey(file)))


def pil(file: str) -> Tensor:
    """What most training scripts do: eight bits, three channels, each image normalised."""
    with Image.open(file) as image:
        grey = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    scaled = torch.from_numpy(np.array(grey)).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def torchxrayvision(file: str) -> Tensor:
    import torchxrayvision as xrv

    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(SIZE)
    return torch.from_numpy(resize(crop(xrv.utils.load_image(file)))).expand(3, -1, -1)


def normalised(batch: Tensor) -> Tensor:
    return batch if batch.is_floating_point() else PREPROCESSING.normalise(batch)


def write_files(folder: Path, count: int, small: bool) -> dict[str, list[str]]:
    """The radiograph in five formats."""
    spec = importlib.util.find_spec("data_store")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "data" / "RG1_UNCR.dcm"
    grey, stored = load_grey(source), dcmread(source).pixel_array
    if small:
        grey = grey[::8, ::8]
    found: dict[str, list[str]] = {}

    def place(kind: str, suffix: str, number: int) -> str:
        file = folder / f"{kind.replace(' ', '_').replace(',', '')}_{number}{suffix}"
        found.setdefault(kind, []).append(str(file))
        return str(file)

    shrink = 8 if small else 1
    for number in range(count):
        moved = Image.fromarray(np.roll(grey, 3 * number, 1))
        large = moved.resize((2544 // shrink, 3056 // shrink), Image.Resampling.BICUBIC)
        large.save(place("JPEG 2544 x 3056", ".jpg", number), quality=95)
        square = moved.resize((1024 // shrink, 1024 // shrink), Image.Resampling.BICUBIC)
        square.save(place("PNG 1024 x 1024", ".png", number))
        deep = np.roll(65535 - 2 * stored.astype(np.uint16), 3 * number, 1)[::shrink, ::shrink]
        Image.fromarray(np.ascontiguousarray(deep)).save(place("PNG, 16 bits", ".png", number))
        for kind, compressed in (("DICOM", False), ("DICOM, JPEG 2000", True)):
            data = dcmread(source)
            rolled = np.ascontiguousarray(np.roll(stored, 3 * number, 1)[::shrink, ::shrink])
            data.PixelData, (data.Rows, data.Columns) = rolled.tobytes(), rolled.shape
            if compressed:
                data.compress(JPEG2000Lossless)
            data.save_as(place(kind, ".dcm", number))
    return found


def fault(reader: Reader, file: str) -> str | None:
    """Why a peer's picture of a file is none: it fails, or it is not the radiograph."""
    try:
        image = reader(file).float()
    except Exception as error:
        return f"cannot read it: {type(error).__name__}"
    ours = normalised(sagittal(file)[None])[0, 0]
    theirs = image[0] if image.dim() == 3 else image
    same = float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1])
    # torchxrayvision crops to a square, which shifts things by a few per cent.
    return None if same > 0.7 else f"reads it wrongly (correlation with ours {same:.2f})"


def import_peer(folder: str | None) -> str | None:
    """Why torchxrayvision cannot be timed; None: it can."""
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        import torchxrayvision  # noqa: F401
    except Exception as error:  # torchvision raises RuntimeError where its ops do not load
        return f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def epoch(reader: Reader, files: list[str], workers: int) -> Callable[[], None]:
    loader = DataLoader(
        Files(files, reader), BATCH, num_workers=workers, persistent_workers=workers > 0
    )

    def work() -> None:
        for batch in loader:
            normalised(batch)

    return work


def index_rows(count: int, folder: Path) -> float:
    """Seconds of ``sagittal-cxr index`` over a table of reports, pictures not looked at."""
    random = np.random.default_rng(0)
    words = np.array(["the", "heart", "is", "large", "lungs", "clear", "no", "effusion", "left"])
    pool = [" ".join(random.choice(words, 30)) for _ in range(1000)]
    rows = range(count)
    table = {
        "image": [f"{n}.png" for n in rows],
        "patient": random.integers(0, count // 3 + 1, count),
        "findings": [f"{pool[n % 1000]} {n}" for n in rows],
        "impression": [pool[n * 7 % 1000] for n in rows],
        "found": random.choice(["No Finding", "Mass|Edema", "Effusion"], count),
        "view": random.choice(["PA", "AP"], count),
    }
    folder.mkdir()
    pandas.DataFrame(table).to_csv(folder / "t.csv", index=False)
    options = {"table": "t.csv", "findings": "findings", "impression": "impression"}
    options |= {"labels": "found", "view": "view"}
    dataset = {"name": "rows", "reader": "table", "root": str(folder), "options": options}
    config = {"datasets": [dataset], "check": "none", "duplicates": "reports"}
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump(config | {"out": str(folder / "out")}))
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        assert run(["index", "-c", str(file)]) == 0
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny files, to see that it runs")
    parser.add_argument("--peers", help="folder that torchxrayvision is installed in")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=16, help="of each format")
    parser.add_argument("--rows", type=int, default=100_000, help="of the index")
    parser.add_argument("--results", type=Path, help="also write the tables to this result file")
    args = parser.parse_args()
    if args.quick:
        args.files, args.rows, args.rounds = 3, 500, 2
    torch.set_num_threads(1)
    missing = import_peer(args.peers)
    readers = {"sagittal": sagittal, "PIL loop": pil, "torchxrayvision": torchxrayvision}
    table: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        files = write_files(Path(name), args.files, args.quick)
        for kind, mine in files.items():
            faults = {p: fault(r, mine[0]) for p, r in readers.items() if p != "torchxrayvision"}
            faults["torchxrayvision"] = missing or fault(torchxrayvision, mine[0])
            for workers in args.workers:
                able = {p: epoch(readers[p], mine, workers) for p in readers if faults[p] is None}
                for work in able.values():  # workers start, files are cached
                    work()
                times = harness.interleaved(able, args.rounds)
                for peer in readers:
                    if peer not in times:
                        table.append([kind, str(workers), peer, faults[peer] or "", ""])
                        continue
                    rate = 1e3 * len(mine) / statistics.median(times[peer])
                    ratio = harness.paired_ratio(times[peer], times["sagittal"])
                    table.append([kind, str(workers), peer, f"{rate:.1f}", f"{ratio:.2f}"])
                for row in table[-len(readers) :]:
                    print(f"{row[0]:20} {row[1]:>2} workers  {row[2]:16} {row[3]:>12} {row[4]:>6}")
        seconds = index_rows(args.rows, Path(name) / "rows")
    print(f"index of {args.rows} rows without looking at pictures: {seconds:.1f} s")
    if args.results is not None:
        columns = ["files", "loader processes", "reader", "images/s", "its time over ours"]
        counts = [[f"{args.rows:,}", f"{seconds:.1f}"]]
        tables = {"images": (columns, table), "index": (["rows", "s"], counts)}
        command = f"python benchmarks/bench_cxr_input.py --rounds {args.rounds}"
        units = {"radiographs": 1, "files of each format": args.files, "rounds": args.rounds}
        write_results(args.results, command=command, seeds=[0], n=units, tables=tables)
        print(f"written: {args.results}")


if __name__ == "__main__":
    main()
