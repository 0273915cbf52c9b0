"""Where the slices of a raw file lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.volumes.geometry import LPS_TO_RAS, stack_affine


class SliceGeometry(NamedTuple):
    """Voxel (mm; h, w, slice distance), affine ``(4, 4)`` to RAS+ mm, and what was left open."""

    voxel_size_mm: tuple[float, float, float] | None
    affine: Tensor | None
    notes: tuple[str, ...]


def slice_geometry(
    heads: Sequence[NDArray[np.void]],
    image_shape: tuple[int, int],
    voxel_size_mm: tuple[float, float, float] | None,
) -> SliceGeometry:
    """Affine of a stack of parallel slices from one acquisition header a slice, in stack order.

    ISMRMRD gives the centre of the excited slice and three unit vectors in DICOM's LPS millimetres;
    image index ``n // 2`` is the centre, since that is where the Fourier transform puts it.

    Args:
        heads: records with ``position``, ``read_dir``, ``phase_dir`` and ``slice_dir``.
        image_shape: (h, w): pixels along ``read_dir`` and ``phase_dir``.
        voxel_size_mm: (h, w, slice thickness), or None if the header does not give it.

    Returns:
        The third voxel size becomes the distance of the slices. Directions that are missing or not
        orthonormal, and slices that are not parallel or equally spaced, leave the affine out.
    """
    if voxel_size_mm is None:
        return SliceGeometry(None, None, ("no field of view in the header: voxel size unknown",))
    names = ("read_dir", "phase_dir", "slice_dir")
    axes = np.stack([np.asarray(heads[0][name], np.float64) for name in names], axis=1)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        note = "directions missing or not orthonormal: orientation unknown"
        return SliceGeometry(voxel_size_mm, None, (note,))
    parallel = all(np.allclose(h[n], heads[0][n], atol=1e-3) for h in heads for n in names)
    positions = np.array([h["position"] for h in heads], np.float64)
    if not np.isfinite(positions).all():
        note = "positions of slices not finite: orientation left out"
        return SliceGeometry(voxel_size_mm, None, (note,))
    center = (float(image_shape[0] // 2), float(image_shape[1] // 2))
    try:
        if not parallel:
            raise ValueError("slices not parallel")
        stack = stack_affine(axes, voxel_size_mm, positions, center)
    except ValueError:
        note = "slices not parallel or not equally spaced: orientation left out"
        return SliceGeometry(voxel_size_mm, None, (note,))
    voxel_size_mm = (*voxel_size_mm[:2], stack.distance)
    return SliceGeometry(voxel_size_mm, torch.from_numpy(LPS_TO_RAS @ stack.affine), ())
