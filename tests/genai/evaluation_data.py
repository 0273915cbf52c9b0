"""A store whose rows are sums of concept directions, and autoencoders with chosen features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import torch
import yaml

from sagittal_core.store import ShardWriter
from sagittal_genai.nn.activations import TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.sail import SAIL

DIM, CONCEPTS, SUBJECTS, SLICES = 16, 6, 60, 8
NAMES = [f"organ {number}" for number in range(CONCEPTS)]


def atoms() -> torch.Tensor:
    """Orthonormal directions (CONCEPTS, DIM), one a concept."""
    generator = torch.Generator().manual_seed(7)
    return torch.linalg.qr(torch.randn(DIM, CONCEPTS, generator=generator)).Q.T


def index(tokens: bool = False) -> tuple[pandas.DataFrame, np.ndarray]:
    """Metadata of 480 slices of 60 subjects, and their concepts (n, CONCEPTS) 0 or 1."""
    rng = np.random.default_rng(3)
    n = SUBJECTS * SLICES
    # Mostly one concept a row, so that a feature can be of one concept alone.
    sets = np.zeros((n, CONCEPTS), dtype=int)
    for row in range(n):
        sets[row, rng.permutation(CONCEPTS)[: 1 + (rng.random() < 0.15)]] = 1
    subject = np.repeat(np.arange(SUBJECTS), SLICES)
    frame = pandas.DataFrame(
        {
            "image": [f"images/{row}.png" for row in range(n)],
            "subject": [f"patient-{one:03d}" for one in subject],
            "scan": [f"scan-{one:03d}" for one in subject],
            "split": np.repeat(
                np.repeat(["train", "val", "test"], [SUBJECTS // 2, 15, 15]), SLICES
            ),
            "view": np.where(sets[:, 0] > 0, "PA", "AP"),
            "orientation": np.where(sets[:, 1] > 0, "axial", "coronal"),
            "modality": np.where(rng.random(n) < 0.5, "CT", "MR"),
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "age": np.where(rng.random(n) < 0.5, 35, 50),
            "token": np.arange(n) % 4 if tokens else np.full(n, -1),
        }
    )
    for column in ("organs", "findings"):
        frame[column] = [[NAMES[c] for c in np.flatnonzero(row)] for row in sets]
    return frame, sets


def write_store(
    folder: Path, meaning: bool, tokens: bool = False, one_subject: bool = False
) -> Path:
    """Rows made of their concepts' directions, or (``meaning`` False) of random ones.

    With ``one_subject`` all rows of test are of one subject with three scans.
    """
    frame, sets = index(tokens)
    if one_subject:
        test = frame["split"] == "test"
        frame.loc[test, "subject"] = "patient-only"
        frame.loc[test, "scan"] = [f"scan-only-{number % 3}" for number in range(int(test.sum()))]
    generator = torch.Generator().manual_seed(5)
    chosen = torch.from_numpy(sets).float()
    if not meaning:
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    strength = 1 + torch.rand(chosen.shape, generator=generator)
    rows = (strength * chosen) @ atoms() * 4
    rows += 0.1 * torch.randn(rows.shape, generator=generator)
    identity = {"meaning": meaning}
    writer = ShardWriter(folder, dim=DIM, dtype=torch.float16, shards=3, identity=identity)
    parts = np.array_split(np.arange(len(rows)), 3)
    for number in writer.missing():
        writer.write(number, rows[parts[number]], frame.iloc[parts[number]])
    return folder


def write_run(folder: Path, directions: torch.Tensor, k: int = 2, bias: float = 0.0) -> Path:
    """A finished run whose autoencoder has these decoder rows (F, DIM)."""
    features = len(directions)
    network = SparseAutoencoder(DIM, features, TopK(k))
    with torch.no_grad():
        network.W_e.copy_(directions)
        network.W_d.copy_(directions)
        network.b_e.fill_(bias)
        network.initialised.fill_(True)
    settings = {
        "class_path": "SAIL",
        "init_args": {
            "network": {
                "class_path": "SparseAutoencoder",
                "init_args": {
                    "input_dim": DIM,
                    "n_features": features,
                    "activation": {"class_path": "TopK", "init_args": {"k": k}},
                },
            }
        },
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": settings}))
    (folder / "state.json").write_text(json.dumps({"status": "finished"}))
    state = {"state_dict": SAIL(network).state_dict()}
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    return folder
