"""The search put to the test: labels as queries, precision at k, beside what it has to beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.llm import LanguageModel
from sagittal_core.run_folder import write_atomically
from sagittal_core.stats import bootstrap_interval, paired_bootstrap
from sagittal_genai.concepts.explained import Explained
from sagittal_genai.concepts.features import Rows
from sagittal_genai.concepts.retrieval import Images, Matcher, Precision, evaluate, label_queries
from sagittal_genai.concepts.table import ConceptTable

COLUMNS = ("organs", "findings", "orientation", "view")
_LEAST = 3  # images that show a label, and that do not, for it to be a query


@dataclass(frozen=True)
class SearchTest:
    """What came of it.

    Attributes:
        tables: For the report and the results; none without queries.
        notes: What a reader has to know.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def search_test(
    out: Path,
    explained: Explained,
    rows: Rows,
    table: ConceptTable,
    columns: Sequence[str] | None,
    match: str,
    encoder: str,
    llm: LanguageModel | None,
    k: int,
    twin: Path | None,
    seed: int,
) -> SearchTest:
    """Ask for every label of the held-out images and count what is found.

    Args:
        out: ``search.json`` is written here.
        explained: Features and names.
        rows: Codes and who they belong to.
        table: Concepts of whole images, for all rows.
        columns: Whose labels are queries; None: :data:`COLUMNS`.
        match: How names are found, see :class:`Matcher`.
        encoder: For ``sentences``.
        llm: For ``llm``.
        k: Images a query.
        twin: Folder of another ``explain``.
        seed: Of the intervals.

    Raises:
        ConfigError: The twin has no test of the same k, or none of the same queries.
    """
    wanted = COLUMNS if columns is None else columns
    images = Images(rows.codes, rows.image, rows.held_out, rows.unit)
    queries = label_queries(table, images.first, wanted, _LEAST)
    if not queries:
        note = f"No label of {', '.join(wanted)} is shown by {_LEAST} held-out images and missing"
        return SearchTest(notes=[f"{note} in {_LEAST}: the search was not tested."])
    known = explained.searchable()
    matcher = Matcher(
        {n: str(f.name) for n, f in known.items()},
        match,
        encoder=encoder,
        llm=llm,
        texts={n: f.words for n, f in known.items()},
    )
    means = {n: f.mean for n, f in known.items()}
    found = evaluate(images, table, matcher, means, queries, k)
    saved = {"k": k, "queries": [asdict(one) for one in found]}
    write_atomically(out / "search.json", json.dumps(saved, indent=1))
    return _tables(found, _twin(twin, k), k, rows, images, seed)


def _twin(folder: Path | None, k: int) -> dict[str, float]:
    if folder is None:
        return {}
    file = folder / "search.json"
    if not file.is_file():
        raise ConfigError(f"explain: twin {folder} has no search.json; run `explain` there first")
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["k"] != k:
        raise ConfigError(f"explain: twin {folder} was tested with k = {saved['k']}, not {k}")
    return {one["text"]: float(one["found"]) for one in saved["queries"]}


def _tables(
    found: Sequence[Precision],
    twin: dict[str, float],
    k: int,
    rows: Rows,
    images: Images,
    seed: int,
) -> SearchTest:
    ours = np.array([one.found for one in found])
    series = {
        "features": ours,
        "metadata, TF-IDF (reads the labels)": np.array([one.metadata for one in found]),
        "random choice": np.array([one.base for one in found]),
    }
    if twin:
        absent = [one.text for one in found if one.text not in twin]
        if absent:
            raise ConfigError(f"explain: the twin was not asked for {', '.join(absent[:5])}")
        series["twin's features"] = np.array([twin[one.text] for one in found])
    lines, differences = [], []
    for name, values in series.items():
        lines.append([name, _mean(values, seed), len(values)])
        if name != "features" and len(values) > 1:
            gain = paired_bootstrap(ours, values, seed=seed)
            said = f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            differences.append([f"features - {name}", said, len(values)])
    answered = sum(1 for one in found if one.features)
    columns = [f"precision@{k}, mean and 95 % interval", "queries"]
    subjects = len(np.unique(rows.subject[images.first]))
    few = "one image" if subjects >= k else "as few images as possible"
    shown = f"of one subject {few} is shown" if rows.unit is rows.subject else "of all of them"
    each = [
        [one.text, f"{one.found:.2f}", f"{one.metadata:.2f}", f"{one.base:.2f}", one.outcome]
        for one in found
    ]
    tables = {
        "search": (["method", *columns], lines),
        "search-differences": (["paired difference", *columns], differences),
        "search-queries": (["query", "features", "metadata", "random", "match"], each),
    }
    notes = [
        f"Search: {len(found)} labels as queries, {answered} of which matched a feature (the others"
        f" count as nothing found), over {len(images.first)} held-out images of {subjects}"
        f" subjects; {shown}. The intervals are over queries. TF-IDF over metadata reads the labels"
        " themselves: it says what words alone give where labels exist, not what images give."
    ]
    return SearchTest(tables, notes)


def _mean(values: np.ndarray, seed: int) -> str:
    if len(values) < 2:
        return f"{float(values[0]):.3f} (one query)"
    interval = bootstrap_interval(values, seed=seed)
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
