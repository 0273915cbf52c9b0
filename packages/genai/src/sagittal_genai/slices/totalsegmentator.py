"""The published layout of TotalSegmentator's CT (v2) and MR (v2) data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sagittal_core.errors import DataError
from sagittal_genai.slices.scans import (
    Found,
    Organ,
    Refusal,
    Scan,
    ScanSource,
    VolumeInput,
    safe_name,
)

_RENAMED = {"gender": "sex"}
_OWN_SPLIT = "totalsegmentator_split"  # the data set's own, not the one used here


class TotalSegmentator(ScanSource):
    """``meta.csv`` (separated by ``;``) beside one folder a scan, with one mask file an organ.

    ``s0000/ct.nii.gz`` or ``mri.nii.gz``, ``s0000/segmentations/<organ>.nii.gz``. Every scan is a
    subject: the data set has one scan a person.

    Args:
        folder: of meta.csv.
        modality: CT or MR.
        limit: only the first so many rows; None: all.
    """

    def __init__(
        self, folder: str, modality: Literal["CT", "MR"] = "CT", limit: int | None = None
    ) -> None:
        self.folder, self.modality, self.limit = Path(folder), modality, limit

    def find(self) -> Found:
        """Every row of meta.csv, then the folders that it does not list.

        Raises:
            DataError: if meta.csv is missing, or has no image_id.
        """
        rows = self._rows()
        scans, refused = [], []
        image = "ct.nii.gz" if self.modality == "CT" else "mri.nii.gz"
        for number, row in enumerate(rows[: self.limit], 1):
            if "image_id" not in row:
                refused.append(Refusal(f"row {number}", str(self.folder), "no image_id"))
                continue
            case = str(row.pop("image_id"))
            folder = self.folder / case
            name = safe_name(f"{self.modality.lower()}-{case}")
            if not (folder / image).is_file():
                refused.append(Refusal(name, str(folder / image), "listed in meta.csv, no file"))
                continue
            masks = sorted((folder / "segmentations").glob("*.nii.gz"))
            organs = tuple(Organ(m, m.name.removesuffix(".nii.gz"), 0.5) for m in masks)
            scans.append(
                Scan(
                    name=name,
                    subject=name,
                    modality=self.modality,
                    input=VolumeInput(folder / image, organs),
                    metadata=row,
                )
            )
        listed = {s.input.path.parent for s in scans} | {Path(r.path).parent for r in refused}
        if self.limit is None:
            for stray in sorted(p.parent for p in self.folder.glob(f"*/{image}")):
                if stray not in listed:
                    name = safe_name(f"{self.modality.lower()}-{stray.name}")
                    refused.append(Refusal(name, str(stray), "no row in meta.csv"))
        return Found(scans, refused)

    def _rows(self) -> list[dict[str, Any]]:
        import pandas

        file = self.folder / "meta.csv"
        try:
            table = pandas.read_csv(file, sep=";", dtype={"image_id": str})
        except (OSError, ValueError) as error:
            raise DataError(
                file, key="meta.csv", expected="a table separated by ;", found=repr(error)[:200]
            ) from error
        if "image_id" not in table:
            raise DataError(
                file, key="image_id", expected="a column", found=", ".join(map(str, table.columns))
            )
        table = table.rename(columns=_RENAMED | {"split": _OWN_SPLIT})
        if "sex" in table:
            table["sex"] = table["sex"].astype("string").str.upper()
        return [
            {str(k): v for k, v in row.items() if not pandas.isna(v)}
            for row in table.to_dict("records")
        ]
