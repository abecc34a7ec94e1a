"""What one user's messages may take of the hub's memory on their way in.

First a request's body arrives; then the call is under way, as long as its server takes, and its
parameters with it; then its answer waits for its client to read it. All of it is as slow as client and
server like, on as many connections as the client opens, so each is bounded for each user, in bytes,
whatever the number of calls and connections: the first two here, the way out in `gateway.bounded`. What
large bodies take of the loop's time is bounded here too.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol
from weakref import WeakValueDictionary

from mcphub.errors import LimitExceeded
from mcphub.upstream.pace import Pace, Shares

SHARES: Final = 4
"""How many messages of the largest size one user may have on the way, in each direction."""
SMALL: Final = 64 * 1024
"""Bytes of a body that is not counted while its call is under way: the number of calls bounds those."""


class Uploads:
    """Bytes of bodies, by user: of those that have arrived in part, or of those whose calls are under way.

    Args:
        most: Bytes that one user may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    def has_room(self, user_id: str, size: int) -> bool:
        """Whether a user may have `size` bytes more."""
        return self._held.get(user_id, 0) + size <= self._most

    def add(self, user_id: str, size: int) -> None:
        """Count `size` bytes more of a user."""
        self._held[user_id] += size

    def take(self, user_id: str, size: int) -> bool:
        """Count `size` bytes more of a user; False, and nothing is done, when that is too much."""
        if not self.has_room(user_id, size):
            return False
        self.add(user_id, size)
        return True

    def give(self, user_id: str, size: int) -> None:
        """Count `size` bytes less of a user."""
        self._held[user_id] -= size
        if not self._held[user_id]:
            del self._held[user_id]

    @contextlib.contextmanager
    def of(self, user_id: str) -> Iterator["Upload"]:
        """Count one body for the time of the block."""
        upload = Upload(self, user_id)
        try:
            yield upload
        finally:
            self.give(user_id, upload.size)


class Upload:
    """One body that arrives."""

    def __init__(self, uploads: Uploads, user_id: str) -> None:
        self._uploads, self._user_id = uploads, user_id
        self.size = 0

    def take(self, size: int) -> None:
        """Count `size` bytes more.

        Raises:
            LimitExceeded: The user's bodies hold too much together.
        """
        if not self._uploads.take(self._user_id, size):
            raise LimitExceeded(
                "You send as much at once as you may.", hint="Wait for some requests to end."
            )
        self.size += size


class Steps(Protocol):
    """What is read in steps: a body that arrives, the arguments that a digest is taken of."""

    def read(self) -> bool:
        """Take a step; returns whether it was the last one for now."""
        ...


class Readers:
    """Who reads what is large, by user."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, Reader] = WeakValueDictionary()
        self._shares = Shares()

    def of(self, user_id: str) -> "Reader":
        """Return a user's, the same for all that is being read."""
        reader = self._of.get(user_id)
        if reader is None:
            reader = self._of[user_id] = Reader(self._shares.of(user_id))
        return reader


class Reader:
    """Reads what is large of a user, however much it is: one step in each turn of the loop, in the user's time.

    Args:
        pace: The user's, of the loop's time.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def catch_up(self, large: Steps) -> None:
        """Take the steps that can be taken."""
        async with self._turn:
            is_read = False
            while not is_read:
                began = self._loop.time()
                is_read = large.read()
                rest = self._pace.take(self._loop.time() - began)
                await asyncio.sleep(rest)
