"""The pool of ``study_curation.py``: real radiographs with near-duplicates and wrong texts."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sagittal_core.encoders import SentenceEncoder, load_vision
from sagittal_core.seeds import counter_seed
from sagittal_cxr.reports.templates import pseudo_report

TAIL = 20  # a finding with fewer positive radiographs is of the tail


@dataclass
class Pool:
    """Pairs, one entry each.

    Attributes:
        original: Number of the radiograph that a pair shows.
        copy: 0 for the radiograph itself, 1.. for near-duplicates.
        wrong: Whether the text is of another radiograph with other findings.
        patient: Of the radiograph.
        tail: Whether it has a finding of the tail.
        images: (n, D) unit rows.
        texts: (n, E) unit rows.
    """

    original: NDArray[np.int64]
    copy: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    patient: NDArray[np.str_]
    tail: NDArray[np.bool_]
    images: torch.Tensor
    texts: torch.Tensor

    def __len__(self) -> int:
        return len(self.original)

    def where(self, mask: NDArray[np.bool_]) -> Pool:
        """The pairs that a mask marks."""
        at = torch.from_numpy(np.flatnonzero(mask))
        arrays = (self.original, self.copy, self.wrong, self.patient, self.tail)
        return Pool(*(a[mask] for a in arrays), self.images[at], self.texts[at])


class Radiographs:
    """A table as of ChestX-ray14 with the folder of its images."""

    def __init__(self, table: Path, images: Path) -> None:
        with table.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        self.files = [images / row["image"] for row in rows]
        self.patients = np.array([row["patient_id"] for row in rows])
        self.findings = [set(row["finding_labels"].split("|")) - {"No Finding"} for row in rows]
        self.names = sorted(set().union(*self.findings))
        counts = {n: sum(n in f for f in self.findings) for n in self.names}
        self.tail_names = [n for n, count in counts.items() if count < TAIL]
        self.tail = np.array([bool(f & set(self.tail_names)) for f in self.findings])

    def __len__(self) -> int:
        return len(self.files)

    def report(self, number: int, seed: int) -> str:
        """A pseudo-report of what is present; another seed says the same in other words."""
        labels = dict.fromkeys(self.findings[number] or {"No Finding"}, 1)
        return pseudo_report(labels, seed=seed, key=self.files[number].name)

    def image(self, number: int, copy: int, seed: int) -> NDArray[np.uint8]:
        """The radiograph, or a near-duplicate: other crop, brightness and noise."""
        with Image.open(self.files[number]) as opened:
            image = opened.convert("L")
        if copy:
            rng = np.random.default_rng(counter_seed(seed, number, copy, "near-duplicate"))
            left, top, right, bottom = rng.uniform(0.0, 0.03, 4)
            width, height = image.size
            image = image.crop(
                (
                    round(left * width),
                    round(top * height),
                    round((1 - right) * width),
                    round((1 - bottom) * height),
                )
            )
            grey = np.asarray(image, np.float32) * rng.uniform(0.93, 1.07)
            grey += rng.normal(0.0, 2.0, grey.shape)
            return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.asarray(image)


def build(
    data: Radiographs, seed: int, duplicated: float, copies: int, wrong: float, cache: Path
) -> Pool:
    """All radiographs, near-duplicates of some of them, and wrong texts for some of all that.

    Args:
        data: Real radiographs.
        seed: Of every draw.
        duplicated: Share of radiographs that get near-duplicates.
        copies: Near-duplicates of each of those.
        wrong: Share of all pairs whose text is replaced.
        cache: Folder for embeddings; the same pool is embedded once.
    """
    rng = np.random.default_rng(counter_seed(seed, "pool"))
    chosen = rng.permutation(len(data))[: round(duplicated * len(data))]
    original = np.concatenate([np.arange(len(data)), np.repeat(np.sort(chosen), copies)])
    copy = np.concatenate([np.zeros(len(data), int), np.tile(np.arange(copies) + 1, len(chosen))])
    # Every other near-duplicate has the very text of its radiograph, the others a paraphrase.
    wording = np.where(copy % 2 == 0, seed, 1000 * (seed + 1) + copy)
    texts = [data.report(o, int(w)) for o, w in zip(original, wording, strict=True)]
    false = np.zeros(len(original), bool)
    for place in rng.permutation(len(original))[: round(wrong * len(original))]:
        mine = data.findings[original[place]]
        donor = next(d for d in rng.permutation(len(data)) if data.findings[d] != mine)
        texts[place], false[place] = data.report(int(donor), seed), True
    images = _images(data, original, copy, seed, cache)
    return Pool(
        original,
        copy,
        false,
        data.patients[original],
        data.tail[original],
        images,
        _texts(texts, cache),
    )


def _images(
    data: Radiographs,
    original: NDArray[np.int64],
    copy: NDArray[np.int64],
    seed: int,
    cache: Path,
) -> torch.Tensor:
    """Unit rows of EfficientNet-Lite0; originals are the same in every pool."""
    encoder = load_vision("efficientnet_lite0")
    torch.set_num_threads(2)

    def encoded(places: NDArray[np.int64], name: str) -> torch.Tensor:
        which = [f"{data.files[original[p]]} {copy[p]} {seed * (copy[p] > 0)}" for p in places]
        digest = hashlib.sha256("\n".join(which).encode()).hexdigest()[:12]
        file = cache / f"{name}-{digest}.pt"
        if file.is_file():
            return torch.load(file, weights_only=True)
        rows = []
        for start in range(0, len(places), 16):
            pictures = [
                encoder.preprocessing.fit(data.image(int(original[p]), int(copy[p]), seed))
                for p in places[start : start + 16]
            ]
            pixels = torch.from_numpy(np.stack(pictures))
            rows.append(encoder(encoder.preprocessing.normalise(pixels)).pooled)
            if start % 320 == 0:
                print(f"{name}: {start} of {len(places)} images", flush=True)
        found = torch.nn.functional.normalize(torch.cat(rows), dim=1)
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
        return found

    first, rest = np.flatnonzero(copy == 0), np.flatnonzero(copy > 0)
    return torch.cat([encoded(first, "originals"), encoded(rest, f"copies-{seed}")])


def _texts(texts: list[str], cache: Path) -> torch.Tensor:
    """Unit rows of all-MiniLM-L6-v2."""
    distinct = sorted(set(texts))
    name = hashlib.sha256("\n".join(distinct).encode()).hexdigest()[:12]
    file = cache / f"texts-{name}.pt"
    if not file.is_file():
        torch.save(torch.from_numpy(SentenceEncoder("minilm").encode(distinct)), file)
    rows = torch.load(file, weights_only=True)
    number = {text: n for n, text in enumerate(distinct)}
    return rows[[number[text] for text in texts]]
