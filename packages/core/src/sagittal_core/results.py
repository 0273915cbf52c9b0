"""Committed results of studies and benchmarks, and the README tables rendered from them.

A result is one small JSON file that says which command made it, at which commit, on which machine,
from which seeds and how many independent units::

    {"command": "make demo", "commit": "1a2b3c4d5e6f", "machine": "2 x ...", "seeds": [0],
     "n": {"volumes": 1, "slices": 20},
     "tables": {"psnr": {"columns": ["method", "PSNR (dB)"], "rows": [["zero-filled", "27.03"]]}}}

A Markdown file shows it between two comments that each stand alone on a line; the path is relative
to the Markdown file. Without ``table=`` the text between them says where the figures come from::

    <!-- results: results/demo.json table=psnr -->
    <!-- end -->
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sagittal_core
from sagittal_core.errors import DataError
from sagittal_core.report import cell_text, numeric_columns
from sagittal_core.run_folder import write_atomically

MAX_BYTES = 50_000
_KEYS = {
    "command": str,
    "commit": str,
    "machine": str,
    "seeds": list,
    "n": dict,
    "tables": dict,
}
_BEGIN = re.compile(r"<!-- results: (?P<path>\S+)(?: table=(?P<table>\S+))? -->")
_END = "<!-- end -->"

Cell = str | int | float
Table = tuple[Sequence[str], Sequence[Sequence[Cell]]]


def write_results(
    path: str | Path,
    *,
    command: str,
    seeds: Sequence[int],
    n: Mapping[str, int],
    tables: Mapping[str, Table],
) -> dict[str, Any]:
    """Write one result file, with the commit and the machine it was made on.

    Args:
        path: The JSON file; its folder is made.
        command: What to type to get the same figures again.
        seeds: Seeds of the runs behind the figures; empty if nothing is random.
        n: Number of each kind of unit, the independent ones first, such as
            ``{"volumes": 1, "slices": 20}``.
        tables: Name to (column headings, rows). A float is shown with four significant digits; give
            text where that is not right, such as ``"27.03 [26.65, 27.45]"``.

    Returns:
        What was written.

    Raises:
        DataError: If the content does not fit the schema or is 50 kB or more.
        ValueError: If a cell is NaN or infinite.
    """
    file = Path(path)
    document = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "seeds": list(seeds),
        "n": dict(n),
        "tables": {
            name: {"columns": list(columns), "rows": [list(row) for row in rows]}
            for name, (columns, rows) in tables.items()
        },
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _check(file, text, document)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    return document


def read_results(path: str | Path) -> dict[str, Any]:
    """Read one result file.

    Raises:
        DataError: If the file is missing, no JSON, too large, or does not fit the schema.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(
            file, key="(file)", expected="a JSON file of results", found=str(error)
        ) from None
    _check(file, text, document)
    return document


def render_tables(readme: str | Path) -> str:
    """Return a Markdown file's text with everything between its results markers made anew.

    Raises:
        DataError: If a marker is not closed, or names a missing file or table.
    """
    file = Path(readme)
    rendered: list[str] = []
    opened: int | None = None
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        begin = _BEGIN.fullmatch(line)
        if opened is not None and line != _END:
            if begin:
                raise _marker_error(file, opened, f"another marker in line {number}")
            continue
        rendered.append(line)
        if begin:
            opened = number
            rendered += ["", *_block(file, begin["path"], begin["table"]), ""]
        elif line == _END:
            opened = None
    if opened is not None:
        raise _marker_error(file, opened, "the end of the file")
    return "\n".join(rendered) + "\n"


def commit() -> str:
    """The checkout's commit, 12 digits, then ``+changes`` if other files than results differ.

    Returns:
        The commit, or the installed version where this package is not part of a checkout.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return f"sagittal-core {sagittal_core.__version__}"
    # Results and the pages that show them change from run to run; what computes them is the rest.
    rest = [":/", ":(top,exclude,glob)**/results/*.json", ":(top,exclude,glob)**/*.md"]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *rest)
    return f"{_git('rev-parse', '--short=12', 'HEAD')}{'+changes' if changes else ''}"


def machine() -> str:
    """Processor, cores, memory, GPU and versions in one line; no name that tells whose it is."""
    import torch

    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    parts = [f"{cores} x {_processor()}", *_memory(), gpu, platform.system()]
    parts += [f"Python {platform.python_version()}", f"torch {importlib.metadata.version('torch')}"]
    return ", ".join(parts)


def _block(readme: Path, path: str, table: str | None) -> list[str]:
    file = readme.parent / path
    document = read_results(file)
    if table is None:
        return [_source(document)]
    if table not in document["tables"]:
        raise DataError(
            file,
            key="tables",
            expected=f"a table {table!r}, which {readme} shows",
            found=", ".join(document["tables"]) or "no table",
        )
    columns, rows = (document["tables"][table][key] for key in ("columns", "rows"))
    cells = [[_cell(value) for value in row] for row in rows]
    right = numeric_columns(cells, len(columns))
    rule = ["---:" if one else "---" for one in right]
    return [f"| {' | '.join(row)} |" for row in ([_cell(c) for c in columns], rule, *cells)]


def _source(document: Mapping[str, Any]) -> str:
    seeds = ", ".join(str(seed) for seed in document["seeds"])
    parts = [f"`{document['command']}` at commit {document['commit']}"]
    parts += [f"seed{'s' * (len(document['seeds']) > 1)} {seeds}"] if seeds else []
    parts += [", ".join(f"{count} {unit}" for unit, count in document["n"].items())]
    return f"{'; '.join(parts)}. {document['machine']}."


def _cell(value: Cell) -> str:
    return cell_text(value).replace("|", "\\|").replace("\n", " ")


def _check(file: Path, text: str, document: Any) -> None:
    def demand(fits: bool, key: str, expected: str, found: object) -> None:
        if not fits:
            raise DataError(file, key=key, expected=expected, found=str(found))

    size = len(text.encode())
    demand(size < MAX_BYTES, "(file)", f"less than {MAX_BYTES} bytes", f"{size} bytes")
    keys = set(document) if isinstance(document, dict) else type(document).__name__
    demand(keys == set(_KEYS), "(file)", f"the keys {', '.join(_KEYS)}", keys)
    for key, kind in _KEYS.items():
        value = document[key]
        demand(isinstance(value, kind), key, kind.__name__, type(value).__name__)
    demand(bool(document["command"]), "command", "the command that makes the file", "nothing")
    demand(all(type(s) is int for s in document["seeds"]), "seeds", "integers", document["seeds"])
    counts = document["n"].values()
    demand(
        bool(counts) and all(type(c) is int and c > 0 for c in counts),
        "n",
        "a positive number of each kind of unit",
        document["n"],
    )
    for name, table in document["tables"].items():
        key = f"tables.{name}"
        shape = sorted(table) if isinstance(table, dict) else type(table).__name__
        demand(shape == ["columns", "rows"], key, "columns and rows", shape)
        widths = sorted({len(row) for row in table["rows"]} - {len(table["columns"])})
        demand(not widths, key, f"{len(table['columns'])} cells a row", f"rows of {widths}")


def _marker_error(file: Path, line: int, found: str) -> DataError:
    return DataError(file, key=f"line {line}", expected=f"{_END} after the marker", found=found)


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> list[str]:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return []
    return [f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"]
