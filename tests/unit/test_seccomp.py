"""The seccomp filter, run by a small interpreter of classic BPF."""

import struct

import pytest

from mcphub.spawn import seccomp

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
X86, ARM = 0xC000003E, 0xC00000B7
NEWUSER, NEWNET, NEWTIME, THREAD = 0x10000000, 0x40000000, 0x80, 0x3D0F00


def verdict(machine: str, arch: int, number: int, *args: int) -> int:
    data = struct.pack("<IIQ6Q", number, arch, 0, *args, *[0] * (6 - len(args)))
    code = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    at = word = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (word,) = struct.unpack_from("<I", data, value)
        elif operation == 0x06:
            return value
        else:
            met = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[operation]
            at += yes if met else no


@pytest.mark.parametrize(
    ("number", "args", "expected"),
    [
        (0, (), ALLOW),  # read
        (59, (), ALLOW),  # execve
        (165, (), EPERM),  # mount
        (101, (), EPERM),  # ptrace
        (250, (), EPERM),  # keyctl
        (425, (), EPERM),  # io_uring_setup
        (435, (), ENOSYS),  # clone3
        (56, (THREAD,), ALLOW),  # clone of a thread
        (56, (17,), ALLOW),  # fork: SIGCHLD in the low byte
        (56, (NEWUSER | 17,), EPERM),
        (272, (NEWNET,), EPERM),  # unshare
        (272, (NEWTIME,), EPERM),
        (272, (0x400,), ALLOW),  # unshare(CLONE_FILES)
        (16, (0, 0x5401), ALLOW),  # TCGETS
        (16, (0, 0x5412), EPERM),  # TIOCSTI
        (16, (0, 0xFFFF00005412), EPERM),  # the kernel looks at 32 bits only
        (41, (1,), ALLOW),  # AF_UNIX
        (41, (2, 1), ALLOW),
        (41, (10, 1), ALLOW),
        (41, (16, 3, 0), ALLOW),  # NETLINK_ROUTE
        (41, (16, 3, 9), EAFNOSUPPORT),  # NETLINK_AUDIT
        (41, (40, 1), EAFNOSUPPORT),  # AF_VSOCK
        (41, (17, 3), EAFNOSUPPORT),  # AF_PACKET
        (41, (38, 5), EAFNOSUPPORT),  # AF_ALG
        (0x40000000 | 41, (2,), EPERM),  # x32
    ],
)
def test_calls_of_x86_64_are_judged(number, args, expected):
    assert verdict("x86_64", X86, number, *args) == expected


@pytest.mark.parametrize(
    ("number", "args", "expected"),
    [
        (63, (), ALLOW),  # read
        (40, (), EPERM),  # mount
        (117, (), EPERM),  # ptrace
        (220, (NEWUSER,), EPERM),  # clone
        (97, (NEWUSER,), EPERM),  # unshare
        (29, (0, 0x5412), EPERM),  # ioctl
        (198, (40,), EAFNOSUPPORT),  # socket
        (198, (2,), ALLOW),
    ],
)
def test_calls_of_aarch64_are_judged(number, args, expected):
    assert verdict("aarch64", ARM, number, *args) == expected


def test_a_call_of_another_architecture_kills():
    assert verdict("x86_64", 0x40000003, 1) == KILL


def test_an_unknown_processor_has_no_filter():
    assert not seccomp.supported("vax")
    with pytest.raises(ValueError, match="vax"):
        seccomp.program("vax")
