"""Heart disease at four sites (UCI, Detrano et al. 1989): a shift between places."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sagittal_core import sample_data
from sagittal_core.errors import DataError
from sagittal_risk.cohorts.cohort import Cohort
from sagittal_risk.records.schema import Column, Schema
from sagittal_risk.records.table import to_rows

_SCHEMA = Schema(
    {
        "age": Column("age"),
        "sex": Column("sex"),
        "systolic": Column("trestbps", unit="mmHg"),
        "total_cholesterol": Column("chol", unit="mg/dL"),
    },
    id="id",
)
_NUMBERS = {"thalch": "maximal heart rate", "oldpeak": "ST depression"}
_FLAGS = {"exang": "angina on exercise", "fbs": "fasting glucose above 120 mg/dL"}


def heart_disease(file: str | Path | None = None) -> Cohort:
    """Patients sent for angiography, and whether a coronary artery was narrowed by half or more.

    A diagnosis, not a risk over time. A cholesterol or blood pressure of 0 stands for not measured
    in this table and is missing here.

    Args:
        file: ``heart_disease_uci.csv``; None: the sample data of that name.

    Raises:
        DataError: The file is not there, or not of that kind.
    """
    import pandas

    path = sample_data.path("heart_disease_uci") if file is None else Path(file)
    try:
        frame = pandas.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(path, key="(file)", expected="a CSV table", found=str(error)) from None
    needed = [*_SCHEMA.columns(), *_NUMBERS, *_FLAGS, "dataset", "num"]
    gone = [name for name in needed if name not in frame]
    if gone:
        raise DataError(path, key="columns", expected=", ".join(gone), found="others")
    for name in ("chol", "trestbps"):
        frame[name] = frame[name].replace(0, np.nan)
    rows = to_rows(frame, _SCHEMA, path)
    features = dict(rows.patients.columns)
    features |= {name: frame[key].to_numpy(np.float64) for key, name in _NUMBERS.items()}
    said = {"TRUE": 1.0, "FALSE": 0.0}
    for key, name in _FLAGS.items():
        features[name] = frame[key].astype(str).str.upper().map(said).to_numpy(np.float64)
    return Cohort(
        name="UCI heart disease",
        patients=rows.patients,
        features=features,
        event=(frame["num"] > 0).to_numpy(),
        time=None,
        horizon=None,
        person=np.array(rows.ids),
        site=frame["dataset"].astype(str).to_numpy(str),
        flow={"patients": len(frame)},
    )
