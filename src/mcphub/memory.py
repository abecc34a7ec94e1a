"""Memory of the process that serves: large buffers are kept, what lives as long as it is not looked through.

With glibc's defaults every buffer over 128 KiB is a mapping of its own, and a message of 1 MB costs
about a thousand page faults; other C libraries are left alone. Python's collector looks through all
objects again and again, which with modules, users and settings takes a tenth of a second in which
nobody is answered. Source: mallopt(3), gc.freeze.
"""

import ctypes
import gc
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


def keep_what_is_there() -> None:
    """Let the collector look only at what is made from now on; call it when the hub is ready."""
    gc.collect()
    gc.freeze()
