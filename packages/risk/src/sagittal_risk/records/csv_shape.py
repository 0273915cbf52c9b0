"""Whether a CSV file is a table at all: no row has more cells than there are columns."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from sagittal_core.errors import DataError

_BLOCK = 1 << 20
_HINT = "a comma inside a number or text (5,4) needs quotes or another separator; export it again"


def check_shape(file: Path, separator: str) -> None:
    """Refuse what pandas would read in another way than it was meant.

    Where some columns are picked, pandas drops the surplus cells of a row: a decimal comma moves
    every value behind it by one column. Cells that a row lacks at its end are missing values.

    Args:
        file: CSV or TSV.
        separator: Of cells.

    Raises:
        DataError: It is empty, rows have more cells than the first, or two columns the same name.
    """
    found = file.stat()
    _check(file, separator, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _check(file: Path, separator: str, size: int, changed: int) -> None:
    """Size and time of change make a file that was written anew another one."""
    import pyarrow
    from pyarrow import csv

    if not size:
        raise DataError(file, key="(file)", expected="a CSV table", found="an empty file")
    odd: list[Any] = []

    def note(row: Any) -> str:
        if row.actual_columns > row.expected_columns:
            odd.append((row.number, row.expected_columns, row.actual_columns))
        return "skip"

    header = _header(file, separator)
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise DataError(
            file,
            key="columns",
            expected="another name for every column",
            found=f"several named {', '.join(twice[:5])}",
        )
    names = [str(number) for number in range(len(header))]
    try:
        with csv.open_csv(
            file,
            csv.ReadOptions(use_threads=False, column_names=names, block_size=16 * _BLOCK),
            csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=note
            ),
            csv.ConvertOptions(include_columns=names[:1], column_types={"0": pyarrow.binary()}),
        ) as opened:
            for _ in opened:
                pass
    except pyarrow.ArrowInvalid as error:  # its text may hold a row
        reason = "a line of more than 16 MB" if "straddling" in str(error) else "no CSV"
        raise DataError(file, key="(file)", expected="a CSV table", found=reason) from None
    if odd:
        number, expected, actual = odd[0]
        where = "" if number is None else f", the first is row {number - 1}"
        raise DataError(
            file,
            key="(rows)",
            expected=f"at most {expected} cells in a row, as the first line has",
            found=f"{len(odd)} rows with more{where} with {actual}",
            hint=_HINT,
        )


def expect_utf8(file: Path) -> None:
    """Say where a file is not UTF-8.

    Raises:
        DataError: It is not.
    """
    import codecs

    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as opened:
        while True:
            block = opened.read(_BLOCK)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = before - held + error.start
                raise DataError(
                    file,
                    key="(file)",
                    expected="text in UTF-8",
                    found=f"another encoding, the first byte that is none is byte {place + 1}",
                    hint="save it as UTF-8, for example with iconv -f latin1 -t utf8",
                ) from None
            if not block:
                return
            before += len(block)


def _header(file: Path, separator: str) -> list[str]:
    """Cells of the first line; names may be in any encoding that extends ASCII."""
    import csv

    with file.open(encoding="latin-1", newline="") as opened:
        return next((row for row in csv.reader(opened, delimiter=separator) if row), [""])
