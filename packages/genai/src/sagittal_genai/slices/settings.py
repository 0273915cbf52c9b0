"""How grey values become 0..255, and which planes are cut; one small object for each modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError, DataError
from sagittal_genai.slices.scans import PLANES, Scan, VolumeInput

_SAMPLE = 4_000_000  # voxels that percentiles are taken of; all of them in smaller volumes


class Window(NamedTuple):
    """Values shown black and white."""

    low: float
    high: float

    def scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Clip to the window and map it to 0..255."""
        clipped = np.clip(values.astype(np.float32), self.low, self.high)
        return (clipped - np.float32(self.low)) * np.float32(255 / (self.high - self.low))


@dataclass
class CT:
    """CT: a window in Hounsfield units for each type of study.

    Args:
        windows: type of study (lower case, single spaces) to [center, width] in HU.
        study_type: column of the metadata that holds the type.
        planes: "all", "native" (the one the scan was acquired in) or a list of planes.
    """

    windows: dict[str, list[float]] = field(default_factory=dict)
    study_type: str = "study_type"
    planes: str | list[str] = "all"

    def kind(self, scan: Scan) -> str:
        """The type of study of a scan, as it stands in ``windows``."""
        return " ".join(str(scan.metadata.get(self.study_type) or "").lower().split())

    def window(self, scan: Scan) -> Window:
        """The window of a scan whose type of study has one."""
        center, width = self.windows[self.kind(scan)]
        return Window(center - width / 2, center + width / 2)

    def expect_windows(self, scans: Sequence[Scan]) -> None:
        """Look for types of study without a window.

        Raises:
            ConfigError: if there are any; it names them all.
        """
        kinds = Counter(self.kind(scan) for scan in scans)
        without = [f"{kind!r} ({n} scans)" for kind, n in kinds.items() if kind not in self.windows]
        if without:
            raise ConfigError(
                f"slice: CT scans have {self.study_type} {', '.join(without)}, for which"
                " ct.windows has no [center, width]; it has:"
                f" {', '.join(sorted(self.windows)) or 'none'}"
            )


@dataclass
class MR:
    """MR: percentiles of the voxels above zero, after an optional bias correction.

    Args:
        percentiles: shown black and white.
        n4: correct the bias field with N4 (50 iterations on each of four levels, voxels above the
            5th percentile); needs the extra ``sagittal-genai[n4]``.
        n4_shrink: find the field on every n-th voxel of an axis (16 voxels of it at least) and
            apply it to all; fields are smooth. 1 is SAIL's way, and many times slower.
        planes: as :class:`CT`; scans with thick slices look like stairs in the other planes.
    """

    percentiles: list[float] = field(default_factory=lambda: [1.0, 99.0])
    n4: bool = False
    n4_shrink: int = 4
    planes: str | list[str] = "native"


@dataclass
class Radiographs:
    """Radiographs: 8-bit pictures as they are, deeper ones by window or percentiles.

    Args:
        window: use the VOI LUT or window of a DICOM file that has one.
        percentiles: shown black and white where there is no window.
    """

    window: bool = True
    percentiles: list[float] = field(default_factory=lambda: [0.5, 99.5])


@dataclass
class Settings:
    """Everything that decides how a picture looks."""

    size: int
    fit: Literal["pad", "crop"]
    foreground: float
    ct: CT
    mr: MR
    radiographs: Radiographs

    def check(self, scans: Sequence[Scan]) -> None:
        """Find mistakes before any work is done.

        Raises:
            ConfigError: for values out of range, a CT scan whose type of study has no window, or a
                modality that nothing here knows how to show.
        """
        if self.size < 8 or self.fit not in ("pad", "crop") or not 0 <= self.foreground < 1:
            raise ConfigError(
                "slice: expected size >= 8, fit pad or crop and foreground in [0, 1), found"
                f" {self.size}, {self.fit} and {self.foreground}"
            )
        for name, ends in {
            "mr.percentiles": self.mr.percentiles,
            "radiographs.percentiles": self.radiographs.percentiles,
        }.items():
            if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 100:
                raise ConfigError(f"slice: {name}: expected two, rising in 0..100, found {ends}")
        for kind, window in self.ct.windows.items():
            if len(window) != 2 or not np.isfinite(window).all() or window[1] <= 0:
                raise ConfigError(
                    f"slice: ct.windows[{kind!r}]: expected [center, width > 0], found {window}"
                )
        if self.mr.n4_shrink < 1:
            raise ConfigError(f"slice: mr.n4_shrink must be at least 1, found {self.mr.n4_shrink}")
        for part in (self.ct, self.mr):
            chosen_planes(part.planes, (1.0, 1.0, 1.0), (1, 1, 1))
        self.ct.expect_windows([scan for scan in scans if scan.modality == "CT"])
        for scan in scans:
            if scan.modality not in ("CT", "MR") and isinstance(scan.input, VolumeInput):
                raise ConfigError(
                    f"slice: modality {scan.modality!r} of a volume: expected CT or MR"
                )


def chosen_planes(
    wanted: str | Sequence[str], spacing: Sequence[float], shape: Sequence[int]
) -> list[str]:
    """Names of the planes to cut.

    "native" is the plane across the axis with the largest voxels; where voxels are isotropic (to
    10 %), across the axis with the fewest.

    Raises:
        ConfigError: for another name.
    """
    if wanted == "all":
        return list(PLANES)
    if wanted == "native":
        isotropic = max(spacing) <= 1.1 * min(spacing)
        axis = int(np.argmin(shape)) if isotropic else int(np.argmax(spacing))
        return [PLANES[axis]]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if not names or set(names) - set(PLANES):
        raise ConfigError(
            f"slice: planes must be all, native or a list of {', '.join(PLANES)}, found {wanted}"
        )
    return [name for name in PLANES if name in names]


def percentile_window(
    values: NDArray[Any], percentiles: Sequence[float], file: str | Path, *, positive: bool
) -> Window:
    """Window between two percentiles.

    Args:
        values: any shape.
        percentiles: lower and upper.
        file: for messages.
        positive: leave out what is not above zero (air around an MR scan).

    Raises:
        DataError: if the values are constant.
    """
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // _SAMPLE)]
    if positive and (flat > 0).any():
        flat = flat[flat > 0]
    low, high = (float(v) for v in np.percentile(flat, list(percentiles)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise DataError(file, key="values", expected="an image", found=f"{low:g} everywhere")
    return Window(low, high)


def n4_corrected(values: NDArray[Any], shrink: int = 4) -> NDArray[np.float32]:
    """N4 bias-field correction (Tustison et al., 2010) of a volume ``(x, y, z)``.

    Args:
        values: the volume.
        shrink: see :class:`MR`.

    Raises:
        ConfigError: if SimpleITK is not installed.
        ValueError: if the correction does not converge to finite values.
    """
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise ConfigError("mr.n4 needs `pip install 'sagittal-genai[n4]'`") from error
    image = sitk.GetImageFromArray(values.astype(np.float32))
    inside = (values > np.percentile(values, 5)).astype(np.uint8)
    # SimpleITK's axes run the other way round.
    factors = [max(1, min(shrink, n // 16)) for n in reversed(values.shape)]
    small = sitk.Shrink(image, factors)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50] * 4)
    n4.SetConvergenceThreshold(1e-3)
    n4.SetNumberOfThreads(1)  # scans are shared among processes; sums in one order
    n4.Execute(small, sitk.Shrink(sitk.GetImageFromArray(inside), factors))
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    corrected = (values / np.exp(field.astype(np.float64))).astype(np.float32)
    if not np.isfinite(corrected).all():
        raise ValueError("N4 gave values that are not finite")
    return corrected
