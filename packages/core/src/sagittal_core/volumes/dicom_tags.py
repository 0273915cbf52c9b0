"""What a DICOM header may tell without naming anyone."""

from __future__ import annotations

import re
from typing import Any

from sagittal_core.privacy import pseudonym

# What is kept, not what is removed: free text (descriptions, comments) may name people.
_KEPT = {
    "modality": "Modality",
    "sex": "PatientSex",
    "manufacturer": "Manufacturer",
    "scanner_model": "ManufacturerModelName",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "field_strength_t": "MagneticFieldStrength",
    "repetition_time_ms": "RepetitionTime",
    "echo_time_ms": "EchoTime",
    "patient_position": "PatientPosition",
}
_NUMERIC = {"kvp", "slice_thickness_mm", "field_strength_t", "repetition_time_ms", "echo_time_ms"}
_OLDEST = 90.0  # ages above 89 identify people
_YEARS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


def safe_metadata(header: Any, salt: str | None = None) -> dict[str, Any]:
    """Metadata of one DICOM header.

    Args:
        header: a pydicom ``Dataset``.
        salt: of the pseudonym; None: the one kept on this machine, see :func:`pseudonym`.

    Returns:
        ``subject`` (the salted hash of PatientID), ``age`` in years (90 for all above 89), and the
        tags that name no one; what is empty is left out.
    """
    found: dict[str, Any] = {}
    identifier = str(header.get("PatientID", "") or "").strip()
    if identifier:
        found["subject"] = pseudonym(identifier, salt)
    if (age := age_years(str(header.get("PatientAge", "") or ""))) is not None:
        found["age"] = min(age, _OLDEST)
    for name, keyword in _KEPT.items():
        value = header.get(keyword)
        if value is None or not str(value).strip():
            continue
        if name not in _NUMERIC:
            found[name] = str(value).strip()
        elif (number := _number(value)) is not None:
            found[name] = number
    return found


def age_years(text: str) -> float | None:
    """Years of a DICOM age string such as 045Y or 006M; None if it is none."""
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", text)
    return int(match[1]) / _YEARS[match[2]] if match else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
