"""The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), from bytes. Pure.

Looks only, never terminates TLS. With encrypted ClientHello it sees the outer name.
"""

from typing import Final

MAX_HELLO: Final = 16 * 1024 + 5
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1


class Incomplete(Exception):
    """The bytes so far are the start of a ClientHello; more are needed."""


class NotTls(ValueError):
    """The bytes are no ClientHello."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise NotTls
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def block(self, width: int) -> bytes:
        return self.take(self.number(width))

    def more(self) -> bool:
        return self._at < len(self._data)


def server_name(data: bytes) -> str | None:
    """Return the name (lower case) that a client asks for, None when it gives none.

    Raises:
        Incomplete: More bytes are needed.
        NotTls: This is not a ClientHello.
    """
    hello = _Reader(_handshake(data))
    hello.take(2 + 32)  # legacy version, random
    hello.block(1)  # session id
    hello.block(2)  # cipher suites
    hello.block(1)  # compression
    if not hello.more():
        return None
    extensions = _Reader(hello.block(2))
    while extensions.more():
        kind = extensions.number(2)
        body = extensions.block(2)
        if kind == 0:
            names = _Reader(_Reader(body).block(2))
            if names.number(1) != 0:
                raise NotTls
            try:
                return names.block(2).decode("ascii").rstrip(".").lower()
            except UnicodeDecodeError:
                raise NotTls from None
    return None


def _handshake(data: bytes) -> bytes:
    """Join the records' payload until the ClientHello is complete; return its body."""
    joined = b""
    at = 0
    while True:
        header = data[at : at + 5]
        if header and (header[0] != _HANDSHAKE or (len(header) > 1 and header[1] != 3)):
            raise NotTls
        if joined and joined[0] != _CLIENT_HELLO:
            raise NotTls
        if len(joined) >= 4:
            size = int.from_bytes(joined[1:4])
            if size > MAX_HELLO:
                raise NotTls
            if len(joined) >= 4 + size:
                return joined[4 : 4 + size]
        if len(header) < 5:
            raise Incomplete
        length = int.from_bytes(header[3:5])
        if not length:
            raise NotTls
        part = data[at + 5 : at + 5 + length]
        joined += part
        at += 5 + length
        if len(part) < length and not (
            len(joined) >= 4 and len(joined) >= 4 + int.from_bytes(joined[1:4])
        ):
            raise Incomplete
