"""``sagittal-cxr label``: labels of reports by rules."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically
from sagittal_cxr.reports.labeler import Labeler, Mention
from sagittal_cxr.reports.labeler.engine import Likely
from sagittal_cxr.reports.observations import CHEXPERT
from sagittal_cxr.reports.sections import Fallback, SectionPolicy, Use

_TABLES = (".csv", ".csv.gz", ".parquet")


class _Entry(NamedTuple):
    """One report: its key in the output, and its text or the reason why there is none."""

    key: str
    text: str
    why: str = ""


def label(
    source: Path,
    out: Path = Path("outputs/labels"),
    column: str = "report",
    findings: str | None = None,
    impression: str | None = None,
    key: str | None = None,
    use: Use = "findings+impression",
    fallback: Fallback = "all",
    likely: Likely = "uncertain",
    explain: bool = False,
) -> None:
    """Label reports for CheXpert's 14 observations by rules, without a network's weights.

    Writes labels.csv (1 present, 0 absent, -1 uncertain, empty not mentioned), refused.csv with
    what could not be read or has no text, and with --explain true evidence.csv: the words behind
    each label.

    Args:
        source: table (.csv, .csv.gz, .parquet), or folder with a .txt file for each report.
        out: folder for the files.
        column: column of a table that holds whole reports.
        findings: column with the findings, where a table has sections; then column is not read.
        impression: column with the impression, likewise.
        key: column of a table that names its rows; without it the row's number does.
        use: what of a report is labelled: findings+impression, findings, impression, findings else
            impression, or impression else findings (as for CheXpert and MIMIC-CXR).
        fallback: what is labelled of a whole report with neither: last paragraph, all or none.
        likely: what "likely" and "probable" mean: uncertain or positive.
        explain: also write evidence.csv.

    Raises:
        DataError: a table that cannot be read or lacks a column, or a folder without .txt files.
    """
    from rich.progress import track

    policy = SectionPolicy(use, fallback)
    labeler = Labeler(likely)
    start = time.monotonic()
    entries = _entries(source, policy, column, findings, impression, key)
    labels, evidence, refused = [], [], []
    counts: Counter[tuple[str, int]] = Counter()
    for entry in track(entries, "labelling"):
        if not entry.text:
            refused.append([entry.key, entry.why])
            continue
        mentions = labeler.mentions(entry.text)
        found = labeler.summary(entry.text, mentions)
        counts.update((name, value) for name, value in found.items() if value is not None)
        labels.append([entry.key, *("" if v is None else v for v in found.values())])
        if explain:
            evidence += [[entry.key, *_evidence(mention)] for mention in mentions]
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "labels.csv", ["key", *CHEXPERT], labels)
    _write(out / "refused.csv", ["key", "why"], refused)
    if explain:
        _write(out / "evidence.csv", ["key", *Mention._fields], evidence)
    for name in CHEXPERT:
        parts = [f"{counts[name, value]:7d} {word}" for value, word in _WORDS.items()]
        print(f"{name:27}{''.join(parts)}")
    seconds = time.monotonic() - start
    print(f"{len(labels)} reports in {seconds:.1f} s, {len(refused)} refused: {out}")


_WORDS = {1: "positive", -1: "uncertain", 0: "negative"}


def _entries(
    source: Path,
    policy: SectionPolicy,
    column: str,
    findings: str | None,
    impression: str | None,
    key: str | None,
) -> list[_Entry]:
    if source.is_dir():
        return list(_files(source, policy))
    sections = [findings, impression]
    if findings is None and impression is None:
        rows = _rows(source, [column], key)
        return [_entry(name, policy.of_report(text), policy) for name, (text,) in rows]
    named = [section for section in sections if section is not None]
    found = []
    for name, texts in _rows(source, named, key):
        given = dict(zip(named, texts, strict=True))
        first, second = (given.get(s) if s is not None else None for s in sections)
        found.append(_entry(name, policy.text(first, second), policy))
    return found


def _entry(name: str, text: str, policy: SectionPolicy) -> _Entry:
    if any(character.isalpha() for character in text):
        return _Entry(name, text)
    return _Entry(name, "", f"no words to label by the policy {policy.use!r}, {policy.fallback!r}")


def _files(folder: Path, policy: SectionPolicy) -> Iterator[_Entry]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise DataError(folder, key="(folder)", expected="files *.txt", found="none")
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            yield _entry(name, policy.of_report(file.read_text(encoding="utf-8")), policy)
        except (OSError, UnicodeDecodeError) as error:
            yield _Entry(name, "", f"cannot be read: {error}")


def _rows(file: Path, columns: Sequence[str], key: str | None) -> list[tuple[str, list[str]]]:
    """Key and texts of every row; a cell without text is empty."""
    import pandas

    from sagittal_cxr.readers.tables import expect_no_surplus

    if not file.exists():
        raise DataError(
            file, key="source", expected="a table, or a folder of .txt files", found="no such file"
        )
    if not file.name.endswith(_TABLES):
        expected = f"a folder, or a file {', '.join(_TABLES)}"
        raise DataError(file, key="source", expected=expected, found=file.suffix or "no suffix")
    wanted = [*columns, *([] if key is None else [key])]
    try:
        if file.suffix == ".parquet":
            table = pandas.read_parquet(file)
        else:
            expect_no_surplus(file)
            table = pandas.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError, EOFError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            file, key="(file)", expected="a readable table", found=str(error).splitlines()[0]
        ) from None
    for name in wanted:
        if name not in table.columns:
            known = ", ".join(map(str, table.columns))
            raise DataError(
                file, key="column", expected=f"one of {known}", found=f"no column {name!r}"
            )
    names = map(str, range(len(table)) if key is None else table[key])
    texts = [["" if not isinstance(t, str) else t for t in table[name]] for name in columns]
    return [(name, list(row)) for name, row in zip(names, zip(*texts, strict=True), strict=True)]


def _evidence(mention: Mention) -> list[object]:
    return [mention.observation, _WORDS[mention.status], *mention[2:]]


def _write(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(file, text.getvalue())
