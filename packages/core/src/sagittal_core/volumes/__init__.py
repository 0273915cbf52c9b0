"""Medical images as they lie on disk: NIfTI, DICOM series, radiographs; geometry is kept.

Needs the extra ``sagittal-core[volumes]``. JPEG lossless DICOM files need
``sagittal-core[volumes-gpl]`` in addition: its decoder is under GPL-3, so it is never a default.
"""

from sagittal_core.volumes.dicom import Series, list_series, read_dicom_series
from sagittal_core.volumes.files import read_volume
from sagittal_core.volumes.nifti import read_nifti, write_nifti
from sagittal_core.volumes.radiograph import Radiograph, read_radiograph
from sagittal_core.volumes.record import Volume

__all__ = [
    "Radiograph",
    "Series",
    "Volume",
    "list_series",
    "read_dicom_series",
    "read_nifti",
    "read_radiograph",
    "read_volume",
    "write_nifti",
]
