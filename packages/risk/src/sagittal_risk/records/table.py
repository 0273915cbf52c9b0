"""Tables of patients (CSV, Parquet) in parts, and their values by a schema."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.errors import DataError
from sagittal_risk.egfr import complete
from sagittal_risk.fields import FIELDS, to_numbers
from sagittal_risk.patients import Patients
from sagittal_risk.records.csv_shape import check_shape, expect_utf8
from sagittal_risk.records.schema import Column, Schema, said_values

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Rows:
    """Part of a table.

    Attributes:
        ids: One of each patient, as text.
        patients: Their fields; eGFR where it is not stated comes from creatinine, age and sex.
        egfr_computed: (n,) whether it does.
        egfr_differs: (n,) whether a stated eGFR is far off that of the creatinine.
    """

    ids: list[str]
    patients: Patients
    egfr_computed: NDArray[np.bool_]
    egfr_differs: NDArray[np.bool_]


def read_rows(file: str | Path, schema: Schema) -> Rows:
    """The whole table at once; see :func:`frames_of`."""
    import pandas

    path = Path(file)
    frames = list(frames_of(path, schema, 1 << 18))
    return to_rows(pandas.concat([f for _, f in frames], ignore_index=True), schema, path)


def read_frame(file: Path, texts: bool | Sequence[str] = ()) -> pandas.DataFrame:
    """A table with a row a patient.

    Args:
        file: .csv, .tsv or .parquet.
        texts: Columns of a CSV file to take as text; True: all, just as they stand.

    Raises:
        DataError: It is missing, cannot be read, or has no row.
    """
    import pandas

    suffix = file.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise DataError(file, key="(file)", expected=".csv, .tsv or .parquet", found=suffix)
    if not file.is_file():
        raise DataError(file, key="(file)", expected="a table", found="no such file")
    try:
        if suffix == ".parquet":
            frame = pandas.read_parquet(file)
        else:
            check_shape(file, _separator(file))
            whole = texts is True
            frame = pandas.read_csv(
                file,
                sep=_separator(file),
                dtype=str if isinstance(texts, bool) else dict.fromkeys(texts, str),
                keep_default_na=not whole,
                low_memory=False,
            )
    except UnicodeDecodeError as error:
        raise _no_csv(file, error) from None
    except DataError:
        raise
    except (ValueError, OSError) as error:
        raise DataError(
            file, key="(file)", expected="a table", found=type(error).__name__
        ) from None
    if not len(frame):
        raise DataError(file, key="(file)", expected="at least one row", found="none")
    return frame


def frames_of(file: Path, schema: Schema, rows: int) -> Iterator[tuple[int, pandas.DataFrame]]:
    """The columns that a schema names, ``rows`` at a time, with the number of the first row.

    Cells of a CSV file come as text, those of a Parquet file as they are.

    Raises:
        DataError: No such file, another suffix, a column that is not there, or no row.
    """
    wanted = schema.columns()
    if not file.is_file():
        raise DataError(file, key="(file)", expected="a table", found="no such file")
    start = 0
    for frame in _csv(file, wanted, rows) if _is_csv(file) else _parquet(file, wanted, rows):
        if len(frame):
            yield start, frame
        start += len(frame)
    if start == 0:
        raise DataError(file, key="(file)", expected="at least one row", found="none")


def to_rows(frame: pandas.DataFrame, schema: Schema, file: Path, start: int = 0) -> Rows:
    """Typed values of a part.

    Args:
        frame: Of :func:`frames_of`.
        schema: Which column is what.
        file: Named in errors.
        start: Number of the part's first row, from 0. The first part alone is refused for a unit
            that does not fit, in later ones such values are implausible, row by row.

    Raises:
        DataError: A value that is neither one of the field's nor one that stands for missing, with
            the number of rows and the first of them; or a column in another unit than stated.
    """
    columns = {
        name: _values(frame, name, column, schema, file, start)
        for name, column in schema.fields.items()
    }
    whole = complete(columns)
    patients = Patients.from_columns(whole.columns, str(file))
    return Rows(ids_of(frame, schema, start), patients, whole.computed, whole.differs)


def ids_of(frame: pandas.DataFrame, schema: Schema, start: int = 0) -> list[str]:
    """What names each patient of a part: the schema's column, or the number of the row, from 1."""
    if schema.id is None:
        return [str(start + row + 1) for row in range(len(frame))]
    return frame[schema.id].astype(str).tolist()


def column_names(file: Path) -> list[str]:
    """Columns of a table.

    Raises:
        DataError: No such file, another suffix, or no table.
    """
    import pandas

    if not file.is_file():
        raise DataError(file, key="(file)", expected="a table", found="no such file")
    if not _is_csv(file):
        return list(_opened(file).schema_arrow.names)
    check_shape(file, _separator(file))
    try:
        return [str(name) for name in pandas.read_csv(file, sep=_separator(file), nrows=0).columns]
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise _no_csv(file, error) from None


def write_table(table: pandas.DataFrame, file: Path) -> None:
    """Write a table as CSV or Parquet, by the file's suffix; a kill leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}")
    if file.suffix == ".csv":
        table.to_csv(temporary, index=False)
    else:
        table.to_parquet(temporary, index=False)
    temporary.replace(file)


def whole_table(
    file: Path, wanted: Collection[str], missing: Collection[str] = ()
) -> pandas.DataFrame:
    """Those of the columns that are there, all rows, with the types that pandas finds.

    Args:
        file: The table.
        wanted: Names.
        missing: Texts of a CSV file that stand for a missing value, beside those of pandas.

    Raises:
        DataError: As :func:`column_names`, or there is no row.
    """
    import pandas

    there = [name for name in column_names(file) if name in set(wanted)]
    if _is_csv(file):
        try:
            table = pandas.read_csv(
                file,
                sep=_separator(file),
                usecols=there,
                na_values=list(missing),
                low_memory=False,
            )
        except (pandas.errors.ParserError, UnicodeDecodeError) as error:
            raise _no_csv(file, error) from None
    else:
        table = _opened(file).read(columns=there).to_pandas()
    if not len(table):
        raise DataError(file, key="(file)", expected="at least one row", found="none")
    return table


def _values(
    frame: pandas.DataFrame, name: str, column: Column, schema: Schema, file: Path, start: int
) -> NDArray[np.float64]:
    if column.column is None:
        value = column.constant
        code = FIELDS[name].codes.get(str(value)) if FIELDS[name].codes else value
        given = np.full(len(frame), float(code))  # type: ignore[arg-type]
        return given if column.unit is None else to_numbers(name, given, column.unit, str(file))
    cells = frame[column.column]
    if FIELDS[name].codes or FIELDS[name].flag:
        return _coded(cells, name, column, schema, file, start)
    numbers = _numbers(cells, column, schema, file, start)
    return to_numbers(name, numbers, column.unit, str(file), expect_unit=start == 0)


def _numbers(
    cells: pandas.Series, column: Column, schema: Schema, file: Path, start: int
) -> NDArray[np.float64]:
    import pandas

    if pandas.api.types.is_numeric_dtype(cells.dtype):
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)
    text = cells.fillna("").astype(str).str.strip()
    missing = text.isin(schema.missing).to_numpy()
    numbers = pandas.to_numeric(text.where(~missing, "nan"), errors="coerce").to_numpy(np.float64)
    _expect(~np.isnan(numbers) | missing, "a number", column, file, start)
    return numbers


def _coded(
    cells: pandas.Series, name: str, column: Column, schema: Schema, file: Path, start: int
) -> NDArray[np.float64]:
    """Codes of categories, 0 and 1 of flags; each distinct text is looked up once."""
    import pandas

    text = cells.astype("object").where(cells.notna(), "").map(_text)
    places, distinct = pandas.factorize(text)
    given = {_text(key): value for key, value in column.values.items()}
    codes = FIELDS[name].codes
    looked, known = np.full(len(distinct), np.nan), np.zeros(len(distinct), bool)
    for place, one in enumerate(distinct):
        found = given.get(one) if given else said_values(name).get(one.lower())
        if found is not None:
            looked[place] = codes[str(found)] if codes else float(found)
        known[place] = found is not None or one in schema.missing
    expected = ", ".join(given) or ", ".join(said_values(name))
    _expect(known[places], f"one of {expected}", column, file, start)
    return looked[places]


def _text(value: object) -> str:
    """Text of a cell; 1, 1.0 and True of a flag are all ``1``."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    text = str(value).strip()
    try:
        return f"{float(text):g}" if text.lower() not in ("nan", "inf", "-inf") else text
    except ValueError:
        return text


def _expect(fits: NDArray[np.bool_], expected: str, column: Column, file: Path, start: int) -> None:
    wrong = np.flatnonzero(~fits)
    if len(wrong):
        raise DataError(
            file,
            key=str(column.column),
            expected=f"{expected}, or a text that stands for missing",
            found=f"{len(wrong)} rows with something else, the first is row {start + wrong[0] + 1}",
            hint="list texts of missing values under `missing` in the schema",
        )


def _is_csv(file: Path) -> bool:
    if file.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return file.suffix.lower() != ".parquet"
    raise DataError(file, key="(file)", expected=".csv, .tsv or .parquet", found=file.suffix)


def _csv(file: Path, wanted: list[str], rows: int) -> Iterator[pandas.DataFrame]:
    import pandas

    _expect_columns(file, wanted, column_names(file))
    separator = _separator(file)
    try:
        yield from pandas.read_csv(
            file, sep=separator, usecols=wanted, dtype=str, keep_default_na=False, chunksize=rows
        )
    except (pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise _no_csv(file, error) from None


def _separator(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _no_csv(file: Path, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        expect_utf8(file)
    return DataError(file, key="(file)", expected="a CSV table", found=type(error).__name__)


def _parquet(file: Path, wanted: list[str], rows: int) -> Iterator[pandas.DataFrame]:
    opened = _opened(file)
    _expect_columns(file, wanted, opened.schema_arrow.names)
    for batch in opened.iter_batches(rows, columns=wanted):
        yield batch.to_pandas()


def _opened(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            file, key="(file)", expected="a Parquet table", found=str(error)[:200]
        ) from None


def _expect_columns(file: Path, wanted: list[str], there: list[str]) -> None:
    gone = [name for name in wanted if name not in there]
    if gone:
        raise DataError(
            file,
            key="columns",
            expected=", ".join(gone),
            found=", ".join(there[:40]) or "none",
            hint="the schema names them",
        )
