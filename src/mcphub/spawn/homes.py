"""Watches how much the homes of running instances hold, where no file system limits them.

A look costs a walk through the directory, in a thread, one at a time: often while an instance is used,
seldom while it rests. An instance whose home holds more than it may is ended; one that was over the
limit already when it started may run as long as it adds nothing, so that its user can clean up.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcphub.spawn import copies
from mcphub.spawn.instance import Instance, State

_BUSY_S: Final = 2.0
_RESTING_S: Final = 60.0
_QUIET_S: Final = 30.0
_MOST_FILES: Final = 500_000


def used_bytes(home: Path) -> int:
    """Return what a directory takes on disk; follows no link. Files that vanish meanwhile count nothing.

    More than `_MOST_FILES` files are not counted to the end: what is there so far is returned.
    """
    total, seen = 0, 0
    waiting: list[str] = [str(home)]
    while waiting and seen < _MOST_FILES:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    seen += 1
                    try:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                    except OSError:
                        continue
        except OSError:
            continue
    return total


def _used_by(home: Path) -> int:
    return used_bytes(home) + used_bytes(copies.beside(home))


class HomeWatch:
    """Looks at homes in turn.

    Args:
        over: Called on the event loop for an instance whose home holds too much.
    """

    def __init__(self, over: Callable[[Instance], None]) -> None:
        self._over = over
        self._looked: dict[str, float] = {}

    async def look(self, instances: list[Instance], now: float) -> None:
        """Look at every home whose turn it is."""
        here = {instance.id for instance in instances}
        self._looked = {name: at for name, at in self._looked.items() if name in here}
        for instance in instances:
            if instance.home is None or instance.state is not State.READY:
                continue
            busy = instance.in_flight or now - instance.last_used < _QUIET_S
            last = self._looked.get(instance.id)
            if last is not None and now - last < (_BUSY_S if busy else _RESTING_S):
                continue
            self._looked[instance.id] = now
            used = await asyncio.to_thread(_used_by, instance.home)
            if last is None:
                instance.home_seen = used
            if used > max(instance.home_bytes, instance.home_seen):
                self._over(instance)
