"""Radiographs whose findings are bright squares, and a model that knows where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image
from torch import Tensor, nn

from sagittal_core.encoders import Features, Preprocessing
from sagittal_cxr.tasks.task import Benchmark, Measure

FINDINGS = ["Edema", "Effusion", "Fracture", "Hernia", "Mass", "No Finding", "Nodule", "Pneumonia"]
SIDE = 16


def write_index(
    folder: Path,
    patients: int = 40,
    images: int = 2,
    *,
    seed: int = 0,
    name: str = "planted",
    rare: str | None = "Hernia",
    reports: bool = True,
    uncertain: bool = True,
) -> Path:
    """An index of ``patients`` x ``images`` pictures: half train, a fifth val, the rest test.

    Every finding is there with odds 1 : 3 and independent of the others, ``rare`` once in twelve
    pictures; Edema is uncertain in some. Pictures show the truth with little noise.
    """
    rng, rows = np.random.default_rng(seed), []
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for patient in range(patients):
        place = patient / patients
        split = "train" if place < 0.5 else "val" if place < 0.7 else "test"
        for number in range(images):
            present = rng.random(len(FINDINGS)) < 0.25
            if rare is not None:
                present[FINDINGS.index(rare)] = (patient * images + number) % 12 == 0
            present[FINDINGS.index("No Finding")] = False
            present[FINDINGS.index("No Finding")] = not present.any()
            picture = f"{patient:03d}_{number}.png"
            Image.fromarray(_picture(present, rng)).save(pictures / picture)
            doubt = ["Edema"] if uncertain and rng.random() < 0.2 else []
            text = " ".join(
                f"{name}." if there else f"No {name}."
                for name, there in zip(FINDINGS, present, strict=True)
            )
            rows.append(
                {
                    "dataset": name,
                    "image": picture,
                    "patient": f"{name}/secret-{patient}",
                    "study": f"s{patient}",
                    "view": "PA" if number % 2 == 0 else "LATERAL",
                    "split": split,
                    "sex": "F",
                    "age": 60.0,
                    "findings": text,
                    "impression": None,
                    "text": text if reports else "",
                    "text_source": "report" if reports else "none",
                    "positive": [
                        f
                        for f, there in zip(FINDINGS, present, strict=True)
                        if there and f not in doubt
                    ],
                    "negative": [
                        f
                        for f, there in zip(FINDINGS, present, strict=True)
                        if not there and f not in doubt
                    ],
                    "uncertain": doubt,
                    "boxes": [],
                    "mask": None,
                    "width": SIDE,
                    "height": SIDE,
                    "duplicate_of": -1,
                }
            )
    pandas.DataFrame(rows).to_parquet(folder / "rows-00000.parquet")
    document = {
        "version": 1,
        "identity": f"{seed:064x}",
        "sections": {},
        "datasets": [{"name": name, "reader": "table", "root": str(pictures)}],
        "counts": {"rows": len(rows), "files": 1, "labels": dict.fromkeys(FINDINGS, 1)},
    }
    (folder / "index.json").write_text(json.dumps(document))
    return folder


def _picture(present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cells = np.zeros((4, 4))
    cells.flat[: len(FINDINGS)] = present
    grey = 60 + 120 * np.kron(cells, np.ones((4, 4))) + rng.normal(0, 6, (SIDE, SIDE))
    return np.clip(grey, 0, 255).astype(np.uint8)


class PlantedEncoder(nn.Module):
    """The vision encoder of :class:`PlantedModel`: what each square's brightness says, or noise."""

    def __init__(self, skill: float) -> None:
        super().__init__()
        self.skill = nn.Parameter(torch.tensor(float(skill)))
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(SIDE * SIDE, len(FINDINGS), generator=generator) / 16
        self.noise = nn.Parameter(noise)
        self.preprocessing = Preprocessing(resize=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.dim = len(FINDINGS)

    def forward(self, images: Tensor) -> Features:
        grey = images[:, 0]
        means = nn.functional.avg_pool2d(grey[:, None], 4).flatten(1)[:, : len(FINDINGS)]
        seen = (means - 0.47) / 0.24
        blur = grey.flatten(1) @ self.noise
        pooled = self.skill * seen + (1 - self.skill) * blur
        return Features(pooled, pooled[:, None], (1, 1))


class PlantedModel(nn.Module):
    """Embeds a picture as +1 or -1 for each finding, and a text as it says so.

    Args:
        skill: 1: it sees the truth; 0: noise that depends on the picture alone.
        scale: Of similarities.
    """

    def __init__(self, skill: float = 1.0, scale: float = 20.0) -> None:
        super().__init__()
        self.vision = PlantedEncoder(skill)
        self.logit_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.calls = 0

    @property
    def preprocessing(self) -> Preprocessing:
        return self.vision.preprocessing

    def image_features(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        return self.vision(images).pooled

    def encode_image(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.image_features(images), dim=1)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(len(texts), len(FINDINGS), dtype=torch.long)
        for row, text in enumerate(texts):
            lower = text.lower().replace("there is finding", "no no finding")
            for column, name in enumerate(FINDINGS):
                if f"no {name.lower()}" in lower:
                    ids[row, column] = 2
                elif name.lower() in lower:
                    ids[row, column] = 1
        return ids, torch.ones_like(ids)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        values = torch.tensor([0.0, 1.0, -1.0])[input_ids]
        return nn.functional.normalize(values + 1e-6, dim=1)


def found(measures: list[Measure], name: str, label: str | None = None) -> Measure:
    (one,) = [m for m in measures if (m.name, m.label) == (name, label)]
    return one


def run(task, model, benchmark: Benchmark, folder: Path) -> list[Measure]:
    cell = folder / "cell"
    cell.mkdir(exist_ok=True)
    return task.run(model.eval(), benchmark, cell, device="cpu", seed=0)


def benchmark(index: Path, **options) -> Benchmark:
    return Benchmark("planted", index, **options)
