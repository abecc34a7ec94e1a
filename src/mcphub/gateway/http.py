"""HTTP as the endpoint needs it: headers read once, a body within its limit, one reply per request.

Plain ASGI 3.0, no framework: this is the warm path. Not here: what a request means (`intake`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from mcphub.gateway.crowd import Connection, Crowd
from mcphub.gateway.shares import Reader, Upload
from mcphub.tasks import Tasks
from mcphub.wire import sse
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import LARGE
from mcphub.wire.eras import PARAMETER_HEADER
from mcphub.wire.pieces import Pieces, Text

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")
_SINGLE: Final = {
    name.encode(): name
    for name in (
        "authorization", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "host", "origin",
        "content-length", "content-type",
    )
}  # fmt: skip
_SEVERAL: Final = frozenset({"accept", "traceparent"})
_READ: Final = _SINGLE | {name.encode(): name for name in _SEVERAL}
_PARAMETER: Final = PARAMETER_HEADER.encode()
_BODY_S: Final = 120.0
OWNER: Final = "mcphub.user"
"""Member of an ASGI scope: the id of the user whom its request was found to be of."""
CONNECTION: Final = "mcphub.connection"
"""Member of an ASGI scope: the connection that the request came on, where it is counted."""
KEEP_ALIVE_S: Final = 15.0
_A_TURN: Final = 256 * 1024
"""Bytes of a large answer that are sent before others have their turn."""


class Ambiguous(Exception):
    """A header that decides something is there twice (rule R6)."""


class TooLarge(Exception):
    """The body is over the limit."""


class Disconnected(Exception):
    """The client went away before its request was complete."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that the hub acts on: name -> value.

    Args:
        raw: Lower-case names and values.

    Raises:
        Ambiguous: One that routes or authenticates is repeated.
    """
    found: dict[str, str] = {}
    for raw_name, value in raw:
        name = _READ.get(raw_name)
        if name is None:
            if not raw_name.startswith(_PARAMETER):
                continue
            name = raw_name.decode("latin-1")
        if name in found and name not in _SEVERAL:
            raise Ambiguous(name)
        found[name] = value.strip(b" \t").decode("latin-1")  # RFC 9110 §5.5
    return found


def claim(crowd: Crowd, scope: Scope, user_id: str) -> None:
    """Note whose request it is, and whose connection it came on.

    Raises:
        LimitExceeded: The user has too many connections.
    """
    scope[OWNER] = user_id
    connection: Connection | None = scope.get(CONNECTION)
    if connection is not None:
        crowd.claim(connection, user_id)


async def read_body(
    receive: Receive, declared: str, limit: int, upload: Upload, reader: Reader
) -> bytes | Arriving:
    """Return the whole body; what arrives of it in parts counts in `upload`.

    A large one is read while it arrives (`reader`), and returned as it was read.

    Raises:
        LimitExceeded: `upload` cannot have as much.
        TooLarge: It is, or says it is, longer than `limit` bytes.
        Disconnected: The client went away, or sends too slowly.
    """
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge
    part, more = await _part(receive)
    if len(part) > limit:
        raise TooLarge
    if not more and len(part) <= LARGE:
        return part
    body = _Body(limit, upload, reader)
    try:
        async with asyncio.timeout(_BODY_S):
            await body.take(part)
            while more:
                part, more = await _part(receive)
                await body.take(part)
            return await body.end()
    except TimeoutError:
        raise Disconnected from None


async def _part(receive: Receive) -> tuple[bytes, bool]:
    """Return the next part of a body, and whether more comes."""
    event = await receive()
    if event["type"] == "http.disconnect":
        raise Disconnected
    return event.get("body", b""), event.get("more_body", False)


class _Body:
    """A body that arrives in parts; see `read_body`."""

    def __init__(self, limit: int, upload: Upload, reader: Reader) -> None:
        self._limit, self._upload, self._reader = limit, upload, reader
        self._parts: list[bytes] = []
        self._large: Arriving | None = None

    async def take(self, part: bytes) -> None:
        """Take a part; of a large body what has come is read."""
        self._upload.take(len(part))
        self._parts.append(part)
        if self._upload.size > self._limit:
            raise TooLarge
        if self._upload.size > LARGE:
            if self._large is None:
                self._large = Arriving()
            for one in self._parts:
                self._large.add(one)
            self._parts.clear()
            await self._reader.catch_up(self._large)

    async def end(self) -> bytes | Arriving:
        """Return all of it."""
        if self._large is None:
            return b"".join(self._parts)
        self._large.end()
        await self._reader.catch_up(self._large)
        return self._large


class Reply:
    """The one reply to a request: a JSON document, or a stream that ends with one.

    Starts as neither. `emit` turns it into an event stream; `finish` completes whichever it became. What
    is large goes out in pieces, as fast as the client reads, and others have their turn between them.

    Args:
        send: Of the ASGI application.
        receive: Of the ASGI application.
        tasks: Where its own run.
        headers: First of the response.
        connection: Where what waits to be sent is counted, if anywhere.
    """

    def __init__(
        self,
        send: Send,
        receive: Receive,
        tasks: Tasks,
        headers: Iterable[tuple[bytes, bytes]],
        connection: Connection | None = None,
    ) -> None:
        self._send, self._receive = send, receive
        self._tasks = tasks
        self._headers = list(headers)
        self._connection = connection
        self._turn = asyncio.Lock()
        self._streaming = False
        self._ended = False
        self._watcher: asyncio.Task[None] | None = None

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a response header; only before anything is sent."""
        self._headers.append((name, value))

    async def emit(self, message: Text) -> None:
        """Send one message ahead of the answer."""
        await self._chunk(sse.event(message))

    async def event(self, data: bytes) -> None:
        """Send a whole event as it is written on the wire (`wire.sse`)."""
        await self._chunk(data)

    async def finish(
        self, message: Text, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the answer and end the reply. A stream has status 200 and its headers by then."""
        self._stop_watching()
        if self._streaming:
            async with self._turn:
                await self._body(sse.event(message))
        else:
            await self.plain(status, message, [_JSON, *headers])

    async def plain(
        self, status: int, body: Text = b"", headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a complete reply that is no stream."""
        length = (b"content-length", b"%d" % len(body))
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*self._headers, *headers, length],
            }
        )
        await self._body(body)

    async def open_stream(self) -> None:
        """Start the event stream."""
        if not self._streaming:
            self._streaming = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*self._headers, *sse.HEADERS],
                }
            )

    async def close_stream(self) -> None:
        """End the event stream without a last message; what is sent later is dropped."""
        self._stop_watching()
        self._ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def keep_alive(self) -> None:
        """Send a comment."""
        await self._chunk(sse.KEEP_ALIVE)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client disconnects; keep a long call's connection alive meanwhile."""
        if self._watcher is None:
            self._watcher = self._tasks.start("reply.watch", self._watch(gone))

    async def until_disconnect(self) -> None:
        """Return when the client is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _watch(self, gone: Callable[[], None]) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self.until_disconnect()
            except TimeoutError:
                await self.keep_alive()
            else:
                gone()
                return

    async def _chunk(self, data: Text) -> None:
        async with self._turn:
            if self._ended:
                return
            await self.open_stream()
            await self._body(data, more=True)

    async def _body(self, data: Text, *, more: bool = False) -> None:
        """Send what is the next of the body, or its last."""
        if isinstance(data, Pieces):
            await self._pieces(data)
            data = b""
            if more:
                return
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _pieces(self, data: Pieces) -> None:
        """Send a large text, some of it each turn; one that cannot be sent to its end ends the connection."""
        connection = self._connection
        left, is_whole = len(data), False
        if connection is not None:
            connection.waiting += left
        try:
            for part in data.blocks(_A_TURN):
                if connection is not None:
                    connection.waiting -= len(part)
                left -= len(part)
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
                await asyncio.sleep(0)
            is_whole = True
        finally:
            if connection is not None:
                connection.waiting -= left
            if not is_whole:
                self._ended = True
                if connection is not None:
                    connection.end()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
