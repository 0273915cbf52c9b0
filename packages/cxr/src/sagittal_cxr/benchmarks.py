"""``sagittal-cxr benchmarks``: the published benchmarks, and which of them can be run here."""

# ruff: noqa: T201 - a verb whose product is what it prints

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sagittal_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Published:
    """One benchmark of the paper, as far as it is known.

    Attributes:
        name: Of the benchmark.
        task: One of the five task types.
        source: "released code" or "guess".
        n: Images, as the released code says; None: not known.
        split: Of the data set; None: a list of its own.
        reader: That of ``sagittal-cxr index``; None: there is none.
        layout: Files that belong to it.
        exposure: train, none or unknown, of the released model.
        why: That is so.
    """

    name: str
    task: str
    source: str
    n: int | None
    split: str | None
    reader: str | None
    layout: str
    exposure: str
    why: str


def published() -> tuple[int, list[str], list[Published]]:
    """How many benchmarks the paper counts, its task types, and those that are known."""
    file = Path(__file__).parent / "tasks" / "benchmarks.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = [Published(**one) for one in document["benchmarks"]]
    return int(document["published"]), list(document["task_types"]), found


def coverage(
    benchmarks: list[Published], readers: list[str], held: dict[tuple[str, str], int]
) -> list[list[str]]:
    """A row for each benchmark: task, source, n, exposure, reader, and the images that are there.

    Args:
        benchmarks: Of :func:`published`.
        readers: Names of readers that exist.
        held: Images by (reader, split) in the user's indexes.
    """
    rows = []
    for one in benchmarks:
        reader = "none yet"
        if one.reader is not None:
            reader = one.reader if one.reader in readers else f"{one.reader} (not installed)"
        mine = 0
        if one.reader is not None:
            splits = [one.split] if one.split else ["train", "val", "test"]
            mine = sum(held.get((one.reader, split), 0) for split in splits)
        count = "?" if one.n is None else str(one.n)
        rows.append([one.name, one.task, one.source, count, one.exposure, reader, str(mine)])
    return rows


def benchmarks(indexes: list[Path] | None = None) -> None:
    """List the published benchmarks: how each is known, its reader here, and what you have of it.

    Args:
        indexes: folders of `sagittal-cxr index`, such as '[outputs/index]'.

    Raises:
        ConfigError: a folder holds no index.
        DataError: an index is damaged.
    """
    from sagittal_cxr.readers import READERS

    held: Counter[tuple[str, str]] = Counter()
    for folder in indexes or []:
        held += _held(folder)
    count, types, known = published()
    columns = ["benchmark", "task", "known from", "n", "exposure", "reader", "your images"]
    rows = coverage(known, list(READERS), dict(held))
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print()
    code = sum(one.source == "released code" for one in known)
    print(
        f"The paper counts {count} benchmarks of {len(types)} task types: {code} are known from the"
        f" released code, {len(known) - code} are guesses, {count - len(known)} are not known."
    )
    for kind in types:
        of_kind = [one for one in known if one.task == kind]
        sure = sum(one.source == "released code" for one in of_kind)
        print(f"  {kind}: {sure} from the released code, {len(of_kind) - sure} guessed")
    readable = sum(one.reader in READERS for one in known)
    print(f"{readable} of these {len(known)} have a reader here.")
    if indexes:
        there = sum(row[-1] != "0" for row in rows)
        print(
            f"Your indexes hold images of the data set and split of {there}. Whether they are the"
            " same images as the paper's is for you to check: compare with n."
        )
    print(
        "exposure: train: a split of the data set is among the released model's training corpora."
    )


def _held(folder: Path) -> Counter[tuple[str, str]]:
    """Images of an index by (reader, split)."""
    from sagittal_cxr.index import RadiographIndex

    if not folder.is_dir():
        raise ConfigError(f"benchmarks: no folder {folder}")
    index = RadiographIndex(folder)
    readers = {one["name"]: one["reader"] for one in index.description["datasets"]}
    frame: pandas.DataFrame = index.frame(["dataset", "split"])
    counted = frame.value_counts().items()
    found: Counter[tuple[str, str]] = Counter()
    for (dataset, split), number in counted:
        found[readers[dataset], split] += int(number)
    return found
