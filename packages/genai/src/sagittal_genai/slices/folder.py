"""The folder that slices lie in: pictures, labels and one index file for each scan.

::

    slices.json                 what the pictures are: identity, classes, counts
    index/<scan>.parquet        written last and in one step: a scan counts once it is there
    images/<scan>/...png        grey, uint8
    labels/<scan>/...png        class numbers, where the scan has masks
    refused.csv, sources.csv    what was refused, where scans come from: for this machine only
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import write_atomically

if TYPE_CHECKING:
    import pandas
    import pyarrow

VERSION = 1
DESCRIPTION = "slices.json"


class FolderWriter:
    """Writes scans into a slice folder, each once; several processes may share the work.

    Args:
        folder: made if it does not exist.
        identity: plain values that decide what the pictures are. A folder begun with others is
            refused.
        classes: class number to name.

    Raises:
        ConfigError: if the folder holds slices of another identity, or something else.
    """

    def __init__(
        self, folder: str | Path, identity: Mapping[str, Any], classes: Mapping[int, str]
    ) -> None:
        self.folder, self.classes = Path(folder), dict(classes)
        wanted = {
            "version": VERSION,
            "identity": json.loads(json.dumps(dict(identity))),
            "classes": {str(number): name for number, name in sorted(classes.items())},
        }
        described = self.folder / DESCRIPTION
        if described.is_file():
            _expect_same(self.folder, _described(self.folder), wanted)
        elif self.folder.is_dir() and any(p.name != ".lock" for p in self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is not empty and no slice folder; choose another")
        for name in ("index", "images", "labels"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._description = wanted
        self.describe()

    def describe(self, files: str = "", **counts: Any) -> None:
        """Write slices.json anew, with counts once the work is done.

        Args:
            files: hash of the files that the pictures were cut from. It becomes part of the
                identity, so that whoever reads the folder sees that pictures changed, but does not
                stop a scan from being cut again.
            counts: of what is there.
        """
        identity = self._description["identity"] | {"files": files}
        described = self._description | {"identity": identity} | counts
        write_atomically(self.folder / DESCRIPTION, json.dumps(described, indent=1))

    def has(self, scan: str, fingerprint: str) -> bool:
        """Whether a scan is complete, and was cut from files of this fingerprint."""
        if not _index(self.folder, scan).is_file():
            return False
        return read_account(self.folder, scan).get("fingerprint") == fingerprint

    def begin(self, scan: str) -> None:
        """Remove what an interrupted attempt, or one with other files, left of a scan."""
        _index(self.folder, scan).unlink(missing_ok=True)
        for kind in ("images", "labels"):
            shutil.rmtree(self.folder / kind / scan, ignore_errors=True)

    def picture(self, kind: str, scan: str, name: str, pixels: NDArray[Any]) -> str:
        """Write a PNG of uint8 or uint16 ``(H, W)``; returns its path in the folder."""
        relative = f"{kind}/{scan}/{name}.png"
        file = self.folder / relative
        file.parent.mkdir(exist_ok=True)
        # A quarter of the time of the default level, an eighth more space.
        Image.fromarray(pixels).save(file, "PNG", compress_level=2)
        return relative

    def finish(self, scan: str, table: pyarrow.Table) -> None:
        """Write a scan's index, after its pictures."""
        import pyarrow.parquet

        file = _index(self.folder, scan)
        temporary = file.with_name(f".{os.getpid()}.{file.name}.tmp")
        pyarrow.parquet.write_table(table, temporary)
        temporary.replace(file)


class SliceFolder:
    """The slices that ``sagittal-genai slice`` wrote.

    Args:
        folder: where.

    Attributes:
        classes: class number to name, of the label pictures.

    Raises:
        DataError: if it is no slice folder, or the command that writes it has not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = _described(self.folder)
        self.classes = {int(k): str(v) for k, v in self.description["classes"].items()}
        if "scans" not in self.description:
            raise DataError(
                self.folder,
                key=DESCRIPTION,
                expected="a complete slice folder",
                found="one that `slice` has not finished",
                hint="run the command that wrote it again: it goes on with the missing scans",
            )

    def index(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Metadata of all slices, scan by scan in the order of their names.

        Args:
            columns: which; None for all.

        Returns:
            One row a slice. ``organs`` and ``findings`` hold lists of names, or None.

        Raises:
            DataError: if a scan or a column is missing.
        """
        table = self._table()
        for column in columns or ():
            if column not in table.column_names:
                raise DataError(
                    self.folder,
                    key=column,
                    expected="a column",
                    found=", ".join(table.column_names),
                )
        return as_frame(table if columns is None else table.select(list(columns)))

    def image(self, row: Any) -> NDArray[np.uint8]:
        """The picture ``(H, W)`` of a row of :meth:`index`."""
        return self._pixels(str(row["image"])).astype(np.uint8, copy=False)

    def label(self, row: Any) -> NDArray[Any] | None:
        """Class numbers ``(H, W)`` of a row, or None where the scan has no masks."""
        relative = "labels" + str(row["image"]).removeprefix("images")
        return self._pixels(relative) if (self.folder / relative).is_file() else None

    def _pixels(self, relative: str) -> NDArray[Any]:
        file = self.folder / relative
        try:
            with Image.open(file) as image:
                return np.asarray(image)
        except (OSError, SyntaxError) as error:
            raise DataError(
                file, key="image", expected="a picture of the folder", found=type(error).__name__
            ) from error

    def _table(self) -> pyarrow.Table:
        import pyarrow.parquet

        expected = int(self.description["scans"])
        files = sorted((self.folder / "index").glob("*.parquet"))
        if len(files) != expected:
            raise DataError(
                self.folder,
                key="index",
                expected=f"{expected} scans",
                found=str(len(files)),
                hint="run the command that wrote it again: it goes on with the missing scans",
            )
        whole = self.folder / "index.parquet"  # the same rows in one file: thousands are slow
        if whole.is_file():
            return pyarrow.parquet.read_table(whole)
        return _joined(files)[0]


def as_frame(table: pyarrow.Table) -> pandas.DataFrame:
    """A table as pandas, with lists of text as lists."""
    frame = table.to_pandas()
    for name, field in zip(table.column_names, table.schema, strict=True):
        if str(field.type).startswith("list"):
            frame[name] = [None if v is None else [str(x) for x in v] for v in frame[name]]
            frame[name] = frame[name].astype(object)
    return frame


def merge_indices(folder: Path, scans: Sequence[str]) -> tuple[pyarrow.Table, list[dict[str, Any]]]:
    """Join the indices of finished scans into ``index.parquet``.

    Returns:
        The rows, scan by scan in the order of their names, and the scans' accounts.
    """
    import pyarrow.parquet

    joined, accounts = _joined([_index(folder, scan) for scan in sorted(scans)])
    temporary = folder / f".{os.getpid()}.index.parquet.tmp"
    pyarrow.parquet.write_table(joined, temporary)
    temporary.replace(folder / "index.parquet")
    return joined, accounts


def read_account(folder: Path, scan: str) -> dict[str, Any]:
    """What happened to a finished scan besides its slices."""
    import pyarrow.parquet

    return _account(pyarrow.parquet.read_schema(_index(folder, scan)))


def _joined(files: Sequence[Path]) -> tuple[pyarrow.Table, list[dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(file) for file in files]
    accounts = [_account(table.schema) for table in tables]
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pyarrow.concat_tables(plain).combine_chunks(), accounts


def _account(schema: pyarrow.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(b"account", b"{}"))


def _index(folder: Path, scan: str) -> Path:
    return folder / "index" / f"{scan}.parquet"


def _described(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version, _, _ = found["version"], found["identity"].items(), found["classes"].items()
    except FileNotFoundError:
        raise DataError(folder, key=DESCRIPTION, expected="a slice folder", found="none") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            file, key=DESCRIPTION, expected="a slice folder's description", found=repr(error)
        ) from None
    if version != VERSION:
        raise DataError(file, key="version", expected=str(VERSION), found=str(version))
    return found


def _expect_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    old, new = ({**d["identity"], "classes": d["classes"]} for d in (found, wanted))
    for key in sorted((set(old) | set(new)) - {"files"}):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{folder} holds slices made with another {key}: found {old.get(key)}, expected"
                f" {new.get(key)}; choose another folder or remove this one"
            )
