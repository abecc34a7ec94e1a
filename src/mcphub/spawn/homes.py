"""Watches how much the homes of running instances hold, where no file system limits them.

A look costs a walk through the directory, in a thread, one after the other: often where there was a call
since the last one, less often for a while after that, seldom while an instance rests. All walks of a second together take no
longer than `_WALKS_S`; where there are more instances than that suffices for, who was looked at longest
ago comes first. An instance whose home holds more than it may is ended; one that was over the limit
already when it started may run as long as it adds nothing, so that its user can clean up.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mcphub.spawn import copies
from mcphub.spawn.instance import Instance, State

_BUSY_S: Final = 2.0
_AFTER_S: Final = 10.0
_RESTING_S: Final = 60.0
_QUIET_S: Final = 30.0
_MOST_FILES: Final = 500_000
_WALKS_S: Final = 0.05


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


def sizes(homes: Sequence[Path], seconds: float) -> list[int]:
    """Return what directories take on disk, in order, until `seconds` have passed; the first in any case."""
    until = time.monotonic() + seconds
    found: list[int] = []
    for home in homes:
        if found and time.monotonic() > until:
            break
        found.append(_used_by(home))
    return found


class HomeWatch:
    """Looks at homes in turn.

    Args:
        over: Called on the event loop for an instance whose home holds too much.
    """

    def __init__(self, over: Callable[[Instance], None]) -> None:
        self._over = over
        self._looked: dict[str, float] = {}

    async def look(self, instances: list[Instance], now: float) -> None:
        """Look at the homes whose turn it is, as many as there is time for."""
        here = {instance.id for instance in instances}
        self._looked = {name: at for name, at in self._looked.items() if name in here}
        due = [each for each in instances if self._is_due(each, now)]
        due.sort(key=lambda each: self._looked.get(each.id, 0.0))
        if not due:
            return
        homes = [each.home for each in due if each.home is not None]
        used = await asyncio.to_thread(sizes, homes, _WALKS_S)
        for instance, size in zip(due, used, strict=False):  # the others come first next time
            if instance.id not in self._looked:
                instance.home_seen = size
            self._looked[instance.id] = now
            over = size > max(instance.home_bytes, instance.home_seen)
            if over and instance.state is not State.STOPPED:
                self._over(instance)

    def _is_due(self, instance: Instance, now: float) -> bool:
        if instance.home is None or instance.state is not State.READY:
            return False
        last = self._looked.get(instance.id)
        if last is None:
            return True
        if instance.in_flight or instance.last_used >= last:
            return now - last >= _BUSY_S
        return now - last >= (_AFTER_S if now - instance.last_used < _QUIET_S else _RESTING_S)
