"""Makes an instance's network namespace inside the gateway process, without a process of its own.

A network namespace belongs to a thread: a short-lived thread leaves for a new one, sets it up, opens
the listeners and ends. The listeners stay in that namespace, so a descriptor says which instance is
calling. In the namespace every IPv4 address is local (a route, not a rule set): whatever the
instance dials arrives at a listener, and `getsockname` tells what it dialled.
"""

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mcphub.spawn.confinement import loopback

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_DUMPABLE: Final = 4
_BACKLOG: Final = 128
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace with its listening sockets, all non-blocking.

    Attributes:
        fd: The namespace.
        dns_udp, dns_tcp: Port 53 on 127.0.0.1.
        listeners: One per port, on every address.
    """

    fd: int
    dns_udp: socket.socket
    dns_tcp: socket.socket
    listeners: tuple[socket.socket, ...]

    def sockets(self) -> tuple[socket.socket, ...]:
        """Return all sockets."""
        return (self.dns_udp, self.dns_tcp, *self.listeners)


def become(uid: int | None) -> int:
    """Give up root for `uid` and enter an own user namespace; return its descriptor.

    The process then may make network namespaces and has no right outside of them. Call it while
    there is one thread.

    Raises:
        OSError: The kernel refuses user namespaces.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    # The change of uid hid /proc/self from ourselves; the maps below are written there.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    own_uid, own_gid = os.getuid(), os.getgid()
    _unshare(_CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{own_uid} {own_uid} 1"),
        ("gid_map", f"{own_gid} {own_gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def dial(fd: int, port: int) -> socket.socket:
    """Connect to a port of 127.0.0.1 inside a namespace made here; of loopback, so it never waits.

    Raises:
        OSError: Nobody listens there.
    """
    return _inside(fd, lambda: socket.create_connection(("127.0.0.1", port), timeout=1.0))


def make(ports: Sequence[int]) -> Namespace:
    """Make a namespace with listeners on `ports`. Takes about a millisecond.

    Raises:
        OSError: Out of namespaces, descriptors or memory.
    """
    return _in_thread(lambda: _make(ports))


def _inside(fd: int, work: Callable[[], _T]) -> _T:
    """Run `work` in a thread that has entered the network namespace `fd`."""

    def entered() -> _T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return work()

    return _in_thread(entered)


def _in_thread(work: Callable[[], _T]) -> _T:
    result: list[_T] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            result.append(work())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def made(fds: Sequence[int]) -> Namespace:
    """Return a namespace from the descriptors of its parts, in the order of `Namespace`; owns them.

    Raises:
        OSError: One is no socket.
    """
    udp, tcp, *listeners = (socket.socket(fileno=fd) for fd in fds[1:])
    for sock in (udp, tcp, *listeners):
        sock.setblocking(False)
    return Namespace(fds[0], udp, tcp, tuple(listeners))


def _make(ports: Sequence[int]) -> Namespace:
    _unshare(_CLONE_NEWNET)
    _route_everything_to_loopback()
    opened: list[socket.socket] = []
    try:
        opened.append(_bind(socket.SOCK_DGRAM, "127.0.0.1", 53))
        opened.append(_bind(socket.SOCK_STREAM, "127.0.0.1", 53))
        opened.extend(_bind(socket.SOCK_STREAM, "0.0.0.0", port) for port in ports)  # noqa: S104
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return Namespace(fd, opened[0], opened[1], tuple(opened[2:]))


def _bind(kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _route_everything_to_loopback() -> None:
    """`ip link set lo up; ip route add local 0.0.0.0/0 dev lo` by rtnetlink(7)."""
    loopback.bring_up()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        # Table local (255), protocol static (4), scope host (254), type local (2); RTA_OIF = lo.
        route = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 255, 4, 254, 2, 0)
        out = struct.pack("=HHI", 8, 4, loopback.LO)
        loopback.request(link, 24, 0x600, route + out)  # create, exclusive
