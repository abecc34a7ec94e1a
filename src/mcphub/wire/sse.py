"""Server-sent events, both sides. Source: WHATWG HTML §9.2; MCP streamable-http, 2024-11-05 HTTP with SSE."""

from dataclasses import dataclass, field
from typing import Final

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
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

    def feed(self, part: bytes) -> list[tuple[str, bytes]]:
        """Return the (type, data) of every event that `part` completes; lines of data joined by LF.

        Raises:
            EventTooLong: More than `limit` bytes came without the end of an event.
        """
        self._size += len(part)
        if self._size > self.limit:
            raise EventTooLong
        self._held.append(part)
        if b"\n" not in part and b"\r" not in part:
            return []
        text = b"".join(self._held)
        # a lone CR at the end may be half of a CRLF: it waits for the next part
        half = text.endswith(b"\r")
        whole = (text[:-1] if half else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = whole.split(b"\n")
        self._held = [lines.pop() + (b"\r" if half else b"")]
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
