"""A local stand-in for `https://api.github.com` that remembers which token came with each request.

Speaks real TLS and answers in GitHub's own shape, so that unmodified clients accept it. An answer
names the caller by an alias of the token (a short hash), never by the token, and holds no other
data. It is not a GitHub emulator: it knows the few reads that the demo and the tests make.
"""

import hashlib
import json
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from mcphub.testing.certificates import ServerCertificate, issue_certificate

HOST = "api.github.com"
_API = f"https://{HOST}"
_EPOCH = "2026-01-01T00:00:00Z"
_KEPT = 10_000


def alias(token: str) -> str:
    """Return the name under which the stand-in speaks of a token: one way, 40 bits."""
    return "tok-" + hashlib.sha256(token.encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as it arrived.

    Attributes:
        caller: Alias of the bearer token, or empty without one.
        path: Path without the query.
        query: The `q` parameter, or empty.
    """

    caller: str
    path: str
    query: str


class GitHubStandIn:
    """Serves on a free port of 127.0.0.1 while entered; threads, so that it suits any event loop.

    Args:
        directory: Where the throw-away certificate is written.
    """

    def __init__(self, directory: Path) -> None:
        self.certificate: ServerCertificate = issue_certificate(directory, HOST)
        self._arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._server = _Server(self._record)
        # The handshake runs in the connection's own thread: a silent client stalls nobody else.
        self._server.socket = self.certificate.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="github-stand-in",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return self._server.server_address[1]

    @property
    def ca_file(self) -> Path:
        """Certificate of the authority that clients must trust."""
        return self.certificate.ca_file

    def arrivals(self, query: str | None = None) -> list[Arrival]:
        """Return what arrived so far, oldest first; with `query` only the searches for it."""
        with self._lock:
            return [a for a in self._arrivals if query is None or a.query == query]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _record(self, arrival: Arrival) -> None:
        with self._lock:
            self._arrivals.append(arrival)
            del self._arrivals[:-_KEPT]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Idle keep-alive connections must not delay the end.
    block_on_close = False

    def __init__(self, record: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.record = record

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up or refuses the certificate is the test's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "github-stand-in"
    timeout = 30
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._reply()

    def _reply(self) -> None:
        url = urlsplit(self.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        caller = alias(token) if scheme.lower() in ("bearer", "token") and token else ""
        query = parse_qs(url.query).get("q", [""])[0]
        self.server.record(Arrival(caller, url.path, query))
        if not caller:
            self._send(HTTPStatus.UNAUTHORIZED, {"message": "Requires authentication"})
            return
        body = _answer(self.command, url.path, caller)
        if body is None:
            self._send(HTTPStatus.NOT_FOUND, {"message": "Not Found"})
        else:
            self._send(HTTPStatus.OK, body)

    def _send(self, status: HTTPStatus, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
        """Print nothing."""


def _answer(method: str, path: str, caller: str) -> object | None:
    if method != "GET":
        return None
    match path.strip("/").split("/"):
        case ["search", "repositories"]:
            return _found([_repository(caller, "private-notes")])
        case ["search", "users"]:
            return _found([_owner(caller)])
        case ["search", "issues" | "code"]:
            return _found([])
        case ["user"]:
            return _owner(caller)
        case ["users", login]:
            return _owner(login)
        case ["user", "repos"]:
            return [_repository(caller, "private-notes")]
        case ["repos", owner, name]:
            return _repository(owner, name)
        case ["repos", _, _, "issues" | "commits" | "pulls"]:
            return []
    return None


def _found(items: list[Any]) -> dict[str, object]:
    return {"total_count": len(items), "incomplete_results": False, "items": items}


def _owner(login: str) -> dict[str, object]:
    return {
        "login": login,
        "id": 1,
        "node_id": "U_1",
        "avatar_url": f"https://avatars.githubusercontent.com/{login}",
        "url": f"{_API}/users/{login}",
        "html_url": f"https://github.com/{login}",
        "type": "User",
    }


def _repository(owner: str, name: str) -> dict[str, object]:
    full, page = f"{owner}/{name}", f"github.com/{owner}/{name}"
    return {
        "id": 1,
        "node_id": "R_1",
        "name": name,
        "full_name": full,
        "private": True,
        "owner": _owner(owner),
        "html_url": f"https://{page}",
        "description": f"seen as {owner}",
        "fork": False,
        "url": f"{_API}/repos/{full}",
        "created_at": _EPOCH,
        "updated_at": _EPOCH,
        "pushed_at": _EPOCH,
        "git_url": f"git://{page}.git",
        "ssh_url": f"git@github.com:{full}.git",
        "clone_url": f"https://{page}.git",
        "default_branch": "main",
    }
