"""Brings up the only interface of a new network namespace, by rtnetlink(7). Standard library only."""

import os
import socket
import struct
from typing import Final

LO: Final = 1
"""Its index in every new namespace."""
_NEWLINK, _IFF_UP = 16, 1


def bring_up() -> None:
    """`ip link set lo up`. Programs expect that 127.0.0.1 is there, if only to find nobody.

    Raises:
        OSError: The namespace is not the caller's.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        request(link, _NEWLINK, 0, struct.pack("=BxHiII", 0, 0, LO, _IFF_UP, _IFF_UP))


def request(link: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Send one request and wait for its answer.

    Raises:
        OSError: The kernel refused.
    """
    link.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 0x5, 1, 0) + body)
    error = -struct.unpack_from("=i", link.recv(4096), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))
