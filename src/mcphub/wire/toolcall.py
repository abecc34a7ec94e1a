"""A plain `tools/call` read in one step: its name and id, with its arguments left as they came.

Nearly every request is one: the members that the specification names, and nothing beside. Whatever is
not is read as a message (`wire.envelope`). Of a repeated member the last one counts, as there; who
sends it on writes each member once. Pure. Source: MCP server/tools §Calling Tools.
"""

from typing import Final, Literal

import msgspec


class Params(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Parameters of a plain call.

    Attributes:
        name: Of the tool.
        arguments, meta: Raw, b"" where it is missing.
    """

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    meta: msgspec.Raw = msgspec.field(name="_meta", default=msgspec.Raw(b""))


class _Call(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: msgspec.Raw
    method: Literal["tools/call"]
    params: Params
    jsonrpc: Literal["2.0"]


_CALL: Final = msgspec.json.Decoder(_Call)
_LF: Final = ord("\n")
_CR: Final = ord(
    "\r"
)  # a byte is looked for as a number: for bytes Python makes an exception first


def tool_call(body: bytes) -> tuple[bytes, Params] | None:
    """Return id, as raw JSON text, and parameters of a plain call, or None when the body is not plainly one.

    A call whose body has a line break is none: its arguments cannot go on as they are.
    """
    if _LF in body or _CR in body:
        return None
    try:
        if not body.isascii():
            body.decode()  # raw members are not looked at
        call = _CALL.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    raw_id = bytes(call.id)
    if raw_id.isdigit() or raw_id[:1] == b'"' or raw_id.removeprefix(b"-").isdigit():
        return raw_id, call.params
    return None
