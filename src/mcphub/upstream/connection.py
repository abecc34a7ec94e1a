"""One HTTP/1.1 connection of a client: at most one request at a time, its answer told as it comes.

The parser (llhttp) refuses what is ambiguous: two lengths, a length beside chunks, bare line feeds.
What it does not judge is judged here: interim answers, other codings, answers that nobody asked for.
A body is handed on in steps, and the server waits where its owner's connections have used their share of
the loop's time: what it sends, and what that inflates to, costs its own user.

Not here: which connection a request takes (`upstream.http1`). Source: RFC 9110, RFC 9112.
"""

import asyncio
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol, cast

import httptools

from mcphub.secret import Secret
from mcphub.wire.pieces import Pieces, Text

IDLE_S: Final = 15.0
"""Seconds that an idle connection is kept; less where the server says so."""
_MOST_FRAMING: Final = 64 * 1024
"""Bytes without one of a body: a head, interim heads, trailers."""
_SMALL: Final = 16 * 1024
"""Bodies that are cheaper copied behind their head than written beside it."""
_STEP: Final = 16 * 1024
"""Bytes of a body that are handed on at once."""
_MUCH: Final = 64 * 1024
"""Bytes of one read behind which more is likely to wait."""
_TURN_S: Final = 0.0005
"""Seconds of work on one body in a turn of the loop."""
_A_TURN: Final = 256 * 1024
"""Bytes of a large body that are written before others have their turn."""
_KEEP: Final = re.compile(rb"timeout=([0-9]{1,4})")


class Failed(Exception):
    """There is no answer; the text is a sentence about the server."""


@dataclass(slots=True)
class Head:
    """Status and headers of an answer; names in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> tuple[str, ...]:
        """Return the values of a header, in order."""
        return tuple(value.decode("latin-1") for key, value in self.headers if key == name)

    def first(self, name: bytes) -> str:
        """Return the first value of a header, or ""."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return ""


class Taker(Protocol):
    """Takes one answer; nothing is called any more after `on_end`, or after the request is closed."""

    def on_head(self, head: Head) -> None:
        """Take status and headers."""
        ...

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body."""
        ...

    def on_end(self, error: Exception | None) -> None:
        """Take the end: None when the answer is complete, `Failed`, or the `HubError` of a token."""
        ...


class Request:
    """One request under way."""

    __slots__ = ("body", "connection", "head", "taker", "task", "token", "tried")

    def __init__(self, head: str, body: Text, taker: Taker) -> None:
        self.head, self.body, self.taker = head, body, taker
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.token: Secret | None = None
        self.tried = False

    def end(self, error: Exception | None) -> None:
        """Tell the end, with no connection and no task any more."""
        self.connection = self.task = None
        self.taker.on_end(error)

    def close(self) -> None:
        """Give it up: its connection is closed and its taker hears nothing more."""
        if self.task is not None:
            self.task.cancel()
        if self.connection is not None:
            self.connection.abort()


class Owner(Protocol):
    """Where a connection belongs."""

    def keep(self, connection: "Connection") -> None:
        """Keep it for the next request."""
        ...

    def forget(self, connection: "Connection") -> None:
        """Forget it: it has ended."""
        ...

    def refused(self, request: "Request", head: Head) -> bool:
        """Whether an answer is kept from its taker, because the request is sent anew or fails."""
        ...

    def used(self, seconds: float) -> float:
        """Count the loop's time that a body took; returns the seconds to rest now, mostly 0."""
        ...


class Connection(asyncio.Protocol):
    """One connection with at most one request; the parser's calls only note what they see."""

    _transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()
        self._request: Request | None = None
        self._good_until = 0.0
        self._rest: asyncio.TimerHandle | None = None
        self._kept_s = IDLE_S
        self._unwritten: Iterator[bytes] | None = None
        self._is_full = False
        self._fresh()

    def is_good(self, now: float) -> bool:
        """Whether another request may go this way."""
        return now < self._good_until and not self._transport.is_closing()

    def send(self, request: Request) -> None:
        """Write a request."""
        self._fresh()
        self._request, request.connection, request.task = request, self, None
        head = request.head
        if request.token is not None:
            head += f"Authorization: Bearer {request.token.reveal()}\r\n"
        first = f"{head}\r\n".encode()
        if isinstance(request.body, Pieces):
            self._unwritten = request.body.blocks(_A_TURN)
            self._transport.write(first)
            self._write_on()
        elif len(request.body) < _SMALL:  # one write, by the loop at the end of its turn
            self._transport.write(first + request.body)
        else:
            self._transport.writelines((first, request.body))

    def _write_on(self) -> None:
        """Write some of what is left of a large body, a part each turn, as far as the server reads."""
        if self._unwritten is None or self._is_full or self._transport.is_closing():
            return
        part = next(self._unwritten, None)
        if part is None:
            self._unwritten = None
        else:
            self._transport.write(part)
            self._loop.call_soon(self._write_on)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_full = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_full = False
        self._write_on()

    def abort(self) -> None:
        """Close at once; whoever waits hears nothing more."""
        self._request = self._unwritten = None
        self._wake()
        self._owner.forget(self)
        self._transport.abort()

    # ------------------------------------------------------------------ the loop's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read what came, then tell of it: whoever is told may send, close, or both."""
        request = self._request
        if request is None:
            self.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keeps, self._bad = False, self._bad or not self._complete
        self._framing = 0 if self._pieces else self._framing + len(data)
        if self._rest is None:
            self._hand_on(request)
        if len(data) >= _MUCH and self._rest is None and self._request is request:
            self._pause(
                request, 0.0
            )  # uvloop would read on, up to 32 times, before anybody else has a turn

    def _hand_on(self, request: Request) -> None:
        """Tell what is known; a part of it, where the owner has to rest."""
        if not self._tell(request) or self._rest is not None:
            return
        if self._complete and not self._bad:
            self._finish(request)
        elif self._bad or self._framing > _MOST_FRAMING:
            self._end(request, Failed("Its answer is not HTTP that can be understood."))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is not answered, unless the end of the connection is the end of the answer."""
        self._owner.forget(self)
        request = self._request
        if request is not None:
            whole = exc is None and self._head is not None and self._until_end
            text = "It closed the connection before it had answered; whether it did what it was asked to do is not known."
            self._end(request, None if whole else Failed(text))

    # ------------------------------------------------------------------ the parser's calls

    def on_message_begin(self) -> None:
        """Begin an answer: an interim one, the answer itself, or one that nobody asked for."""
        self._keeps = self._keeps and not self._complete
        self._headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; trailers are dropped."""
        if self._head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Note a head that is no interim one, and how its body ends."""
        status = self._parser.get_status_code()
        if self._head is not None or status < 200:
            self._bad = self._bad or status == 101
            return
        self._head = Head(status, self._headers)
        self._keeps = self._parser.should_keep_alive()
        self._until_end = True
        coded = 0
        for name, value in self._headers:
            if name == b"content-length":
                self._until_end = False
            elif name == b"transfer-encoding":
                self._until_end = False
                coded += 1
                self._bad = self._bad or coded > 1 or value.lower() != b"chunked"
            elif name == b"content-encoding" and value.lower() != b"identity":
                self._bad = self._bad or value.lower() not in {b"gzip", b"x-gzip"}
                self._inflater = zlib.decompressobj(wbits=31)
            elif name == b"keep-alive" and (said := _KEEP.search(value)) is not None:
                self._kept_s = min(IDLE_S, int(said[1]) - 1)

    def on_body(self, body: bytes) -> None:
        """Note a piece of the body."""
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Note the end, unless it is that of an interim answer."""
        self._complete = self._head is not None

    # ------------------------------------------------------------------ one answer

    def _fresh(self) -> None:
        self._head: Head | None = None
        self._pieces: deque[bytes | memoryview] = deque()
        self._inflater: zlib._Decompress | None = None
        self._told = self._complete = self._bad = self._keeps = self._until_end = False
        self._framing = 0

    def _tell(self, request: Request) -> bool:
        """Hand on what is new; returns whether the request still wants to hear more."""
        if self._head is None or self._bad:
            return True
        if not self._told:
            self._told = True
            if self._owner.refused(request, self._head):
                request.connection = None
                self.abort()
                return False
            request.taker.on_head(self._head)
        spent = 0.0
        while self._pieces and self._request is request and self._rest is None:
            began = self._loop.time()
            try:
                part = self._step(self._pieces.popleft())
            except zlib.error:
                self._end(request, Failed("Its answer is compressed in a way that is not known."))
                return False
            if part:
                request.taker.on_data(part)
            took = self._loop.time() - began
            spent += took
            seconds = self._owner.used(took)
            if self._request is request and (seconds or (self._pieces and spent > _TURN_S)):
                self._pause(request, seconds)
        return self._request is request

    def _step(self, piece: bytes | memoryview) -> bytes:
        """Return the next bytes of the body; what is left of a piece is put back."""
        inflater = self._inflater
        if inflater is None:
            if len(piece) > _STEP:
                self._pieces.appendleft(memoryview(piece)[_STEP:])
            return bytes(piece[:_STEP])
        if inflater.eof:
            return b""
        part = inflater.decompress(piece, _STEP)
        if inflater.unconsumed_tail or len(part) == _STEP:
            self._pieces.appendleft(inflater.unconsumed_tail)
        return part

    def _pause(self, request: Request, seconds: float) -> None:
        """Read on later: others have their turn first."""
        self._transport.pause_reading()
        self._rest = self._loop.call_later(seconds, self._go_on, request)

    def _go_on(self, request: Request) -> None:
        self._wake()
        if self._request is request:
            self._hand_on(request)

    def _wake(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
            self._transport.resume_reading()

    def _finish(self, request: Request) -> None:
        """End a complete answer, with the connection free for the next one where that is safe."""
        if (
            not self._keeps
            or self._unwritten is not None
            or self._transport.get_write_buffer_size()
        ):
            self._end(request, None)
            return
        self._good_until = self._loop.time() + self._kept_s
        self._request = None
        self._owner.keep(self)
        request.end(None)

    def _end(self, request: Request, error: Exception | None) -> None:
        self.abort()
        request.end(error)
