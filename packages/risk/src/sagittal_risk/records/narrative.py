"""Features as running text, as a note may tell them: no list, no fixed order, varied wording."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sagittal_core.seeds import counter_seed
from sagittal_risk.records.description import Group

_NUMBER = (
    "{name} was {value}.",
    "The {lower} is recorded as {value}.",
    "On examination, {lower} {value}.",
    "Measured {lower}: {value}.",
)
_TEXT = ("{name}: {value}.", "The record gives {value} for {lower}.", "As to {lower}: {value}.")
_YES = (
    "There is {lower}.",
    "{name} is present.",
    "The history is positive for {lower}.",
)
_NO = ("There is no {lower}.", "{name} is absent.", "The patient denies {lower}.")


def narrate(
    row: Mapping[str, Any],
    groups: Sequence[Group],
    columns: Collection[str] | None = None,
    *,
    counters: Sequence[int | str] = (0,),
) -> str:
    """Tell known features in sentences, in an order and wording drawn by the counters.

    Args:
        row: Values by column.
        groups: Of features.
        columns: Only these are told; None: all.
        counters: What the draw is for: seed first, then the record.

    Returns:
        One paragraph; empty if nothing is known.
    """
    rng = np.random.default_rng(counter_seed(int(counters[0]), *counters[1:], "narrative"))
    sentences = []
    for group in groups:
        for feature in group.features:
            if columns is not None and feature.column not in columns:
                continue
            value = feature.told(row[feature.column])
            if value is None:
                continue
            kinds = _TEXT if feature.values or isinstance(row[feature.column], str) else _NUMBER
            if feature.yes_no:
                kinds = _YES if value == "Yes" else _NO
            # A name that begins like an abbreviation (HDL, BMI) keeps its capitals.
            name = feature.name
            lower = name if name[:2].isupper() else name[:1].lower() + name[1:]
            form = kinds[int(rng.integers(len(kinds)))]
            sentences.append(form.format(name=name, lower=lower, value=value))
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))
