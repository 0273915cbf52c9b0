"""Many requests against a server process that misbehaves on purpose: one outcome each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm import (
    CachedModel,
    Clock,
    LanguageModel,
    Message,
    OpenAIChat,
    Prices,
    RateLimit,
    Reply,
    ReplyCache,
    Request,
    TooManyFailures,
    answer_many,
    read_answers,
)
from sagittal_core.llm.loop import run
from sagittal_core.llm.many import FILE

SERVER = Path(__file__).parent / "faulty_server.py"


def ask(number: int) -> tuple[str, Request]:
    return f"patient-{number}", Request((Message("user", f"repeat {number}"),), max_tokens=4)


@contextmanager
def faulty(share: float, *, seed: int = 0) -> Iterator[str]:
    command = [sys.executable, str(SERVER), "--share", str(share), "--seed", str(seed)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Counting(LanguageModel):
    """Answers at once, or fails for some keys."""

    name = identity = "counting"

    def __init__(self, failing: range = range(0)) -> None:
        self.asked: list[str] = []
        self.failing = {f"repeat {number}" for number in failing}
        self.lock = threading.Lock()

    def complete(self, request: Request) -> Reply:
        text = request.messages[-1].text
        with self.lock:
            self.asked.append(text)
        if text in self.failing:
            return Reply("transport", "", self.name, detail="HTTP 500")
        return Reply("ok", text.split()[-1], self.name, 2, 1)


def test_a_fifth_of_the_exchanges_goes_wrong_and_every_request_has_one_outcome(
    tmp_path: Path,
) -> None:
    with faulty(0.2) as url:
        model = OpenAIChat(url, "tiny", timeout=0.3, attempts=8, backoff=0.001)
        tally = answer_many(model, map(ask, range(300)), tmp_path, concurrency=64, progress=False)
        model.close()
    answers = dict(read_answers(tmp_path))
    assert tally.outcomes == {"ok": 300}
    assert {key: reply.text for key, reply in answers.items()} == {
        f"patient-{n}": str(n) for n in range(300)
    }
    assert len((tmp_path / FILE).read_text().splitlines()) == 300
    assert tally.prompt_tokens == 600
    assert tally.cost(Prices(1.0, 10.0)) == pytest.approx((600 + 300 * 10) / 1e6)


def test_what_never_arrives_is_transport_and_asked_again_next_time(tmp_path: Path) -> None:
    model = Counting(failing=range(3, 5))
    tally = answer_many(model, map(ask, range(9)), tmp_path, concurrency=2, progress=False)
    assert tally.outcomes == {"ok": 7, "transport": 2}
    better = Counting()
    tally = answer_many(better, map(ask, range(9)), tmp_path, concurrency=2, progress=False)
    assert sorted(better.asked) == ["repeat 3", "repeat 4"]
    assert (tally.outcomes, tally.earlier, tally.sent) == ({"ok": 9}, 7, 2)
    assert [reply.text for _, reply in sorted(read_answers(tmp_path))] == [str(n) for n in range(9)]


def test_a_server_that_is_down_ends_the_call_and_keeps_what_there_is(tmp_path: Path) -> None:
    model = Counting(failing=range(5, 1000))
    with pytest.raises(TooManyFailures, match="the last 10 requests"):
        answer_many(
            model, map(ask, range(1000)), tmp_path, concurrency=1, stop_after=10, progress=False
        )
    assert len(model.asked) == 15
    assert sum(reply.ok for _, reply in read_answers(tmp_path)) == 5


def test_a_killed_call_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_llm_many import Counting, ask
from sagittal_core.llm import answer_many
class Dying(Counting):
    def complete(self, request):
        if len(self.asked) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().complete(request)
answer_many(Dying(), map(ask, range(50)), {str(tmp_path)!r}, concurrency=1, progress=False)
"""
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ.copy())
    assert ended.returncode == -signal.SIGKILL
    with (tmp_path / FILE).open("ab") as opened:
        opened.write(b'{"key": "patient-20", "requ')  # what a kill inside a write leaves
    model = Counting()
    tally = answer_many(model, map(ask, range(50)), tmp_path, progress=False)
    assert sorted(model.asked, key=len) == sorted((f"repeat {n}" for n in range(20, 50)), key=len)
    assert tally.earlier == 20
    keys = [json.loads(line)["key"] for line in (tmp_path / FILE).read_text().splitlines()]
    assert sorted(keys) == sorted(f"patient-{n}" for n in range(50))


def test_the_cache_answers_first_and_its_rate_is_told(tmp_path: Path) -> None:
    model = Counting()
    for folder in ("a", "b"):
        cached = CachedModel(model, ReplyCache(tmp_path / "cache"))
        tally = answer_many(cached, map(ask, range(8)), tmp_path / folder, progress=False)
    assert len(model.asked) == 8
    assert tally.cache_hit_rate == 1.0
    assert "100.0 % from the cache" in str(tally)
    assert tally.prompt_tokens == 0  # nothing was used


@pytest.mark.parametrize("other", ["another prompt", "another model"])
def test_a_key_that_means_something_else_is_an_error(tmp_path: Path, other: str) -> None:
    answer_many(Counting(), [ask(1)], tmp_path, progress=False)
    model, (key, request) = Counting(), ask(1)
    if other == "another model":
        model.identity = "other"
    else:
        request = ask(2)[1]
    with pytest.raises(ConfigError, match=r"patient-1.*another request or model"):
        answer_many(model, [(key, request)], tmp_path, progress=False)
    answer_many(model, [(key, request)], tmp_path, fresh=True, progress=False)


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="patient-1"):
        answer_many(Counting(), [ask(1), ask(1)], tmp_path, progress=False)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("what\n")
    with pytest.raises(DataError, match="line 1"):
        answer_many(Counting(), [ask(1)], tmp_path, progress=False)


def test_requests_are_taken_one_by_one(tmp_path: Path) -> None:
    model, ahead = Counting(), []

    def source() -> Iterator[tuple[str, Request]]:
        for number in range(100):
            ahead.append(number - len(model.asked))
            yield ask(number)

    answer_many(model, source(), tmp_path, concurrency=4, progress=False)
    assert max(ahead) <= 4


class Fake(Clock):
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_the_buckets_hold_the_rate_after_a_burst() -> None:
    limit, clock, moments = RateLimit(requests_per_minute=60), Fake(), []

    async def all_of_them() -> None:
        for _ in range(100):
            await limit.wait(0, clock)
            moments.append(clock.time - 100.0)

    run(all_of_them())
    assert moments[:10] == [0.0] * 10  # ten seconds' worth at once
    assert moments[-1] == pytest.approx(89.0)  # then one a second


def test_tokens_that_were_not_used_are_given_back() -> None:
    def after(completion: int) -> float:
        limit, clock = RateLimit(tokens_per_minute=600), Fake()

        async def two() -> None:
            request = Request((Message("user", "x" * 400),), max_tokens=900)
            planned = limit.planned(request)
            assert planned == 1000
            await limit.wait(planned, clock)
            limit.used(planned, Reply("ok", "y", "m", 100, completion))
            await limit.wait(planned, clock)

        run(two())
        return clock.time - 100.0

    assert after(900) == pytest.approx(90.0)  # 1,000 tokens at 10 a second, but for the burst
    assert after(10) == pytest.approx(1.0)


def test_the_first_request_never_waits() -> None:
    limit, clock = RateLimit(requests_per_minute=1, tokens_per_minute=1), Fake()
    run(limit.wait(1000, clock))
    assert clock.time == 100.0


def test_one_request_cannot_wait_for_another_on_the_same_loop() -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        return run(inner())

    with pytest.raises(RuntimeError, match="await"):
        run(outer())
    assert run(inner()) == 1


def test_a_call_inside_a_running_loop_works(tmp_path: Path) -> None:
    """A notebook runs a loop of its own."""
    import asyncio

    async def cell() -> int:
        return answer_many(Counting(), [ask(1)], tmp_path, progress=False).sent

    assert asyncio.run(cell()) == 1
