"""A client of servers that speak OpenAI's chat protocol: vLLM, SGLang, llama.cpp, Ollama, ..."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sagittal_core.errors import ConfigError
from sagittal_core.llm.base import LanguageModel
from sagittal_core.llm.limits import RateLimit
from sagittal_core.llm.loop import run
from sagittal_core.llm.reply import Message, Reply, Request, judged
from sagittal_core.seeds import counter_seed

if TYPE_CHECKING:
    import httpx

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_NO_ENTRY = {401: "the key is refused", 403: "access is refused", 404: "no such model or address"}
_LONGEST_WAIT = 60.0  # seconds, whatever Retry-After asks for


class Clock:
    """Tells the time and waits. A test passes one that does not wait."""

    def now(self) -> float:
        """Seconds from some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; other requests go on meanwhile."""
        await asyncio.sleep(seconds)


class OpenAIChat(LanguageModel):
    """A model behind ``POST {base_url}/chat/completions``.

    A request is sent again, with growing and jittered pauses, after a lost connection, a timeout, a
    busy or failing server, or a body that is no such answer; never after another refusal of the
    server. Redirects are not followed.

    Args:
        base_url: Up to and with the version, such as ``http://localhost:8000/v1``.
        model: Name that the server knows it by.
        api_key_env: Environment variable that holds the key; None: no key is sent. The key itself
            belongs in no file.
        allow_remote: Prompts hold metadata and images of patients, so a server that is not on this
            machine has to be allowed.
        sees_images: Whether the model takes images.
        timeout: Seconds for connecting, and for every wait for data.
        attempts: Times a request is sent at most.
        longest: Seconds after which a request that failed is not sent again.
        backoff: Seconds of the first pause, doubled for each further one.
        requests_per_minute: Not more than these are sent, whatever the concurrency; None: no limit.
        tokens_per_minute: Not more tokens, prompt and answer together; None: no limit.
        max_tokens_field: Newer servers of OpenAI want ``max_completion_tokens``.
        extra_body: Further fields of the body, such as a server's own sampling options.
        clock: Waits; None: really.

    Raises:
        ConfigError: If the address is none, is remote without leave, or the variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        allow_remote: bool = False,
        sees_images: bool = False,
        timeout: float = 120.0,
        attempts: int = 4,
        longest: float = 600.0,
        backoff: float = 1.0,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_tokens_field: str = "max_tokens",
        extra_body: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("llm: base_url must look like http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError("llm: base_url must hold no key or password; use api_key_env")
        if not allow_remote and not _is_this_machine(parts.hostname):
            raise ConfigError(
                f"llm: {parts.hostname} is another machine, and prompts hold data of patients; set"
                " allow_remote: true if they may go there"
            )
        if attempts < 1 or min(timeout, longest) <= 0 or backoff < 0:
            raise ConfigError(
                "llm: attempts, timeout and longest must be positive, backoff not negative"
            )
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ConfigError(f"llm: the environment variable {api_key_env} is not set")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.name, self.sees_images = model, sees_images
        self.api_key_env, self.timeout, self.attempts = api_key_env, timeout, attempts
        self.longest, self.backoff, self.max_tokens_field = longest, backoff, max_tokens_field
        self.extra_body = dict(extra_body or {})
        self.clock = clock or Clock()
        self._limit = RateLimit(requests_per_minute, tokens_per_minute)
        self.identity = repr((self.url, model, sorted(self.extra_body.items())))
        self._client: httpx.AsyncClient | None = None

    def complete(self, request: Request) -> Reply:
        """Answer one request; see the class."""
        return run(self.ask(request))

    async def ask(self, request: Request) -> Reply:
        """Answer one request, others going on meanwhile."""
        if not self.sees_images and any(message.images for message in request.messages):
            raise ConfigError(f"llm: {self.name} takes no images (sees_images)")
        body = self._body(request)
        reply, end = self._transport("not sent"), self.clock.now() + self.longest
        for attempt in range(self.attempts):
            planned = self._limit.planned(request)
            await self._limit.wait(planned, self.clock)
            reply, wait = await self._once(body)
            self._limit.used(planned, reply)
            if wait is None:
                break
            if wait:  # the server wants everybody to wait
                self._limit.hold(self.clock.now() + wait)
            pause = max(wait, self._pause(request, attempt))
            if attempt + 1 == self.attempts or self.clock.now() + pause > end:
                break
            await self.clock.sleep(pause)
        return judged(reply)

    def _pause(self, request: Request, attempt: int) -> float:
        """Between half and the whole of ``backoff * 2**attempt`` seconds, by the request."""
        part = counter_seed(request.seed, request.key(self.identity), attempt) / 2**63
        return min(_LONGEST_WAIT, self.backoff * 2**attempt) * (0.5 + 0.5 * part)

    def _body(self, request: Request) -> dict[str, Any]:
        alternatives: dict[str, Any] = {}
        if request.top_logprobs:
            alternatives = {"logprobs": True, "top_logprobs": request.top_logprobs}
        return {
            "model": self.name,
            "messages": [_message(message) for message in request.messages],
            "temperature": request.temperature,
            "seed": counter_seed(request.seed, request.sample) % 2**31,
            self.max_tokens_field: request.max_tokens,
            **alternatives,
            **self.extra_body,
        }

    async def _once(self, body: dict[str, Any]) -> tuple[Reply, float | None]:
        """One exchange: the reply, and the least wait before another try; None: no other try."""
        import httpx

        try:
            response = await self._connection().post(self.url, json=body, headers=self._headers())
        except httpx.TransportError as error:
            # The class only: messages of the library may quote the address or a header.
            return self._transport(type(error).__name__), 0.0
        status = response.status_code
        if status in _NO_ENTRY:
            raise ConfigError(
                f"llm: HTTP {status} from the server of {self.name}: {_NO_ENTRY[status]}"
            )
        if status in _AGAIN:
            return self._transport(f"HTTP {status}"), _retry_after(response)
        if status != 200:
            if "content_filter" in response.text:
                return Reply("refusal", "", self.name, detail=f"HTTP {status}: filtered"), None
            return self._transport(f"HTTP {status}"), None
        try:
            return self._read(response.json()), None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return self._transport(f"no chat completion: {type(error).__name__}"), 0.0

    def _read(self, answer: Any) -> Reply:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        usage = answer.get("usage") or {}
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        model = str(answer.get("model") or self.name)
        first = _first_token(choice)
        if message.get("refusal") or reason == "content_filter":
            return Reply("refusal", text, model, *counts, detail=reason or "refusal")
        if reason == "length":
            return Reply(
                "truncated", text, model, *counts, detail="hit max_tokens", first_token=first
            )
        return Reply("ok", text, model, *counts, first_token=first)

    def _transport(self, detail: str) -> Reply:
        return Reply("transport", "", self.name, detail=detail)

    def _headers(self) -> dict[str, str]:
        # Read at every request and kept nowhere, so that no repr or pickle holds it.
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _connection(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # How many requests are under way is the caller's choice, not the pool's.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(
                timeout=self.timeout, follow_redirects=False, limits=limits
            )
        return self._client

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            run(client.aclose())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connections out."""
        return {**vars(self), "_client": None}


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts: list[dict[str, Any]] = [
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()},
        }
        for image in message.images
    ]
    return {"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]}


def _first_token(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Candidates for the answer's first token with their log-probabilities, if they were sent."""
    content = (choice.get("logprobs") or {}).get("content") or []
    if not content:
        return ()
    listed = content[0].get("top_logprobs") or [content[0]]
    return tuple((str(entry["token"]), float(entry["logprob"])) for entry in listed)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks for; 0 without a number."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(response.headers.get("Retry-After", 0))))
    except ValueError:
        return 0.0
