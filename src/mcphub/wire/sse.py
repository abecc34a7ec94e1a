"""Server-sent events, both sides. Source: WHATWG HTML §9.2; MCP streamable-http, 2024-11-05 HTTP with SSE."""

from dataclasses import dataclass, field
from typing import Final

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_PART: Final = 64
"""Bytes that even the smallest piece takes in memory."""
KEEP_ALIVE: Final = b":\n\n"
"""A comment: keeps proxies from closing a quiet stream."""


def event(message: bytes) -> bytes:
    """Return one `message` event. The message must be on one line (`envelope.one_line`)."""
    return b"event: message\ndata: " + message + b"\n\n"


def named(kind: str, data: bytes) -> bytes:
    """Return one event of another kind; the data must be on one line."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class EventTooLong(Exception):
    """One event, or one line of it, is over the limit."""


@dataclass(slots=True)
class EventReader:
    """Reads an event stream that arrives in pieces of any size.

    Attributes:
        limit: Longest event, in bytes.
    """

    limit: int
    _held: list[bytes] = field(default_factory=list)
    _data: list[bytes] = field(default_factory=list)
    _kind: bytes = b""
    _size: int = 0
    _cr: bool = False

    def feed(self, part: bytes) -> list[tuple[str, bytes]]:
        """Return the (type, data) of every event that `part` completes; lines of data joined by LF.

        Raises:
            EventTooLong: More than `limit` bytes came without the end of an event.
        """
        self._size += max(len(part), _PART)
        if self._size > self.limit:
            raise EventTooLong
        if self._cr and part:
            # a lone CR ended a line at once; the LF behind it belongs to it
            part = part.removeprefix(b"\n")
            self._cr = False
        self._held.append(part)
        if b"\n" not in part and b"\r" not in part:
            return []
        text = b"".join(self._held)
        self._cr = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._held = [lines.pop()]
        found: list[tuple[str, bytes]] = []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif name == b"event":
                self._kind = value.removeprefix(b" ")
            elif not line:
                if any(self._data):
                    kind = self._kind.decode("latin-1") or "message"
                    found.append((kind, b"\n".join(self._data)))
                self._data, self._kind, self._size = [], b"", len(self._held[0])
        return found
