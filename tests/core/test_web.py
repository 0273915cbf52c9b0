"""The local page answers its own page and nobody else."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.web import LONGEST, LocalPage

HTML = "<!doctype html><title>T</title><script>const token = '{{TOKEN}}'</script>"


def double(given: dict[str, Any]) -> Any:
    if "x" not in given:
        raise DataError("form", key="x", expected="a number", found="nothing")
    if given["x"] == "crash":
        raise RuntimeError(f"crashed on {given}")
    return {"twice": given["x"] * 2}


@pytest.fixture
def page() -> Iterator[LocalPage]:
    with LocalPage(HTML, {"double": double, "nan": lambda _: float("nan")}) as serving:
        yield serving


def send(
    page: LocalPage, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    host = page.address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    given = {"Host": host, "Content-Type": "application/json"} | headers
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, None if method == "GET" else data, given)
    response = connection.getresponse()
    answer = response.status, response.read().decode(), dict(response.getheaders())
    connection.close()
    return answer


def token(page: LocalPage) -> str:
    _, text, _ = send(page, "GET", "/")
    return re.search(r"token = '([^']+)'", text).group(1)


def test_the_page_calls_its_functions(page: LocalPage) -> None:
    assert page.address.startswith("http://127.0.0.1:")
    status, text, headers = send(page, "POST", "/api/double", {"x": 21}, **{"X-Token": token(page)})
    assert (status, json.loads(text)) == (200, {"twice": 42})
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_mistake_of_the_user_is_told(page: LocalPage) -> None:
    status, text, _ = send(page, "POST", "/api/double", {}, **{"X-Token": token(page)})
    assert status == 400
    assert "a number" in json.loads(text)["error"]


def test_an_error_of_the_program_tells_nothing_of_the_patient(
    page: LocalPage, capfd: pytest.CaptureFixture[str]
) -> None:
    status, text, _ = send(page, "POST", "/api/double", {"x": "crash"}, **{"X-Token": token(page)})
    assert status == 500
    assert json.loads(text) == {"error": "an error of the program: RuntimeError"}
    status, _, _ = send(page, "POST", "/api/nan", {}, **{"X-Token": token(page)})
    assert status == 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["", "wrong"])
def test_without_the_token_nothing_is_answered(page: LocalPage, given: str) -> None:
    assert send(page, "POST", "/api/double", {"x": 1}, **{"X-Token": given})[0] == 403


@pytest.mark.parametrize("host", ["evil.example:80", "127.0.0.1", "evil.example"])
def test_another_name_for_this_machine_is_refused(page: LocalPage, host: str) -> None:
    assert send(page, "GET", "/", Host=host)[0] == 403
    headers = {"Host": host, "X-Token": token(page)}
    assert send(page, "POST", "/api/double", {"x": 1}, **headers)[0] == 403


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/api/none", {}, {}, 404),
        ("/other", {}, {}, 404),
        ("/api/double", b"{not json", {}, 400),
        ("/api/double", [1], {}, 400),
        ("/api/double", {"x": 1}, {"Content-Type": "text/plain"}, 404),
        ("/api/double", b"x", {"Content-Length": str(LONGEST + 1)}, 413),
    ],
)
def test_what_is_no_call(
    page: LocalPage, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert send(page, "POST", path, body, **{"X-Token": token(page), **headers})[0] == status


def test_a_page_without_a_token_and_a_taken_port_are_refused(page: LocalPage) -> None:
    with pytest.raises(ConfigError, match="TOKEN"):
        LocalPage("<p>", {})
    port = int(page.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port}"):
        LocalPage(HTML, {}, port=port)
