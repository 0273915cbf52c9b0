"""``sagittal-cxr index``: folders of published data sets in, one index of radiographs out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.parallel import outcomes
from sagittal_core.run_folder import write_atomically, write_csv
from sagittal_cxr.building.checks import Checked, batches, check_batch
from sagittal_cxr.building.finish import (
    count,
    identity,
    same_rows,
    with_columns,
    write_rows,
)
from sagittal_cxr.building.overview import write_overview
from sagittal_cxr.building.rows import read_rows
from sagittal_cxr.building.settings import (
    Check,
    DataSet,
    Refusal,
    Settings,
    Split,
    placed,
)
from sagittal_cxr.building.splits import assign
from sagittal_cxr.index import DESCRIPTION, VERSION, RadiographIndex
from sagittal_cxr.reports.sections import SectionPolicy

if TYPE_CHECKING:
    import pyarrow
    from rich.progress import Progress


def index(
    datasets: list[DataSet],
    out: Path = Path("outputs/index"),
    sections: SectionPolicy | None = None,
    split: Split | None = None,
    check: Literal["none", "exists", "header", "pixels"] = "header",
    duplicates: Literal["none", "reports", "pixels", "pairs"] = "none",
    roots: dict[str, str] | None = None,
    seed: int = 0,
    workers: int = 1,
    log_images: bool = False,
) -> None:
    """Read data sets as published into one index: pictures, texts, labels, boxes, patients, splits.

    The same command goes on after it was stopped. Rows that cannot be used are listed in
    refused.csv and counted in report.html.

    Args:
        datasets: name, reader, root and options of each; a reader is brax, chexpert, chexpert_plus,
            mimic_cxr, nih, openi, padchest, rexgradient, rsna, siim, vindr, or table for files of
            your own.
        out: folder of the index.
        sections: which sections of a report are its text.
        split: shares of validation and test patients, where a data set does not say itself.
        check: of each picture nothing, whether it exists, whether its header can be read, or
            whether its pixels can.
        duplicates: mark rows with the same reports, pixels or pairs (both) as an earlier one.
        roots: name of a data set to its folder, in place of the one in datasets.
        seed: of the wordings of pseudo-reports.
        workers: processes that look at pictures; 0 works in this one.
        log_images: show some pictures in report.html.

    Raises:
        ConfigError: settings that do not fit, or a folder begun with others.
        DataError: a table that cannot be read, a patient in two splits, or not one usable row.
    """
    start = time.monotonic()
    settings = Settings(
        placed(datasets, roots or {}),
        sections or SectionPolicy(),
        split or Split(),
        duplicates,
        check,
        seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _begin(out, settings)
            _build(out, settings, workers, log_images)
    except Timeout:
        raise ConfigError(f"index: another process is writing {out}") from None
    print(f"{time.monotonic() - start:.0f} s: {out / 'report.html'}", flush=True)


def _begin(out: Path, settings: Settings) -> None:
    """Refuse a folder that holds something else; say what this one is going to hold."""
    file = out / "settings.json"
    wanted = settings.described()
    if file.is_file():
        found = _known(file, "remove this folder, or choose another one")
        for key in wanted:
            if found.get(key) != wanted[key]:
                raise ConfigError(
                    f"{out} holds an index made with another {key}: choose another folder, or"
                    " remove this one"
                )
    elif any(path.name != ".lock" for path in out.iterdir()):
        raise ConfigError(f"{out} is not empty and no index; choose another folder")
    else:
        write_atomically(file, json.dumps(wanted, indent=1))


def _known(file: Path, hint: str) -> dict[str, Any]:
    """A JSON file of an earlier command.

    Raises:
        DataError: it is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise DataError(
            file,
            key="JSON",
            expected="what this command writes",
            found=str(found)[:200],
            hint=hint,
        )
    return found


def _build(out: Path, settings: Settings, workers: int, log_images: bool) -> None:
    import pyarrow

    tables, refused, notes, pixels = [], list[Refusal](), list[Refusal](), list[str]()
    for dataset in settings.datasets:
        with _progress(f"reading {dataset.name}", None) as (progress, task):
            table, missing = read_rows(
                dataset,
                settings,
                out / "parts",
                lambda rows, p=progress, t=task: p.advance(t, rows),  # type: ignore[misc]
            )
        refused += missing
        table, checked, missing = _checked(out, dataset, table, settings.check, workers)
        refused += missing
        pixels += [c.pixels for c in checked]
        images = table.column("image").to_pylist()
        notes += [
            Refusal(dataset.name, image, c.note)
            for image, c in zip(images, checked, strict=True)
            if c.note
        ]
        patients, official = (table.column(c).to_pylist() for c in ("patient", "split"))
        if table.num_rows:
            places = assign(dataset, patients, official, settings.split)
            table = with_columns(table, {"split": places})
        tables.append(table)
        print(
            f"{dataset.name}: {table.num_rows} rows of {len(set(patients))} patients,"
            f" {sum(r.dataset == dataset.name for r in refused)} refused",
            flush=True,
        )
    whole = pyarrow.concat_tables(tables).combine_chunks()
    write_csv(out / "refused.csv", Refusal._fields, refused)
    write_csv(out / "notes.csv", ("dataset", "file", "note"), notes)
    if not whole.num_rows:
        raise DataError(
            out / "refused.csv",
            key="rows",
            expected="at least one that can be used",
            found=f"{len(refused)} refused" + (f", the first: {refused[0].why}" if refused else ""),
        )
    same = same_rows(whole, pixels, settings.duplicates)
    _finish(out, settings, with_columns(whole, {"duplicate_of": same}), len(refused))
    write_overview(
        RadiographIndex(out), refused, notes, settings.described(), settings.seed, log_images
    )


def _checked(
    out: Path, dataset: DataSet, table: pyarrow.Table, level: Check, workers: int
) -> tuple[pyarrow.Table, list[Checked], list[Refusal]]:
    """The rows whose pictures passed, with their sizes; what was found of each; the others."""
    import pyarrow

    if level == "none":
        return table, [Checked((-1, -1))] * table.num_rows, []
    folder = out / "checks"
    folder.mkdir(exist_ok=True)
    images, views = (table.column(c).to_pylist() for c in ("image", "view"))
    todo = list(batches(folder, level, Path(dataset.root), images, views))
    found = {}
    with _progress(f"checking {dataset.name}", len(images)) as (progress, task):
        for batch, results in outcomes(check_batch, todo, workers, verb="index"):
            found[batch] = results
            progress.advance(task, len(results))
    checked = [one for batch in todo for one in found[batch]]
    refused = [
        Refusal(dataset.name, image, one.why)
        for image, one in zip(images, checked, strict=True)
        if one.why
    ]
    sizes = {"width": [c.width for c in checked], "height": [c.height for c in checked]}
    passed = pyarrow.array([not one.why for one in checked], pyarrow.bool_())
    kept = with_columns(table, sizes).filter(passed)
    return kept, [one for one in checked if not one.why], refused


def _finish(out: Path, settings: Settings, table: pyarrow.Table, refused: int) -> None:
    """Write rows and, after them, index.json; leave both alone where they are the same."""
    file = out / DESCRIPTION
    described = {
        "version": VERSION,
        "identity": identity(table, settings),
        "sections": settings.described()["sections"],
        "settings": settings.described(),
        "datasets": [
            {"name": d.name, "reader": d.reader, "root": str(Path(d.root).resolve())}
            for d in settings.datasets
        ],
    }
    again = "remove this file and run the same command again"
    old = _known(file, again) if file.is_file() else {}
    files = old.get("counts", {}).get("files", 0)
    same = old.get("identity") == described["identity"]
    if not same or len(list(out.glob("rows-*.parquet"))) != files:
        file.unlink(missing_ok=True)
        files = write_rows(out, table)
    described["counts"] = {**count(table), "refused": refused, "files": files}
    write_atomically(file, json.dumps(described, indent=1))
    shutil.rmtree(out / "parts", ignore_errors=True)


@contextmanager
def _progress(title: str, total: int | None) -> Iterator[tuple[Progress, Any]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield progress, progress.add_task(title, total=total)
