"""Names of the class numbers in a mask file: from YAML, a table, or an installed package."""

from __future__ import annotations

import ast
import csv
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sagittal_core.errors import ConfigError, DataError

_MAPS = "map_to_binary.py"  # where totalsegmentator keeps its class tables


def class_table(given: str | Mapping[int, str]) -> dict[int, str]:
    """Class number to name.

    Args:
        given: the mapping itself; a YAML file with it; a CSV file with the columns id and name; or
            ``totalsegmentator:TASK`` (total, total_mr, ...), read from the installed package, or
            ``/path/map_to_binary.py:TASK`` from that file of it. Neither is imported.

    Raises:
        DataError: if there is no such file or table, or it is no class table.
        ConfigError: if the package is not installed.
    """
    if not isinstance(given, str):
        return _checked("classes", given)
    path, colon, task = given.rpartition(":")
    if colon and path == "totalsegmentator":
        spec = importlib.util.find_spec("totalsegmentator")
        if spec is None or spec.origin is None:
            raise ConfigError(
                "slice: classes from totalsegmentator, which is not installed; give a YAML or CSV"
                " file with id and name, or /path/map_to_binary.py:" + task
            )
        return _from_source(Path(spec.origin).with_name(_MAPS), task)
    if colon and path.endswith(".py"):
        return _from_source(Path(path), task)
    file = Path(given)
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as opened:
                return _checked(file, {row["id"]: row["name"] for row in csv.DictReader(opened)})
        return _checked(file, yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, KeyError, yaml.YAMLError) as error:
        raise DataError(
            file, key="classes", expected="id and name of each class", found=repr(error)[:200]
        ) from error


def _from_source(file: Path, task: str) -> dict[int, str]:
    """``class_map[task]`` of a Python file, as a literal: nothing of it is run."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        maps = next(
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "class_map"
        )
    except (OSError, SyntaxError, ValueError, StopIteration) as error:
        raise DataError(
            file, key="class_map", expected="TotalSegmentator's class tables", found=repr(error)
        ) from error
    if task not in maps:
        held = ", ".join(list(maps)[:20])
        raise DataError(file, key="class_map", expected=task, found=held)
    return _checked(file, maps[task])


def _checked(file: str | Path, table: Any) -> dict[int, str]:
    try:
        found = {int(number): str(name) for number, name in table.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            file, key="classes", expected="number: name", found=repr(table)[:100]
        ) from error
    if not found or min(found) < 1 or len(set(found.values())) != len(found):
        raise DataError(
            file, key="classes", expected="numbers above 0 and names, each once", found=str(found)
        )
    return found
