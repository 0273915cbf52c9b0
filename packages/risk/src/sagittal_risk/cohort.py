"""``sagittal-risk cohort``: a public cohort as the table that training and scoring take."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_seed

if TYPE_CHECKING:
    import pandas

    from sagittal_risk.cohorts.cohort import Cohort

OUTCOMES = {"framingham": "CVD_10Y", "heart_disease": "disease"}
"""Column of the outcome, by cohort."""
_SHARES = {"train": 0.45, "val": 0.05, "test": 0.5}


def cohort(
    name: Literal["framingham", "heart_disease"],
    out: Path | None = None,
    data: Path | None = None,
    site: str | None = None,
    seed: int = 0,
) -> None:
    """Write a public cohort as a table: one row a person, outcome and split in columns.

    framingham: the teaching set's third examination by AdaCVD's protocol, events over ten years in
    CVD_10Y. heart_disease: UCI's patients at four sites, narrowed coronary arteries in disease.
    Half of the people are for testing, drawn by the seed within each site.

    Args:
        name: of the cohort.
        out: the table, .csv or .parquet; outputs/NAME.csv by default.
        data: the file that it is made of; by default that of python -m sagittal_core fetch.
        site: only the people of this one (heart_disease has four).
        seed: of the split.

    Raises:
        ConfigError: another kind of table is asked for, or a site that is not there.
        DataError: the file is not there, or another one.
    """
    from sagittal_risk.cohorts.framingham import framingham
    from sagittal_risk.cohorts.heart_disease import heart_disease
    from sagittal_risk.records.table import write_table

    file = out or Path("outputs") / f"{name}.csv"
    if file.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"cohort: {file.name} is neither .csv nor .parquet")
    people = (framingham if name == "framingham" else heart_disease)(data)
    table = cohort_table(people, OUTCOMES[name], seed)
    if site is not None:
        sites = sorted(set(table.get("site", ())))
        if site not in sites:
            raise ConfigError(
                f"cohort: no site {site!r} in {name}; {', '.join(sites) or 'no sites'}"
            )
        table = table[table["site"] == site]
    write_table(table, file)
    for step, count in people.flow.items():
        print(f"{count:>7}  {step}")
    print(f"{file}: {len(table)} people, {table[OUTCOMES[name]].sum()} with {OUTCOMES[name]}")


def cohort_table(people: Cohort, outcome: str, seed: int = 0) -> pandas.DataFrame:
    """A cohort as a table.

    Args:
        people: Of the cohort.
        outcome: Name of the column of events.
        seed: Of the split.

    Returns:
        person, site (if there are several), one column a feature in this package's units, the
        outcome (0 or 1), years of observation (if known), split (train, val or test).
    """
    import pandas

    table = pandas.DataFrame({"person": people.person})
    if len(people.site):
        table["site"] = people.site
    for feature, values in people.features.items():
        table[column_name(feature)] = values
    table[outcome] = people.event.astype(int)
    if people.time is not None:
        table["years"] = people.time
    table["split"] = _split(people.site if len(people.site) else np.zeros(len(people), int), seed)
    return table


def column_name(feature: str) -> str:
    """Name of a feature's column: lower case, one underscore for whatever is no letter or digit."""
    return re.sub(r"[^0-9a-z]+", "_", feature.lower())


def _split(site: np.ndarray, seed: int) -> np.ndarray:
    """(n,) train, val or test, in the same shares within each site."""
    split = np.empty(len(site), dtype=object)
    for one in np.unique(site):
        rows = np.flatnonzero(site == one)
        order = sorted(rows, key=lambda row: counter_seed(seed, int(row), "split"))
        ends = np.round(np.cumsum(list(_SHARES.values())) * len(rows)).astype(int)
        for name, part in zip(_SHARES, np.split(order, ends[:-1]), strict=True):
            split[part] = name
    return split
