"""A table of predictions: outcome, columns of risks, perhaps times, people and subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_risk.evaluation.followup import FollowUp

if TYPE_CHECKING:
    import pandas


MOST_LEVELS = 30


@dataclass(frozen=True)
class Predictions:
    """People for whom the outcome and every risk are known.

    Attributes:
        follow_up: Their outcome.
        risks: Column to (n,).
        person: (n,) the independent unit.
        groups: Subgroup column to (n,) levels as text.
        rows: Of the table.
        left_out: Why rows are not among the (n,): reason to number; a row may count twice.
    """

    follow_up: FollowUp
    risks: dict[str, NDArray[np.float64]]
    person: NDArray[np.str_]
    groups: dict[str, NDArray[np.str_]]
    rows: int
    left_out: dict[str, int] = field(default_factory=dict)


def read_predictions(
    file: Path,
    risks: Sequence[str],
    outcome: str,
    *,
    time: str | None = None,
    horizon: float | None = None,
    person: str | None = None,
    groups: Sequence[str] = (),
) -> Predictions:
    """Read and check a table.

    Args:
        file: .csv, .tsv or .parquet.
        risks: Columns of risks in [0, 1]; only people with all of them are compared.
        outcome: Column of 0 and 1.
        time: Column of the time of the event or the end of observation; None: everyone is known.
        horizon: In the unit of ``time``.
        person: Column of the independent unit; None: every row is a person.
        groups: Columns of subgroups.

    Raises:
        DataError: A column is missing, a risk outside [0, 1], an outcome neither 0 nor 1, a time
            negative, a column has too many subgroups, or nobody or only one outcome is left.
    """
    frame = _read(file)
    named = [*risks, outcome, *([time] if time else []), *([person] if person else []), *groups]
    gone = [name for name in named if name not in frame]
    if gone:
        found = ", ".join(map(str, frame.columns[:40]))
        raise DataError(file, key="columns", expected=", ".join(gone), found=found)
    if (time is None) != (horizon is None):
        raise DataError(
            file, key="time, horizon", expected="both or neither", found=f"{time}, {horizon}"
        )
    event = _numbers(file, frame, outcome)
    _expect(file, outcome, np.isin(event, (0, 1)) | np.isnan(event), "0 or 1", "")
    columns = {name: _numbers(file, frame, name) for name in risks}
    for name, values in columns.items():
        fits = ((values >= 0) & (values <= 1)) | np.isnan(values)
        _expect(file, name, fits, "risks from 0 to 1", "are they per cent? divide by 100")
    lacking = {f"no {outcome}": np.isnan(event)}
    times = None
    if time is not None:
        times = _numbers(file, frame, time)
        _expect(file, time, (times >= 0) | np.isnan(times), "times from 0", "")
        lacking[f"no {time}"] = np.isnan(times)
    lacking |= {f"no {name}": np.isnan(values) for name, values in columns.items()}
    kept = ~np.any(list(lacking.values()), axis=0)
    happened = event[kept] == 1
    follow_up = FollowUp.of(happened, None if times is None else times[kept], horizon)
    if not 0 < follow_up.event.sum() < len(follow_up):
        raise DataError(
            file,
            key=outcome,
            expected="people with and without the event",
            found=f"{int(follow_up.event.sum())} events in {len(follow_up)} complete rows",
        )
    levels = {name: _texts(frame[name])[kept] for name in groups}
    for name, texts in levels.items():
        if len(set(texts.tolist())) > MOST_LEVELS:  # an identifier would be printed in the report
            raise DataError(
                file,
                key=name,
                expected=f"at most {MOST_LEVELS} subgroups",
                found=f"{len(set(texts.tolist()))}",
                hint="cut numbers into groups beforehand",
            )
    who = np.arange(len(frame)).astype(str) if person is None else _texts(frame[person])
    return Predictions(
        follow_up=follow_up,
        risks={name: values[kept] for name, values in columns.items()},
        person=who[kept],
        groups=levels,
        rows=len(frame),
        left_out={why: int(which.sum()) for why, which in lacking.items() if which.any()},
    )


def _read(file: Path) -> pandas.DataFrame:
    import pandas

    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            return pandas.read_parquet(file)
        if suffix in (".csv", ".tsv"):
            return pandas.read_csv(file, sep="\t" if suffix == ".tsv" else ",")
    except (OSError, ValueError) as error:
        raise DataError(
            file, key="(file)", expected="a table of predictions", found=str(error)[:200]
        ) from None
    raise DataError(file, key="(file)", expected=".csv, .tsv or .parquet", found=suffix or "none")


def _numbers(file: Path, frame: pandas.DataFrame, name: str) -> NDArray[np.float64]:
    try:
        return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError(file, key=name, expected="numbers", found="text") from None


def _expect(file: Path, name: str, fits: NDArray[np.bool_], expected: str, hint: str) -> None:
    wrong = np.flatnonzero(~fits)
    if len(wrong):
        found = f"{len(wrong)} rows with other values, the first is row {wrong[0] + 1}"
        raise DataError(file, key=name, expected=expected, found=found, hint=hint)


def _texts(cells: pandas.Series) -> NDArray[np.str_]:
    return cells.astype("object").where(cells.notna(), "").astype(str).to_numpy(str)
