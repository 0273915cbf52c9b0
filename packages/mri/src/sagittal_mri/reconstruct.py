"""``sagittal-mri reconstruct``: raw k-space and a trained run in, images and a report out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sagittal_core.errors import DataError
from sagittal_core.report import Report, mosaic
from sagittal_mri.baselines import cg_sense
from sagittal_mri.data.io import read_kspace
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.data.writers import write_nifti, write_reconstruction_h5
from sagittal_mri.metrics import psnr, ssim
from sagittal_mri.physics.coils import espirit_maps, root_sum_of_squares
from sagittal_mri.physics.fourier import center_crop, ifft2c
from sagittal_mri.physics.noise import whiten
from sagittal_mri.physics.sense import CartesianSense
from sagittal_mri.runs import find_run, load_model

_SMALLEST_BLOCK = 12  # rows and columns: twice the ESPIRiT kernel


def calibration_block(mask: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Largest centred fully sampled block of a mask.

    Args:
        mask: bool, ``(1, W)`` for whole columns or ``(H, W)``.
        shape: ``(H, W)`` of the k-space grid.

    Returns:
        Rows and columns of the block; for columns, as many rows as columns (at most H).
    """
    full = mask.expand(shape)
    size = 0
    while size + 2 <= min(shape):
        if not bool(center_crop(full, (size + 2, size + 2)).all()):
            break
        size += 2
    return size, size


def reconstruct(file: Path, run: Path, out: Path | None = None) -> None:
    """Reconstruct every slice of a fastMRI or ISMRMRD file with a trained run.

    CG-SENSE is a fixed comparison here (lambda 0.003, 6 iterations), not tuned to the file.
    Writes ``<name>.nii.gz``, ``<name>.h5`` and ``report.html`` (zero-filled, CG-SENSE, the model,
    and the file's own reference where it holds one) to ``out``.

    Args:
        file: Cartesian k-space; undersampled, with a fully sampled centre.
        run: run folder, or its prefix without the hash.
        out: folder for the results; default ``<file>_reconstruction`` beside the file.
    """
    record = read_kspace(file)
    if not record.is_cartesian:
        raise DataError(
            file, key="trajectory", expected="Cartesian k-space", found="a non-Cartesian trajectory"
        )
    model: Any = load_model(find_run(run))
    folder = out or file.with_name(f"{file.stem}_reconstruction")
    folder.mkdir(parents=True, exist_ok=True)

    methods: dict[str, list[Tensor]] = {"zero-filled": [], "CG-SENSE": [], "model": []}
    for index in range(record.kspace.shape[0]):
        for name, image in _one_slice(record, index, model).items():
            methods[name].append(center_crop(image, record.image_shape))
        print(f"slice {index + 1} of {record.kspace.shape[0]}", flush=True)
    volumes = {name: torch.stack(images) for name, images in methods.items()}

    stem = file.name.split(".")[0]
    write_reconstruction_h5(folder / f"{stem}.h5", volumes["model"], record)
    affine = None if record.affine is None else np.asarray(record.affine)
    write_nifti(
        folder / f"{stem}.nii.gz",
        volumes["model"],
        affine=affine,
        voxel_size_mm=record.voxel_size_mm,
    )
    _report(record, volumes, folder / "report.html")
    print(f"wrote {folder}", flush=True)


@torch.no_grad()
def _one_slice(record: KspaceRecord, index: int, model: Any) -> dict[str, Tensor]:
    """Magnitude images ``(H, W)`` of one slice by every method."""
    kspace = record.kspace[index]
    if record.noise_covariance is not None:
        kspace = whiten(kspace, record.noise_covariance)
    shape = (kspace.shape[-2], kspace.shape[-1])
    block = calibration_block(record.mask, shape)
    if block[0] < _SMALLEST_BLOCK:
        raise DataError(
            record.source,
            key="mask",
            expected=f"a fully sampled centre of at least {_SMALLEST_BLOCK} x {_SMALLEST_BLOCK}",
            found=f"{block[0]} x {block[1]}",
        )
    center = center_crop(kspace, block)
    maps = espirit_maps(center, shape)[None]
    columns = torch.arange(shape[1])
    inside = (columns - shape[1] // 2 + block[1] // 2 >= 0) & (
        columns - shape[1] // 2 + block[1] // 2 < block[1]
    )
    scale = torch.quantile(root_sum_of_squares(ifft2c(kspace * inside)).flatten(), 0.99)
    operator = CartesianSense(maps, record.mask[None])
    rhs = operator.adjoint(kspace[None] / scale)
    images = {
        "zero-filled": rhs,
        "CG-SENSE": cg_sense(operator, rhs, 0.003, 6),
        "model": model.network(rhs, operator),
    }
    return {name: (image[0] * scale).abs() for name, image in images.items()}


def _report(record: KspaceRecord, volumes: dict[str, Tensor], path: Path) -> None:
    """Pictures of the middle slice, metrics where the file holds a reference."""
    middle = record.kspace.shape[0] // 2
    images = {name: volume[middle].numpy() for name, volume in volumes.items()}
    if record.reference is not None:
        images["reference"] = record.reference[middle].numpy()
    report = Report(f"Reconstruction of {record.source.name}")
    top = max(float(np.quantile(image, 0.999)) for image in images.values())
    panel = mosaic([list(images.values())], list(images), window=(0.0, top))
    report.picture("reconstruction", panel, f"slice {middle}")
    if record.reference is not None:
        rows = []
        peak = record.reference.max().expand(record.reference.shape[0])
        for name, volume in volumes.items():
            quality = (f(volume, record.reference, peak=peak).mean() for f in (psnr, ssim))
            rows.append([name, *(f"{float(value):.3f}" for value in quality)])
        caption = "against the file's reference; dynamic range is the maximum of the volume"
        report.table("quality", ["method", "PSNR (dB)", "SSIM"], rows, caption)
    if record.notes:
        report.text("The reader noted: " + "; ".join(record.notes) + ".")
    report.config({"slices": record.kspace.shape[0], "coils": record.kspace.shape[1]})
    report.write(path)
