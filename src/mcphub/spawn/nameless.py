"""What processes keep on a disk without a name: files that were deleted, or never had one, and are still open.

No walk through a directory finds them, and they go with the last process that has them. Not seen: one
that is only on its way through a socket.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from mcphub.spawn.process import descendants

_MOST_OPENED: Final = 20_000
_GONE: Final = re.compile(rb"^(\S+) \S+ \S+ \S+ [1-9].* \(deleted\)$", re.MULTILINE)
"""A line of `/proc/PID/maps`: a mapping of a file that has no name."""


def nameless_bytes(pid: int, home: Path) -> int:
    """Return what a process and all below it keep on the disk of a home in files without a name.

    Files that cannot be looked at, or vanish meanwhile, count nothing; of very many some are not looked at.
    """
    try:
        here = home.stat().st_dev, os.statvfs(home).f_fsid
    except OSError:
        return 0
    found: dict[tuple[int, int], int] = {}
    for number, link in enumerate(_opened({pid, *descendants(pid)})):
        if number >= _MOST_OPENED:
            break
        with suppress(OSError):
            status = os.stat(link)  # noqa: PTH116  what it leads to has no path
            if stat.S_ISREG(status.st_mode) and not status.st_nlink and _on(here, link, status):
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _opened(pids: set[int]) -> Iterator[str]:
    """Yield links to what processes have open, and to what they have mapped that has no name."""
    for pid in pids:
        with suppress(OSError):
            folder = f"/proc/{pid}/fd"
            for name in os.listdir(folder):  # noqa: PTH208  names
                yield f"{folder}/{name}"
        with suppress(OSError):
            for area in _GONE.findall(Path(f"/proc/{pid}/maps").read_bytes()):
                yield f"/proc/{pid}/map_files/{area.decode()}"


def _on(here: tuple[int, int], link: str, status: os.stat_result) -> bool:
    """Whether a file is on the disk of the home; layers of one file system may be devices of their own."""
    device, system = here
    return status.st_dev == device or (system != 0 and os.statvfs(link).f_fsid == system)
