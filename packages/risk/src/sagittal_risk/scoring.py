"""Parts of a table of scores: written once each, joined at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sagittal_core.run_folder import write_atomically
from sagittal_risk.equations.evaluator import Risks
from sagittal_risk.fields import BIT, names_of
from sagittal_risk.job import begin_job
from sagittal_risk.records.table import Rows

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "id", "row", "equation", "outcome", "years", "risk", "applicable", "missing", "out_of_range",
    "missing_term", "egfr_computed", "answer_mass",
)  # fmt: skip
BINS = np.linspace(0, 1, 201)
# A mass may be far below the first bin of a risk.
MASS_BINS = np.r_[0, np.logspace(-8, np.log10(BINS[1]), 58)[:-1], BINS[1:]]


@dataclass(frozen=True)
class Parts:
    """The folder of a job: ``job.json``, parts with their counts, and what they become.

    Args:
        folder: Made if it does not exist.
        identity: Plain values that decide the scores.
        kind: csv or json.

    Raises:
        ConfigError: The folder holds another job, or something else.
    """

    folder: Path
    identity: Mapping[str, Any]
    kind: str

    def __post_init__(self) -> None:
        begin_job(self.folder, self.identity, "scores")

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    @property
    def scores(self) -> Path:
        """The joined file."""
        return self.folder / f"scores.{self.kind}"

    @property
    def finished(self) -> bool:
        """Whether everything was joined."""
        return self.scores.is_file()

    def has(self, number: int) -> bool:
        """Whether a part is there; its counts were written before it."""
        return self._file(number).is_file()

    def write(self, number: int, table: pandas.DataFrame, counts: Mapping[str, Any]) -> None:
        """Write a part; a process that is killed meanwhile leaves none."""
        self._parts.mkdir(exist_ok=True)
        write_atomically(self._parts / f"counts-{number:06d}.json", json.dumps(counts))
        temporary = self._parts / f".part-{number:06d}"
        if self.kind == "csv":
            table.to_csv(temporary, index=False, header=False, float_format="%.8g")
        else:
            table.to_json(temporary, orient="records", lines=True, double_precision=10)
        temporary.replace(self._file(number))

    def counts(self, parts: int) -> list[dict[str, Any]]:
        """Counts of every part."""
        files = [self._parts / f"counts-{number:06d}.json" for number in range(parts)]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def join(self, parts: int) -> None:
        """All parts in order as one file, in one step; the parts are removed."""
        temporary = self.folder / ".scores"
        with temporary.open("wb") as joined:
            joined.write((",".join(COLUMNS) + "\n").encode() if self.kind == "csv" else b"[\n")
            for number in range(parts):
                text = self._file(number).read_bytes()
                if self.kind == "json":
                    text = text.rstrip(b"\n").replace(b"\n", b",\n")
                    text = (b",\n" if number else b"") + text
                joined.write(text)
            joined.write(b"" if self.kind == "csv" else b"\n]\n")
            joined.flush()
            os.fsync(joined.fileno())
        temporary.replace(self.scores)

    def tidy(self) -> None:
        """Remove the parts of a finished job."""
        if self._parts.is_dir():
            for file in self._parts.iterdir():
                file.unlink()
            self._parts.rmdir()

    def _file(self, number: int) -> Path:
        return self._parts / f"part-{number:06d}"


@dataclass(frozen=True)
class Scored:
    """What one equation or model says of a part's patients, as it is written and counted.

    Attributes:
        name: Of the equation or model.
        outcome: What the risk is of.
        years: The horizon; None where nobody states it.
        risk: (n,) NaN where there is none.
        applicable: (n,) whether the risk may be taken as it is.
        missing: (n,) names of what was missing, joined by ``;``.
        outside: (n,) names of what was out of range, joined by ``;``.
        counts: Of the part; they add up over parts.
        mass: (n,) a language model's answer mass; None of an equation.
        unknown: (n,) names of what a published term for a missing value stands in for, joined by
            ``;``; None of a language model.
        egfr: (n,) whether an eGFR that the equation needs was computed; None of a language model.
    """

    name: str
    outcome: str
    years: int | None
    risk: NDArray[np.float64]
    applicable: NDArray[np.bool_]
    missing: NDArray[np.object_]
    outside: NDArray[np.object_]
    counts: Mapping[str, Any]
    mass: NDArray[np.float64] | None = None
    unknown: NDArray[np.object_] | None = None
    egfr: NDArray[np.bool_] | None = None


def of_equation(name: str, found: Risks, egfr_computed: NDArray[np.bool_]) -> Scored:
    """Risks of an equation.

    Args:
        name: Of the equation.
        found: Of (n,) patients.
        egfr_computed: (n,) whether their eGFR was computed from creatinine.
    """
    counts = {
        "risk": int(np.isfinite(found.risk).sum()),
        "applicable": int(found.applicable.sum()),
        "missing": int((found.missing != 0).sum()),
        "outside": int((found.outside != 0).sum()),
        "missing fields": by_field(found.missing),
        "outside fields": by_field(found.outside),
        "unknown fields": by_field(found.unknown),
        "histogram": np.histogram(found.risk[np.isfinite(found.risk)], BINS)[0].tolist(),
    }
    return Scored(
        name=name,
        outcome=found.equation.outcome,
        years=found.equation.horizon,
        risk=found.risk,
        applicable=found.applicable,
        missing=_named(found.missing),
        outside=_named(found.outside),
        counts=counts,
        unknown=_named(found.unknown),
        egfr=egfr_computed & ("egfr" in found.equation.needs),
    )


def score_table(ids: Sequence[str], start: int, every: Sequence[Scored]) -> pandas.DataFrame:
    """One row for each patient and equation or model, patients in order."""
    import pandas

    count, many = len(ids), len(every)
    nothing, unnamed, no = np.full(count, np.nan), np.full(count, "", object), np.zeros(count, bool)

    def laid(columns: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(columns, 1).ravel()

    def tiled(values: list[Any], kind: type) -> NDArray[Any]:
        return np.tile(np.array(values, dtype=kind), count)

    years = pandas.arrays.IntegerArray(
        tiled([one.years or 0 for one in every], np.int64),
        tiled([one.years is None for one in every], bool),
    )
    return pandas.DataFrame(
        {
            "id": np.repeat(np.asarray(ids, dtype=object), many),
            "row": np.repeat(np.arange(start + 1, start + count + 1), many),
            "equation": tiled([one.name for one in every], object),
            "outcome": tiled([one.outcome for one in every], object),
            "years": years,
            "risk": laid([one.risk for one in every]),
            "applicable": laid([one.applicable for one in every]),
            "missing": laid([one.missing for one in every]),
            "out_of_range": laid([one.outside for one in every]),
            "missing_term": laid([unnamed if s.unknown is None else s.unknown for s in every]),
            "egfr_computed": laid([no if one.egfr is None else one.egfr for one in every]),
            "answer_mass": laid([nothing if one.mass is None else one.mass for one in every]),
        }
    )


def counts_of(patients: int, every: Sequence[Scored], rows: Rows | None) -> dict[str, Any]:
    """Counts of a part, which add up over parts.

    Args:
        patients: Of the part.
        every: What was said of them.
        rows: What the equations were computed from; None without equations.
    """
    return {
        "patients": patients,
        "implausible": {} if rows is None else by_field(rows.patients.implausible),
        "egfr computed": 0 if rows is None else int(rows.egfr_computed.sum()),
        "egfr differs": 0 if rows is None else int(rows.egfr_differs.sum()),
        "equations": {one.name: dict(one.counts) for one in every},
    }


class Names:
    """Counts rows whose identifier is empty or was there before, over all parts.

    Args:
        column: Of identifiers; None: rows are numbered.
    """

    def __init__(self, column: str | None) -> None:
        self.column = column
        self.counts = {"ids again": 0, "ids empty": 0}
        self._seen: set[str] = set()

    def see(self, frame: pandas.DataFrame) -> None:
        """Take a part's identifiers."""
        if self.column is None:
            return
        cells = frame[self.column]
        text = cells.astype(str).str.strip()
        ids = text[cells.notna() & (text != "")].tolist()
        new = set(ids) - self._seen
        self.counts["ids empty"] += len(frame) - len(ids)
        self.counts["ids again"] += len(ids) - len(new)
        self._seen |= new


def added(parts: Sequence[Any]) -> Any:
    """Sum of nested counts."""
    first = parts[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: added([part[key] for part in parts if key in part]) for key in keys}
    if isinstance(first, list):
        return np.sum(parts, axis=0).tolist()
    return sum(parts)


def sha256(file: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _named(bits: NDArray[np.uint32]) -> NDArray[Any]:
    distinct, place = np.unique(bits, return_inverse=True)
    return np.array([";".join(names_of(int(b))) for b in distinct], dtype=object)[place]


def by_field(bits: NDArray[np.uint32]) -> dict[str, int]:
    """How many patients have a field's bit set, of those that anyone has."""
    counted = {name: int(((bits & np.uint32(bit)) != 0).sum()) for name, bit in BIT.items()}
    return {name: count for name, count in counted.items() if count}
