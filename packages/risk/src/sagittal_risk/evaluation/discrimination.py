"""Discrimination: do those with the event get higher risks? Every measure takes weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Ranked:
    """Risks in order, once for all weights.

    Args:
        event: (n,) whether the event came.
        risk: (n,) finite numbers.
    """

    def __init__(self, event: NDArray[np.bool_], risk: NDArray[np.float64]) -> None:
        self.order = np.argsort(risk, kind="stable")
        ordered = risk[self.order]
        self.event = event[self.order].astype(float)
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def _tied(self, weights: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
        """Weight of events and of others at each distinct risk, ascending."""
        mine = weights[self.order]
        yes = np.add.reduceat(mine * self.event, self.starts)
        return yes, np.add.reduceat(mine * (1 - self.event), self.starts)

    def auroc(self, weights: NDArray[np.float64]) -> float:
        """Area under the ROC curve; a tie counts one half; NaN with one class only."""
        yes, no = self._tied(weights)
        pairs = yes.sum() * no.sum()
        return float((yes * (np.cumsum(no) - no / 2)).sum() / pairs) if pairs > 0 else np.nan

    def average_precision(self, weights: NDArray[np.float64]) -> float:
        """Precision at each threshold, weighted by the recall gained; NaN without events."""
        yes, no = self._tied(weights)
        if yes.sum() <= 0:
            return np.nan
        found, all_found = np.cumsum(yes[::-1]), np.cumsum((yes + no)[::-1])
        with np.errstate(invalid="ignore"):
            precision = np.where(all_found > 0, found / all_found, 0.0)
        return float((precision * yes[::-1]).sum() / yes.sum())


class Concordance:
    """Harrell's C: how often the one with the event first has the higher risk.

    Of all pairs in which it is known who has the event first; a tie in risk counts one half. An
    event and a censoring at the same time are such a pair, two events at the same time are not.
    The orders are computed once, in O(n log n), and serve every vector of weights.

    Args:
        time: (n,) of the event or the end of observation.
        event: (n,).
        risk: (n,) finite numbers.
    """

    def __init__(
        self, time: NDArray[np.float64], event: NDArray[np.bool_], risk: NDArray[np.float64]
    ) -> None:
        # Later first; at equal times the censored before the events.
        self.order = np.lexsort((event, -time))
        late, died = -time[self.order], event[self.order].astype(bool)
        tie = np.cumsum(np.r_[True, (late[1:] != late[:-1]) | (died[1:] != died[:-1])])
        _, rank = np.unique(risk[self.order], return_inverse=True)
        self.events = np.flatnonzero(died)
        self.before = np.searchsorted(tie, tie[self.events])  # first of the own tie
        self._levels = [
            _Level(rank >> (bit + 1), (rank >> bit) & 1, tie, died)
            for bit in range(int(rank.max(initial=0)).bit_length())
        ]
        self._equal = _Level(rank, None, tie, died)

    def __call__(
        self, weights: NDArray[np.float64], pair: NDArray[np.float64] | None = None
    ) -> float:
        """C with each person's weight; NaN without a pair.

        Args:
            weights: (n,).
            pair: (n,) further factor of the pairs whose earlier one is this person; None: 1.
        """
        mine = weights[self.order]
        earlier = mine[self.events] if pair is None else (mine * pair[self.order])[self.events]
        later = np.r_[0, np.cumsum(mine)][self.before]
        lower = np.zeros(len(mine))
        for level in self._levels:
            level.add(mine, lower)
        equal = np.zeros(len(mine))
        self._equal.add(mine, equal)
        pairs = (earlier * later).sum()
        right = (earlier * (lower + equal / 2)[self.events]).sum()
        return float(right / pairs) if pairs > 0 else np.nan


class _Level:
    """One bit of the ranks: of people alike in all higher bits, who has 0 where another has 1?"""

    def __init__(
        self, key: NDArray, bit: NDArray | None, tie: NDArray, died: NDArray[np.bool_]
    ) -> None:
        self.order = np.argsort(key, kind="stable")  # keeps the order of times
        sorted_key, sorted_tie = key[self.order], tie[self.order]
        self.counts = None if bit is None else bit[self.order] == 0
        group = np.r_[True, sorted_key[1:] != sorted_key[:-1]]
        run = group | np.r_[True, sorted_tie[1:] != sorted_tie[:-1]]
        places = np.arange(len(key))
        asks = died[self.order] if bit is None else died[self.order] & (bit[self.order] == 1)
        self.rows = np.flatnonzero(asks)
        self.target = self.order[self.rows]
        self.first = np.maximum.accumulate(np.where(group, places, 0))[self.rows]
        self.until = np.maximum.accumulate(np.where(run, places, 0))[self.rows]

    def add(self, weights: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        """Add the weight of those earlier in the order (later in time) to each event."""
        mine = weights[self.order]
        if self.counts is not None:
            mine = mine * self.counts
        sums = np.r_[0, np.cumsum(mine)]
        out[self.target] += sums[self.until] - sums[self.first]
