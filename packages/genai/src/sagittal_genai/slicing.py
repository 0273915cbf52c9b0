"""``sagittal-genai slice``: volumes and radiographs in, a folder of labelled pictures out."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.parallel import outcomes
from sagittal_core.run_folder import write_csv
from sagittal_genai.slices.cut import Job, cut_scan
from sagittal_genai.slices.folder import FolderWriter, merge_indices
from sagittal_genai.slices.overview import write_overview
from sagittal_genai.slices.plan import Plan, make_plan
from sagittal_genai.slices.radiograph_table import RadiographTable
from sagittal_genai.slices.scans import Refusal, Scan, ScanSource
from sagittal_genai.slices.settings import CT, MR, Radiographs, Settings
from sagittal_genai.slices.split import Split
from sagittal_genai.slices.totalsegmentator import TotalSegmentator
from sagittal_genai.slices.volume_files import VolumeFiles

__all__ = ["RadiographTable", "TotalSegmentator", "VolumeFiles", "slice_scans"]


def slice_scans(
    sources: list[ScanSource],
    out: Path = Path("outputs/slices"),
    size: int = 224,
    fit: Literal["pad", "crop"] = "pad",
    foreground: float = 0.02,
    ct: CT | None = None,
    mr: MR | None = None,
    radiographs: Radiographs | None = None,
    split: Split | None = None,
    workers: int = 1,
) -> None:
    """Cut scans into square 8-bit pictures with labels and metadata, split by subject.

    The same command goes on after it was stopped. Scans that cannot be used are listed in
    refused.csv and counted in report.html, which shows examples.

    Args:
        sources: where scans come from: TotalSegmentator, VolumeFiles or RadiographTable.
        out: the slice folder.
        size: side of a picture in pixels.
        fit: pad the shorter side with black, or crop the longer one.
        foreground: share of a slice that must be bright; slices before the first and after the last
            such one are dropped. Where masks exist, the first and last with an organ count instead.
        ct: windows in Hounsfield units by type of study, and planes.
        mr: percentiles, bias correction, and planes.
        radiographs: windows or percentiles.
        split: who is trained, validated and tested on.
        workers: processes; 0 works in this one.

    Raises:
        ConfigError: settings that do not fit, or a folder begun with others.
        DataError: a source that cannot be read, or not one usable scan.
    """
    start = time.monotonic()
    settings = Settings(size, fit, foreground, ct or CT(), mr or MR(), radiographs or Radiographs())
    division = split or Split()
    plan = make_plan(sources, settings, division)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            writer = FolderWriter(out, plan.identity, plan.classes)
            job = Job(writer, settings, plan.columns)
            todo = [scan for scan in plan.scans if not writer.has(scan.name, scan.fingerprint)]
            print(
                f"{len(plan.scans)} scans: {len(plan.scans) - len(todo)} are there, {len(todo)} to"
                f" do, {len(plan.refused)} refused beforehand",
                flush=True,
            )
            _write_sources(out, plan)
            refused = [*plan.refused, *_cut_all(job, todo, workers)]
            _finish(writer, plan, refused, _config(sources, settings, division), division.seed)
    except Timeout:
        raise ConfigError(f"slice: another process is writing {out}") from None
    print(f"{time.monotonic() - start:.0f} s: {out / 'report.html'}", flush=True)


def _cut_all(job: Job, scans: Sequence[Scan], workers: int) -> list[Refusal]:
    """Cut what is missing; returns what was refused, in the order of the scans."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    refused: dict[str, Refusal] = {}
    columns = (TextColumn("slicing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("slicing", total=len(scans))
        for scan, error in outcomes(partial(_attempt, job), scans, workers, verb="slice"):
            if error is not None:
                refused[scan.name] = Refusal(scan.name, str(scan.input.path), str(error))
            progress.advance(task)
    return [refused[scan.name] for scan in scans if scan.name in refused]


def _attempt(job: Job, scan: Scan) -> DataError | None:
    try:
        cut_scan(job, scan)
    except DataError as error:
        return error
    except Exception:  # whatever it is, whoever reads it must know where it happened
        print(f"slice: failed at {scan.input.path}", file=sys.stderr, flush=True)
        raise
    return None


def _finish(
    writer: FolderWriter, plan: Plan, refused: list[Refusal], config: dict[str, Any], seed: int
) -> None:
    write_csv(writer.folder / "refused.csv", Refusal._fields, refused)
    done = sorted(s.name for s in plan.scans if writer.has(s.name, s.fingerprint))
    if not done:
        raise DataError(
            writer.folder / "refused.csv",
            key="scans",
            expected="at least one that can be used",
            found=f"{len(refused)} refused, the first: {refused[0].reason}",
        )
    index, accounts = merge_indices(writer.folder, done)
    splits = Counter(index["split"].to_pylist())
    empty = [name for name, a in zip(done, accounts, strict=True) if a["masks_empty"]]
    counts = {
        "scans": len(done),
        "slices": len(index),
        "subjects": len(set(index["subject"].to_pylist())),
        "split": {name: splits[name] for name in ("train", "val", "test")},
        "refused": len(refused),
        "masks_empty": empty,
    }
    prints = json.dumps([[name, a["fingerprint"]] for name, a in zip(done, accounts, strict=True)])
    writer.describe(hashlib.sha256(prints.encode()).hexdigest()[:16], **counts)
    write_overview(writer.folder, accounts, len(refused), config, seed)
    print(
        f"{len(index)} slices of {len(done)} scans, {len(refused)} refused:"
        f" {splits['train']} train, {splits['val']} val, {splits['test']} test",
        flush=True,
    )


def _write_sources(out: Path, plan: Plan) -> None:
    rows = [(scan.name, str(scan.input.path)) for scan in plan.scans]
    write_csv(out / "sources.csv", ("scan", "path"), rows)


def _config(sources: Sequence[ScanSource], settings: Settings, split: Split) -> dict[str, Any]:
    """What the report says of the configuration; names of files are not in it."""
    kinds = [type(source).__name__ for source in sources]
    return {"sources": kinds, **asdict(settings), "split": asdict(split)}
