"""A plain result as bytes: where its id stands and where its result begins, without reading it.

Nearly every answer of a server is one of two shapes: `{"jsonrpc":"2.0","id":N,"result":{…}}` or
`{"result":{…},"jsonrpc":"2.0","id":N}`, as the SDKs write them. There the caller's id can be put in
the place of the hub's with nothing else read or changed, whatever the size. That the result is one
object and all there is beside the two others is made sure: a second `id`, or a second message on the
line, would answer a request of its server's choice (rule R2). What is not plainly one of the shapes
is read as a message (`wire.envelope`). Pure.
"""

import re
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from mcphub.wire import envelope, translate

_FIRST: Final = re.compile(rb'\{"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15}), ?"result": ?(?=\{["}])')
_LAST: Final = re.compile(rb'\}, ?"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15})\}')
_LAST_SIZE: Final = 64
_LARGE: Final = 64 * 1024
_CR: Final = ord("\r")
_SECOND: Final = re.compile(rb'\{"result": ?(?=\{["}])')
_BULK: Final = frozenset({"content", "structuredContent"})
"""Members of a result in which nothing tells the hub anything: only those of the result itself do."""


class Told(msgspec.Struct, gc=False):
    """What the members of a result tell the hub; what they hold beside that is not kept.

    Attributes:
        is_error: It is a tool's error.
        kind: `resultType` of the modern era, if it is there.
        task: Raw task of 2025-11-25, if it is there.
        task_id: Raw id of a task of the extension, if it is there.
        meta: Raw `_meta`, if it is there.
    """

    is_error: bool = msgspec.field(name="isError", default=False)
    kind: str | UnsetType = msgspec.field(name="resultType", default=UNSET)
    task: msgspec.Raw | UnsetType = UNSET
    task_id: msgspec.Raw | UnsetType = msgspec.field(name="taskId", default=UNSET)
    meta: msgspec.Raw | UnsetType = msgspec.field(name="_meta", default=UNSET)

    @property
    def is_complete(self) -> bool:
        """Whether it is a complete result of the modern era; one that does not say so is."""
        return self.kind is UNSET or self.kind == translate.COMPLETE


_TOLD: Final = msgspec.json.Decoder(Told)


class PlainResult(msgspec.Struct, gc=False):
    """One line of a server that is a plain result.

    Attributes:
        line: All of it.
        id: Of the request that it answers.
        id_at: Where the id stands: first byte and the one behind it.
        result_at: Where the result stands: its first brace and the byte behind its last one.
        told: What the result tells the hub.
    """

    line: bytes
    id: int
    id_at: tuple[int, int]
    result_at: tuple[int, int]
    told: Told

    @property
    def result(self) -> bytes:
        """The result as it came."""
        start, end = self.result_at
        return self.line[start:end]

    def answer(self, raw_id: bytes, members: bytes = b"") -> bytes:
        """Return the line with another id, and further members at the start of its result.

        Args:
            raw_id: Raw JSON text of the id.
            members: Raw members without braces and without a comma at the end, or b"".
        """
        start, end = self.id_at
        # a part of a view is no copy
        line = self.line if len(self.line) < _LARGE else memoryview(self.line)
        if not members:
            return b"".join((line[:start], raw_id, line[end:]))
        at = self.result_at[0] + 1
        comma = b"" if self.line[at : at + 1] == b"}" else b","
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


def _told(line: bytes, start: int, end: int) -> Told | None:
    """Return what a result tells; None unless exactly one JSON object goes from `start` to `end`.

    What stands before and behind it is known, so the whole line is one message then. A line break
    anywhere in it would end it for a reader of an event stream. A member of another type than the
    specification gives it is read as a message.
    """
    if _CR in line:
        return None
    try:
        if len(line) < _LARGE:
            return _TOLD.decode(line[start:end])
        members = envelope.members_of(memoryview(line)[start:end])
        small = {name: raw for name, raw in members.items() if name not in _BULK}
        return _TOLD.decode(msgspec.json.encode(small))
    except (envelope.TooMany, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
