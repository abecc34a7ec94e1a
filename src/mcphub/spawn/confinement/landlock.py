"""Landlock, landlock(7): rights on files, abstract sockets and signals that a process gives up itself.

It needs no root and no namespace. What it does not cover: UDP, sockets with a path, System V IPC,
stat(2). Best effort by the kernel's ABI; `abi` says what there is. Standard library only.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from typing import Final

from mcphub.spawn.confinement import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH_BENEATH: Final = 1
_VERSION: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_FIRST_ABI: Final = (1 << 13) - 1
_MAKE_DEVICES: Final = 1 << 6 | 1 << 11  # MAKE_CHAR, MAKE_BLOCK: nobody gets these
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_TCP: Final = 0b11  # bind, connect
_SCOPES: Final = 0b11  # abstract unix sockets, signals

SCOPES_ABI: Final = 6
"""First version that keeps signals and abstract sockets inside."""


def abi() -> int:
    """Return the version that this kernel offers; 0 for none."""
    try:
        return kernel.syscall(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(readable: Sequence[str], writable: Sequence[str], *, tcp: bool) -> None:
    """Confine this process for ever to the given places; `no_new_privs` must be set.

    Args:
        readable: Files and directories to read and execute; what does not exist is left out.
        writable: Likewise, for everything but devices to be made.
        tcp: Whether it may bind and connect with TCP; where namespaces decide about the network.

    Raises:
        OSError: The kernel has no Landlock or refuses.
    """
    version = abi()
    files = _FIRST_ABI
    files |= (1 << 13) if version >= 2 else 0  # REFER
    files |= _TRUNCATE if version >= 3 else 0
    files |= _IOCTL_DEV if version >= 5 else 0
    network = 0 if tcp or version < 4 else _TCP
    attributes = struct.pack("=QQQ", files, network, _SCOPES if version >= SCOPES_ABI else 0)
    size = 24 if version >= SCOPES_ABI else 16 if version >= 4 else 8
    rules = kernel.syscall(_CREATE, ctypes.create_string_buffer(attributes, 24), size, 0)
    try:
        for path in readable:
            _allow(rules, path, _READ & files)
        for path in writable:
            _allow(rules, path, files & ~_MAKE_DEVICES)
        kernel.syscall(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return  # what it cannot reach needs no right
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        kernel.syscall(_ADD, rules, _PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)
