"""NIfTI-1 and -2 in and out, geometry included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_core.volumes.record import Array, Volume, compact, need

_SUFFIXES = (".nii", ".nii.gz")
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_nifti(path: str | Path) -> bool:
    """Whether a name ends in .nii or .nii.gz."""
    return Path(path).name.lower().endswith(_SUFFIXES)


def read_nifti(
    path: str | Path,
    *,
    frame: int | None = None,
    modality: str | None = None,
    fill_nan: float | None = None,
) -> Volume:
    """Read one volume.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        frame: which volume of a series in time (or of echoes, directions, ...); needed if the file
            holds several.
        modality: of the volume; NIfTI does not tell.
        fill_nan: value in place of NaN and infinities; None: they are an error.

    Returns:
        int16 where the file holds unscaled integers that fit, float32 otherwise.

    Raises:
        DataError: if the file is damaged, holds several volumes and ``frame`` does not choose, is
            complex or coloured, holds values that are not finite, or has no usable affine.
    """
    file, nibabel = Path(path), need("nibabel", path)
    try:
        image = nibabel.load(file)
        header, affine = image.header, np.asarray(image.affine, np.float64)
        stored = image.dataobj
        values = _chosen(file, stored, frame)
    except FileNotFoundError:
        raise DataError(file, key="path", expected="a NIfTI file", found="no such file") from None
    except DataError:
        raise
    except Exception as error:  # nibabel, zlib and struct raise a dozen different ones
        raise DataError(
            file,
            key="image",
            expected="a readable NIfTI file",
            found=f"{type(error).__name__}: {error}"[:200],
        ) from error
    affine, notes = _checked_affine(file, header, affine)
    if values.dtype.kind not in "iufb":
        raise DataError(
            file, key="datatype", expected="real grey values", found=str(header.get_data_dtype())
        )
    return Volume(_finite(file, values, fill_nan), affine, modality, {}, notes)


def write_nifti(
    path: str | Path, array: NDArray[Any], affine: NDArray[np.float64], *, oriented: bool = True
) -> None:
    """Write a volume, in one step; an existing file is replaced.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        array: ``(x, y, z)`` uint8, int16, uint16, int32 or float32; stored as it is.
        affine: ``(4, 4)`` to RAS+ mm; written as scanner coordinates.
        oriented: False if only the voxel sizes in it are known: the file then says so (codes 0).

    Raises:
        DataError: for another suffix, shape or dtype, or values that are not finite.
    """
    file, nibabel = Path(path), need("nibabel", path)
    known = ("uint8", "int16", "uint16", "int32", "float32")
    if not is_nifti(file):
        raise DataError(file, key="path", expected="a name in .nii or .nii.gz", found=file.suffix)
    if array.ndim != 3 or str(array.dtype) not in known or not np.isfinite(array).all():
        raise DataError(
            file,
            key="array",
            expected=f"finite (x, y, z) in {', '.join(known)}",
            found=f"{array.dtype} {array.shape}",
        )
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=int(oriented))
    # A quaternion cannot hold shears; readers prefer the sform.
    image.set_qform(affine, code=int(oriented), strip_shears=True)
    image.header.set_xyzt_units("mm")
    file.parent.mkdir(parents=True, exist_ok=True)
    # The name comes last: nibabel decides by the suffix whether to compress.
    temporary = file.with_name(f".{os.getpid()}.tmp.{file.name}")
    try:
        nibabel.save(image, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _chosen(file: Path, stored: Any, frame: int | None) -> NDArray[Any]:
    """The volume asked for, (x, y, z); only its part of the file is read."""
    shape = tuple(int(n) for n in stored.shape)
    if len(shape) < 3 or min(shape) < 1:
        raise DataError(file, key="dim", expected="three dimensions", found=str(shape))
    frames = int(np.prod(shape[3:])) if len(shape) > 3 else 1
    if frames > 1 and len(shape) > 4:
        raise DataError(file, key="dim", expected="at most four dimensions", found=str(shape))
    if frames > 1 and frame is None:
        raise DataError(
            file,
            key="dim",
            expected="one volume, or a frame that chooses",
            found=f"{frames} volumes, shape {shape}",
            hint=f"set frame to 0..{frames - 1}",
        )
    if frame is not None and not 0 <= frame < frames:
        raise DataError(
            file, key="frame", expected=f"0..{frames - 1}", found=f"{frame}", hint=f"shape {shape}"
        )
    if frames > 1:
        return np.asarray(stored[..., frame])
    return np.asarray(stored).reshape(shape[:3])


def _checked_affine(
    file: Path, header: Any, affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The affine in mm, and notes on what the header leaves open."""
    notes = []
    if "sform_code" in header and not int(header["sform_code"]) and not int(header["qform_code"]):
        notes.append("orientation unknown: stored axes taken as right, anterior, superior")
        # Without codes nibabel assumes a flipped first axis, as old Analyze files had it.
        affine = np.diag([*(float(z) for z in header.get_zooms()[:3]), 1.0])
    scale = 1.0
    if hasattr(header, "get_xyzt_units"):
        scale = _TO_MM[header.get_xyzt_units()[0]]
    affine = np.diag([scale, scale, scale, 1.0]) @ affine
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (
        not np.isfinite(affine).all()
        or lengths.min() <= 0
        or abs(np.linalg.det(affine[:3, :3] / lengths)) < 0.1
    ):
        raise DataError(
            file,
            key="sform, qform",
            expected="an invertible affine",
            found=f"columns of lengths {np.round(lengths, 4).tolist()} mm, or nearly parallel ones",
        )
    if (apart := scale * _apart(header)) > lengths.min():
        notes.append(f"sform and qform place a voxel up to {apart:.0f} mm apart: sform taken")
    return affine, tuple(notes)


def _apart(header: Any) -> float:
    """Largest distance, over the corners, between where sform and qform place a voxel.

    In the file's units; 0 unless both are set. They may differ slightly: a qform holds no shears.
    """
    if "sform_code" not in header or not (int(header["sform_code"]) and int(header["qform_code"])):
        return 0.0
    try:
        gap = header.get_sform() - header.get_qform()
    except ValueError:  # a quaternion longer than 1; the sform is there
        return 0.0
    ends = [(0, int(n) - 1) for n in (*header.get_data_shape(), 1, 1)[:3]]
    corners = np.stack([*(axis.ravel() for axis in np.meshgrid(*ends)), np.ones(8)])
    return float(np.linalg.norm((gap @ corners)[:3], axis=0).max())


def _finite(file: Path, values: NDArray[Any], fill_nan: float | None) -> Array:
    if values.dtype.kind != "f":
        return compact(values)
    single = values.astype(np.float32, copy=False)
    bad = ~np.isfinite(single)
    if bad.any():
        if fill_nan is None:
            raise DataError(
                file,
                key="values",
                expected="finite values",
                found=f"{int(bad.sum())} of {bad.size} are NaN or infinite",
                hint="fill_nan gives them a value",
            )
        single = np.where(bad, np.float32(fill_nan), single)
    return single
