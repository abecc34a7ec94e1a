"""HTTP/1.1 for the connections of one owner to one server: kept alive, answered by calls.

A warm request is one write and its answer one call of the loop: no task, no timer. Connections, and
whatever they remember, belong to one `Client` and so to one owner (R2, R20). Redirects, cookies and
proxies do not exist here. A request is never sent twice, except with a new token after a refusal: of
one whose connection ends it is not known whether it was carried out.

Not here: what an answer means (`upstream.posting`), one connection (`upstream.connection`).
"""

import asyncio
import contextlib
import functools
import re
import ssl
from collections.abc import Mapping
from typing import Final, Protocol

import aiohappyeyeballs
from yarl import URL

from mcphub import __version__
from mcphub.errors import HubError
from mcphub.names import addresses
from mcphub.secret import Secret
from mcphub.tasks import Tasks
from mcphub.upstream.connection import IDLE_S, Connection, Failed, Head, Request, Taker
from mcphub.upstream.lines import NO_HEADERS
from mcphub.upstream.pace import SHARE, Pace
from mcphub.wire.pieces import Text

_CONNECT_S: Final = 10.0
_EYEBALLS_S: Final = 0.25
_FRAMING: Final = {
    "connection",
    "content-length",
    "expect",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers that say where a request ends and what becomes of its connection: only the client sets them."""
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class Bearer(Protocol):
    """Gives the access token of one owner for one server, and learns when it is refused."""

    async def token(self) -> Secret:
        """Return one that is valid now.

        Raises:
            HubError: There is none.
        """
        ...

    async def refused(self, token: Secret, status: int, challenges: tuple[str, ...]) -> bool:
        """Take a refusal (401 or 403) with its `WWW-Authenticate` headers; whether to try again.

        Raises:
            HubError: It is of no use before the owner has done something.
        """
        ...

    def rejected(self) -> HubError:
        """Return the error for a new token that is refused again."""
        ...


class Client:
    """The connections of one owner to the server of one URL.

    Args:
        url: Of the server; requests go to its origin only.
        headers: Of every request.
        tasks: Where connections are made.
        bearer: Gives the token of each request, where the server has OAuth.
        share: The owner's, of the loop's time.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        tasks: Tasks,
        bearer: Bearer | None = None,
        share: Pace | None = None,
    ) -> None:
        self._url = URL(url)
        self._tasks, self._bearer = tasks, bearer
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._open = True
        self._share = share or Pace(SHARE)
        self._given: list[Mapping[str, str]] = []
        usual = {"User-Agent": f"mcphub/{__version__}", "Accept-Encoding": "gzip"}
        self.always({"Host": self._url.host_port_subcomponent or "", **usual, **headers})

    def always(self, headers: Mapping[str, str]) -> None:
        """Send these headers with every further request, instead of others of their names."""
        self._given.append(headers)
        self._lines, self._usual = {}, ""

    def send(
        self,
        method: str,
        taker: Taker,
        body: Text = b"",
        headers: Mapping[str, str] = NO_HEADERS,
        target: str = "",
    ) -> Request:
        """Send one request; its headers win over those of every request.

        Args:
            method: GET, POST or DELETE.
            taker: Gets the answer, never before this returns.
            body: Of a POST.
            headers: Further ones.
            target: Path and query, those of the URL when "".
        """
        request = Request("", body, taker)
        try:
            lines = self._headers(headers)
        except Failed as error:
            self._loop.call_soon(taker.on_end, error)
            return request
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        request.head = f"{method} {target or self._url.raw_path_qs} HTTP/1.1\r\n{lines}{length}"
        connection = self._warm() if self._bearer is None else None
        if connection is not None:
            connection.send(request)
        else:
            request.task = self._tasks.start("upstream.send", self._start(request))
        return request

    def close(self) -> None:
        """Close idle connections, and each other one when its request ends."""
        self._open = False
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._idle):
            connection.abort()

    def refused(self, request: Request, head: Head) -> bool:
        """Whether an answer is a refused token that the bearer has to hear of first."""
        if self._bearer is None or request.token is None or head.status not in {401, 403}:
            return False
        if request.tried and head.status == 403:
            return False
        request.task = self._tasks.start("upstream.send", self._again(request, head))
        return True

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if not self._open:
            connection.abort()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._cull)

    def used(self, seconds: float) -> float:
        """Count the loop's time that a body took; returns the seconds to rest now, mostly 0."""
        return self._share.take(seconds)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _headers(self, more: Mapping[str, str]) -> str:
        """Return the lines of a request's headers.

        Raises:
            Failed: One cannot be sent.
        """
        if not self._usual:
            for given in self._given:
                self._lines |= _lines(given)
            if self._bearer is not None:
                self._lines.pop("authorization", None)  # its token is the only one
            self._usual = "".join(self._lines.values())
        if not more:
            return self._usual
        lines = self._lines | _lines(more)
        if self._bearer is not None:
            lines.pop("authorization", None)
        return "".join(lines.values())

    def _warm(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_good(self._loop.time()):
                return connection
            connection.abort()
        return None

    def _cull(self) -> None:
        now = self._loop.time()
        for connection in [one for one in self._idle if not one.is_good(now)]:
            connection.abort()
        self._sweep = self._loop.call_later(IDLE_S, self._cull) if self._idle else None

    async def _start(self, request: Request) -> None:
        try:
            if self._bearer is not None:
                request.token = await self._bearer.token()
            connection = self._warm() or await self._connect()
        except HubError as error:
            request.end(error)
        except (OSError, ValueError) as error:  # a time-out is an OSError, a bad host a ValueError
            request.end(Failed(f"It cannot be reached ({type(error).__name__})."))
        else:
            connection.send(request)

    async def _again(self, request: Request, head: Head) -> None:
        """Tell the bearer of a refusal and send the request once more when it has another token."""
        assert self._bearer is not None
        assert request.token is not None
        challenges = head.all(b"www-authenticate")
        try:
            if request.tried:
                raise self._bearer.rejected()
            again = await self._bearer.refused(request.token, head.status, challenges)
        except HubError as error:
            request.end(error)
            return
        request.tried = True
        if again:
            await self._start(request)
        else:
            request.taker.on_head(head)
            request.end(None)

    async def _connect(self) -> Connection:
        url, loop = self._url, self._loop
        async with asyncio.timeout(_CONNECT_S):
            host = url.raw_host or ""
            found = await addresses(host, url.port or 0, host)
            sock = await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=_EYEBALLS_S, loop=loop
            )
            secure = url.scheme == "https"
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self),
                    sock=sock,
                    ssl=_verified() if secure else None,
                    server_hostname=(url.raw_host or "").rstrip(".") if secure else None,
                )
            except BaseException:
                with contextlib.suppress(OSError):  # the loop may not have taken it yet
                    sock.close()
                raise
        return connection


def _lines(headers: Mapping[str, str]) -> dict[str, str]:
    """Return header lines by their names in lower case.

    Raises:
        Failed: One cannot be sent.
    """
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not (value.isprintable() or _VALUE.fullmatch(value)) or not _NAME.fullmatch(name):
            raise Failed(f"Header {name!r} has characters that no header can carry.")
        found[name.lower()] = f"{name}: {value}\r\n"
    for name in _FRAMING & found.keys():
        del found[name]
    return found


@functools.cache
def _verified() -> ssl.SSLContext:
    """Return the one context of all TLS connections: names and certificates are verified."""
    return ssl.create_default_context()
