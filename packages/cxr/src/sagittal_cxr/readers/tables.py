"""What the readers share: finding and reading their tables, and the small values in them."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sagittal_core.errors import DataError

if TYPE_CHECKING:
    import pandas

_PACKED = ("", ".gz", ".zip")
_VIEWS = {
    "POSTEROANTERIOR": "PA",
    "POSTERO_ANTERIOR": "PA",
    "ANTEROPOSTERIOR": "AP",
    "ANTERO_POSTERIOR": "AP",
    "L": "LATERAL",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LLAT": "LATERAL",
    "RLAT": "LATERAL",
}
_UNKNOWN = {"", "NONE", "NAN", "N/A", "NA", "UNKNOWN", "UNK", "OTHER", "EXCLUDE"}
_OLDEST = 120.0
_SHOWN = 24  # names of columns in a message
_FILES: ContextVar[list[tuple[str, int, int]] | None] = ContextVar("files read", default=None)


def find_table(root: Path, *patterns: str, needed: bool = True) -> Path | None:
    """The first file under ``root`` that fits one of the patterns, plain, .gz or .zip.

    Args:
        root: the data set's folder.
        patterns: file names or globs relative to it, best first.
        needed: whether its absence is an error.

    Raises:
        DataError: if there is none, or several fit the same pattern.
    """
    for pattern in patterns:
        found = sorted({f for end in _PACKED for f in root.glob(pattern + end) if f.is_file()})
        if len(found) > 1:
            names = ", ".join(f.relative_to(root).as_posix() for f in found)
            raise DataError(root, key=pattern, expected="one such file", found=names)
        if found:
            return found[0]
    if not needed:
        return None
    there = sorted(p.name for p in root.iterdir()) if root.is_dir() else None
    raise DataError(
        root,
        key="table",
        expected=" or ".join(patterns) + " (plain, .gz or .zip)",
        found="no such folder" if there is None else ", ".join(there[:12]) or "an empty folder",
    )


def need_table(root: Path, *patterns: str) -> Path:
    """As :func:`find_table`, where there must be one."""
    found = find_table(root, *patterns)
    assert found is not None
    return found


def read_table(
    file: Path,
    columns: Sequence[str],
    *,
    optional: Collection[str] = (),
    positions: Mapping[int, str] | None = None,
) -> pandas.DataFrame:
    """Columns of a comma separated table as text; an empty cell is ``""``.

    Args:
        file: csv, csv.gz, csv.zip or parquet.
        columns: what must be there.
        optional: what may be: filled with ``""`` where it is not.
        positions: place (from 0) to name, for a table whose header cannot be trusted: the header
            is skipped, and the names are these.

    Returns:
        These columns, in this order.

    Raises:
        DataError: if it is no such table, or a column is missing.
    """
    import pandas

    note_file(file)
    try:
        if file.suffix == ".parquet":
            frame = _as_text(pandas.read_parquet(file))
        elif positions is None:
            expect_no_surplus(file)
            wanted = {*columns, *optional}
            frame = pandas.read_csv(
                file, dtype=str, keep_default_na=False, usecols=lambda name: name in wanted
            )
        else:
            frame = pandas.read_csv(
                file,
                dtype=str,
                keep_default_na=False,
                header=None,
                skiprows=1,
                usecols=[*positions],
                index_col=False,
            ).rename(columns=dict(positions))
    except FileNotFoundError:
        raise DataError(file, key="path", expected="a table", found="no such file") from None
    except (OSError, ValueError, ImportError, csv.Error, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            file,
            key="table",
            expected=f"a table with {', '.join(columns)}",
            found=f"{type(error).__name__}: {str(error)[:200]}",
        ) from error
    if lacking := [name for name in columns if name not in frame]:
        raise DataError(
            file,
            key=lacking[0],
            expected="a column",
            found=_listed(_header(file)),
        )
    for name in optional:
        if name not in frame:
            frame[name] = ""
    return frame[[*columns, *(name for name in optional if name not in columns)]]


def expect_no_surplus(file: Path) -> None:
    """Refuse a row with more cells than the header, as a text with bare commas makes.

    pandas would cut the text off at the comma, or take the first columns for the names of rows if
    it is the first row, and say nothing.

    Raises:
        DataError: names the line.
    """
    csv.field_size_limit(1 << 30)  # masks and reports may be longer than its default
    with _opened(file) as lines:
        reader = csv.reader(lines)
        width = len(next(reader, []))
        for cells in reader:
            if len(cells) > width:
                raise DataError(
                    file,
                    key=f"line {reader.line_num}",
                    expected=f"{width} cells, as in the header",
                    found=f"{len(cells)} cells",
                    hint="a text with commas has to stand in double quotes",
                )


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """The text of a table, plain or packed."""
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "newline": ""}
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as packed, packed.open(packed.namelist()[0]) as inner:
            yield io.TextIOWrapper(inner, **options)
    else:
        open_it = gzip.open if file.suffix == ".gz" else open
        with open_it(file, "rt", **options) as lines:
            yield lines


def _as_text(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Every cell as its text; whole numbers without a decimal point, nothing as ``""``."""
    return frame.astype(object).where(frame.notna(), "").map(str)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN]) or "no column"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _header(file: Path) -> list[str]:
    import pandas

    if file.suffix == ".parquet":
        return [str(name) for name in pandas.read_parquet(file).columns]
    return [str(name) for name in pandas.read_csv(file, nrows=0).columns]


def label_columns(
    frame: pandas.DataFrame, names: Iterable[str], file: Path
) -> list[dict[str, int]]:
    """Labels of each row from columns that hold 1, 0, -1 or nothing (not judged).

    Raises:
        DataError: if a cell holds something else.
    """
    rows: list[dict[str, int]] = [{} for _ in range(len(frame))]
    codes = {"": None, "nan": None, "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
    for name in names:
        for number, (row, cell) in enumerate(zip(rows, frame[name], strict=True)):
            if cell not in codes:
                found = f"{cell!r} in row {number}"
                raise DataError(file, key=name, expected="1, 0, -1 or nothing", found=found)
            if (value := codes[cell]) is not None:
                row[name] = value
    return rows


def clean_text(cell: str) -> str | None:
    """The text in single spaces; None if there is none."""
    return " ".join(cell.split()) or None


def view_name(cell: str) -> str | None:
    """PA, AP, LATERAL or another name in capitals; None if the cell does not say."""
    name = " ".join(cell.upper().split())
    return None if name in _UNKNOWN else _VIEWS.get(name, name)


def sex_name(cell: str) -> str | None:
    """M or F; None for anything else."""
    first = cell.strip()[:1].upper()
    return first if first in ("M", "F") else None


def age_number(cell: str) -> float | None:
    """Years of ``57``, ``057Y`` or ``006M``; None for nothing, or what no one's age can be."""
    from sagittal_core.volumes.dicom_tags import age_years

    try:
        years: float | None = float(cell)
    except ValueError:
        years = age_years(cell)
    return years if years is not None and 0 <= years <= _OLDEST else None


def official_split(cell: str, file: Path, names: Mapping[str, str]) -> str:
    """train, val or test of a data set's own name for it.

    Raises:
        DataError: for a name that it does not have.
    """
    if cell not in names:
        raise DataError(file, key="split", expected=", ".join(names), found=repr(cell))
    return names[cell]


class ImageFinder:
    """Where pictures lie whose table gives a bare name: folders are listed once.

    Args:
        root: the data set's folder.
        folders: globs of folders relative to ``root``; where none exists, the first is taken
            literally (its files are then missing, which the index says).
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self._default = folders[0]
        self._places: dict[str, str] = {}
        for pattern in folders:
            for folder in sorted(root.glob(pattern)) if pattern else [root]:
                if folder.is_dir():
                    start = folder.relative_to(root).as_posix()
                    for entry in sorted(p.name for p in folder.iterdir()):
                        self._places.setdefault(entry, "" if start == "." else start)

    def __call__(self, name: str) -> str:
        """Path of a picture relative to the root."""
        place = self._places.get(name, self._default.partition("*")[0].rstrip("/"))
        return f"{place}/{name}" if place else name


@contextmanager
def files_read() -> Iterator[list[tuple[str, int, int]]]:
    """Collect (path, size, time) of every table and list that is read inside."""
    collected: list[tuple[str, int, int]] = []
    token = _FILES.set(collected)
    try:
        yield collected
    finally:
        _FILES.reset(token)


def note_file(file: Path) -> None:
    """Say that a file is being read, to :func:`files_read`."""
    collected = _FILES.get()
    if collected is not None and file.exists():
        about = file.stat()
        collected.append((str(file), about.st_size, about.st_mtime_ns))


def unchanged(files: Iterable[Sequence[Any]]) -> bool:
    """Whether files that were noted are as they were."""
    for path, size, time in files:
        file = Path(path)
        if not file.exists() or (file.stat().st_size, file.stat().st_mtime_ns) != (size, time):
            return False
    return True
