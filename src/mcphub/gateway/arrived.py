"""A request of the fast lane whose head is understood and whose body has come in part."""

from typing import Final

from mcphub.gateway.heads import Head
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import LARGE

LARGEST: Final = 1024 * 1024
"""Bytes of a body that the fast lane takes."""


class Arrived:
    """What has come of one request; a large body is read on the way.

    Args:
        head: As it was understood.
        before: The bytes of the head.
        data: The first ones behind it.
        size: Of the body, in bytes.

    Attributes:
        left: Bytes of the body that are still to come; fewer than none when there are more behind it.
    """

    __slots__ = ("_parts", "before", "head", "large", "left", "size")

    def __init__(self, head: Head, before: bytes, data: bytes, size: int) -> None:
        self.head, self.before, self.size = head, before, size
        self.left = size
        self._parts: list[bytes] = []
        self.large = Arriving() if size > LARGE else None
        self.add(data)

    def add(self, data: bytes) -> None:
        """Take what comes next; of a large body one step is read."""
        self._parts.append(data)
        self.left -= len(data)
        if self.large is not None:
            self.large.add(data)
            self.large.read()

    @property
    def data(self) -> bytes:
        """All that has come behind the head."""
        return b"".join(self._parts)

    def body(self) -> bytes | Arriving | None:
        """Return the body; None for a large one that is not read yet, or has more behind it."""
        if self.large is None:
            return self.data if not self.left else self.data[: self.size]
        self.large.end()
        return self.large if not self.left and self.large.read() else None
