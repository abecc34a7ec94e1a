"""JSON text in pieces: what is large is never put together, since copying it would keep others waiting.

Pieces are shared, not copied: a message, its params and their arguments hold the same ones. Values only.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

_SHARED: Final = 4 * 1024
"""Bytes of a piece that is kept as it is; smaller ones are put together."""
_BLOCK: Final = 32 * 1024


class Pieces:
    """A text in pieces; its length is in bytes. Not changed once it is made."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts = tuple(parts)
        self._size = sum(map(len, self.parts))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Return the text in blocks of about `size` bytes: as many pieces as make it."""
        held: list[bytes] = []
        length = 0
        for part in self.parts:
            held.append(part)
            length += len(part)
            if length >= size:
                yield b"".join(held)
                held, length = [], 0
        if held:
            yield b"".join(held)


Text = bytes | Pieces
"""A text that goes out: whole, or in pieces where it is large."""
Raw = msgspec.Raw | Pieces
"""Raw JSON text of a value: whole, or in pieces where it is large."""


def parts_of(text: Text) -> tuple[bytes, ...]:
    """Return a text as pieces; it is one when it is whole."""
    return text.parts if isinstance(text, Pieces) else (text,)


def start_of(raw: bytes | Raw, size: int = 1) -> bytes:
    """Return the first `size` bytes, or what the first piece has of them."""
    return (raw.parts[0] if isinstance(raw, Pieces) else bytes(raw))[:size]


class Blocks:
    """Takes a text bit by bit; bits that are small are put together, so that there are never too many."""

    __slots__ = ("_bits", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bits = bytearray()

    def add(self, bit: bytes) -> None:
        """Put a bit to the end."""
        if len(bit) < _SHARED:
            self._bits += bit
            if len(self._bits) < _BLOCK:
                return
            bit = b""
        if self._bits:
            self._parts.append(bytes(self._bits))
            self._bits.clear()
        if bit:
            self._parts.append(bit)

    def text(self) -> Pieces:
        """Return what was put together; nothing is added any more."""
        if self._bits:
            self._parts.append(bytes(self._bits))
            self._bits.clear()
        return Pieces(self._parts)
