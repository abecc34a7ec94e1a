"""Server-sent events, both sides. Source: WHATWG HTML §9.2; MCP streamable-http, 2024-11-05 HTTP with SSE."""

from dataclasses import dataclass, field
from typing import Final

from mcphub.wire.arriving import Arriving
from mcphub.wire.pieces import Pieces, Text

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_PART: Final = 64
"""Bytes that even the smallest piece takes in memory."""
_BEFORE, _AFTER = b"event: message\ndata: ", b"\n\n"
LARGE: Final = 64 * 1024
"""Bytes beyond which what comes over HTTP is read while it arrives: what has come by then is read at once."""
_LF, _CR = ord("\n"), ord("\r")
KEEP_ALIVE: Final = b":\n\n"
"""A comment: keeps proxies from closing a quiet stream."""


def event(message: Text) -> Text:
    """Return one `message` event. The message must be on one line (`envelope.one_line`)."""
    if isinstance(message, Pieces):
        return Pieces((_BEFORE, *message, _AFTER))
    return _BEFORE + message + _AFTER


def named(kind: str, data: bytes) -> bytes:
    """Return one event of another kind; the data must be on one line."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class EventTooLong(Exception):
    """One event, or one line of it, is over the limit."""


Data = bytes | Arriving
"""Data of an event; what is large was read while it arrived."""


@dataclass(slots=True)
class EventReader:
    """Reads an event stream that arrives in pieces of any size.

    Attributes:
        limit: Longest event, in bytes.
    """

    limit: int
    _large: Arriving | None = None
    _in_large: bool = False
    _is_other: bool = False
    _held_size: int = 0
    _held: list[bytes] = field(default_factory=list)
    _data: list[bytes] = field(default_factory=list)
    _kind: bytes = b""
    _size: int = 0
    _cr: bool = False

    def feed(self, part: bytes) -> list[tuple[str, Data]]:
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
        if _LF not in part and _CR not in part:
            self._go_on(part)
            return []
        text = b"".join((*self._held, part))
        self._cr = text.endswith(b"\r")
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest = lines.pop()
        if self._in_large:
            self._add(lines.pop(0))
            self._in_large = False
        self._held, self._held_size, self._is_other = [], 0, False
        found: list[tuple[str, Data]] = []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._take(value.removeprefix(b" "))
            elif name == b"event":
                self._kind = value.removeprefix(b" ")
            elif not line:
                if (data := self._whole()) is not None:
                    found.append((self._kind.decode("latin-1") or "message", data))
                self._data, self._kind, self._size = [], b"", len(rest)
        self._go_on(rest)
        return found

    def _go_on(self, part: bytes) -> None:
        """Take a part of a line that has not ended; of large data what has come is read."""
        if self._in_large:
            self._add(part)
            return
        self._held.append(part)
        self._held_size += len(part)
        if self._held_size > LARGE and not self._is_other:
            line = b"".join(self._held)
            self._is_other = not line.startswith(b"data:")
            if not self._is_other:
                self._take(line.removeprefix(b"data:").removeprefix(b" "), is_large=True)
                self._in_large = True
                line = b""
            self._held, self._held_size = [line], 0

    def _take(self, value: bytes, *, is_large: bool = False) -> None:
        """Take the value of a line of data, or the start of a large one."""
        if self._large is not None:
            self._add(b"\n")
        elif is_large:
            self._large = Arriving(mends=True)
            for line in self._data:
                self._add(line)
                self._add(b"\n")
            self._data = []
        if self._large is not None:
            self._add(value)
        else:
            self._data.append(value)

    def _add(self, part: bytes) -> None:
        assert self._large is not None
        self._large.add(part)
        while not self._large.read():
            pass

    def _whole(self) -> Data | None:
        """Return the data of an event that has ended; None when there is none."""
        large, self._large = self._large, None
        if large is not None:
            large.end()
            while not large.read():
                pass
            return large
        return b"\n".join(self._data) if any(self._data) else None
