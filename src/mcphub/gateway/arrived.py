"""A request of the fast lane whose head is understood and whose body has come in part."""

from typing import Final

from mcphub.gateway.heads import Head
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import LARGE

LARGEST: Final = 1024 * 1024
"""Bytes of a body that the fast lane takes."""


class Arrived:
    """What has come of one request.

    Args:
        head: As it was understood.
        before: The bytes of the head.
        data: The first ones behind it.
        size: Of the body, in bytes.

    Attributes:
        left: Bytes of the body that are still to come; fewer than none when there are more behind it.
        large: The body, if it has to be read in steps; whole once all has come.
        is_read: Somebody reads it.
    """

    __slots__ = ("_parts", "before", "head", "is_read", "large", "left", "size")

    def __init__(self, head: Head, before: bytes, data: bytes, size: int) -> None:
        self.head, self.before, self.size = head, before, size
        self.left = size
        self._parts: list[bytes] = []
        self.large = Arriving() if size > LARGE else None
        self.is_read = False
        self.add(data)

    def add(self, data: bytes) -> None:
        """Take what comes next."""
        self._parts.append(data)
        if self.large is not None and self.left > 0:
            self.large.add(data[: self.left])
            if len(data) >= self.left:
                self.large.end()
        self.left -= len(data)

    @property
    def data(self) -> bytes:
        """All that has come behind the head."""
        return b"".join(self._parts)
