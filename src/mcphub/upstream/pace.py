"""How fast a server may speak before the hub lets it wait: a flood costs its writer, nobody else.

A token bucket with one second's worth of burst. Who reads asks after each read and stays away from the
pipe for as long as it is told; the pipe fills and the writer blocks. Nothing is lost.
"""

import asyncio


class Pace:
    """One stream's budget.

    Args:
        bytes_per_s: What it gets each second, and the most that it can save up.

    Attributes:
        floods: How often it was told to wait.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._left = bytes_per_s
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self.floods = 0

    def take(self, size: float) -> float:
        """Count `size` bytes that were read; return the seconds to wait before the next read, mostly 0."""
        now = self._loop.time()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate) - size
        self._at = now
        if self._left >= 0:
            return 0.0
        self.floods += 1
        return -self._left / self._rate
