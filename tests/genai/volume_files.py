"""Small volumes and tables on disk, laid out as users have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
from PIL import Image

from sagittal_core.volumes import write_nifti


def ball(
    shape: tuple[int, int, int], affine: np.ndarray, center: tuple, radius: float
) -> np.ndarray:
    """Voxels within ``radius`` mm of a point in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = grid @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(places - np.asarray(center), axis=-1) <= radius


def body(shape: tuple[int, int, int] = (24, 20, 16), spacing: float = 2.0) -> tuple:
    """CT of a ball of soft tissue in air with a bright organ at its right, and the organ's mask."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    tissue = ball(shape, affine, (0, 0, 0), 0.42 * spacing * min(shape))
    organ = ball(shape, affine, (0.2 * spacing * shape[0], 0, 0), 0.15 * spacing * min(shape))
    values = np.where(tissue, 40, -1000) + np.where(organ, 400, 0)
    return values.astype(np.int16), organ, affine


def totalsegmentator(folder: Path, modality: str = "CT", cases: int = 8) -> Path:
    """meta.csv and cases with two organs; institutes, sexes and ages vary."""
    rows = []
    for n in range(cases):
        case = folder / f"s{n:04d}"
        values, organ, affine = body()
        write_nifti(case / ("ct.nii.gz" if modality == "CT" else "mri.nii.gz"), values + n, affine)
        masks = {"liver": organ, "brain": np.zeros_like(organ)}
        for name, mask in masks.items():
            write_nifti(case / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8), affine)
        rows.append(
            {
                "image_id": f"s{n:04d}",
                "age": 30.0 + 8 * n,
                "gender": "mf"[n % 2],
                "institute": "ABCDEF"[n % 6],
                "study_type": "CT Thorax  abdomen" if n == 0 else "ct thorax abdomen",
                "split": "train",
            }
        )
    pandas.DataFrame(rows).to_csv(folder / "meta.csv", sep=";", index=False)
    return folder


def radiographs(folder: Path, patients: int = 10) -> Path:
    """A table as ChestX-ray14's with two pictures a patient."""
    (folder / "images").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for n in range(patients):
        for k in range(2):
            name = f"{n:08d}_{k:03d}.png"
            pixels = random.integers(0, 256, (40, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
            rows.append(
                {
                    "image": name,
                    "finding_labels": ["No Finding", "Edema|Effusion", None][(n + k) % 3],
                    "patient_id": 1000 + n,
                    "patient_age": 20 + 5 * n,
                    "patient_sex": "MF"[n % 2],
                    "view_position": ["PA", "AP"][k],
                }
            )
    pandas.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder
