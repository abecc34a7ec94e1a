"""HTTP/1.1 client just big enough for the stdio bridge: one origin, streamed answers, quick to import.

Not a general client: no redirects (a redirect would carry the key elsewhere), no proxies, no
cookies, no retries. `cli.bridge` is the only caller; everything else uses httpx2.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

_READ = 65536
_CONNECT_S = 10.0
# A connection that idled longer may be closed by the hub while the next request is being written;
# whether that request was executed would then be unknown, so it is never tried.
_REUSE_S = 2.0
_KEPT = 4
_DEFAULT_PORTS = {"http": 80, "https": 443}


class BadUrl(ValueError):
    """The URL of the hub cannot be used; the text says why."""


class Broken(ConnectionError):
    """The connection ended before the answer was complete; whether the call ran is unknown."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The one URL that a client talks to.

    Attributes:
        scheme: `http` or `https`.
        host: Name or address, without brackets.
        port: TCP port.
        target: Path and query as sent in the request line.
        authority: Value of the Host header.
    """

    scheme: str
    host: str
    port: int
    target: str
    authority: str

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Split a URL.

        Raises:
            BadUrl: It is not http(s), names no host or holds a user and password.
        """
        if any(not 0x21 <= ord(char) <= 0x7E for char in url):
            raise BadUrl("the URL has a space or a character that is not ASCII")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadUrl(str(error)) from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise BadUrl("the URL must look like http://127.0.0.1:8765/mcp")
        if parts.username is not None or parts.password is not None:
            raise BadUrl("a URL must not hold a user name or a password")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.hostname
        shown = f"[{host}]" if ":" in host else host
        default = _DEFAULT_PORTS[parts.scheme]
        authority = shown if port in (None, default) else f"{shown}:{port}"
        return cls(parts.scheme, host, port or default, target, authority)

    @property
    def origin(self) -> str:
        """Scheme, host and port, for messages."""
        return f"{self.scheme}://{self.authority}"

    @property
    def in_clear(self) -> bool:
        """Whether the key would cross a network readable by others."""
        return self.scheme == "http" and self.host not in {"127.0.0.1", "::1", "localhost"}


class _Connection:
    """One TCP or TLS connection and when it was last used (loop time, seconds)."""

    __slots__ = ("idle_since", "reader", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.idle_since = 0.0

    def close(self) -> None:
        self.writer.close()


class Reply:
    """One answer. Its body is read once, by `chunks` or `read`; leave early with `close`.

    Attributes:
        status: HTTP status.
        headers: Lower-case names; of a repeated header the last value.
    """

    def __init__(self, connection: _Connection, client: "Client") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._body: deque[bytes] = deque()
        self._head_done = False
        self._done = False
        self._released = False

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the status; interim answers (1xx) are skipped."""
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._head_done = True
        else:
            self.headers.clear()

    def on_body(self, data: bytes) -> None:
        """Keep one piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the message."""
        self._done = self._head_done

    # The reader's side.

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def head(self) -> None:
        """Read until the header is complete.

        Raises:
            Broken: The connection ended first.
        """
        while not self._head_done:
            await self._more()
        if self.status in {204, 304}:
            self._done = True

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; then give the connection back.

        Raises:
            Broken: The connection ended within the body.
        """
        try:
            while True:
                while self._body:
                    yield self._body.popleft()
                if self._done:
                    break
                await self._more()
        finally:
            self.close()

    async def read(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            Broken: The connection ended within the body, or it is larger than `limit` bytes.
        """
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                self.close()
                raise Broken(f"the answer is larger than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else end it. Idempotent."""
        if self._released:
            return
        self._released = True
        if self._done and not self._body and self._parser.should_keep_alive():
            self._client.keep(self._connection)
        else:
            self._connection.close()

    async def _more(self) -> None:
        data = await self._connection.reader.read(_READ)
        if not data:
            framed = "content-length" in self.headers or "transfer-encoding" in self.headers
            if self._head_done and not framed:
                self._done = True
                return
            raise Broken("the hub closed the connection before it had answered")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Broken("the answer is not HTTP") from None


class Client:
    """Sends requests to one endpoint; keeps a few idle connections for a moment.

    Args:
        endpoint: Where to.
        headers: Sent with every request, e.g. Authorization.
    """

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        self.endpoint = endpoint
        self._headers = dict(headers)
        self._idle: list[_Connection] = []
        self._tls = None
        if endpoint.scheme == "https":
            import ssl  # noqa: PLC0415  start-up time: only https needs it

            self._tls = ssl.create_default_context()

    async def send(
        self,
        method: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        sent: asyncio.Event | None = None,
    ) -> Reply:
        """Send one request and return its answer as soon as the header is there.

        Args:
            method: HTTP method.
            headers: Beside the client's own; values must be visible ASCII.
            body: Request body.
            sent: Set once the request is on its way.

        Raises:
            OSError: The hub cannot be reached.
            Broken: The connection ended early.
        """
        connection = self._reusable() or await self._open()
        reply = Reply(connection, self)
        try:
            connection.writer.write(self._head(method, headers, len(body)) + body)
            await connection.writer.drain()
            if sent is not None:
                sent.set()
            await reply.head()
        except BaseException:
            connection.close()
            raise
        return reply

    def keep(self, connection: _Connection) -> None:
        """Take back a connection whose answer was read completely."""
        if len(self._idle) >= _KEPT:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def close(self) -> None:
        """End the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _head(self, method: str, headers: Mapping[str, str], length: int) -> bytes:
        lines = [f"{method} {self.endpoint.target} HTTP/1.1", f"Host: {self.endpoint.authority}"]
        lines += [f"{name}: {value}" for name, value in (self._headers | dict(headers)).items()]
        if method == "POST":
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _reusable(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            fresh = now - connection.idle_since < _REUSE_S
            if fresh and not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.close()
        return None

    async def _open(self) -> _Connection:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(
                self.endpoint.host, self.endpoint.port, ssl=self._tls
            )
        return _Connection(reader, writer)
