"""The seccomp filter of an instance: classic BPF, built here, for x86_64 and aarch64.

A deny list on top of namespaces and dropped capabilities: calls that reach the kernel's rarely
tested parts (mount, keyrings, io_uring, bpf, userfaultfd, …), calls that look into other processes,
new namespaces, terminal injection, and every socket family but UNIX, INET, INET6 and routing NETLINK.
AF_VSOCK is the one that no namespace closes. Not here: who loads it (`bubblewrap --seccomp FD`).
"""

import errno
import os
import platform
import struct
from functools import lru_cache
from typing import Final

_LD: Final = 0x20  # A = word at k
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_RET: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000  # the whole process
_ERRNO: Final = 0x00050000

_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32  # struct seccomp_data, low words

_NAMESPACES: Final = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_NEWTIME: Final = 0x80  # only for unshare; in clone these bits are the exit signal
_TERMINAL: Final = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_FAMILIES: Final = (1, 2, 10)  # UNIX, INET, INET6
_NETLINK: Final = 16
_X32: Final = 0x40000000

_COMMON: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}
_X86_64: Final = {
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "personality": 135,
    "vhangup": 153,
    "modify_ldt": 154,
    "pivot_root": 155,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "lookup_dcookie": 212,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "migrate_pages": 256,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
}
_AARCH64: Final = {
    "lookup_dcookie": 18,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "chroot": 51,
    "vhangup": 58,
    "quotactl": 60,
    "acct": 89,
    "personality": 92,
    "kexec_load": 104,
    "init_module": 105,
    "delete_module": 106,
    "syslog": 116,
    "ptrace": 117,
    "reboot": 142,
    "sethostname": 161,
    "setdomainname": 162,
    "settimeofday": 170,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "swapon": 224,
    "swapoff": 225,
    "migrate_pages": 238,
    "move_pages": 239,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "clock_adjtime": 266,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "finit_module": 273,
    "bpf": 280,
    "userfaultfd": 282,
    "kexec_file_load": 294,
}
# audit arch; numbers of clone, unshare, ioctl, socket; refused outright
_MACHINES: Final = {
    "x86_64": (0xC000003E, 56, 272, 16, 41, _X86_64),
    "aarch64": (0xC00000B7, 220, 97, 29, 198, _AARCH64),
}
# What an ipc namespace would make harmless.
_SHARED: Final = {
    "x86_64": {
        "shmget": 29,
        "shmat": 30,
        "shmctl": 31,
        "semget": 64,
        "semop": 65,
        "semctl": 66,
        "msgget": 68,
        "msgsnd": 69,
        "msgrcv": 70,
        "msgctl": 71,
        "semtimedop": 220,
        "mq_open": 240,
        "mq_unlink": 241,
    },
    "aarch64": {
        "mq_open": 180,
        "mq_unlink": 181,
        "msgget": 186,
        "msgctl": 187,
        "msgrcv": 188,
        "msgsnd": 189,
        "semget": 190,
        "semctl": 191,
        "semtimedop": 192,
        "semop": 193,
        "shmget": 194,
        "shmctl": 195,
        "shmat": 196,
    },
}
_PRLIMIT: Final = {"x86_64": 302, "aarch64": 261}
_CLONE3: Final = 435
_OF_SANDBOXES: Final = frozenset(
    {"open_tree", "move_mount", "mount_setattr", "pivot_root", "mount", "umount2", "sethostname"}
    | {"setns"}
)


def supported(machine: str | None = None) -> bool:
    """Tell whether there is a filter for this processor."""
    return (machine or platform.machine()) in _MACHINES


@lru_cache(maxsize=4)
def program(
    machine: str | None = None, *, alone: bool = False, makes_sandboxes: bool = False
) -> bytes:
    """Return the filter as an array of `struct sock_filter`.

    Args:
        machine: Processor; default is this one.
        alone: Without namespaces behind it: refuses also what they would close. Every socket but
            pairs (UDP, path and abstract sockets, the loopback network), System V IPC, message
            queues, and limits of other processes.
        makes_sandboxes: Leave out what a process needs whose children make their own sandboxes and
            load the whole filter then (a zygote): mounts, namespaces, the machine's name.

    Raises:
        ValueError: There is no table for this processor.
    """
    name = machine or platform.machine()
    if name not in _MACHINES:
        raise ValueError(f"no seccomp filter for {name}")
    arch, clone, unshare, ioctl, socket, refused = _MACHINES[name]
    refuse = _ERRNO | errno.EPERM
    code = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL), (_LD, 0, 0, _NR)]
    if name == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, refuse)]
    # clone3 hides its flags behind a pointer: ENOSYS makes libc fall back to clone.
    code += [(_JEQ, 0, 1, _CLONE3), (_RET, 0, 0, _ERRNO | errno.ENOSYS)]
    shared = _SHARED[name] if alone else {}
    left_out = _OF_SANDBOXES if makes_sandboxes else frozenset[str]()
    named = {number for call, number in (refused | _COMMON).items() if call not in left_out}
    for number in sorted({*named, *shared.values()}):
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, refuse)]
    for call, bits in (
        ()
        if makes_sandboxes
        else (
            (clone, _NAMESPACES),
            (unshare, _NAMESPACES | _NEWTIME),
        )
    ):
        flags = [(_LD, 0, 0, _ARG0), (_JSET, 0, 1, bits), (_RET, 0, 0, refuse)]
        code += _branch(call, flags)
    terminal = [(_LD, 0, 0, _ARG1)]
    for request in _TERMINAL:
        terminal += [(_JEQ, 0, 1, request), (_RET, 0, 0, refuse)]
    code += _branch(ioctl, terminal)
    if alone:
        own = [(_LD, 0, 0, _ARG0), (_JEQ, 1, 0, 0), (_RET, 0, 0, refuse)]  # pid 0 is the caller
        code += _branch(_PRLIMIT[name], own)
    sockets = [] if alone else [(_LD, 0, 0, _ARG0)]
    for family in () if alone else _FAMILIES:
        sockets += [(_JEQ, 0, 1, family), (_RET, 0, 0, _ALLOW)]
    # NETLINK_ROUTE (0) only: libc and Node list interfaces with it.
    sockets += (
        []
        if alone
        else [(_JEQ, 0, 3, _NETLINK), (_LD, 0, 0, _ARG2), (_JEQ, 0, 1, 0), (_RET, 0, 0, _ALLOW)]
    )
    sockets += [(_RET, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]
    code += _branch(socket, sockets)
    code += [(_RET, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _branch(number: int, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Run `body` when the call is `number`; a body that falls through ends in allow."""
    block = [*body, (_RET, 0, 0, _ALLOW)]
    return [(_JEQ, 0, len(block), number), *block]


def filter_fd(*, makes_sandboxes: bool = False) -> int:
    """Return a new descriptor that holds the filter. One per start: bubblewrap reads it to its end."""
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, program(makes_sandboxes=makes_sandboxes))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
