"""System calls that Python's standard library lacks, for x86_64 and aarch64. Standard library only.

Thin: one function for one call, numbers from the kernel's headers, every failure an `OSError`. Loaded
before a fork, so that a child needs no import and no file. Not here: in which order they make a
sandbox (`entering`).
"""

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 2

# mount_setattr(2)
ATTR_RDONLY: Final = 0x1
ATTR_NOSUID: Final = 0x2
ATTR_NODEV: Final = 0x4
_ATTR_IDMAP: Final = 0x00100000

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4

_NS_GET_USERNS: Final = 0xB701

_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_CLOSE_RANGE: Final = 436
_MOUNT_SETATTR: Final = 442
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

MACHINE: Final = platform.machine()
_libc: Final = ctypes.CDLL(None, use_errno=True)


def supported() -> bool:
    """Tell whether the numbers for this processor are known."""
    return MACHINE in _PIVOT_ROOT


def syscall(number: int, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; integers are passed as `long`.

    Raises:
        OSError: It failed.
    """
    given = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _checked(_libc.syscall(ctypes.c_long(number), *given))


def unshare(flags: int) -> None:
    """Leave for new namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of a descriptor."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)))


def prctl(option: int, *args: int) -> int:
    """Change an attribute of this process."""
    given = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *given))


def mount(kind: str, target: str, flags: int, data: str = "") -> None:
    """Put a new file system of `kind` at `target`; or change propagation when `kind` is empty."""
    name = kind.encode() or None
    options = data.encode() or None
    _checked(_libc.mount(name, os.fsencode(target), name, ctypes.c_ulong(flags), options))


def unmount(target: str) -> None:
    """Detach a mount, umount2(2)."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)))


def clone_tree(source: str) -> int:
    """Return a descriptor of a detached copy of a mount tree, open_tree(2)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)


def set_attributes(fd: int, attributes: int) -> None:
    """Set attributes of a mount and of all below it, mount_setattr(2), Linux 5.12."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscall(_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))


def set_attributes_of(path: str, attributes: int) -> None:
    """Set attributes of the one mount at `path`."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), 0, wanted, len(wanted))


def map_owner(fd: int, namespace: int) -> None:
    """Show a detached tree with the owners that the maps of a user namespace give, mount_setattr(2)."""
    wanted = struct.pack("=QQQQ", _ATTR_IDMAP, 0, 0, namespace)
    syscall(_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))


def owner_of(namespace: int) -> int:
    """Return a descriptor of the user namespace that a namespace belongs to, ioctl_ns(2)."""
    return _checked(_libc.ioctl(ctypes.c_int(namespace), ctypes.c_ulong(_NS_GET_USERNS), 0))


def attach(fd: int, target: str) -> None:
    """Put a detached tree at `target`, move_mount(2)."""
    syscall(_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def pivot_root_here() -> None:
    """Make the working directory the root, on top of the old one, pivot_root(2)."""
    syscall(_PIVOT_ROOT[MACHINE], b".", b".")


def set_hostname(name: str) -> None:
    """Set the name of the machine in this UTS namespace."""
    data = name.encode()
    _checked(_libc.sethostname(data, ctypes.c_size_t(len(data))))


def drop_bounding_set() -> None:
    """Remove every capability from the bounding set: no exec gives one back, capabilities(7)."""
    for capability in range(64):
        try:
            prctl(_PR_CAPBSET_READ, capability)
        except OSError:
            return  # past the last one of this kernel
        prctl(_PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up all effective, permitted and inheritable capabilities, capset(2)."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    syscall(_CAPSET[MACHINE], header, bytes(24))


def load_filter(program: bytes) -> None:
    """Load a seccomp filter of classic BPF for this process and all that come from it."""
    code = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    given = ctypes.create_string_buffer(sock_fprog, len(sock_fprog))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(given))


def close_all_but(kept: Sequence[int]) -> None:
    """Close every descriptor from 3 on that is not in `kept`, close_range(2)."""
    first = 3
    for fd in sorted({fd for fd in kept if fd >= first}):
        if fd > first:
            syscall(_CLOSE_RANGE, first, fd - 1, 0)
        first = fd + 1
    syscall(_CLOSE_RANGE, first, 0x7FFFFFFF, 0)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
