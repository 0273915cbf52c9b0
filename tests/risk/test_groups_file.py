"""A file of groups: every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sagittal_core.errors import ConfigError
from sagittal_risk.records.groups import groups_of, read_groups

FEATURE = {"column": "a", "name": "A"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "expected a list of groups"),
        ({"groups": []}, "found a dict"),
        ([{"features": [FEATURE]}], "group 1: name is missing"),
        ([{"name": "a", "features": []}], "features is missing"),
        ([{"name": "a", "features": [{"column": "a"}]}], "group 1 (a), feature 1: name is missing"),
        ([{"name": "a", "features": [FEATURE | {"units": "mg"}]}], "'units' is unknown"),
        ([{"name": "a", "features": [FEATURE | {"decimals": 0.5}]}], "a whole number, found 0.5"),
        ([{"name": "a", "features": [FEATURE | {"decimals": True}]}], "a whole number"),
        ([{"name": "a", "features": [FEATURE | {"decimals": -1}]}], "a whole number"),
        ([{"name": "a", "features": [FEATURE | {"values": {True: "M"}}]}], "put it in quotes"),
        ([{"name": "a", "features": [FEATURE | {"values": {"1": 3}}]}], "code: text, found"),
        ([{"name": "a", "features": [FEATURE, FEATURE]}], "stands in two places"),
        ([{"name": "a", "features": ["age"]}], "expected column, name"),
    ],
)
def test_mistakes_in_groups_are_named(raw: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        read_groups(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_groups_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("[{")
    for name, words in (("none.yaml", "No such file"), ("broken.yaml", "no YAML")):
        with pytest.raises(ConfigError, match=words):
            read_groups(tmp_path / name)
    raw = [{"name": "a", "features": [FEATURE | {"values": {1: "M", 2.0: "F"}, "unit": None}]}]
    assert groups_of(raw, "x")[0].features[0].values == {"1": "M", "2": "F"}
