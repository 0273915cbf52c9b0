"""Events of a patient in the MEDS format as a text timeline."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sagittal_core.errors import DataError

if TYPE_CHECKING:
    import pandas

COLUMNS = ("subject_id", "time", "code", "numeric_value")


def check_events(events: pandas.DataFrame, file: str) -> None:
    """Refuse a table that is no MEDS event stream.

    Raises:
        DataError: A column is missing, or a time is no time.
    """
    missing = [name for name in COLUMNS if name not in events.columns]
    if missing:
        raise DataError(
            file,
            key=", ".join(missing),
            expected=f"the MEDS columns {', '.join(COLUMNS)}",
            found=", ".join(map(str, events.columns)),
        )
    if not str(events["time"].dtype).startswith("datetime"):
        raise DataError(file, key="time", expected="timestamps", found=str(events["time"].dtype))


def timeline(
    events: pandas.DataFrame,
    until: datetime,
    *,
    names: dict[str, str] | None = None,
    most: int | None = None,
) -> str:
    """One patient's events before a moment, a line a day, oldest first.

    Args:
        events: Rows of one subject with ``time`` (NaT: static, such as sex), ``code`` and
            ``numeric_value`` (NaN: none).
        until: Events at or after this moment are not told: they would be the future.
        names: Text of a code; a code without one is told as it is.
        most: Keep this many of the latest dated lines; None: all. What is left out is said.

    Returns:
        Lines such as ``2019-03-02: systolic blood pressure 132, smoker``; static events first.
    """
    told = names or {}

    def text(code: str, value: float) -> str:
        name = told.get(code, code)
        return name if value != value else f"{name} {value:g}"

    static: list[str] = []
    dated: dict[str, list[str]] = {}
    ordered = events.sort_values("time", kind="stable", na_position="first")
    for time, code, value in ordered[["time", "code", "numeric_value"]].itertuples(index=False):
        if time != time:  # NaT
            static.append(text(code, value))
        elif time < until:
            dated.setdefault(time.date().isoformat(), []).append(text(code, value))
    lines = [f"{day}: {', '.join(parts)}" for day, parts in dated.items()]
    left_out = 0 if most is None else max(0, len(lines) - most)
    head = [", ".join(static)] if static else []
    if left_out:
        head.append(f"({left_out} earlier days left out)")
    return "\n".join([*head, *lines[left_out:]])
