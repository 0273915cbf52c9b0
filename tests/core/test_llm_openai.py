"""The client against a real server on loopback: outcomes, retries without waiting, no leaks."""

from __future__ import annotations

import base64
import importlib.util
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagittal_core.errors import ConfigError
from sagittal_core.llm import Clock, Message, OpenAIChat, Request, parse

_spec = importlib.util.spec_from_file_location(
    "chat_server", Path(__file__).parent / "chat_server.py"
)
chat_server = importlib.util.module_from_spec(_spec)
sys.modules["chat_server"] = chat_server
_spec.loader.exec_module(chat_server)
completion = chat_server.completion

ASK = Request((Message("system", "Be short."), Message("user", "Which organ?")), max_tokens=9)


class Waits(Clock):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def now(self) -> float:
        return sum(self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with chat_server.serving() as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[OpenAIChat]:
    made = OpenAIChat(server.url, "tiny", clock=Waits(), timeout=5)
    yield made
    made.close()


def test_an_answer_with_its_usage(server: Any, client: OpenAIChat) -> None:
    server.answers = [completion("liver")]
    reply = client.complete(ASK)
    assert (reply.outcome, reply.text, reply.model) == ("ok", "liver", "served")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached) == (7, 3, False)
    sent = server.received[0]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["model"] == "tiny"
    assert sent["max_tokens"] == 9
    assert [m["content"] for m in sent["messages"]] == ["Be short.", "Which organ?"]


def test_images_are_sent_as_png_parts_before_the_text(server: Any) -> None:
    server.answers = [completion("spleen")]
    client = OpenAIChat(server.url, "tiny", sees_images=True, clock=Waits())
    client.complete(Request((Message("user", "What?", images=(b"png one", b"png two")),)))
    client.close()
    parts = server.received[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    head, _, data = parts[1]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == b"png two"


def test_images_are_refused_where_the_model_takes_none(client: OpenAIChat) -> None:
    with pytest.raises(ConfigError, match="takes no images"):
        client.complete(Request((Message("user", "What?", images=(b"x",)),)))


def test_a_busy_server_is_asked_again_after_what_it_wants(server: Any, client: OpenAIChat) -> None:
    server.answers = [(429, "slow down", {"Retry-After": "7"}), completion("liver")]
    assert client.complete(ASK).text == "liver"
    assert client.clock.seconds == [7.0]


def test_failures_are_capped_and_pauses_grow_with_jitter(server: Any, client: OpenAIChat) -> None:
    server.answers = [(500, "oops", {})]
    reply = client.complete(ASK)
    assert (reply.outcome, reply.detail) == ("transport", "HTTP 500")
    assert len(server.received) == 4
    for number, seconds in enumerate(client.clock.seconds):
        assert 0.5 * 2**number <= seconds <= 2**number
    assert len({s / 2**n for n, s in enumerate(client.clock.seconds)}) == 3


@pytest.mark.parametrize(
    "answer",
    ["cut", (200, "{not json", {}), (200, {"choices": []}, {}), (200, "[]", {}), (200, "null", {})],
)
def test_what_is_no_answer_is_transport_and_tried_again(
    server: Any, client: OpenAIChat, answer: Any
) -> None:
    server.answers = [answer, completion("liver")]
    assert client.complete(ASK).text == "liver"
    server.answers = [answer]
    reply = client.complete(ASK)
    assert reply.outcome == "transport"
    assert reply.detail
    assert len(server.received) == 2 + 4


def test_nobody_listening_is_transport() -> None:
    with chat_server.serving() as gone:
        url = gone.url
    client = OpenAIChat(url, "tiny", clock=Waits(), attempts=2)
    reply = client.complete(ASK)
    assert (reply.outcome, reply.detail) == ("transport", "ConnectError")
    assert len(client.clock.seconds) == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (completion("liv", "length"), "truncated"),
        (completion("", "content_filter"), "refusal"),
        (completion(None, refusal="no"), "refusal"),
        (completion("I'm sorry, but I can't assist with that request."), "refusal"),
        (completion("I cannot see a pneumothorax."), "ok"),
        (completion(""), "parse_failure"),
        ((400, '{"error": {"code": "content_filter"}}', {}), "refusal"),
        ((400, '{"error": "prompt too long"}', {}), "transport"),
        ((302, "", {"Location": "http://127.0.0.1:1/"}), "transport"),
    ],
)
def test_outcomes_that_are_not_asked_again(
    server: Any, client: OpenAIChat, answer: Any, outcome: str
) -> None:
    server.answers = [answer]
    assert client.complete(ASK).outcome == outcome
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_entry_ends_the_run(server: Any, client: OpenAIChat, status: int) -> None:
    server.answers = [(status, "secret of the server", {})]
    with pytest.raises(ConfigError, match=f"HTTP {status}") as caught:
        client.complete(ASK)
    assert "secret" not in str(caught.value)


def test_the_key_comes_from_the_environment_and_stays_there(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", "sesame-123")
    server.answers = [(500, "sesame-123", {})]
    client = OpenAIChat(server.url, "tiny", api_key_env="TINY_KEY", clock=Waits(), attempts=1)
    reply = client.complete(ASK)
    assert server.headers[0]["Authorization"] == "Bearer sesame-123"
    assert "sesame" not in repr(reply)
    assert b"sesame" not in pickle.dumps(client)
    assert "sesame" not in repr(vars(client))
    client.close()
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(ConfigError, match="TINY_KEY is not set"):
        OpenAIChat(server.url, "tiny", api_key_env="TINY_KEY")


def test_no_key_is_sent_without_a_variable(
    server: Any, client: OpenAIChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-123")
    server.answers = [completion("liver")]
    client.complete(ASK)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://localhost/v1", "http://u:p@localhost/v1", "http://localhost?k=1"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        OpenAIChat(url, "tiny")


def test_another_machine_needs_leave() -> None:
    with pytest.raises(ConfigError, match="allow_remote"):
        OpenAIChat("https://api.example.org/v1", "tiny")
    with pytest.raises(ConfigError, match="allow_remote"):
        OpenAIChat("http://localhost.example.org/v1", "tiny")
    OpenAIChat("https://api.example.org/v1", "tiny", allow_remote=True)
    OpenAIChat("http://[::1]:8000/v1", "tiny")


def test_parse_tells_unreadable_from_missing(server: Any, client: OpenAIChat) -> None:
    server.answers = [completion("three"), (500, "", {})]
    value, reply = parse(client.complete(ASK), int)
    assert (value, reply.outcome) == (None, "parse_failure")
    value, reply = parse(client.complete(ASK), int)
    assert (value, reply.outcome) == (None, "transport")


def test_candidates_for_the_first_token_are_told(server: Any, client: OpenAIChat) -> None:
    answer = completion("Yes")
    listed = [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.5}]
    answer["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": listed}]}
    server.answers = [answer, completion("Yes")]
    asked = Request((Message("user", "Will it?"),), max_tokens=1, top_logprobs=5)
    assert client.complete(asked).first_token == (("Yes", -0.1), ("No", -2.5))
    assert (server.received[0]["logprobs"], server.received[0]["top_logprobs"]) == (True, 5)
    assert client.complete(ASK).first_token == ()
    assert "logprobs" not in server.received[1]


def test_a_request_is_not_sent_again_after_its_longest(server: Any) -> None:
    server.answers = [(500, "", {})]
    client = OpenAIChat(server.url, "tiny", clock=Waits(), attempts=50, longest=10)
    assert client.complete(ASK).outcome == "transport"
    client.close()
    assert sum(client.clock.seconds) <= 10
    assert len(server.received) < 6


def test_all_requests_wait_where_a_server_asks_for_it(server: Any) -> None:
    clock = Waits()
    client = OpenAIChat(server.url, "tiny", clock=clock, attempts=1)
    server.answers = [(429, "", {"Retry-After": "7"}), completion("liver")]
    client.complete(ASK)
    assert client.complete(ASK).ok
    client.close()
    assert clock.seconds == [7.0]


def test_a_server_does_not_score_given_answers(client: OpenAIChat) -> None:
    with pytest.raises(NotImplementedError, match="tiny does not score"):
        client.choose(ASK.messages, ["liver"])
    with pytest.raises(NotImplementedError, match="tiny does not score"):
        client.choose_many([ASK.messages], ["liver"])
