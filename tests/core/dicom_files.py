"""Writes small DICOM files, as scanners do, for the tests of the readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


def dataset(pixels: np.ndarray, modality: str = "CT", **tags: object) -> Dataset:
    """One image (rows, columns) of uint16 or int16; tags replace or add to the usual ones."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = STORAGE.get(modality, "1.2.840.10008.5.1.4.1.1.1")
    data.SOPInstanceUID = generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.SeriesInstanceUID = "1.2.3"
    data.Modality = modality
    data.PatientName = "Doe^Jane"
    data.PatientID = "MRN-4711"
    data.PatientBirthDate = "19500101"
    data.PatientSex = "F"
    data.PatientAge = "067Y"
    data.SeriesDescription = "scan of Jane Doe"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    for key, value in tags.items():
        setattr(data, key, value)
    return data


def save(data: Dataset, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


def write_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    uid: str = "1.2.3",
    prefix: str = "im",
    **tags: object,
) -> list[Path]:
    """A series of array (x, y, z) whose voxels lie where ``affine`` (to RAS mm) says.

    ``order``: slice number of the first, second, ... file name.
    """
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    files = []
    for name, k in enumerate(range(array.shape[2]) if order is None else order):
        data = dataset(array[:, :, k].T, **tags)
        data.SeriesInstanceUID = uid
        data.ImageOrientationPatient = [
            *np.round(lps[:3, 0] / spacing[0], 9),
            *np.round(lps[:3, 1] / spacing[1], 9),
        ]
        data.PixelSpacing = [round(spacing[1], 9), round(spacing[0], 9)]
        data.SliceThickness = round(spacing[2], 9)
        data.ImagePositionPatient = np.round((lps @ [0, 0, k, 1])[:3], 9).tolist()
        files.append(save(data, folder / f"{prefix}{name:03d}.dcm"))
    return files


def rotated(
    angles: Sequence[float], spacing: Sequence[float], origin: Sequence[float]
) -> np.ndarray:
    """Affine of a right-handed grid (as DICOM's) turned by three angles in radians."""
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = z @ y @ x @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine
