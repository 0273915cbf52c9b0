"""A chat server in a process of its own that misbehaves on purpose.

``python faulty_server.py --share 0.2 --seed 0`` prints its port and serves until its input ends. Of
all exchanges the given share goes wrong, decided by the seed, the question and how often it came:
429 with Retry-After, 500, a hang, malformed JSON, a cut connection. Otherwise the answer is the
last word of the question, or that of ``--answer``; ``--logprobs`` takes a JSON object of tokens and
their probabilities, which are told where they are asked for. One thread serves all connections.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import sys
from collections import Counter

FAULTS = ("busy", "broken", "hang", "malformed", "cut")


def fault(seed: int, question: str, attempt: int, share: float) -> str | None:
    digest = hashlib.sha256(f"{seed} {question} {attempt}".encode()).digest()
    if int.from_bytes(digest[:4], "big") / 2**32 >= share:
        return None
    return FAULTS[digest[4] % len(FAULTS)]


class Server:
    def __init__(
        self, share: float, seed: int, hang: float, answer: str | None, logprobs: dict[str, float]
    ) -> None:
        self.share, self.seed, self.hang = share, seed, hang
        self.said, self.logprobs = answer, logprobs
        self.attempts: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (body := await self.request(reader)) is not None:
                if not await self.answer(json.loads(body), writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def request(reader: asyncio.StreamReader) -> bytes | None:
        head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
        if not head:
            return None
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return await reader.readexactly(length)

    async def answer(self, asked: dict, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        if asked.get("messages") is None:  # a test wants to know what was injected
            await send(writer, 200, json.dumps(self.injected))
            return True
        question = asked["messages"][-1]["content"]
        wrong = fault(self.seed, question, self.attempts[question], self.share)
        self.attempts[question] += 1
        if wrong is not None:
            self.injected[wrong] += 1
        if wrong == "busy":
            await send(writer, 429, "slow down", "Retry-After: 0.01\r\n")
        elif wrong == "broken":
            await send(writer, 500, "oops")
        elif wrong == "malformed":
            await send(writer, 200, '{"choices": [{"mess')
        elif wrong == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{")
            writer.transport.abort()
            return False
        elif wrong == "hang":
            await asyncio.sleep(self.hang)
            return False
        else:
            words = question.split()
            said = words[-1] if self.said is None else self.said
            message = {"role": "assistant", "content": said}
            usage = {"prompt_tokens": len(words), "completion_tokens": 1}
            choice: dict = {"finish_reason": "stop", "message": message}
            if asked.get("logprobs") and self.logprobs:
                told = [{"token": t, "logprob": math.log(p)} for t, p in self.logprobs.items()]
                choice["logprobs"] = {"content": [{**told[0], "top_logprobs": told}]}
            await send(writer, 200, json.dumps({"choices": [choice], "usage": usage}))
        return True


async def send(writer: asyncio.StreamWriter, status: int, text: str, headers: str = "") -> None:
    data = text.encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode())
    writer.write(data)
    await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=float, default=3600.0)
    parser.add_argument("--answer")
    parser.add_argument("--logprobs", type=json.loads, default={})
    args = parser.parse_args()
    faulty = Server(args.share, args.seed, args.hang, args.answer, args.logprobs)
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        # The parent's death ends the input, and with it this process.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
