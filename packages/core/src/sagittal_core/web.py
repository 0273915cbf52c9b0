"""A page on this machine for this machine: what a person fills in is answered by Python.

The server listens on the loopback interface alone, answers only requests that name it as their host
(so that no other site's name can be made to point here) and carry the token that its own page was
given, and writes nothing of a request anywhere.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sagittal_core.errors import ConfigError, DataError

TOKEN = "{{TOKEN}}"  # in the page; it is sent back in the header X-Token
LONGEST = 1 << 20  # bytes of a request

Function = Callable[[dict[str, Any]], Any]


class LocalPage:
    """One HTML page and the functions behind it, on 127.0.0.1.

    The page calls ``POST /api/<name>`` with a JSON object and the header ``X-Token``; the answer is
    what the function returns, as JSON, or ``{"error": "..."}`` with status 400 where it raises
    DataError or ConfigError, which are shown to the user. Use it as a context manager, or
    :meth:`serve` until interrupted.

    Args:
        html: The page; ``{{TOKEN}}`` in it becomes the token. It may load nothing from elsewhere.
        functions: By name.
        port: 0 takes a free one.

    Raises:
        ConfigError: The port is taken, or the page has no place for the token.
    """

    def __init__(self, html: str, functions: Mapping[str, Function], port: int = 0) -> None:
        if TOKEN not in html:
            raise ConfigError(f"the page has no {TOKEN} to call its functions with")
        self._token = secrets.token_urlsafe(24)
        self._page = html.replace(TOKEN, self._token).encode()
        self._functions = dict(functions)
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigError(f"port {port} cannot be used: {error.strerror}") from None
        self._server.page = self
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> LocalPage:
        """Serve in a thread."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def serve(self) -> None:
        """Serve until interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self._server.server_close()

    def hosts(self) -> set[str]:
        """Host headers of requests that are meant for this server."""
        port = self._server.server_address[1]
        return {f"127.0.0.1:{port}", f"localhost:{port}"}

    def call(self, name: str, token: str, body: bytes) -> tuple[int, Any]:
        """Answer one call: the status and what is sent as JSON."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return 403, {"error": "open the page anew: it belongs to an earlier start"}
        function = self._functions.get(name)
        if function is None:
            return 404, {"error": f"there is no {name}"}
        try:
            given = json.loads(body)
        except ValueError:
            return 400, {"error": "the request is no JSON"}
        if not isinstance(given, dict):
            return 400, {"error": "the request is no JSON object"}
        try:
            return 200, function(given)
        except (ConfigError, DataError) as error:
            return 400, {"error": str(error)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    page: LocalPage


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0: a connection that stays open would outlive the server.
    server: _Server
    timeout = 30

    def do_GET(self) -> None:
        if not self._for_us():
            return
        if self.path in ("/", "/index.html"):
            self._send(200, self.server.page._page, "text/html; charset=utf-8")
        else:
            self._json(404, {"error": "no such page"})

    def do_POST(self) -> None:
        if not self._for_us():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LONGEST:
            self.close_connection = True
            self._json(413, {"error": f"a request has up to {LONGEST} bytes"})
            return
        body = self.rfile.read(int(length))
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind != "application/json" or not self.path.startswith("/api/"):
            self._json(404, {"error": "no such call"})
            return
        try:
            status, answer = self.server.page.call(
                self.path.removeprefix("/api/"), self.headers.get("X-Token", ""), body
            )
            self._json(status, answer)
        except Exception as error:
            # The traceback may hold what was filled in: it goes nowhere.
            self._json(500, {"error": f"an error of the program: {type(error).__name__}"})

    def _for_us(self) -> bool:
        if self.headers.get("Host", "") in self.server.page.hosts():
            return True
        self.close_connection = True
        self._json(403, {"error": "this page is for this machine alone"})
        return False

    def _json(self, status: int, answer: Any) -> None:
        # NaN is no JSON: a function that means "unknown" returns None.
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
        self._send(status, text.encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src"
            " 'unsafe-inline'; img-src data:; connect-src 'self'; form-action 'none'",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Write no log: a path or an error may hold what was filled in."""
