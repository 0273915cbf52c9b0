"""The interface that every language model has."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagittal_core.llm.reply import Message, Reply, Request


class ChoiceScores(NamedTuple):
    """How likely a model finds each of several continuations.

    Attributes:
        logprobs: Natural log-probability of the whole continuation, (n,) float64.
        tokens: Length of each in tokens, (n,) int64.
    """

    logprobs: NDArray[np.float64]
    tokens: NDArray[np.int64]


class LanguageModel(ABC):
    """Answers requests.

    Attributes:
        name: For people; holds no path.
        identity: All that decides its answers; part of the cache's key.
        sees_images: Whether messages may hold images.
    """

    name: str
    identity: str
    sees_images: bool = False

    @abstractmethod
    def complete(self, request: Request) -> Reply:
        """Answer one request.

        Raises:
            ConfigError: If the request cannot be put to this model at all, or its server does not
                let us in: every other request would fail alike.
        """

    async def ask(self, request: Request) -> Reply:
        """As :meth:`complete`, others going on meanwhile; by default in a thread of its own."""
        return await asyncio.to_thread(self.complete, request)

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> ChoiceScores:
        """Score each option as the assistant's whole answer.

        Raises:
            NotImplementedError: If the model gives no probabilities of given text, as chat servers
                do not.
        """
        raise NotImplementedError(f"{self.name} does not score given answers")

    def choose_many(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[str]
    ) -> list[ChoiceScores]:
        """:meth:`choose` for each of several conversations, in order."""
        return [self.choose(messages, options) for messages in conversations]

    def close(self) -> None:  # noqa: B027 - most models hold nothing open
        """Give connections back; the next request opens new ones."""
