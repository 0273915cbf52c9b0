"""Which part of a patient's features a training item tells: so a model learns to do with less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_seed


@dataclass
class GroupSampling:
    """Draws groups, then columns within them, as AdaCVD's released data set does.

    With probability ``keep_base`` the base groups are told whole; then, with probability
    ``only_base``, nothing else. Otherwise a share of the other groups, uniform between
    ``share_min`` and ``share_max``, at least one and rounded up, is told, and of each of those a
    share of its columns, uniform between ``within_min`` and 1, or all of them if one group was
    drawn. The draw is a function of seed, epoch and record alone.

    Attributes:
        keep_base: Probability.
        only_base: Probability, given that the base is kept.
        share_min: Of the other groups.
        share_max: Of the other groups.
        within_min: Of a group's columns.
    """

    keep_base: float = 1.0
    only_base: float = 0.05
    share_min: float = 0.1
    share_max: float = 1.0
    within_min: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no probability or no range."""
        values = (self.keep_base, self.only_base, self.share_min, self.share_max, self.within_min)
        if any(not 0 <= value <= 1 for value in values) or self.share_min > self.share_max:
            raise ConfigError(
                "sampling: probabilities and shares lie in [0, 1], and share_min <= share_max"
            )

    def draw(
        self, columns: Mapping[str, Sequence[str]], base: Sequence[str], *counters: int | str
    ) -> set[str]:
        """Columns to tell.

        Args:
            columns: Known columns of each group.
            base: Names of base groups.
            counters: What the draw is for: seed first, then epoch and record.

        Returns:
            At least one column, if any is known.
        """
        seed = counter_seed(int(counters[0]), *counters[1:], "sampling")
        rng = np.random.default_rng(seed)
        kept: set[str] = set()
        if rng.random() < self.keep_base:
            kept = {c for name in base for c in columns.get(name, ())}
            if kept and rng.random() < self.only_base:
                return kept
        others = [name for name in columns if name not in base]
        if not others:
            return kept or self._any(columns, rng)
        share = rng.uniform(self.share_min, self.share_max)
        count = max(1, math.ceil(share * len(others)))
        drawn = [others[i] for i in rng.permutation(len(others))[:count]]
        for name in drawn:
            within = 1.0 if len(drawn) == 1 else rng.uniform(self.within_min, 1.0)
            number = max(1, math.ceil(within * len(columns[name])))
            kept |= {columns[name][i] for i in rng.permutation(len(columns[name]))[:number]}
        return kept

    @staticmethod
    def _any(columns: Mapping[str, Sequence[str]], rng: np.random.Generator) -> set[str]:
        """Without other groups and base, half of the columns or more: something has to be told."""
        every = [c for group in columns.values() for c in group]
        number = max(1, math.ceil(rng.uniform(0.5, 1.0) * len(every))) if every else 0
        return {every[i] for i in rng.permutation(len(every))[:number]}


def fields_known(
    columns: Mapping[str, Sequence[str]], share: float, *counters: int | str
) -> set[str]:
    """A random share of all known columns, rounded up: for curves of performance over missingness.

    The sets of one record grow with the share: a smaller one is part of every larger one.

    Args:
        columns: Known columns of each group.
        share: In [0, 1].
        counters: What the draw is for: seed first, then the record.
    """
    every = [c for group in columns.values() for c in group]
    rng = np.random.default_rng(counter_seed(int(counters[0]), *counters[1:], "fields known"))
    order = rng.permutation(len(every))
    return {every[i] for i in order[: math.ceil(share * len(every))]}
