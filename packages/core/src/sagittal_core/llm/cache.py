"""Answers on disk, found by the content of the question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock

from sagittal_core.llm.base import ChoiceScores, LanguageModel
from sagittal_core.llm.reply import Message, Reply, Request, reply_from
from sagittal_core.run_folder import write_atomically


class ReplyCache:
    """One small JSON file an answer, written in one step: threads and processes may share a folder.

    The file holds the text of the prompt, so that it can be read later what was asked, and hashes
    of its images. Answers that never arrived are not kept.

    Args:
        folder: Made on the first write.

    Attributes:
        hits: Requests answered from disk by this object.
        misses: Requests that were not there, damaged entries included.
        damaged: Entries that could not be read; they are asked for and written again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.hits = self.misses = self.damaged = 0
        self._writing = Lock()

    @property
    def hit_rate(self) -> float:
        """Share of the requests so far that were answered from disk; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)

    def get(self, request: Request, identity: str) -> Reply | None:
        """The stored answer, or None."""
        try:
            entry = json.loads(self._file(request.key(identity)).read_text(encoding="utf-8"))
            reply = reply_from(entry["reply"], cached=True)
        except FileNotFoundError:
            self.misses += 1
            return None
        except (ValueError, KeyError, TypeError):
            self.misses += 1
            self.damaged += 1
            return None
        self.hits += 1
        return reply

    def put(self, request: Request, identity: str, reply: Reply) -> None:
        """Keep an answer, unless it never arrived."""
        if reply.outcome == "transport":
            return
        file = self._file(request.key(identity))
        entry = {"request": request.described(), "reply": asdict(replace(reply, cached=False))}
        # The temporary file carries the process's number: threads take turns.
        with self._writing:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(entry, ensure_ascii=False, indent=1))

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class CachedModel(LanguageModel):
    """A model that asks the cache first.

    Args:
        model: Answers what is not there.
        cache: Where answers are kept.
    """

    def __init__(self, model: LanguageModel, cache: ReplyCache) -> None:
        self.model, self.cache = model, cache
        self.name, self.identity = model.name, model.identity
        self.sees_images = model.sees_images

    def complete(self, request: Request) -> Reply:
        """Answer one request from disk or from the model."""
        found = self.cache.get(request, self.identity)
        if found is not None:
            return found
        reply = self.model.complete(request)
        self.cache.put(request, self.identity, reply)
        return reply

    async def ask(self, request: Request) -> Reply:
        """Answer one request from disk or from the model, others going on meanwhile."""
        found = self.cache.get(request, self.identity)
        if found is not None:
            return found
        reply = await self.model.ask(request)
        self.cache.put(request, self.identity, reply)
        return reply

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> ChoiceScores:
        """Score options; these are not cached."""
        return self.model.choose(messages, options)

    def close(self) -> None:
        """Close the model."""
        self.model.close()
