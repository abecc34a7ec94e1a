"""What the body of an HTTP answer holds: messages, as JSON or as an event stream, in pieces of any size."""

import asyncio
from collections.abc import Callable
from typing import Final

from mcphub.upstream.connection import Head
from mcphub.upstream.lines import Line, LineTooLong
from mcphub.wire import envelope, sse
from mcphub.wire.arriving import Arriving

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
_PART: Final = 64
"""Bytes that even the smallest piece of a body takes in memory."""


class Messages:
    """Reads the messages of one answer, JSON or an event stream, from pieces of any size.

    What is large is read while it arrives.

    Args:
        limit: Longest message, in bytes.
        is_stream: Whether it is an event stream.
    """

    __slots__ = ("_events", "_large", "_limit", "_parts", "_size")

    def __init__(self, limit: int, is_stream: bool) -> None:
        self._limit = limit
        self._events = sse.EventReader(limit) if is_stream else None
        self._parts: list[bytes] = []
        self._large: Arriving | None = None
        self._size = 0

    def feed(self, data: bytes) -> list[Line]:
        """Return the messages that `data` completes, each on one line.

        Raises:
            LineTooLong: One is over the limit.
        """
        if self._events is None:
            self._size += max(len(data), _PART)
            if self._size > self._limit:
                raise LineTooLong
            self._parts.append(data)
            if self._size > sse.LARGE:
                self._read()
            return []
        found = events(self._events, data)
        return [on_one_line(text) for kind, text in found if kind == "message"]

    def _read(self) -> None:
        """Read what has come of a large body."""
        if self._large is None:
            self._large = Arriving(mends=True)
        large = self._large
        for part in self._parts:
            large.add(part)
        self._parts.clear()
        while not large.read():
            pass

    def end(self) -> list[Line]:
        """Return the messages that the end of the answer completes."""
        if self._large is not None:
            self._large.end()
            self._read()
            if not self._large.is_batch:
                return [self._large]
        body = b"".join(self._parts) if self._large is None else bytes(self._large)
        try:
            batch = envelope.split_batch(body) if body else None
        except envelope.Malformed:
            batch = None  # whoever takes it says what is wrong with it
        items = [body] if batch is None else [bytes(raw) for raw in batch]
        return [envelope.one_line(item) for item in items if item and not item.isspace()]


class Stream:
    """Takes one event stream; implements `connection.Taker`.

    Args:
        limit: Longest event, in bytes.
        on_event: Called with type and data of each.

    Attributes:
        status: Of the answer, 0 before there is one.
        ended: Its result is None, or what ended it: `LineTooLong`, or as in `connection.Taker`.
    """

    def __init__(self, limit: int, on_event: Callable[[str, Line], None]) -> None:
        self._reader = sse.EventReader(limit)
        self._on_event = on_event
        self.status = 0
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def on_head(self, head: Head) -> None:
        """See `connection.Taker`."""
        self.status = head.status
        if head.status != 200:
            self.on_end(None)

    def on_data(self, data: bytes) -> None:
        """See `connection.Taker`."""
        try:
            found = events(self._reader, data) if not self.ended.done() else []
        except LineTooLong as error:
            self.on_end(error)
            return
        for kind, text in found:
            self._on_event(kind, text)

    def on_end(self, error: Exception | None) -> None:
        """See `connection.Taker`."""
        if not self.ended.done():
            self.ended.set_result(error)


def on_one_line(data: Line) -> Line:
    """Return data of an event as one line; what is large is read and needs none."""
    return data if isinstance(data, Arriving) else envelope.one_line(data)


def events(reader: sse.EventReader, data: bytes) -> list[tuple[str, Line]]:
    """Return the events that `data` completes.

    Raises:
        LineTooLong: One is over the limit.
    """
    try:
        return reader.feed(data)
    except sse.EventTooLong:
        raise LineTooLong from None


def messages_of(head: Head, limit: int) -> Messages | None:
    """Return what reads the messages of an answer; None when it holds none."""
    kind = head.first(b"content-type").partition(";")[0].strip().lower()
    return Messages(limit, kind == EVENTS) if kind in {JSON, EVENTS} else None
