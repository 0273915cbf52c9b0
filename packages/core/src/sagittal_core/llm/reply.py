"""What is asked of a language model, and what came of it: plain frozen values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

Outcome = Literal["ok", "refusal", "truncated", "parse_failure", "transport"]
Role = Literal["system", "user", "assistant"]
T = TypeVar("T")

# What a model declines is a task, not a finding: "I cannot see a pneumothorax" is an answer.
_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|as an ai|i (can['’]?t|cannot)"
    r"|i['’]?m (unable|not able)|i am (unable|not able))\b[^.!?\n]{0,80}?"
    r"\b(assist|help|comply|fulfil|fulfill|answer|provide|give medical advice|with that request)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        text: What is said.
        images: PNG files as bytes, shown before the text.
    """

    role: Role
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Request:
    """All that decides an answer, apart from the model.

    Attributes:
        messages: The conversation so far.
        max_tokens: Of the answer.
        temperature: 0 is greedy.
        seed: Of the sampling, where the model can be seeded.
        sample: Number of the draw, so that several answers to one prompt are told apart.
        top_logprobs: Candidates for the first token that the reply shall tell, 0 to 20.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    sample: int = 0
    top_logprobs: int = 0

    def described(self) -> dict[str, Any]:
        """Plain values, with the SHA-256 of every image in its place."""
        return {
            "messages": [
                {
                    "role": message.role,
                    "text": message.text,
                    "images": [hashlib.sha256(image).hexdigest() for image in message.images],
                }
                for message in self.messages
            ],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "sample": self.sample,
            "top_logprobs": self.top_logprobs,
        }

    def key(self, identity: str) -> str:
        """SHA-256 of the request and the identity of the model, 64 hexadecimal digits."""
        text = json.dumps({"model": identity, **self.described()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        outcome: ``ok``; ``refusal``: the model or its server declined; ``truncated``: the answer
            hit ``max_tokens``; ``parse_failure``: there is an answer, but it cannot be read;
            ``transport``: there is no answer (network, server, or a prompt longer than the model
            takes).
        text: The answer, whole or as far as it came; empty without one.
        model: Name of the model that answered.
        prompt_tokens: Length of the prompt, if known.
        completion_tokens: Length of the answer, if known.
        cached: Whether it was read from the cache.
        detail: Why the outcome is not ``ok``. Holds nothing of the prompt.
        first_token: Candidates for the first token of the answer with their natural
            log-probabilities, where they were asked for and the model tells them.
    """

    outcome: Outcome
    text: str
    model: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached: bool = False
    detail: str = ""
    first_token: tuple[tuple[str, float], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the answer is whole and readable so far."""
        return self.outcome == "ok"


def reply_from(stored: Mapping[str, Any], *, cached: bool = False) -> Reply:
    """A reply that was kept as JSON.

    Raises:
        TypeError: If a field is missing or unknown.
    """
    first = tuple((str(token), float(value)) for token, value in stored.get("first_token", ()))
    return Reply(**{**stored, "cached": cached, "first_token": first})


def parse(reply: Reply, reader: Callable[[str], T]) -> tuple[T | None, Reply]:
    """Read the text of an answer.

    Args:
        reply: Of a model; if it is not ``ok`` nothing is read.
        reader: Turns text into a value; raises ValueError where it cannot.

    Returns:
        The value or None, and the reply, whose outcome is ``parse_failure`` if reading failed.
    """
    if not reply.ok:
        return None, reply
    try:
        return reader(reply.text), reply
    except ValueError as error:
        return None, replace(reply, outcome="parse_failure", detail=str(error))


def is_refusal(text: str) -> bool:
    """Say whether an answer declines the task in its first sentence."""
    return bool(_REFUSAL.match(text))


def judged(reply: Reply) -> Reply:
    """Turn an ``ok`` into what its text says it is: a refusal, or nothing that could be read."""
    if not reply.ok:
        return reply
    if not reply.text.strip():
        return replace(reply, outcome="parse_failure", detail="the answer is empty")
    if is_refusal(reply.text):
        return replace(reply, outcome="refusal", detail="the answer declines")
    return reply
