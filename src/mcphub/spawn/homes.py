"""Watches how much the homes of running instances hold, where no file system limits them.

A look costs a walk through the directory, in a thread, one after the other: often where there was a call
since the last one, less often for a while after that, seldom while an instance rests. All walks of a second together take no
longer than `_WALKS_S`; where there are more instances than that suffices for, who was looked at longest
ago comes first.

An instance whose home holds more than it may is ended. What it holds then, as far as that can be written before
anybody looks (`_kept`), it may hold from then on, so that its user can clean up; no instance starts in a home that holds still more, since
each start would add some. What a home held before this hub started it may keep. What an instance keeps in files without
a name counts to what its home holds now, and not to what may stay there: it ends with the instance.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mcphub.spawn import copies, failing
from mcphub.spawn.instance import Instance, State
from mcphub.spawn.nameless import nameless_bytes

_BUSY_S: Final = 2.0
_AFTER_S: Final = 10.0
_RESTING_S: Final = 60.0
_QUIET_S: Final = 30.0
_MOST_FILES: Final = 1_000_000
_ENTRY: Final = 4096
_LONGEST: Final = 3000
_MOST_ANCHORS: Final = 32
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CLOSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE})
_MOST_HOMES: Final = 50_000
_MORE: Final = 4 * 1024**3
UNCOUNTABLE: Final = 1 << 62
"""What a home takes that cannot be measured."""
_WALKS_S: Final = 0.05


def used_bytes(home: Path) -> int:
    """Return what a directory takes on disk; follows no link. Files that vanish meanwhile count nothing.

    Each file counts `_ENTRY` bytes at least: file systems run out of files, too. More than `_MOST_FILES`
    are not counted to the end: what is there so far is returned. What cannot be looked into, because it
    is closed or too deep, is without measure: `UNCOUNTABLE`.
    """
    total, seen = 0, 0
    waiting: list[tuple[_Anchor | None, str]] = [(None, str(home))]
    while waiting and seen < _MOST_FILES:
        anchor, path = waiting.pop()
        try:
            folder = os.open(path, _FOLDER, dir_fd=anchor.fd if anchor is not None else None)
        except OSError as error:
            if error.errno in _CLOSED:
                return UNCOUNTABLE
            continue  # it is gone, or no directory any more
        here = _Anchor(folder, anchor.depth + 1 if anchor is not None else 0)
        if here.depth > _MOST_ANCHORS:
            return UNCOUNTABLE
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    try:
                        total += max(entry.stat(follow_symlinks=False).st_blocks * 512, _ENTRY)
                        if entry.is_dir(follow_symlinks=False):
                            inner = f"{path}/{entry.name}"
                            near = len(os.fsencode(inner)) < _LONGEST
                            waiting.append((anchor, inner) if near else (here, entry.name))
                    except OSError:
                        continue
        except OSError:
            continue
    return total


def _kept(most: int) -> int:
    """Return what may stay in a home that may hold `most` bytes: what is written before anybody looks."""
    return most + max(most, _MORE)


class _Anchor:
    """A directory from which deeper ones are named: no path may be longer than PATH_MAX."""

    __slots__ = ("depth", "fd")

    def __init__(self, fd: int, depth: int) -> None:
        self.fd, self.depth = fd, depth

    def __del__(self) -> None:
        os.close(self.fd)


def _used_by(home: Path) -> int:
    return used_bytes(home) + used_bytes(copies.beside(home))


def sizes(homes: Sequence[tuple[Path, int | None]], seconds: float) -> list[tuple[int, int]]:
    """Return what homes take on disk, in order, until `seconds` have passed; the first in any case.

    Args:
        homes: Each with the pid of what runs in it, if that is known.
        seconds: After which no further home is looked at.

    Returns:
        Bytes of the files in it, and of those without a name that are held open.
    """
    until = time.monotonic() + seconds
    found: list[tuple[int, int]] = []
    for home, pid in homes:
        if found and time.monotonic() > until:
            break
        found.append((_used_by(home), 0 if pid is None else nameless_bytes(pid, home)))
    return found


class HomeWatch:
    """Looks at homes in turn.

    Args:
        over: Called on the event loop for an instance whose home holds too much.
    """

    def __init__(self, over: Callable[[Instance], None]) -> None:
        self._over = over
        self._looked: dict[str, float] = {}
        self._held: dict[Path, int] = {}

    async def admit(self, home: Path, most: int, server: str) -> None:
        """Let an instance start in a home, where that does not hold far too much.

        Looks only where one was over.

        Args:
            home: Of the instance that is to start.
            most: Bytes that it may hold.
            server: Name of its server.

        Raises:
            UpstreamFailed: It holds far more.
        """
        known = self._held.get(home)
        if known is None and not await asyncio.to_thread(os.path.lexists, home):
            self._note(home, 0)  # what its first instance writes before the first look counts
        if known is None or known <= most:
            return
        if await asyncio.to_thread(_used_by, home) > max(_kept(most), known):
            raise failing.home_too_full(server)

    async def look(self, instances: list[Instance], now: float) -> None:
        """Look at the homes whose turn it is, as many as there is time for."""
        here = {instance.id for instance in instances}
        self._looked = {name: at for name, at in self._looked.items() if name in here}
        due = [each for each in instances if self._is_due(each, now)]
        due.sort(key=lambda each: self._looked.get(each.id, 0.0))
        if not due:
            return
        homes = [(each.home, each.pid) for each in due if each.home is not None]
        used = await asyncio.to_thread(sizes, homes, _WALKS_S)
        for instance, (size, nameless) in zip(
            due, used, strict=False
        ):  # others come first next time
            self._looked[instance.id] = now
            if self._is_over(instance, size, nameless) and instance.state is not State.STOPPED:
                self._over(instance)

    def _is_over(self, instance: Instance, size: int, nameless: int) -> bool:
        home, most = instance.home, instance.home_bytes
        assert home is not None
        known = self._held.get(home)
        if known is None:
            known = size  # it was so before this hub started
        over = size > max(most, known)
        self._note(home, max(known, min(size, _kept(most))) if over else min(known, size))
        return over or size + nameless > max(most, known)

    def _note(self, home: Path, size: int) -> None:
        """Remember what a home may hold although it is too much, the last ones of many."""
        self._held.pop(home, None)
        if len(self._held) >= _MOST_HOMES:
            del self._held[next(iter(self._held))]
        self._held[home] = size

    def _is_due(self, instance: Instance, now: float) -> bool:
        if instance.home is None or instance.state is not State.READY:
            return False
        last = self._looked.get(instance.id)
        if last is None:
            return True
        if instance.in_flight or instance.last_used >= last:
            return now - last >= _BUSY_S
        return now - last >= (_AFTER_S if now - instance.last_used < _QUIET_S else _RESTING_S)
