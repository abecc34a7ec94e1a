"""Pages of lists: sealed cursors that only their owner can use, at the endpoint and list they are for.

A cursor says after which item the next page begins. It is sealed with a key of this process
(AES-256-GCM) and bound to user, endpoint and list: altered, foreign or from before a restart it is
-32602, as any cursor that the hub did not give. Items are found again by name, so that a page neither
repeats nor skips when the list changes meanwhile. Source: MCP server/utilities/pagination.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcphub.gateway.calls import Call
from mcphub.gateway.catalogs import Item
from mcphub.gateway.replies import Protocol
from mcphub.wire import envelope
from mcphub.wire.codes import INVALID_PARAMS

_NONCE: Final = 12
_LONGEST: Final = 8192

Lists = Sequence[tuple[str, Sequence[Item]]]
"""(server, its items), servers in ascending order of their names."""


class _Position(msgspec.Struct, array_like=True, frozen=True):
    """The last item of a page: its server, its name, how many of the server's items were given."""

    server: str
    name: str
    given: int


class Pages:
    """Cuts lists into pages. One per hub process.

    Args:
        size: Items of one page.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._key = AESGCM(secrets.token_bytes(32))

    def cut(self, call: Call, lists: Lists) -> tuple[list[tuple[str, Item]], str]:
        """Return the items of the page that a call asks for, and the cursor of the next one or "".

        Raises:
            Protocol: -32602: the cursor is not one that this user got here.
        """
        page: list[tuple[str, Item]] = []
        given = 0
        for server, index, item in _after(self._position(call), lists):
            if len(page) == self._size:
                last, name = page[-1][0], page[-1][1].name
                return page, self._cursor(call, _Position(last, name, given))
            page.append((server, item))
            given = index + 1
        return page, ""

    def _cursor(self, call: Call, position: _Position) -> str:
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._key.encrypt(nonce, msgspec.json.encode(position), _bound_to(call))
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def _position(self, call: Call) -> _Position | None:
        raw = call.params.get("cursor")
        if raw is None or bytes(raw) == b"null":
            return None
        text = envelope.text(raw)
        try:
            if not text or len(text) > _LONGEST:
                raise ValueError
            data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            plain = self._key.decrypt(data[:_NONCE], data[_NONCE:], _bound_to(call))
            return msgspec.json.decode(plain, type=_Position)
        except (InvalidTag, ValueError, binascii.Error, msgspec.MsgspecError):
            raise Protocol(
                INVALID_PARAMS,
                "This cursor is none that you got for this list here: list again without one.",
            ) from None


def _after(position: _Position | None, lists: Lists) -> Iterator[tuple[str, int, Item]]:
    """Yield (server, index in its list, item) behind a position."""
    for server, items in lists:
        start = 0
        if position is not None and server <= position.server:
            start = len(items) if server < position.server else _found(position, items)
        for index in range(start, len(items)):
            yield server, index, items[index]


def _found(position: _Position, items: Sequence[Item]) -> int:
    """Return where a server's list goes on; by name, because it may have changed."""
    index = position.given - 1
    if index < len(items) and items[index].name == position.name:
        return position.given
    found = next((n for n, item in enumerate(items) if item.name == position.name), None)
    return found + 1 if found is not None else position.given


def _bound_to(call: Call) -> bytes:
    return json.dumps(
        ["mcphub cursor 1", call.principal.user_id, call.target.path, call.method]
    ).encode()
