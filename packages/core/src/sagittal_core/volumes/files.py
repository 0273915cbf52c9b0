"""Any volume by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_core.volumes.dicom import read_dicom_series
from sagittal_core.volumes.nifti import is_nifti, read_nifti
from sagittal_core.volumes.record import Volume


def read_volume(
    path: str | Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    modality: str | None = None,
    fill_nan: float | None = None,
    select: Mapping[str, str | float] | None = None,
) -> Volume:
    """Read a NIfTI file or a folder of DICOM files.

    Args:
        path: ``.nii``, ``.nii.gz``, or a folder.
        frame: of a NIfTI file with several volumes.
        series: SeriesInstanceUID, of a folder with several series.
        modality: of a NIfTI file; a DICOM series tells its own, which must agree.
        fill_nan: of a NIfTI file: value in place of NaN.
        select: of a DICOM series with several volumes: keywords and values of the slices wanted.

    Raises:
        DataError: as :func:`read_nifti` and :func:`read_dicom_series`.
    """
    file = Path(path)
    if is_nifti(file):
        return read_nifti(file, frame=frame, modality=modality, fill_nan=fill_nan)
    if not file.is_dir():
        raise DataError(
            file,
            key="path",
            expected="a .nii or .nii.gz file, or a folder of DICOM files",
            found=f"a file in {file.suffix or 'no suffix'}" if file.is_file() else "nothing there",
        )
    volume = read_dicom_series(file, series=series, select=select)
    if modality is not None and volume.modality != modality:
        raise DataError(file, key="Modality", expected=modality, found=str(volume.modality))
    return volume
