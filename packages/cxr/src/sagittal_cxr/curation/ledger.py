"""What was decided over each pair, step by step, on disk: a run's curation folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sagittal_core.errors import DataError
from sagittal_cxr import lineage

if TYPE_CHECKING:
    import pandas

COLUMNS = ("row", "step", "kept", "reason")
STATE = "prototypes.safetensors"
_PART = re.compile(r"decisions-(\d{8,})\.parquet")


class Ledger:
    """Decisions of one curation, one file a step; the folder need not exist yet.

    ``decisions-<step>.parquet`` has the columns row int64, step int64, kept bool and reason str. A
    file is renamed into place once it is complete, so a kill at any moment loses the step in work
    and nothing else; a step that is done again replaces what it wrote before. One process writes.

    Args:
        folder: ``curation/`` of a run folder, or the output folder of ``sagittal-cxr curate``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def begin(self, index: str | None) -> None:
        """Say whose rows the decisions are over, before the first one is written.

        Args:
            index: Identity of the index; None: rows of a data module that has none.

        Raises:
            DataError: If the folder has decisions over rows of another index.
        """
        if self.steps():
            self.expect(index, "this index", "choose another folder, or remove the old decisions")
        else:
            lineage.record(self.folder, index)

    def expect(self, index: str | None, name: object, hint: str) -> None:
        """See to it that the decisions are over rows of an index.

        Args:
            index: Its identity.
            name: Its folder, as the message names it.
            hint: How to put it right.

        Raises:
            DataError: If they are over rows of another one, or do not say.
        """
        lineage.expect(self.folder, index, name, hint)

    def append(self, step: int, rows: ArrayLike, keep: ArrayLike, reasons: Sequence[str]) -> None:
        """Write one step; an earlier file of the same step is replaced.

        Args:
            step: Global batch, from 0.
            rows: (N,) row numbers in the index, none twice.
            keep: (N,) whether each is kept.
            reasons: N names of reasons, see :func:`.selector.reason_names`.

        Raises:
            ValueError: If lengths differ, a row occurs twice, or a step is negative.
            TypeError: If a reason is no text.
        """
        import pandas

        numbers = _array(rows, np.int64)
        kept = _array(keep, np.bool_)
        if not len(numbers) == len(kept) == len(reasons):
            raise ValueError(f"{len(numbers)} rows, {len(kept)} keep, {len(reasons)} reasons")
        if step < 0 or len(np.unique(numbers)) < len(numbers):
            raise ValueError(f"step {step} from 0; {len(numbers)} rows, none of them twice")
        if not all(isinstance(reason, str) for reason in reasons):
            raise TypeError("reasons are names, see sagittal_cxr.curation.selector.reason_names")
        table = pandas.DataFrame(
            {
                "row": numbers,
                "step": np.full(len(numbers), step, np.int64),
                "kept": kept,
                "reason": pandas.Series(list(reasons), dtype="object"),
            }
        )
        self._replace(
            f"decisions-{step:08d}.parquet", lambda file: table.to_parquet(file, index=False)
        )

    def steps(self) -> list[int]:
        """Steps that were written, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_PART.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def decisions(self) -> pandas.DataFrame:
        """All decisions in the order of their steps; the columns are :data:`COLUMNS`.

        Raises:
            DataError: If a file is damaged or holds other columns.
        """
        import pandas

        parts = [self._read(step) for step in self.steps()]
        if not parts:
            types = {"row": "int64", "step": "int64", "kept": "bool", "reason": "object"}
            return pandas.DataFrame({c: pandas.Series(dtype=t) for c, t in types.items()})
        return pandas.concat(parts, ignore_index=True)

    def kept(self) -> NDArray[np.int64]:
        """Rows that were kept in any step, ascending, none twice."""
        parts = [self._read(step, ["row", "kept"]) for step in self.steps()]
        rows = [part["row"].to_numpy()[part["kept"].to_numpy()] for part in parts]
        return np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)

    def write_state(self, state: Mapping[str, Tensor]) -> None:
        """Keep a selector's ``state_dict`` in ``prototypes.safetensors``."""
        from safetensors.torch import save_file

        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        self._replace(STATE, lambda file: save_file(tensors, file))

    def state(self) -> dict[str, Tensor]:
        """What :meth:`write_state` kept.

        Raises:
            DataError: If it is not there or cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.folder / STATE
        try:
            return load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise DataError(
                file, key="tensors", expected="a selector's state", found=type(error).__name__
            ) from None

    def _replace(self, name: str, write: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{os.getpid()}.{name}"
        write(temporary)
        with temporary.open("rb") as opened:
            os.fsync(opened.fileno())
        temporary.replace(self.folder / name)

    def _read(self, step: int, columns: Iterable[str] = COLUMNS) -> pandas.DataFrame:
        import pandas
        import pyarrow

        file = self.folder / f"decisions-{step:08d}.parquet"
        try:
            part = pandas.read_parquet(file, columns=list(columns))
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            raise DataError(
                file,
                key=", ".join(COLUMNS),
                expected="decisions of one step",
                found=type(error).__name__,
                hint="remove this file and run the command that wrote it again",
            ) from None
        return part


def _array(values: ArrayLike | Tensor, kind: type) -> NDArray[Any]:
    given = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    array = np.asarray(given)
    if array.ndim != 1 or (array.size and array.dtype.kind != np.dtype(kind).kind):
        raise ValueError(f"expected a list of {np.dtype(kind)}, got {array.dtype} {array.shape}")
    return array.astype(kind)
