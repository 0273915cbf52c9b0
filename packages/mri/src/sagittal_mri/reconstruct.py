"""``sagittal-mri reconstruct``: raw k-space and a trained run in, images and a report out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.report import Report
from sagittal_mri.baselines import cg_sense
from sagittal_mri.data.io import read_kspace
from sagittal_mri.data.ismrmrd_raw import read_ismrmrd
from sagittal_mri.data.radial import make_radial_scan
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.data.writers import write_nifti, write_reconstruction_h5
from sagittal_mri.metrics import nrmse, psnr, ssim
from sagittal_mri.physics.coils import espirit_maps, root_sum_of_squares
from sagittal_mri.physics.fourier import center_crop, ifft2c
from sagittal_mri.physics.masks import calibration_columns
from sagittal_mri.physics.noise import whiten
from sagittal_mri.physics.radial import expect_diameters
from sagittal_mri.physics.sense import CartesianSense, SenseOperator
from sagittal_mri.pictures import panel
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


def reconstruct(
    file: Path,
    run: Path,
    out: Path | None = None,
    trajectory_units: str | None = None,
    calibration: int = 24,
    cg_lambda: float = 0.003,
    cg_iterations: int = 6,
    select: dict[str, int] | None = None,
) -> None:
    """Reconstruct every slice of a fastMRI or ISMRMRD file with a trained run.

    Cartesian and radial files are read alike. A network sees images only, so a run trained on
    columns takes spokes and the other way round; the report says what it was trained on, because
    the artefacts differ. CG-SENSE is a fixed comparison, not tuned to the file.

    Writes ``<name>.nii.gz``, ``<name>.h5`` and ``report.html`` (without the model, CG-SENSE, the
    model, and the file's own reference where it holds one) to ``out``.

    Args:
        file: undersampled k-space: Cartesian with a fully sampled centre, or radial spokes.
        run: run folder, or its prefix without the hash.
        out: folder for the results; default ``<file>_reconstruction`` beside the file.
        trajectory_units: "cycles", "index" or "radians", of a radial ISMRMRD file whose header does
            not tell; see :func:`read_ismrmrd`.
        calibration: diameter, in k-space samples, of the centre of radial data that the coil maps
            come from; of Cartesian data, all that is fully sampled is used.
        cg_lambda: weight of the squared norm in CG-SENSE, relative to the scaled image.
        cg_iterations: conjugate gradient steps of CG-SENSE.
        select: which contrast, phase, repetition, set, average or slice to take of an ISMRMRD file
            that holds several, e.g. ``--select.contrast 0``.

    Raises:
        DataError: a file that cannot be used, or whose centre gives no coil maps.
        ConfigError: no such run, or arguments out of range.
    """
    if calibration < 2 or cg_lambda < 0 or cg_iterations < 1:
        raise ConfigError(
            "reconstruct: expected calibration >= 2, cg_lambda >= 0 and cg_iterations >= 1, found "
            f"{calibration}, {cg_lambda} and {cg_iterations}"
        )
    found = find_run(run)
    if trajectory_units is None and not select:
        record = read_kspace(file)
    else:
        record = read_ismrmrd(file, select=select, trajectory_units=trajectory_units)
    model: Any = load_model(found)
    settings = {
        "slices": record.kspace.shape[0],
        "coils": record.kspace.shape[1],
        "sampling": "Cartesian" if record.is_cartesian else "radial",
        "run": found.name,
        "run trained on": _trained_on(found),
        "CG-SENSE": f"lambda {cg_lambda:g}, {cg_iterations} iterations, not tuned to the file",
    }
    folder = out or file.with_name(f"{file.stem}_reconstruction")
    folder.mkdir(parents=True, exist_ok=True)

    methods: dict[str, list[Tensor]] = {}
    for index in range(record.kspace.shape[0]):
        if record.is_cartesian:
            scan = _cartesian(record, index)
        else:
            scan = _radial(record, index, calibration)
        for name, image in _images(scan, model, cg_lambda, cg_iterations).items():
            methods.setdefault(name, []).append(center_crop(image, record.image_shape))
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
    _report(record, volumes, settings, folder / "report.html")
    print(f"wrote {folder}", flush=True)


def _trained_on(run: Path) -> str:
    """Name of the data module that a run was trained on."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    return str(config["data"]["class_path"]).rpartition(".")[2]


class _Slice(NamedTuple):
    """One slice ready to be reconstructed: operator A, A^H y, scale, and what A^H y is called."""

    operator: SenseOperator
    rhs: Tensor  # (1, H, W) complex64
    scale: Tensor  # scalar, a typical magnitude of the image
    name: str


def _whitened(record: KspaceRecord, index: int) -> Tensor:
    """Samples of one slice ``(C, a, b)``, with unit noise where the file tells its covariance."""
    kspace = record.kspace[index]
    return kspace if record.noise_covariance is None else whiten(kspace, record.noise_covariance)


def _cartesian(record: KspaceRecord, index: int) -> _Slice:
    """Maps and scale from the fully sampled centre of one Cartesian slice."""
    kspace = _whitened(record, index)
    shape = (kspace.shape[-2], kspace.shape[-1])
    block = calibration_block(record.mask, shape)
    if block[0] < _SMALLEST_BLOCK:
        raise DataError(
            record.source,
            key="mask",
            expected=f"a fully sampled centre of at least {_SMALLEST_BLOCK} x {_SMALLEST_BLOCK}",
            found=f"{block[0]} x {block[1]}",
        )
    maps = espirit_maps(center_crop(kspace, block), shape)[None]
    inside = calibration_columns(shape[1], block[1])
    scale = torch.quantile(root_sum_of_squares(ifft2c(kspace * inside)).flatten(), 0.99)
    operator = CartesianSense(maps, record.mask[None])
    return _Slice(operator, operator.adjoint(kspace[None]), scale, "zero-filled")


def _radial(record: KspaceRecord, index: int, calibration: int) -> _Slice:
    """Density weights, maps and scale of one slice of full-diameter spokes."""
    trajectory = record.trajectory
    assert trajectory is not None, "a Cartesian record"
    try:
        expect_diameters(trajectory)
    except ValueError as error:
        raise DataError(
            record.source,
            key="trajectory",
            expected="spokes that are full diameters of k-space",
            found=str(error),
        ) from error
    try:
        scan = make_radial_scan(
            _whitened(record, index),
            trajectory,
            record.image_shape,
            calibration=calibration,
            groups=1,
            index=index,
        )
    except ValueError as error:
        raise DataError(
            record.source,
            key="trajectory",
            expected="spokes whose centre gives coil maps",
            found=f"in slice {index + 1} of {record.kspace.shape[0]}: {error}",
            hint="calibration sets the diameter of the centre that is used",
        ) from error
    return _Slice(scan.operator(), scan.adjoint(), scan.scale[0], "gridded")


@torch.no_grad()
def _images(scan: _Slice, model: Any, cg_lambda: float, cg_iterations: int) -> dict[str, Tensor]:
    """Magnitude images ``(H, W)`` of one slice by every method."""
    rhs = scan.rhs / scan.scale
    images = {
        scan.name: rhs,
        "CG-SENSE": cg_sense(scan.operator, rhs, cg_lambda, cg_iterations),
        "model": model.network(rhs, scan.operator),
    }
    return {name: (image[0] * scan.scale).abs() for name, image in images.items()}


def _report(
    record: KspaceRecord, volumes: dict[str, Tensor], settings: dict[str, Any], path: Path
) -> None:
    """Pictures of the middle slice, metrics where the file holds a reference."""
    count = record.kspace.shape[0]
    middle = count // 2
    images = {name: volume[middle] for name, volume in volumes.items()}
    # Not the file's name: a report is sent around, and names of files may identify a patient.
    report = Report("Reconstruction of undersampled k-space")
    truth = None if record.reference is None else record.reference[middle]
    picture, scale = panel(images, truth)
    report.picture("reconstruction", picture, f"slice {middle + 1} of {count}; {scale}")
    if record.reference is not None:
        rows = []
        peak = record.reference.max().expand(count)
        for name, volume in volumes.items():
            quality = [f(volume, record.reference, peak=peak).mean() for f in (psnr, ssim)]
            quality.append(nrmse(volume, record.reference).mean())
            rows.append([name, *(f"{float(value):.3f}" for value in quality)])
        caption = (
            "mean over slices, of whole images, against the file's reference; the dynamic range of "
            "PSNR and SSIM is the maximum of the volume"
        )
        report.table("quality", ["method", "PSNR (dB)", "SSIM", "NRMSE"], rows, caption)
    if record.notes:
        report.text("The reader noted: " + "; ".join(record.notes) + ".")
    trained = settings["run trained on"]
    report.text(f"CG-SENSE: {settings['CG-SENSE']}. The run was trained on {trained}.")
    report.config(settings)
    report.write(path)
