"""Records of one data set to rows of the index: columns, texts, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_cxr.building.settings import VERSION, DataSet, Refusal, Settings
from sagittal_cxr.readers import Reader, Refused, make_reader
from sagittal_cxr.readers.tables import files_read, unchanged
from sagittal_cxr.records import NEGATIVE, POSITIVE, UNCERTAIN, Record
from sagittal_cxr.reports.sections import SectionPolicy
from sagittal_cxr.reports.templates import pseudo_report

if TYPE_CHECKING:
    import pyarrow

_CHUNK = 5_000  # rows that are Python objects at a time


def schema() -> pyarrow.Schema:
    """Columns of the index, in their order."""
    import pyarrow as pa

    text, names = pa.string(), pa.list_(pa.string())
    sides = [(side, pa.float64()) for side in ("x", "y", "width", "height")]
    box = pa.struct([("finding", text), *sides, ("reader", text)])
    return pa.schema(
        [
            ("dataset", text),
            ("image", text),
            ("patient", text),
            ("study", text),
            ("view", text),
            ("split", text),
            ("sex", text),
            ("age", pa.float64()),
            ("findings", text),
            ("impression", text),
            ("text", text),
            ("text_source", text),
            ("positive", names),
            ("negative", names),
            ("uncertain", names),
            ("boxes", pa.list_(box)),
            ("mask", text),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("duplicate_of", pa.int64()),
        ]
    )


def read_rows(
    dataset: DataSet, settings: Settings, parts: Path, tick: Callable[[int], None]
) -> tuple[pyarrow.Table, list[Refusal]]:
    """All rows of a data set, its own split in ``split``, nothing yet in the last three columns.

    What an interrupted command read is taken from ``parts``, unless a file that it was read from
    has changed.

    Args:
        dataset: which.
        settings: of the index.
        parts: folder for what was read.
        tick: called with the number of rows since the last call.

    Raises:
        DataError: as its reader does.
        ConfigError: for a reader or an option that does not exist.
    """
    import pyarrow.parquet

    file = parts / f"{dataset.name}.parquet"
    reader = make_reader(dataset.reader, dataset.options, settings.sections.fallback)
    fingerprint = {"version": VERSION, "root": str(dataset.root), "settings": settings.digest()}
    if file.is_file():
        table = pyarrow.parquet.read_table(file)
        account = json.loads(table.schema.metadata[b"account"])
        if account["fingerprint"] == fingerprint and unchanged(account["files"]):
            tick(table.num_rows)
            return table.replace_schema_metadata(None), [Refusal(*r) for r in account["refused"]]
    refused: list[Refusal] = []
    with files_read() as files:
        chunks = list(_chunks(dataset, reader, settings, refused, tick))
    table = pyarrow.concat_tables(chunks) if chunks else schema().empty_table()
    account = {"fingerprint": fingerprint, "files": files, "refused": refused}
    parts.mkdir(exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    described = table.replace_schema_metadata({"account": json.dumps(account)})
    pyarrow.parquet.write_table(described, temporary)
    temporary.replace(file)
    return table, refused


def _chunks(
    dataset: DataSet,
    reader: Reader,
    settings: Settings,
    refused: list[Refusal],
    tick: Callable[[int], None],
) -> Iterator[pyarrow.Table]:
    import pyarrow

    write = Text(dataset, reader.has_reports, settings.sections, settings.seed)
    listed: set[str] = set()
    rows: list[tuple[Any, ...]] = []

    def flush() -> pyarrow.Table:
        columns = zip(*rows, strict=True)
        arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, schema(), strict=True)]
        tick(len(rows))
        return pyarrow.Table.from_arrays(arrays, schema=schema())

    for record in reader.read(Path(dataset.root)):
        if isinstance(record, Refused):
            refused.append(Refusal(dataset.name, *record))
            continue
        if record.image in listed:
            refused.append(Refusal(dataset.name, record.image, "listed twice: the first is kept"))
            continue
        listed.add(record.image)
        text, source = write(record)
        if not text and source != "none":
            refused.append(Refusal(dataset.name, record.image, write.missing))
            continue
        rows.append(_row(dataset.name, record, text, source))
        if len(rows) == _CHUNK:
            yield flush()
            rows.clear()
    if rows:
        yield flush()


class Text:
    """The text of a record.

    Args:
        dataset: whose rule it is.
        has_reports: of its reader.
        policy: what of a report is its text.
        seed: of the choice among a template's wordings.

    Attributes:
        missing: why a row without text is refused.
    """

    def __init__(
        self, dataset: DataSet, has_reports: bool, policy: SectionPolicy, seed: int
    ) -> None:
        rule = dataset.text
        if rule == "auto":
            rule = "report" if has_reports else "template"
        self.name, self.rule, self.policy, self.seed = dataset.name, rule, policy, seed
        self.missing = {
            "report": f"empty report: nothing under sections.use = {policy.use}",
            "template": "no labels: nothing to write a pseudo-report from",
        }.get(rule, "neither report nor labels: no text")

    def __call__(self, record: Record) -> tuple[str, str]:
        """Text and its source; ``("", "none")`` where none is wanted."""
        if self.rule == "none":
            return "", "none"
        text = ""
        if self.rule != "template":
            text = self.policy.text(record.findings, record.impression)
        if text or self.rule == "report":
            return text, "report"
        key = f"{self.name}/{record.image}"
        return pseudo_report(record.labels, seed=self.seed, key=key), "template"


def _row(dataset: str, record: Record, text: str, source: str) -> tuple[Any, ...]:
    judged = {value: [] for value in (POSITIVE, NEGATIVE, UNCERTAIN)}  # type: dict[int, list[str]]
    for name, value in record.labels.items():
        judged[value].append(name)
    boxes = [
        {
            "finding": b.finding,
            "x": b.x,
            "y": b.y,
            "width": b.width,
            "height": b.height,
            "reader": b.reader,
        }
        for b in record.boxes
    ]
    return (
        dataset,
        record.image,
        f"{dataset}/{record.patient}",
        record.study,
        record.view,
        record.split,
        record.sex,
        float("nan") if record.age is None else record.age,
        record.findings,
        record.impression,
        text,
        source,
        judged[POSITIVE],
        judged[NEGATIVE],
        judged[UNCERTAIN],
        boxes,
        record.mask,
        -1,
        -1,
        -1,
    )
