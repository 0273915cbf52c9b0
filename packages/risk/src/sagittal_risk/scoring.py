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

from sagittal_core.errors import ConfigError
from sagittal_core.run_folder import write_atomically
from sagittal_risk.equations.evaluator import Risks
from sagittal_risk.fields import BIT, names_of
from sagittal_risk.records.table import Rows

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "id", "row", "equation", "outcome", "years", "risk", "applicable", "missing", "out_of_range",
    "missing_term", "egfr_computed",
)  # fmt: skip
BINS = np.linspace(0, 1, 201)


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
        described = self.folder / "job.json"
        wanted = json.loads(json.dumps(dict(self.identity)))
        if described.is_file():
            found = json.loads(described.read_text(encoding="utf-8"))
            changed = [key for key in wanted if found.get(key) != wanted[key]]
            if changed or set(found) != set(wanted):
                raise ConfigError(
                    f"{self.folder} holds scores with another {', '.join(changed) or 'job'};"
                    " choose another folder or remove this one"
                )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is not empty and no scores; choose another folder")
        self._parts.mkdir(parents=True, exist_ok=True)
        write_atomically(described, json.dumps(wanted, indent=1))

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


def score_table(rows: Rows, start: int, risks: Mapping[str, Risks]) -> pandas.DataFrame:
    """One row for each patient and equation, patients in order."""
    import pandas

    ids, egfr = rows.ids, rows.egfr_computed
    count, many = len(ids), len(risks)
    every = list(risks.values())

    def laid(columns: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(columns, 1).ravel()

    return pandas.DataFrame(
        {
            "id": np.repeat(np.asarray(ids, dtype=object), many),
            "row": np.repeat(np.arange(start + 1, start + count + 1), many),
            "equation": np.tile(np.array(list(risks), dtype=object), count),
            "outcome": np.tile(np.array([r.equation.outcome for r in every], dtype=object), count),
            "years": np.tile([r.equation.horizon for r in every], count),
            "risk": laid([r.risk for r in every]),
            "applicable": laid([r.applicable for r in every]),
            "missing": _named(laid([r.missing for r in every])),
            "out_of_range": _named(laid([r.outside for r in every])),
            "missing_term": _named(laid([r.unknown for r in every])),
            "egfr_computed": laid([egfr & ("egfr" in r.equation.needs) for r in every]),
        }
    )


def counts_of(risks: Mapping[str, Risks], rows: Rows) -> dict[str, Any]:
    """Counts of a part, which add up over parts."""
    return {
        "patients": len(rows.ids),
        "implausible": _by_field(rows.patients.implausible),
        "egfr computed": int(rows.egfr_computed.sum()),
        "egfr differs": int(rows.egfr_differs.sum()),
        "equations": {
            name: {
                "risk": int(np.isfinite(one.risk).sum()),
                "applicable": int(one.applicable.sum()),
                "missing": int((one.missing != 0).sum()),
                "outside": int((one.outside != 0).sum()),
                "missing fields": _by_field(one.missing),
                "outside fields": _by_field(one.outside),
                "unknown fields": _by_field(one.unknown),
                "histogram": np.histogram(one.risk[np.isfinite(one.risk)], BINS)[0].tolist(),
            }
            for name, one in risks.items()
        },
    }


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


def _by_field(bits: NDArray[np.uint32]) -> dict[str, int]:
    counted = {name: int(((bits & np.uint32(bit)) != 0).sum()) for name, bit in BIT.items()}
    return {name: count for name, count in counted.items() if count}
