"""Memory of the process that serves: large buffers are kept for a while, what lives long is not looked through.

With glibc's defaults every buffer over 128 KiB is a mapping of its own: a message of 1 MB costs about
a thousand page faults, one of 16 MB more time in the kernel than all work on it. So buffers come from
the heap, and what lies unused is given back some seconds later. Other C libraries are left alone.
Python's collector looks through all objects again and again, which with modules, users and settings
takes a tenth of a second in which nobody is answered. Source: mallopt(3), malloc_trim(3), gc.freeze.
"""

import asyncio
import ctypes
import gc
import resource
from pathlib import Path
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MB: Final = 1024 * 1024
LOOK_S: Final = 10.0
_GROWN: Final = 16 * _MB
_STATUS: Final = Path("/proc/self/statm")


def keep_large_buffers() -> bool:
    """Serve buffers of up to 32 MiB, the most that glibc allows, from the heap, and keep it for a while."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = ((_MMAP_THRESHOLD, 32 * _MB), (_TRIM_THRESHOLD, 256 * _MB), (_TOP_PAD, _MB // 4))
    taken = [mallopt(what, value) == 1 for what, value in wanted]
    return all(taken)


async def give_back(look_s: float = LOOK_S) -> None:
    """Give what lies unused back to the system, some seconds after the process has grown by 16 MiB.

    Runs until it is cancelled. A look costs microseconds; giving back some milliseconds, in a thread.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    least = resident()
    while True:
        await asyncio.sleep(look_s)
        if resident() > least + _GROWN:
            await asyncio.to_thread(trim, 0)
            least = resident()
        else:
            least = min(least, resident())


def resident() -> int:
    """Return the bytes of memory that this process has in use."""
    return int(_STATUS.read_text().split()[1]) * resource.getpagesize()


def keep_what_is_there() -> None:
    """Let the collector look only at what is made from now on; call it when the hub is ready."""
    gc.collect()
    gc.freeze()
