"""How fast a server may be asked: a token bucket for requests and one for tokens."""

from __future__ import annotations

from typing import Protocol

from sagittal_core.errors import ConfigError
from sagittal_core.llm.reply import Reply, Request

_BURST = 10.0  # seconds of the limit that may be spent at once after a pause
_CHARACTERS = 4  # of English text a token, for planning; the true number is settled afterwards


class Time(Protocol):
    """Tells the time and waits."""

    def now(self) -> float:
        """Seconds from some fixed moment."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class RateLimit:
    """Two buckets that fill evenly; a request waits until both have paid for those before it.

    What a request will take is planned from the length of its prompt and ``max_tokens``, and what
    it took in fact is settled when its reply tells. Requests wait in the order of their coming.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: Prompt and answer together; None: no limit.

    Raises:
        ConfigError: If a limit is not positive.
    """

    def __init__(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        given = (requests_per_minute, tokens_per_minute)
        if any(limit is not None and limit <= 0 for limit in given):
            raise ConfigError("llm: requests_per_minute and tokens_per_minute must be positive")
        self._rates = [None if limit is None else limit / 60 for limit in given]
        self._debts = [0.0, 0.0]  # requests and tokens taken that time has not paid yet
        self._at: float | None = None
        self._held = 0.0

    def planned(self, request: Request) -> int:
        """Tokens that a request will take at most, roughly."""
        text = sum(len(message.text) for message in request.messages)
        return text // _CHARACTERS + request.max_tokens

    async def wait(self, tokens: int, clock: Time) -> None:
        """Wait until what earlier requests took is paid, up to the burst; take one's own share."""
        now = clock.now()
        self._fill(now)
        seconds = max(0.0, self._held - now)
        for index, taken in enumerate((1, tokens)):
            rate = self._rates[index]
            if rate is not None:
                # Taken at once: later requests see the debt and queue behind it.
                seconds = max(seconds, self._debts[index] / rate - _BURST)
                self._debts[index] += taken
        if seconds > 0:
            await clock.sleep(seconds)

    def used(self, planned: int, reply: Reply) -> None:
        """Settle what a request took in fact, where the reply tells."""
        if reply.prompt_tokens is not None and reply.completion_tokens is not None:
            took = reply.prompt_tokens + reply.completion_tokens
            self._debts[1] = max(0.0, self._debts[1] + took - planned)

    def hold(self, until: float) -> None:
        """Send nothing before a moment of the clock: the server asked to wait."""
        self._held = max(self._held, until)

    def _fill(self, now: float) -> None:
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        for index, rate in enumerate(self._rates):
            if rate is not None:
                self._debts[index] = max(0.0, self._debts[index] - passed * rate)
