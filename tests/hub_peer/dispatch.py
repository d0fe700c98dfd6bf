"""One HTTP request: read, authorize, find its route, answer."""

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_peer.faults import Trouble
from tests.hub_peer.repos import HubError, Store

if TYPE_CHECKING:
    from tests.hub_peer.server import HubPeer


class DroppedError(Exception):
    """Close the connection without an answer."""


Route = Callable[..., Any]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
REPO = r"(?P<repo>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    """Register a handler method for a path; the pattern's groups become its arguments."""

    def register(function: Route) -> Route:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class Dispatcher(BaseHTTPRequestHandler):
    """One request. Routes return JSON to send, or None if they have answered themselves."""

    peer: ClassVar["HubPeer"]
    protocol_version = "HTTP/1.1"
    # One packet per answer: headers and body apart would wait for a delayed ACK, 40 ms each time.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    @property
    def store(self) -> Store:
        return self.peer.store

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_HEAD(self) -> None:
        self._dispatch("GET")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_PUT(self) -> None:
        self._dispatch("PUT")

    def do_DELETE(self) -> None:
        self._dispatch("DELETE")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: tests look at `peer.requests`."""

    def _dispatch(self, method: str) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        request = f"{self.command} {url.path}"
        self.peer.requests.append(request)
        try:
            trouble = self._meet_trouble(request)
            self.body = self._read_body()
            self._authorize(method, url.path)
            with self.peer.lock:
                answer = self._answer(method, url.path)
            if trouble is not None and trouble.lose:
                raise DroppedError
            if answer is not None:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        except DroppedError:
            self.close_connection = True
        except HubError as error:
            headers = {"X-Error-Message": str(error), "Content-Type": "application/json"}
            if error.code:
                headers["X-Error-Code"] = error.code
            if error.retry_after is not None:
                headers["Retry-After"] = str(error.retry_after)
            self._send(error.status, json.dumps(error.body).encode(), headers)

    def _meet_trouble(self, request: str) -> Trouble | None:
        trouble = self.peer.meet(request)
        if trouble is None:
            return None
        self.peer.closing.wait(trouble.delay)
        if trouble.half:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
        if trouble.half or trouble.drop:
            raise DroppedError
        if trouble.status:
            self._read_body()  # what is left of it would be taken for the next request
            sentence = "The peer has been told to fail"
            raise HubError(trouble.status, sentence, retry_after=trouble.retry_after)
        return trouble

    @property
    def anonymous(self) -> bool:
        """Whether the request lacks the token that the peer was given."""
        token = self.peer.token
        return token is not None and self.headers.get("Authorization") != f"Bearer {token}"

    def _answer(self, method: str, path: str) -> Any:
        for verb, pattern, function in ROUTES:
            match = pattern.fullmatch(path)
            if verb == method and match:
                return function(self, **{k: unquote(v) for k, v in match.groupdict().items()})
        raise HubError(404, f"The peer does not know {method} {path}")

    def _authorize(self, method: str, path: str) -> None:
        """The LFS upload itself goes to a signed URL and carries no token, as on the Hub."""
        if method not in ("GET", "PUT") and self.anonymous:
            raise HubError(401, "Invalid username or password.")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def _json(self) -> Any:
        return json.loads(self.body)
