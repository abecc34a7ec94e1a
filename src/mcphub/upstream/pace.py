"""How fast a server may speak before the hub lets it wait: a flood costs its writer, nobody else.

A token bucket with one second's worth of burst, of bytes or of the loop's own time. Who reads asks after
each read and stays away from the pipe for as long as it is told; the pipe fills and the writer blocks.
Nothing is lost.
"""

import asyncio
from collections import deque
from typing import Final
from weakref import WeakValueDictionary

SHARE: Final = 0.25
"""Of the loop's time, what may be spent on what the servers of one owner send without being asked, or on
reading what one user sends."""
_RECENT: Final = 1024


class Pace:
    """One stream's budget.

    Args:
        per_s: What it gets each second, and the most that it can save up: bytes, or seconds.

    Attributes:
        floods: How often it was told to wait.
    """

    def __init__(self, per_s: float) -> None:
        self._rate = per_s
        self._left = per_s
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self.floods = 0

    def take(self, size: float) -> float:
        """Count what was read, or how long it took; return the seconds to wait before the next read, mostly 0."""
        now = self._loop.time()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate) - size
        self._at = now
        if self._left >= 0:
            return 0.0
        self.floods += 1
        return -self._left / self._rate


class Shares:
    """The loop's time for all that is an owner's together, as long as something of it is there and for a while."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, Pace] = WeakValueDictionary()
        self._recent: deque[Pace] = deque(maxlen=_RECENT)

    def of(self, owner: str) -> Pace:
        """Return an owner's."""
        share = self._of.get(owner)
        if share is None:
            share = self._of[owner] = Pace(SHARE)
            self._recent.append(share)
        return share
