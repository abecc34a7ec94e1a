"""How the C library gives memory out: kept for the next message instead of mapped anew for each.

With glibc's defaults every buffer over 128 KiB is a mapping of its own, and a message of 1 MB costs
about a thousand page faults. Only for the process that serves; other C libraries are left alone.
Source: mallopt(3).
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MB: Final = 1024 * 1024


def keep_large_buffers() -> bool:
    """Serve buffers of up to 4 MiB from the heap, and give back only what lies idle above 16 MiB."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = ((_MMAP_THRESHOLD, 4 * _MB), (_TRIM_THRESHOLD, 16 * _MB), (_TOP_PAD, _MB // 4))
    taken = [mallopt(what, value) == 1 for what, value in wanted]
    return all(taken)
