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

_FIRST: Final = re.compile(rb'\{"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15}), ?"result": ?(?=\{["}])')
_LAST: Final = re.compile(rb'\}, ?"jsonrpc": ?"2\.0", ?"id": ?([0-9]{1,15})\}')
_LAST_SIZE: Final = 64
_LARGE: Final = 64 * 1024
_SECOND: Final = re.compile(rb'\{"result": ?(?=\{["}])')
_IS_ERROR, _TRUE = b'"isError"', re.compile(rb'"isError"\s*:\s*true')
_TYPE, _COMPLETE = b'"resultType"', re.compile(rb'"resultType"\s*:\s*"complete"')
_ESCAPE, _LETTER = b"\\u00", re.compile(rb"\\u00[4-7]")


class _Whole(msgspec.Struct, gc=False):
    """A line as JSON; of a repeated member the last one counts."""

    result: msgspec.Raw


_WHOLE: Final = msgspec.json.Decoder(_Whole)


@dataclass(slots=True)
class PlainResult:
    """One line of a server that is a plain result.

    Attributes:
        line: All of it.
        id: Of the request that it answers.
        id_at: Where the id stands: first byte and the one behind it.
        result_at: Where the result begins: at its brace.
    """

    line: bytes
    id: int
    id_at: tuple[int, int]
    result_at: int

    def has(self, *names: bytes) -> bool:
        """Whether one of these names, in quotes, is anywhere in the line."""
        line = self.line
        for name in names:  # noqa: SIM110  a generator costs more than the search
            if name in line:
                return True
        return False

    @property
    def is_tool_error(self) -> bool:
        """Whether it may be a tool's error."""
        return says_error(self.line)

    @property
    def is_complete(self) -> bool:
        """Whether it is a complete result of the modern era for certain: nothing in it says otherwise.

        A name that is written with escapes could say so unseen.
        """
        if _ESCAPE in self.line and _LETTER.search(self.line) is not None:
            return False
        return not _says(self.line, _TYPE, _COMPLETE, False)

    def answer(self, raw_id: bytes, members: bytes = b"") -> bytes:
        """Return the line with another id, and further members at the start of its result.

        Args:
            raw_id: Raw JSON text of the id.
            members: Raw members without braces and without a comma at the end, or b"".
        """
        (start, end), at = self.id_at, self.result_at + 1
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
    found = _FIRST.match(line)
    if found is not None:
        if line[-2:] != b"}}" or not _is_all(line, found.end(), len(line) - 1):
            return None
        return PlainResult(line, int(found[1]), found.span(1), found.end())
    found = _SECOND.match(line)
    if found is None:
        return None
    last = _LAST.search(line, max(0, len(line) - _LAST_SIZE))
    if last is None or last.end() != len(line):
        return None
    if not _is_all(line, found.end(), last.start() + 1):
        return None
    return PlainResult(line, int(last[1]), last.span(1), found.end())


def _is_all(line: bytes, start: int, end: int) -> bool:
    """Whether a line is JSON, without a line break anywhere, whose one result goes from `start` to `end`."""
    if b"\r" in line:  # ends a line for a reader of an event stream
        return False
    try:
        return len(_WHOLE.decode(line).result) == end - start
    except (msgspec.MsgspecError, RecursionError):
        return False


def says_error(text: bytes) -> bool:
    """Whether a result may be a tool's error: somewhere `isError` is true."""
    return _says(text, _IS_ERROR, _TRUE, True)


def _says(text: bytes, name: bytes, value: re.Pattern[bytes], expected: bool) -> bool:
    """Whether a name in quotes somewhere has this value (`expected`), or has another one."""
    at = text.find(name)
    while at >= 0:
        if (value.match(text, at) is not None) is expected:
            return True
        at = text.find(name, at + 1)
    return False
