"""`Witness`: one listening port that speaks plain HTTP and TLS, notes what comes and answers.

Threads, so that a slow client stalls nobody. What a request says is material, never an instruction.
"""

import base64
import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from mcphub.isolation.canaries import Canaries
from mcphub.isolation.model import Arrival
from mcphub.isolation.witness.authority import Authority
from mcphub.isolation.witness.mail import Mail
from mcphub.isolation.witness.replies import Answer, Request, Shape, logged_in, reply

_MAX_BODY: Final = 4 * 1024 * 1024
_OF_A_CREDENTIAL: Final = re.compile(
    r"^authorization$|(?<![cx]srf-)token|api-?key|access-?key", re.IGNORECASE
)
_EMPTY: Final = re.compile(
    r"\s*(?:(?:bearer|token|basic|apikey)\b\s*)?(?:undefined|null|none|nan|false)?\s*",
    re.IGNORECASE,
)
_KEPT: Final = 20_000
_TLS_HANDSHAKE: Final = b"\x16"
_IDLE_S: Final = 30.0


class Witness:
    """Serves on a free port of 127.0.0.1 while entered.

    Args:
        directory: For certificates.
        credentials: What is looked for in requests; may grow while it runs.

    Attributes:
        mail: What stands in for mail servers.
        words: What A says, which is sought in requests too; None before there is anything.
        shapes: (host, path) -> what the answer is made of; learned while the check rehearses, so that
            an answer depends on nothing but its request.
    """

    def __init__(self, directory: Path, credentials: Canaries[str]) -> None:
        self.authority = Authority(directory)
        self.words: Canaries[Any] | None = None
        self.shapes: dict[tuple[str, str], Shape] = {}
        self._logins: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._credentials = credentials
        self._arrivals: list[Arrival] = []
        self._dropped = 0
        self._lock = threading.Lock()
        self._server = _Server(self, self.authority)
        self.mail = Mail(
            self._server.tls, lambda host, kind, said: self._noted(said, host=host, method=kind)
        )
        self._servers = [self._server, *self.mail.servers]
        self._threads = [
            threading.Thread(
                target=server.serve_forever,
                kwargs={"poll_interval": 0.05},
                name="isolation-witness",
                daemon=True,
            )
            for server in self._servers
        ]

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return self._server.server_address[1]

    def mark(self) -> int:
        """Return the present, for `since`."""
        with self._lock:
            return self._dropped + len(self._arrivals)

    def since(self, mark: int) -> tuple[Arrival, ...]:
        """Return what arrived after `mark`."""
        with self._lock:
            return tuple(self._arrivals[max(0, mark - self._dropped) :])

    def reshape(self, arrivals: Iterable[Arrival]) -> None:
        """Answer these requests in the next shape from now on."""
        for arrival in arrivals:
            key = (arrival.host, arrival.path)
            self.shapes[key] = self.shapes.get(key, Shape.OBJECT).next()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)

    def take(self, request: Request) -> Answer:
        """Note a request and return the answer."""
        text = "\n".join(
            (
                unquote(request.target),
                *(f"{name}: {value}" for name, value in request.headers),
                *_basic(request.headers),
                unquote(request.body.decode("utf-8", "replace")),
            )
        )
        path = urlsplit(request.target).path
        arrival = self._noted(
            text,
            host=request.host,
            method=request.method,
            path=path,
            hollow=_hollow(request.headers),
        )
        login = logged_in(request, arrival.credentials, arrival.said)
        with self._lock:
            if login and len(self._logins) < _KEPT:
                self._logins[login] = arrival.credentials, arrival.said
        shape = self.shapes.get((request.host, path), Shape.OBJECT)
        return reply(request, shape, arrival.credentials, login)

    def _noted(
        self, text: str, *, host: str, method: str, path: str = "", hollow: bool = False
    ) -> Arrival:
        """Note what came, with the credentials and the words of A's in it."""
        labels = frozenset(sighting.about for sighting in self._credentials.seen(text))
        words = self.words
        said = frozenset(s.canary for s in words.seen(text)) if words is not None else frozenset()
        with self._lock:
            for login, (by, told) in self._logins.items():
                if login in text:
                    labels, said = labels | by, said | told
            arrival = Arrival(host, method, path, labels, hollow, said)
            self._arrivals.append(arrival)
            excess = max(0, len(self._arrivals) - _KEPT)
            del self._arrivals[:excess]
            self._dropped += excess
        return arrival


def _hollow(headers: Iterable[tuple[str, str]]) -> bool:
    """Tell whether a header for a credential holds none, as where a variable was not set."""
    return any(_OF_A_CREDENTIAL.search(name) and _EMPTY.fullmatch(value) for name, value in headers)


def _basic(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Return what `Basic` credentials say (RFC 7617)."""
    found: list[str] = []
    for name, value in headers:
        scheme, _, encoded = value.partition(" ")
        if name.lower().endswith("authorization") and scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                found.append(base64.b64decode(encoded, validate=False).decode("utf-8", "replace"))
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, witness: Witness, authority: Authority) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.witness = witness
        self.tls = authority.server_context()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what hangs up or refuses the certificate is the server's under check."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stand-in"
    sys_version = ""
    timeout = _IDLE_S
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        self.request.settimeout(_IDLE_S)
        if self.request.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if isinstance(self.request, ssl.SSLSocket):
            self.request.close()  # the server closes the socket below it

    def __getattr__(self, name: str) -> Any:
        """Take any method, as `do_GET` and the like."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        body = self._body()
        host = re.sub(r"[^\w.:\[\]-]", "", self.headers.get("Host", ""))[:255]
        request = Request(self.command, host, self.path, tuple(self.headers.items()), body)
        answer = self.server.witness.take(request)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.cookie:
            self.send_header("Set-Cookie", answer.cookie)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts: list[bytes] = []
            while size := int(self.rfile.readline(64).split(b";")[0].strip() or b"0", 16):
                if sum(map(len, parts)) + size > _MAX_BODY:
                    self.close_connection = True
                    break
                parts.append(self.rfile.read(size))
                self.rfile.readline(8)
            else:
                self.rfile.readline(8)
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        if size > _MAX_BODY:
            self.close_connection = True
        return self.rfile.read(min(size, _MAX_BODY))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
        """Print nothing."""
