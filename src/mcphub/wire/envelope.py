"""JSON-RPC messages as envelopes around bytes: what must be read is read, all else stays as it came.

An object becomes a mapping from member name to its raw JSON text (`Members`). Joining it again keeps
unknown members, explicit nulls, big numbers and the order, and leaves exactly one member per name:
of a repeated name the last one counts, as in `JSON.parse`, so that the hub and the server behind it
can never read two different messages (parser differential).

What is read has few members or items (`MOST`): reading takes a microsecond for each, in which nobody else
is served. What is not read may hold as many as it likes. A message over `LARGE` is read while it arrives
(`wire.arriving`), and goes on in pieces.

Not here: eras (`wire.eras`), transports. No I/O. Source: JSON-RPC 2.0, MCP basic §Messages.
"""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, overload

import msgspec

from mcphub.wire.codes import INVALID_REQUEST, PARSE_ERROR
from mcphub.wire.pieces import Blocks, Pieces, Raw, Text

Members = dict[str, Raw]
"""Member name -> raw JSON text."""
Inside = Mapping[tuple[str, ...], Members]
"""Path of an object in a message -> its members."""

LARGE: Final = 256 * 1024
"""Bytes beyond which a message is never read, written or copied in one step."""
MOST: Final = 10_000
"""Members of an object, or items of an array, that the hub reads."""
_SMALL: Final = 64 * 1024
"""Bytes in which there cannot be many more."""
_BETWEEN, _GUESSES = (b"},{", b"}, {"), 4
"""What stands between items, and how many of the last ones of each are tried."""
_MOST_READ: Final = 4 * 1024 * 1024
"""Bytes of a value in a large message that is read all the same, in one step."""

_MEMBERS: Final[msgspec.json.Decoder[Members]] = msgspec.json.Decoder(dict[str, msgspec.Raw])  # pyright: ignore[reportAssignmentType]
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_QUOTED: dict[str, bytes] = {}
_MAX_QUOTED: Final = 2048
VERSION: Final = msgspec.Raw(b'"2.0"')
_SURROGATES: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|[c-fC-F][0-9a-fA-F]{2})"
)
_ESCAPE: Final = len(rb"\uffff")
_MOST_SURROGATES: Final = 10_000


class TooMany(Exception):
    """There are more than `MOST` members or items."""


class _Name(str):
    """Name of a member that was counted."""

    __slots__ = ()


class Malformed(Exception):
    """The bytes are no JSON-RPC message.

    Attributes:
        code: JSON-RPC error code: -32700 for no JSON, -32600 for JSON that is no message.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Message:
    """One JSON-RPC message.

    Attributes:
        members: All members of the message, raw.
        id: Raw JSON text of the id (a string or an integer), or b"" for a notification.
        method: The method, or "" for a response.
        inside: Members of objects in it that are known already, by their path.
    """

    members: Members
    id: bytes
    method: str
    inside: Inside | None = None

    def inner(self, *path: str) -> Members:
        """Return the members of an object in the message, to be changed at will; empty when there is none."""
        members = self.members
        for depth, name in enumerate(path, start=1):
            known = self.inside.get(path[:depth]) if self.inside else None
            members = object_of(members.get(name)) if known is None else dict(known)
        return members

    @property
    def size(self) -> int:
        """Bytes of its members."""
        return sum(map(len, self.members.values()))

    @property
    def is_request(self) -> bool:
        """A method and an id."""
        return bool(self.method and self.id)


def parse(data: bytes | bytearray | memoryview | msgspec.Raw) -> Message:
    """Read one message.

    Raises:
        Malformed: No JSON object, no UTF-8, wrong `jsonrpc`, an id that is neither string nor
            integer, or no method and no result.
    """
    try:
        # members stay undecoded: what is no UTF-8 must not go on to the other side inside of one
        if not isinstance(data, msgspec.Raw) and not (whole := bytes(data)).isascii():
            whole.decode()
        members = members_of(data)
    except TooMany:
        raise Malformed(INVALID_REQUEST, f"A message has at most {MOST} members.") from None
    except msgspec.ValidationError:
        raise Malformed(INVALID_REQUEST, "A message is a JSON object.") from None
    except RecursionError:
        raise Malformed(PARSE_ERROR, "The message is nested too deeply to be read.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(PARSE_ERROR, "The body is not valid JSON.") from None
    return message_of(members)


def message_of(members: Members, inside: Inside | None = None) -> Message:
    """Return members as a message.

    Raises:
        Malformed: Wrong `jsonrpc`, an id that is neither string nor integer, or no method and no result.
    """
    if bytes(members.get("jsonrpc", b"")) != b'"2.0"':
        raise Malformed(INVALID_REQUEST, 'A message has "jsonrpc": "2.0".')
    raw_id = bytes(members["id"]) if "id" in members else b""
    if raw_id and not _is_id(raw_id):
        if "method" not in members and raw_id == b"null":
            raw_id = b""
        else:
            raise Malformed(INVALID_REQUEST, "An id is a string or an integer.")
    method = text(members.get("method")) if "method" in members else ""
    if not method and "result" not in members and "error" not in members:
        raise Malformed(INVALID_REQUEST, "A message has a method, a result or an error.")
    return Message(members, raw_id, method, inside)


def split_batch(data: bytes) -> list[msgspec.Raw] | None:
    """Return the raw messages of a batch, or None when the body is no array."""
    if data.lstrip()[:1] != b"[":
        return None
    try:
        data.decode()
        return items_of(data)
    except TooMany:
        raise Malformed(INVALID_REQUEST, f"A batch has at most {MOST} messages.") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Malformed(PARSE_ERROR, "The body is not valid JSON.") from None


def members_of(data: bytes | bytearray | memoryview | Raw) -> Members:
    """Return the members of a raw JSON object.

    Raises:
        TooMany: It has more than `MOST`.
        msgspec.MsgspecError, RecursionError, UnicodeDecodeError: It is no JSON object.
    """
    if isinstance(data, Pieces):
        data = bytes(data)
    if len(data) <= _SMALL:
        return _MEMBERS.decode(data)
    left = MOST

    def counted(_kind: type, name: str) -> _Name:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooMany
        return _Name(name)

    found = msgspec.json.decode(data, type=dict[_Name, msgspec.Raw], dec_hook=counted)
    return {str(name): raw for name, raw in found.items()}


def items_of(data: bytes | Raw) -> list[msgspec.Raw]:
    """Return the items of a raw JSON array.

    Raises:
        TooMany: It has more than `MOST`, or is large and no array.
        msgspec.MsgspecError, RecursionError, UnicodeDecodeError: It is no JSON array.
    """
    if isinstance(data, Pieces):
        data = bytes(data)
    if len(data) <= _SMALL:
        return _ITEMS.decode(data)
    try:
        return [raw for raw in msgspec.structs.astuple(_few().decode(data)) if len(raw)]
    except msgspec.ValidationError:
        raise TooMany from None


def items_in_turns(raw: Raw) -> Iterator[list[msgspec.Raw]]:
    """Return the items of a raw JSON array as `items_of`; those of a large one some at a time, as far as they are small.

    What stands before a comma is guessed to be whole items: between brackets it is JSON exactly if it is.

    Raises:
        TooMany, msgspec.MsgspecError, RecursionError, UnicodeDecodeError: As `items_of`.
    """
    if not isinstance(raw, Pieces):
        yield items_of(raw)
        return
    held, length, size = list[bytes](), 0, _SMALL
    for part in raw:
        held.append(part)
        length += len(part)
        if length < size:
            continue
        text = b"".join(held)
        found = _whole_items(text)
        if found is None:
            held, size = [text], 2 * length
            continue
        items, end = found
        yield items
        held, size = [b"[", text[end:]], _SMALL
        length = len(text) - end
    yield items_of(b"".join(held))


def _whole_items(text: bytes) -> tuple[list[msgspec.Raw], int] | None:
    """Return items at the start of an array and where the next one stands; None when no guess is right."""
    for mark in _BETWEEN:
        end = len(text)
        for _ in range(_GUESSES):
            end = text.rfind(mark, 0, end)
            if end < 0:
                break
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                return _ITEMS.decode(text[: end + 1] + b"]"), end + 2
    return None


@functools.cache
def _few() -> msgspec.json.Decoder[msgspec.Struct]:
    """Return what reads an array and gives up at its first item too many."""
    items = [(f"i{number}", msgspec.Raw, msgspec.Raw(b"")) for number in range(MOST)]
    few = msgspec.defstruct("_Few", items, array_like=True, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(few)


def object_of(raw: bytes | Raw | None) -> Members:
    """Return the members of a raw JSON object; empty for None or anything that is no object.

    One of more than `MOST` members, or over 4 MiB, is none.
    """
    if raw is None or _is_too_long(raw):
        return {}
    try:
        return members_of(raw)
    except (TooMany, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}


def _is_too_long(raw: bytes | Raw) -> bool:
    return type(raw) is Pieces and len(raw) > _MOST_READ


def array_of(raw: bytes | Raw | None) -> list[msgspec.Raw]:
    """Return the raw items of a raw JSON array; empty for None or anything else, and for too many or over 4 MiB."""
    if raw is None or _is_too_long(raw):
        return []
    try:
        return items_of(raw)
    except (TooMany, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return []


def text(raw: bytes | Raw | None) -> str:
    """Return the value of a raw JSON string; "" for None or anything that is no string, or over 4 MiB."""
    if raw is None or _is_too_long(raw):
        return ""
    try:
        return _TEXT.decode(raw if not isinstance(raw, Pieces) else bytes(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def join(members: Members, before: bytes = b"", after: bytes = b"") -> bytes:
    """Write an object from raw members, on one line; `before` and `after` stand around it."""
    return bytes(written(members, before, after))


def written(members: Members, before: bytes = b"", after: bytes = b"") -> Text:
    """Write an object as `join` does; in pieces, when one of its members is."""
    parts: list[bytes | Raw] = [before, b"{"]
    is_large = False
    for name, raw in members.items():
        is_large = is_large or type(raw) is Pieces
        parts += (_quoted(name), b":", raw, b",")
    if members:
        parts[-1] = b"}"
    else:
        parts.append(b"}")
    parts.append(after)
    if is_large:
        return _in_pieces(parts)
    return one_line(b"".join(parts))  # pyright: ignore[reportArgumentType]


def object_raw(members: Members) -> Raw:
    """Write an object as `written` does, as the value of a member."""
    text = written(members)
    return text if isinstance(text, Pieces) else msgspec.Raw(text)


def _in_pieces(parts: list[bytes | Raw]) -> Pieces:
    """Put a text together without copying what is large; pieces are on one line as they are."""
    blocks = Blocks()
    for part in parts:
        if isinstance(part, Pieces):
            for piece in part:
                blocks.add(piece)
        else:
            blocks.add(one_line(bytes(part)))
    return blocks.text()


def array(items: list[bytes] | list[msgspec.Raw]) -> bytes:
    """Write an array from raw items."""
    return b"[" + b",".join(items) + b"]"


def raw(value: object) -> msgspec.Raw:
    """Return the raw JSON text of a plain value."""
    return msgspec.Raw(msgspec.json.encode(value))


def one_line(data: bytes) -> bytes:
    """Replace line breaks between tokens by spaces; inside strings JSON has none (RFC 8259 §7)."""
    return data.replace(b"\r", b" ").replace(b"\n", b" ")


def without_halves(data: bytes) -> bytes:
    """Replace each escaped half of a surrogate pair by U+FFFD; the same bytes when there is none.

    Programs write it that cut a text within a character (JavaScript counts halves). It is no Unicode
    text, and most readers refuse the whole message (RFC 8259 §8.2).
    """
    parts: list[bytes] = []
    at = 0
    for number, found in enumerate(_SURROGATES.finditer(data)):
        if number == _MOST_SURROGATES:
            return data
        before, kept = data[at : found.start()], found[0]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:  # a text: only what may follow is one
            kept = kept[:_ESCAPE] + (b"\\ufffd" if found[1] else b"")
        elif not found[1]:
            kept = b"\\ufffd"
        parts += (before, kept)
        at = found.end()
    return b"".join((*parts, data[at:])) if parts else data


def request(upstream_id: int, method: str, params: Members) -> Text:
    """Write a request of the hub's own, one line without its end."""
    head = b'{"jsonrpc":"2.0","id":%d,"method":%b,"params":' % (upstream_id, _quoted(method))
    return written(params, head, b"}")


def notification(method: str, params: bytes | None) -> bytes:
    """Write a notification, one line without its end."""
    head = b'{"jsonrpc":"2.0","method":' + msgspec.json.encode(method)
    return head + (b',"params":' + params if params is not None else b"") + b"}"


@overload
def result(raw_id: bytes, value: bytes) -> bytes: ...
@overload
def result(raw_id: bytes, value: Text) -> Text: ...
def result(raw_id: bytes, value: Text) -> Text:
    """Write a response with a raw result; in pieces, when that is."""
    before = b'{"jsonrpc":"2.0","id":' + raw_id + b',"result":'
    if isinstance(value, Pieces):
        return _in_pieces([before, value, b"}"])
    return before + value + b"}"


def error(raw_id: bytes, code: int, message: str, data: object = None) -> bytes:
    """Write an error response; a missing id is null (JSON-RPC 2.0 §5)."""
    body: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return (
        b'{"jsonrpc":"2.0","id":'
        + (raw_id or b"null")
        + b',"error":'
        + msgspec.json.encode(body)
        + b"}"
    )


def _is_id(raw_id: bytes) -> bool:
    if raw_id[:1] == b'"':
        return True
    return raw_id.removeprefix(b"-").isdigit()


def _quoted(name: str) -> bytes:
    """A name as JSON, remembered for the few that messages use."""
    known = _QUOTED.get(name)
    if known is None:
        known = msgspec.json.encode(name)
        if len(_QUOTED) < _MAX_QUOTED and len(name) < 64:
            _QUOTED[name] = known
    return known
