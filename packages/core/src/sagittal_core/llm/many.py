"""Many requests to one model: several under way at once, each answered once, across kills.

Answers are appended to ``answers.jsonl`` as they come, one JSON object a line. A line that a kill
cut short is dropped. The same call again asks only what has no answer yet, which includes requests
that failed in transport; a request that changed under its key is an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm.base import LanguageModel
from sagittal_core.llm.loop import run
from sagittal_core.llm.reply import Reply, Request, reply_from

FILE = "answers.jsonl"


class TooManyFailures(ConfigError):
    """So many requests in a row failed in transport that the server counts as down."""


@dataclass(frozen=True)
class Prices:
    """What a provider asks for.

    Attributes:
        input_per_million: For a million tokens of prompts.
        output_per_million: For a million tokens of answers.
        currency: Of both.
    """

    input_per_million: float
    output_per_million: float
    currency: str = "USD"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of tokens that were used."""
        return (
            prompt_tokens * self.input_per_million + completion_tokens * self.output_per_million
        ) / 1e6


@dataclass
class Tally:
    """What a call of :func:`answer_many` did.

    Attributes:
        outcomes: Requests by outcome, over all that were asked for, earlier calls included.
        earlier: Requests that an earlier call had answered.
        cached: Of those asked now, how many the cache answered.
        sent: Of those asked now, how many the model answered or failed to.
        prompt_tokens: Of the answers that came from the model now, as it told.
        completion_tokens: As ``prompt_tokens``.
        without_usage: Answers whose length the model did not tell; the cost leaves them out.
        seconds: Of the call.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    earlier: int = 0
    cached: int = 0
    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    seconds: float = 0.0

    def cost(self, prices: Prices) -> float:
        """Price of what this call used, from the usage that the model told."""
        return prices.cost(self.prompt_tokens, self.completion_tokens)

    @property
    def cache_hit_rate(self) -> float:
        """Share of the requests asked now that the cache answered."""
        return self.cached / max(1, self.cached + self.sent)

    def __str__(self) -> str:
        asked = self.cached + self.sent
        parts = [f"{n} {name.replace('_', ' ')}" for name, n in sorted(self.outcomes.items())]
        rate = f"{asked / self.seconds:.1f} a second" if self.seconds > 0 else "at once"
        return (
            f"{sum(self.outcomes.values())} requests: {', '.join(parts) or 'none'}; {self.earlier} "
            f"answered earlier, {asked} now ({rate}, {100 * self.cache_hit_rate:.1f} % from the"
            f" cache); {self.prompt_tokens} + {self.completion_tokens} tokens"
            + (f", {self.without_usage} answers without usage" if self.without_usage else "")
        )


def answer_many(
    model: LanguageModel,
    requests: Iterable[tuple[str, Request]],
    folder: str | Path,
    *,
    concurrency: int = 8,
    stop_after: int = 50,
    fresh: bool = False,
    progress: bool = True,
) -> Tally:
    """Answer requests and keep each answer in ``folder``.

    Args:
        model: Whom to ask; a :class:`~sagittal_core.llm.CachedModel` asks its cache first.
        requests: (key, request) pairs; taken one by one, so they need not fit in memory.
        folder: Holds ``answers.jsonl``; :func:`read_answers` reads it.
        concurrency: Requests under way at a time; 1 for a model on this machine.
        stop_after: Requests in a row that may fail in transport.
        fresh: Forget the answers of earlier calls.
        progress: Show a bar on the terminal.

    Returns:
        Counts, tokens and time; every request ends in exactly one outcome.

    Raises:
        TooManyFailures: The server is down. What was answered is kept; the same call goes on.
        ConfigError: The folder holds an answer to another request under the same key, or another
            process works in it, or the server does not let us in.
        DataError: A key occurs twice, or the file of answers is damaged.
    """
    if concurrency < 1 or stop_after < 1:
        raise ConfigError("llm: concurrency and stop_after must be at least 1")
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another process is writing into {home}") from None
    try:
        file = home / FILE
        if fresh:
            file.unlink(missing_ok=True)
        done = {key: (entry["request"], entry["outcome"]) for key, entry in _entries(file)}
        with file.open("ab") as opened:
            work = _Work(model, opened, done, stop_after, _bar(progress))
            try:
                run(work.all(requests, concurrency))
            finally:
                os.fsync(opened.fileno())
                work.close()
        return work.tally
    finally:
        lock.release()


def read_answers(folder: str | Path) -> Iterator[tuple[str, Reply]]:
    """Yield (key, reply) of a folder of :func:`answer_many`, each key once, in order of its first.

    Raises:
        DataError: The file is missing or damaged.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise DataError(file, key="path", expected="a file of answers", found="no such file")
    latest = dict(_entries(file))
    for key, entry in latest.items():
        yield key, reply_from(entry["reply"])


class _Work:
    """The state that the workers of one call share; only the loop's thread touches it."""

    def __init__(
        self,
        model: LanguageModel,
        file: BinaryIO,
        done: dict[str, tuple[str, str]],
        stop_after: int,
        bar: Any,
    ) -> None:
        self.model, self.file, self.done, self.bar = model, file, done, bar
        self.stop_after, self.failures = stop_after, 0
        self.tally, self.seen = Tally(), set[str]()
        self.begun = time.monotonic()

    async def all(self, requests: Iterable[tuple[str, Request]], concurrency: int) -> None:
        source = iter(requests)
        workers = [asyncio.create_task(self._worker(source)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.tally.seconds = time.monotonic() - self.begun

    async def _worker(self, source: Iterator[tuple[str, Request]]) -> None:
        # Workers share the iterator: a request is taken by whoever is free.
        for key, request in source:
            if key in self.seen:
                raise DataError("requests", key=key, expected="every key once", found="twice")
            self.seen.add(key)
            digest = request.key(self.model.identity)[:32]
            before, outcome = self.done.get(key, (digest, "transport"))
            if before != digest:
                raise ConfigError(
                    f"llm: {key!r} was answered for another request or model; give fresh=True to"
                    " forget earlier answers, or another folder"
                )
            if outcome == "transport":
                self._keep(key, digest, await self.model.ask(request))
            else:
                self.tally.earlier += 1
                self.tally.outcomes[outcome] += 1
                self.bar.advance()
                await asyncio.sleep(0)  # a long stretch of these must not starve the others

    def _keep(self, key: str, digest: str, reply: Reply) -> None:
        entry = {
            "key": key,
            "request": digest,
            "outcome": reply.outcome,
            "reply": asdict(replace(reply, cached=False)),
        }
        self.file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
        self.file.flush()
        tally = self.tally
        tally.outcomes[reply.outcome] += 1
        if reply.cached:
            tally.cached += 1
        else:
            tally.sent += 1
            if reply.prompt_tokens is None or reply.completion_tokens is None:
                tally.without_usage += reply.outcome != "transport"
            else:
                tally.prompt_tokens += reply.prompt_tokens
                tally.completion_tokens += reply.completion_tokens
        self.bar.advance()
        self.failures = self.failures + 1 if reply.outcome == "transport" else 0
        if self.failures >= self.stop_after:
            raise TooManyFailures(
                f"llm: the last {self.failures} requests got no answer from {self.model.name}"
                f" ({reply.detail}); what was answered is kept, the same command goes on"
            )

    def close(self) -> None:
        self.bar.close()


class _Bar:
    """A count on the terminal; the total is not known, as requests come from an iterator."""

    def __init__(self) -> None:
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

        self._progress = Progress(SpinnerColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._task = self._progress.add_task("requests", total=None)
        self._progress.start()

    def advance(self) -> None:
        self._progress.advance(self._task)

    def close(self) -> None:
        self._progress.stop()


class _NoBar:
    def advance(self) -> None:
        pass

    def close(self) -> None:
        pass


def _bar(wanted: bool) -> _Bar | _NoBar:
    return _Bar() if wanted else _NoBar()


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, entry) of each whole line; what a kill left of a last line is cut off the file."""
    if not file.is_file():
        return
    with file.open("r+b") as opened:
        end = 0
        for number, line in enumerate(opened, 1):
            if not line.endswith(b"\n"):
                opened.truncate(end)
                return
            end += len(line)
            try:
                entry = json.loads(line)
                yield str(entry["key"]), entry
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    file, key=f"line {number}", expected="an answer", found=repr(line[:60])
                ) from None
