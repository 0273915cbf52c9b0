"""Work on many items in several processes, whose results come as they are done."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from sagittal_core.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


def outcomes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, verb: str
) -> Iterator[tuple[Item, Result]]:
    """Yield every item with what the function made of it, in the order in which they finish.

    Args:
        function: One that can be pickled, as must be items and results.
        items: What to work on.
        workers: Processes; below 1, or with a single item, the work is done in this one and in the
            order of the items.
        verb: Of the command, for messages.

    Raises:
        ConfigError: If a process was killed.
        Exception: Whatever the function raises.
    """
    if workers < 1 or len(items) < 2:
        for item in items:
            yield item, function(item)
        return
    # Not fork: the parent may hold threads (progress bar, BLAS).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, _die_with_parent) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ConfigError(
                f"{verb}: a worker process was killed, perhaps for lack of memory; the same command"
                " goes on, with a smaller workers if need be"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent() -> None:
    """End a worker whose parent was killed: it must not write beside the next attempt."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
