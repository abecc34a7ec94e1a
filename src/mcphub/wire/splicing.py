"""A plain result as bytes: where its id stands and where its result begins, without reading it.

Nearly every answer of a server is one of two shapes: `{"jsonrpc":"2.0","id":N,"result":{…}}` or
`{"result":{…},"jsonrpc":"2.0","id":N}`, as the SDKs write them. There the caller's id can be put in
the place of the hub's with nothing else read or changed, whatever the size. That the result is one
object and all there is beside the two others is made sure: a second `id`, or a second message on the
line, would answer a request of its server's choice (rule R2). What is not plainly one of the shapes
is read as a message (`wire.envelope`). Pure.
"""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from mcphub.wire import envelope

_FIRST: Final = re.compile(rb'\{"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15}), ?"result": ?(?=\{["}])')
_LAST: Final = re.compile(rb'\}, ?"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15})\}')
_LAST_SIZE: Final = 64
_LOOKS: Final = 1000
_LARGE: Final = 64 * 1024
_SECOND: Final = re.compile(rb'\{"result": ?(?=\{["}])')
_IS_ERROR, _TRUE = b'"isError"', re.compile(rb'"isError"\s*:\s*true')
_TYPE, _COMPLETE = b'"resultType"', re.compile(rb'"resultType"\s*:\s*"complete"')
_ESCAPE, _LETTER = b"\\u00", re.compile(rb"\\u00[4-7]")


_BULK: Final = frozenset({"content", "structuredContent"})
"""Members of a result in which nothing tells the hub anything: only those of the result itself do."""


class _Object(msgspec.Struct, gc=False):
    """Any JSON object, of which nothing is kept."""


_OBJECT: Final = msgspec.json.Decoder(_Object)


@dataclass(slots=True)
class PlainResult:
    """One line of a server that is a plain result.

    Attributes:
        line: All of it.
        id: Of the request that it answers.
        id_at: Where the id stands: first byte and the one behind it.
        result_at: Where the result stands: its first brace and the byte behind its last one.
        told: What of the line is searched for what may matter: all of it, or its small members only.
    """

    line: bytes
    id: int
    id_at: tuple[int, int]
    result_at: tuple[int, int]
    told: bytes

    @property
    def result(self) -> bytes:
        """The result as it came."""
        start, end = self.result_at
        return self.line[start:end]

    def has(self, *names: bytes) -> bool:
        """Whether one of these names, in quotes, is anywhere in what is searched."""
        told = self.told
        for name in names:  # noqa: SIM110  a generator costs more than the search
            if name in told:
                return True
        return False

    @property
    def is_tool_error(self) -> bool:
        """Whether it may be a tool's error."""
        return says_error(self.told)

    @property
    def is_complete(self) -> bool:
        """Whether it is a complete result of the modern era for certain: nothing in it says otherwise.

        A name that is written with escapes could say so unseen.
        """
        if _ESCAPE in self.told and _LETTER.search(self.told) is not None:
            return False
        return not _says(self.told, _TYPE, _COMPLETE, False)

    def answer(self, raw_id: bytes, members: bytes = b"") -> bytes:
        """Return the line with another id, and further members at the start of its result.

        Args:
            raw_id: Raw JSON text of the id.
            members: Raw members without braces and without a comma at the end, or b"".
        """
        (start, end), at = self.id_at, self.result_at[0] + 1
        comma = b"" if self.line[at : at + 1] == b"}" else b","
        # a part of a view is no copy
        line = self.line if len(self.line) < _LARGE else memoryview(self.line)
        if not members:
            return b"".join((line[:start], raw_id, line[end:]))
        if start < at:
            parts = (line[:start], raw_id, line[end:at], members, comma, line[at:])
        else:
            parts = (line[:at], members, comma, line[at:start], raw_id, line[end:])
        return b"".join(parts)


def plain_result(line: bytes) -> PlainResult | None:
    """Return the line as a plain result, or None when it is not plainly one."""
    found = number = _FIRST.match(line)
    if found is not None:
        if line[-2:] != b"}}":
            return None
        end = len(line) - 1
    else:
        found = _SECOND.match(line)
        if found is None:
            return None
        number = _LAST.search(line, max(0, len(line) - _LAST_SIZE))
        if number is None or number.end() != len(line):
            return None
        end = number.start() + 1
    assert number is not None
    told = _told(line, found.end(), end)
    if told is None:
        return None
    return PlainResult(line, int(number[1]), number.span(1), (found.end(), end), told)


def _told(line: bytes, start: int, end: int) -> bytes | None:
    """Return what is searched; None unless exactly one JSON object goes from `start` to `end`.

    What stands before and behind it is known, so the whole line is one message then. A line break
    anywhere in it would end it for a reader of an event stream.
    """
    if b"\r" in line:
        return None
    try:
        if len(line) < _LARGE:
            _OBJECT.decode(line[start:end])
            return line
        members = envelope.members_of(memoryview(line)[start:end])
    except (envelope.TooMany, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    small = {name: raw for name, raw in members.items() if name not in _BULK}
    return msgspec.json.encode(small)


def says_error(text: bytes) -> bool:
    """Whether a result may be a tool's error: somewhere `isError` is true."""
    return _says(text, _IS_ERROR, _TRUE, True)


def _says(text: bytes, name: bytes, value: re.Pattern[bytes], expected: bool) -> bool:
    """Whether a name in quotes somewhere has this value (`expected`), or another one; so does too many."""
    at = -1
    for _ in range(_LOOKS):
        at = text.find(name, at + 1)
        if at < 0:
            return False
        if (value.match(text, at) is not None) is expected:
            return True
    return True
