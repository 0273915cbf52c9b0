"""Slices, embeddings and codes in which each feature is one known concept, or noise."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas
import pyarrow
import torch

from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_genai.codes import write_codes
from sagittal_genai.nn.activations import TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.slices.folder import FolderWriter

ORGANS = ["liver", "spleen", "heart", "brain", "kidney_left"]
PLANES = ["sagittal", "coronal", "axial"]
SAID = [organ.replace("_", " ") for organ in ORGANS]
NAMES = [*SAID, *PLANES]  # what feature 0, 1, ... means; feature 8 is noise
NOISE = len(NAMES)
SUBJECTS, SLICES = 45, 4


class Made(NamedTuple):
    store: Path
    codes: Path
    slices: Path
    index: pandas.DataFrame


def make(folder: Path, tokens: bool = False, scrambled: bool = False) -> Made:
    """45 subjects with 4 slices each; ``scrambled``: features that mean nothing."""
    rng = np.random.default_rng(7)
    writer = FolderWriter(folder / "slices", {"made": "test"}, dict(enumerate(ORGANS, 1)))
    frames, rows = [], []
    for number in range(SUBJECTS):
        scan = f"case{number:02}"
        found = [_slice(rng, writer, scan, i, tokens) for i in range(SLICES)]
        frame = pandas.DataFrame([record for record, _ in found])
        frame["subject"] = f"patient {number}"
        frame["split"] = "train" if number < 25 else "val" if number < 30 else "test"
        writer.finish(scan, pyarrow.Table.from_pandas(frame, preserve_index=False))
        frames.append(frame)
        rows += [row for _, row in found]
    writer.describe(scans=SUBJECTS)
    index, embedded = pandas.concat(frames, ignore_index=True), np.concatenate(rows)
    if tokens:
        index = _of_tokens(index)
    if scrambled:
        embedded = rng.permutation(embedded)
    shards = ShardWriter(
        folder / "store", dim=NOISE + 1, dtype=torch.float32, shards=1, identity={"tokens": tokens}
    )
    shards.write(0, torch.from_numpy(embedded.astype(np.float32)), index)
    write_codes(identity_network(NOISE + 1), EmbeddingStore(folder / "store"), folder / "codes")
    return Made(folder / "store", folder / "codes", folder / "slices", index)


def identity_network(dim: int) -> SparseAutoencoder:
    """Each feature is one coordinate; the five largest of a row are active."""
    network = SparseAutoencoder(dim, dim, TopK(5)).eval()
    network.W_e.data, network.W_d.data = torch.eye(dim), torch.eye(dim)
    return network


def _slice(
    rng: np.random.Generator, writer: FolderWriter, scan: str, number: int, tokens: bool
) -> tuple[dict, np.ndarray]:
    """One slice of 2 x 2 patches, each with its own organs."""
    shown = rng.random((4, len(ORGANS))) < 0.09
    plane = int(rng.integers(3))
    pixels = np.full((24, 24), 30, np.uint8)
    for patch in np.flatnonzero(shown.any(1)):
        y, x = divmod(int(patch), 2)
        pixels[12 * y : 12 * y + 12, 12 * x : 12 * x + 12] = 90 + 30 * int(shown[patch].argmax())
    name = f"{PLANES[plane]}-{number:04}"
    record = {
        "image": writer.picture("images", scan, name, pixels),
        "scan": scan,
        "orientation": PLANES[plane],
        "slice": np.int32(number),
        "modality": "CT",
        "organs": [ORGANS[i] for i in np.flatnonzero(shown.any(0))],
    }
    if tokens:
        record["patches"] = [[ORGANS[i] for i in np.flatnonzero(patch)] for patch in shown]
    present = shown if tokens else shown.any(0, keepdims=True)
    active = np.zeros((len(present), NOISE + 1))
    active[:, : len(ORGANS)] = present
    active[:, len(ORGANS) + plane] = 1
    active[:, NOISE] = rng.random(len(present)) < 0.3
    return record, active * rng.uniform(0.8, 1.2, active.shape)


def _of_tokens(index: pandas.DataFrame) -> pandas.DataFrame:
    spread = index.loc[index.index.repeat(4)].reset_index(drop=True)
    spread["token"] = np.tile(np.arange(4, dtype=np.int32), len(index))
    spread["grid_h"] = spread["grid_w"] = np.int32(2)
    spread["image_organs"] = spread["organs"]
    spread["organs"] = [p[t] for p, t in zip(spread["patches"], spread["token"], strict=True)]
    return spread.drop(columns="patches")
