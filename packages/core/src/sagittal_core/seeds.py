"""Counter-based seeds: every random draw is a pure function of what it is for.

A seed is a hash of the run's seed and counters such as ``(epoch, sample id, purpose)``. It does not
depend on the order of the draws, the number of workers or the number of processes, which gives
exact resume and the same data on every rank.
"""

from __future__ import annotations

import operator
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def counter_seed(run_seed: int, *counters: int | str) -> int:
    """Return the 63-bit seed of one draw.

    The value is the first eight bytes of BLAKE2b over the type-tagged, length-prefixed arguments
    (so ``("a", "bc")`` and ``("ab", "c")``, or ``1`` and ``"1"``, differ), with the sign bit
    cleared. It is the same on every platform, process and Python version.

    Args:
        run_seed: The seed of the run.
        *counters: Integers (NumPy's too) or strings, in an order fixed by the caller.

    Returns:
        An integer in ``[0, 2**63)``.

    Raises:
        TypeError: If a counter is neither an integer nor a string.
    """
    digest = blake2b(digest_size=8)
    for counter in (run_seed, *counters):
        if isinstance(counter, str):
            tag, body = b"s", counter.encode()
        else:
            tag, body = b"i", str(operator.index(counter)).encode()
        digest.update(tag + len(body).to_bytes(8, "little") + body)
    return int.from_bytes(digest.digest(), "little") >> 1


def counter_generator(run_seed: int, *counters: int | str) -> torch.Generator:
    """Return a CPU ``torch.Generator`` seeded with :func:`counter_seed` of the same arguments.

    PyTorch's CPU generator uses the low 32 bits of a seed only, so two given draws share a stream
    with probability 2**-32.
    """
    import torch

    generator = torch.Generator()
    generator.manual_seed(counter_seed(run_seed, *counters))
    return generator
