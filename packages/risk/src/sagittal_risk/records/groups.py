"""Groups of features from YAML: how a table is told to a language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sagittal_core.errors import ConfigError
from sagittal_risk.records.description import Feature, Group, check_groups

_GROUP = {"name": str, "features": list, "base": bool}
_FEATURE = {
    "column": str, "name": str, "unit": str, "decimals": int, "values": dict, "yes_no": bool,
}  # fmt: skip
_WORDS = {str: "text", list: "a list", bool: "true or false", int: "a whole number", dict: "a map"}


def read_groups(file: str | Path) -> list[Group]:
    """Read groups from a YAML list in the form of ``data.init_args.groups`` of a fit.

    Raises:
        ConfigError: Names the file and the entry that is missing, unknown or of another kind.
    """
    path = Path(file)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a YAML list of groups, found {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {str(error).splitlines()[0]}") from None
    return groups_of(raw, str(path))


def groups_of(raw: Any, source: str) -> list[Group]:
    """Groups from plain values.

    Args:
        raw: A list of mappings.
        source: Named in errors.

    Raises:
        ConfigError: See :func:`read_groups`; or a column stands in two places.
    """
    if not isinstance(raw, list) or not raw:
        found = "nothing" if not raw else f"a {type(raw).__name__}"
        raise ConfigError(
            f"{source}: expected a list of groups, as data.init_args.groups of a fit, found {found}"
        )
    groups = [_group(one, f"{source}: group {number}") for number, one in enumerate(raw, 1)]
    try:
        check_groups(groups, [f.column for group in groups for f in group.features])
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return groups


def _group(raw: Any, where: str) -> Group:
    given = _checked(raw, where, _GROUP, ("name", "features"))
    where = f"{where} ({given['name']})"
    features = [
        _feature(one, f"{where}, feature {number}")
        for number, one in enumerate(given["features"], 1)
    ]
    return Group(given["name"], features, given.get("base", False))


def _feature(raw: Any, where: str) -> Feature:
    given = _checked(raw, where, _FEATURE, ("column", "name"))
    if "values" in given:
        given["values"] = _texts(given["values"], f"{where} ({given['column']}), values")
    return Feature(**given)


def _texts(raw: Mapping[Any, Any], where: str) -> dict[str, str]:
    """Text of each code; 1 and 1.0 are the code "1"."""
    texts = {}
    for code, text in raw.items():
        if isinstance(code, bool) or isinstance(text, bool):
            raise ConfigError(f'{where}: a bare yes, no, true or false; put it in quotes: "yes"')
        if not isinstance(code, (str, int, float)) or not isinstance(text, str):
            raise ConfigError(f"{where}: expected code: text, found {code!r}: {text!r}")
        whole = isinstance(code, float) and code.is_integer()
        texts[str(int(code) if whole else code)] = text
    if not texts:
        raise ConfigError(f"{where}: expected code: text, found none")
    return texts


def _checked(
    raw: Any, where: str, kinds: Mapping[str, type], needed: tuple[str, ...]
) -> dict[str, Any]:
    """What is given and not null, of the right kinds."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected {', '.join(kinds)}, found {raw!r}")
    given = {key: value for key, value in raw.items() if value is not None}
    for key in raw:
        if key not in kinds:
            raise ConfigError(f"{where}: {key!r} is unknown; there are {', '.join(kinds)}")
    for key in needed:
        if key not in given or given[key] in ("", []):
            raise ConfigError(f"{where}: {key} is missing")
    for key, value in given.items():
        fits = isinstance(value, kinds[key]) and (kinds[key] is bool or value is not True)
        if not fits or (key == "decimals" and value < 0):
            raise ConfigError(f"{where}: {key} is {_WORDS[kinds[key]]}, found {value!r}")
    return given
