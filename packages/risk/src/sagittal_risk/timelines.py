"""``sagittal-risk timelines``: MEDS events as the text that training and asking take."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas

SPLITS = {"train": "train", "tuning": "val", "held_out": "test"}
"""MEDS's names of splits, and those of training here."""


def timelines(
    events: Path,
    moments: Path,
    out: Path = Path("outputs/timelines.parquet"),
    most: int | None = None,
) -> None:
    """Write MEDS events as a table with a text timeline for every moment of prediction.

    The columns are those of the moments, then `timeline`, a line a day before the moment, oldest
    first, and, where the data set has metadata/subject_splits.parquet, `split` (train, val, test).
    Codes are told by their description in metadata/codes.parquet, or as they are. The timeline is
    a `text_column` for `fit`, `ask` and `summarise`.

    Args:
        events: folder of a MEDS data set (its data/*.parquet), or one file of events.
        moments: table of subject_id, prediction_time and, as a rule, boolean_value, the outcome
            (.csv or .parquet); every row is kept.
        out: the table, .csv or .parquet.
        most: days of a timeline at most, the latest; how many are left out is told in it.

    Raises:
        ConfigError: another kind of table is asked for.
        DataError: no events, or a column that is missing or of another kind.
    """
    from rich.progress import track

    from sagittal_risk.records.table import write_table

    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"timelines: {out.name} is neither .csv nor .parquet")
    if most is not None and most < 1:
        raise ConfigError("timelines: most is 1 or more")
    table = read_moments(moments)
    files = event_files(events)
    names = descriptions(events)
    texts: dict[Any, str] = {}
    for file in track(files, "events", transient=True, disable=len(files) < 2):
        for row, text in _told(file, table, names, most).items():
            if row in texts:
                raise DataError(
                    file, key="subject_id", expected="a subject in one file of events",
                    found=f"the subject of row {row + 1} of the moments in two",
                )  # fmt: skip
            texts[row] = text
    table["timeline"] = [texts.get(row, "") for row in range(len(table))]
    counts = {
        "moments": len(table),
        "subjects": int(table["subject_id"].nunique()),
        "moments of subjects without any event": len(table) - len(texts),
        "moments without an event before them": sum(not text for text in texts.values()),
    }
    if (split := _splits(events, table)) is not None:
        table["split"] = split
    write_table(table, out)
    for name, count in counts.items():
        print(f"{count:>9}  {name}")
    if split is not None:
        print(f"splits: {', '.join(f'{n} {name}' for name, n in Counter(split).items())}")
    print(f"{out}: {len(table)} rows from {len(files)} files of events")


def read_moments(file: Path) -> pandas.DataFrame:
    """Moments of prediction, one row each, in order.

    Raises:
        DataError: A column is missing, a cell is empty, or a time is none.
    """
    import pandas

    from sagittal_risk.records.table import read_frame

    table = read_frame(file)
    for column in ("subject_id", "prediction_time"):
        if column not in table:
            raise DataError(
                file, key=column, expected="MEDS labels: subject_id, prediction_time, ...",
                found=", ".join(map(str, table.columns)),
            )  # fmt: skip
    times = pandas.to_datetime(table["prediction_time"], errors="coerce", format="ISO8601")
    wrong = (times.isna() | table["subject_id"].isna()).to_numpy()
    if wrong.any():
        raise DataError(
            file, key="prediction_time", expected="a subject and a time such as 2019-03-02T08:00",
            found=f"{wrong.sum()} rows without, the first is row {wrong.argmax() + 1}",
        )  # fmt: skip
    table["prediction_time"] = times
    if "boolean_value" in table:
        table["boolean_value"] = table["boolean_value"].astype("Int64")  # 0 and 1, as outcomes are
    return table


def event_files(events: Path) -> list[Path]:
    """Parquet files of events, sorted.

    Raises:
        DataError: There are none.
    """
    if events.is_file():
        return [events]
    folder = events / "data" if (events / "data").is_dir() else events
    files = sorted(file for file in folder.rglob("*.parquet") if "metadata" not in file.parts)
    if not files:
        raise DataError(
            events, key="(folder)", expected="a MEDS data set with data/*.parquet",
            found="no parquet file" if events.is_dir() else "no such folder",
        )  # fmt: skip
    return files


def descriptions(events: Path) -> dict[str, str]:
    """Text of the codes that have one in metadata/codes.parquet."""
    import pandas

    file = events / "metadata" / "codes.parquet"
    if not file.is_file():
        return {}
    codes = pandas.read_parquet(file)
    if not {"code", "description"} <= set(codes.columns):
        raise DataError(
            file, key="columns", expected="code, description", found=", ".join(codes.columns)
        )
    known = codes.dropna(subset=["code", "description"])
    pairs = zip(known["code"].astype(str), known["description"].astype(str), strict=True)
    return {code: text.strip() for code, text in pairs if text.strip()}


def _told(
    file: Path, moments: pandas.DataFrame, names: dict[str, str], most: int | None
) -> dict[int, str]:
    """Timelines of those rows of the moments whose subject is in the file."""
    import pandas

    from sagittal_risk.records.timeline import check_events, timeline

    try:
        found = pandas.read_parquet(file)
    except (OSError, ValueError) as error:
        raise DataError(
            file, key="(file)", expected="a parquet file of events", found=type(error).__name__
        ) from None
    check_events(found, str(file))
    times = moments["prediction_time"]
    if (zone := found["time"].dt.tz) is not None and times.dt.tz is None:
        times = times.dt.tz_localize(zone)
    elif zone is None and times.dt.tz is not None:
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    wanted = moments["subject_id"]
    by = dict(iter(found[found["subject_id"].isin(set(wanted))].groupby("subject_id")))
    return {
        row: timeline(by[subject], times.iloc[row], names=names, most=most)
        for row, subject in enumerate(wanted)
        if subject in by
    }


def _splits(events: Path, table: pandas.DataFrame) -> list[str] | None:
    """Split of every row; None where the data set has none.

    Raises:
        DataError: A subject has none, or one that is not known.
    """
    import pandas

    file = events / "metadata" / "subject_splits.parquet"
    if not file.is_file():
        return None
    told = pandas.read_parquet(file)
    by = dict(zip(told["subject_id"], told["split"], strict=True))
    found = [SPLITS.get(str(by.get(subject))) for subject in table["subject_id"]]
    if gone := sum(one is None for one in found):
        raise DataError(
            file, key="split", expected=f"{', '.join(SPLITS)} for every subject",
            found=f"{gone} moments whose subject has none of them",
        )  # fmt: skip
    return [str(one) for one in found]
