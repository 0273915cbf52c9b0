"""Risks by a tuned language model: every prompt is asked once, and what it rests on is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_risk.answers import AnswerStore
from sagittal_risk.prompts import LOW_MASS
from sagittal_risk.records.told import Told
from sagittal_risk.scoring import BINS, MASS_BINS, Scored
from sagittal_risk.tuned import TunedModel

TOO_LONG = "prompt too long"


class Asked(NamedTuple):
    """Answers to N prompts.

    Attributes:
        logprobs: (N, 2) float64, NaN where there was no prompt or it was too long.
        too_long: (N,) whether the prompt has more tokens than the model takes.
        computed: Prompts that the model answered, the others were there.
    """

    logprobs: NDArray[np.float64]
    too_long: NDArray[np.bool_]
    computed: int

    @property
    def risk(self) -> NDArray[np.float64]:
        """(N,) probability of the positive answer among the two."""
        no, yes = self.logprobs.T
        return 1 / (1 + np.exp(no - yes))

    @property
    def mass(self) -> NDArray[np.float64]:
        """(N,) probability that the answer is one of the two at all."""
        return np.minimum(np.exp(self.logprobs).sum(1), 1)


def ask(
    tuned: TunedModel,
    prompts: Sequence[str | None],
    store: AnswerStore,
    batch_size: int,
    step: Callable[[int], None] = lambda patients: None,
) -> Asked:
    """Answers to prompts, those of equal ones computed once and kept after every batch.

    What is not there is asked in order of length, so that little is padded. The order does not
    depend on what a killed process had done already: what is left is asked in the same batches.

    Args:
        tuned: The model.
        prompts: N texts; None: nothing to ask.
        store: Where answers are kept.
        batch_size: Prompts at a time.
        step: Told how many patients are done.
    """
    keys = [None if prompt is None else tuned.key(prompt) for prompt in prompts]
    patients = Counter(keys)
    new = {
        key: prompt
        for key, prompt in zip(keys, prompts, strict=True)
        if key is not None and prompt is not None and store.get(key) is None
    }
    lengths = {key: tuned.tokens(prompt) for key, prompt in new.items()}
    long = {key for key, length in lengths.items() if length > tuned.network.longest}
    order = sorted(lengths.keys() - long, key=lambda key: (lengths[key], key))
    done = len(keys) - sum(patients[key] for key in order)
    step(done)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        store.add(batch, tuned.answer([new[key] for key in batch]))
        done += sum(patients[key] for key in batch)
        step(done)
    none = (np.nan, np.nan)
    found = [none if key is None else store.get(key) or none for key in keys]
    too_long = np.array([key in long for key in keys], bool)
    return Asked(np.array(found, float).reshape(-1, 2), too_long, len(order))


def scored(tuned: TunedModel, told: Sequence[Told], asked: Asked) -> Scored:
    """What the model says of a part's patients, as it is written and counted."""
    risk, mass = asked.risk, asked.mass
    outside = [
        (*one.untold, *([TOO_LONG] if long else []))
        for one, long in zip(told, asked.too_long, strict=True)
    ]
    known = np.isfinite(risk)
    low = known & (mass < LOW_MASS)
    counts = {
        "risk": int(known.sum()),
        "applicable": int((known & ~low).sum()),
        "missing": sum(bool(one.missing) for one in told),
        "outside": sum(bool(one) for one in outside),
        "missing fields": dict(Counter(name for one in told for name in one.missing)),
        "outside fields": dict(Counter(name for one in outside for name in one)),
        "histogram": np.histogram(risk[known], BINS)[0].tolist(),
        "nothing known": sum(one.prompt is None and not one.untold for one in told),
        "low mass": int(low.sum()),
        "masses": np.histogram(mass[known], MASS_BINS)[0].tolist(),
    }
    return Scored(
        name=tuned.name,
        outcome=tuned.outcome,
        years=tuned.years,
        risk=risk,
        applicable=known & ~low,
        missing=_joined([one.missing for one in told]),
        outside=_joined(outside),
        counts=counts,
        mass=mass,
    )


def _joined(names: Sequence[Sequence[str]]) -> NDArray[np.object_]:
    """(N,) texts."""
    return np.array([";".join(one) for one in names], dtype=object)
