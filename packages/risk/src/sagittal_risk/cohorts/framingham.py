"""The Framingham teaching set by AdaCVD's protocol (arXiv 2505.24655), as their code has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagittal_core import sample_data
from sagittal_core.errors import DataError
from sagittal_risk.cohorts.cohort import Cohort
from sagittal_risk.records.schema import read_schema
from sagittal_risk.records.table import to_rows

if TYPE_CHECKING:
    import pandas

PERIOD = 3
HORIZON_DAYS = 3652.5
FEATURES = (
    "sex", "age", "total_cholesterol", "hdl_cholesterol", "systolic", "smoker", "diabetes",
    "bp_treated", "bmi",
)  # fmt: skip
_OTHER = ("PERIOD", "TIME", "CVD", "TIMECVD", "PREVMI", "PREVSTRK")


def framingham(file: str | Path | None = None) -> Cohort:
    """People at the third examination and their cardiovascular events over ten years.

    The third is the only one with HDL. Kept are people with all nine features known and without
    myocardial infarction, stroke or cardiovascular event before; an event on the very day of the
    examination counts as none, neither before nor after. A death from another cause is no event
    (it ends the observation for those who use ``time``).

    Args:
        file: ``framingham.csv``; None: the sample data of that name.

    Raises:
        DataError: The file is not there, or not of that kind.
    """
    import pandas

    path = sample_data.path("framingham") if file is None else Path(file)
    schema = read_schema(Path(__file__).parent / "framingham.yaml")
    try:
        frame = pandas.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(path, key="(file)", expected="a CSV table", found=str(error)) from None
    gone = [name for name in (*schema.columns(), *_OTHER) if name not in frame]
    if gone:
        raise DataError(path, key="columns", expected=", ".join(gone), found="others")
    flow = {"examinations": len(frame)}
    frame = frame[frame["PERIOD"] == PERIOD].reset_index(drop=True)
    flow[f"people at examination {PERIOD}"] = len(frame)
    rows = to_rows(frame, schema, path)
    complete = np.all([~np.isnan(rows.patients.columns[name]) for name in FEATURES], axis=0)
    flow["with all features"] = int(complete.sum())
    kept = complete & ~_before(frame)
    flow["without cardiovascular disease before"] = int(kept.sum())
    event, years = _follow_up(frame[kept])
    patients = rows.patients.take(kept)
    return Cohort(
        name="Framingham teaching set, examination 3",
        patients=patients,
        features={name: patients.columns[name] for name in FEATURES},
        event=event,
        time=years,
        horizon=HORIZON_DAYS / 365.25,
        person=np.array(rows.ids)[kept],
        site=np.empty(0, str),
        flow=flow,
    )


def _before(frame: pandas.DataFrame) -> NDArray[np.bool_]:
    """(n,) whether cardiovascular disease was there already."""
    had = (frame["CVD"] == 1) & (frame["TIMECVD"] < frame["TIME"])
    return (had | (frame["PREVMI"] == 1) | (frame["PREVSTRK"] == 1)).to_numpy()


def _follow_up(frame: pandas.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) event within the horizon, and years of observation."""
    days = (frame["TIMECVD"] - frame["TIME"]).to_numpy(np.float64)
    event = (frame["CVD"] == 1).to_numpy() & (days > 0) & (days <= HORIZON_DAYS)
    return event, np.minimum(days, HORIZON_DAYS) / 365.25
