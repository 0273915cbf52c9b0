"""One event loop in a thread of its own, so that asynchronous clients work from any code.

A caller may be a script, a notebook (which runs a loop already) or one of several threads. All
connections belong to this loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")
_starting = Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def run(task: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for it; an interrupt cancels it.

    Raises:
        RuntimeError: When called from the loop itself, which would wait for ever.
    """
    loop = _loop()
    try:
        inside = asyncio.get_running_loop() is loop
    except RuntimeError:
        inside = False
    if inside:
        task.close()
        raise RuntimeError("a request waits for another on the same loop; use `await model.ask`")
    future = asyncio.run_coroutine_threadsafe(task, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; a fork has a new one, as threads do not survive it."""
    global _running
    with _starting:
        if _running is None or _running[0] != os.getpid():
            loop = asyncio.new_event_loop()
            Thread(target=loop.run_forever, name="sagittal-llm", daemon=True).start()
            _running = (os.getpid(), loop)
        return _running[1]
