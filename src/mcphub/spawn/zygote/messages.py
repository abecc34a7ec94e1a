"""Messages with descriptors on a SEQPACKET socket. Standard library only."""

import array
import socket
from typing import Final

_FD_SIZE: Final = array.array("i").itemsize


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return one message and its descriptors, which no exec inherits; nothing when it was closed.

    `socket.recv_fds` ignores its flags in some versions of Python.

    Raises:
        BlockingIOError: There is none now.
        OSError: The connection is broken.
    """
    room = socket.CMSG_SPACE(most * _FD_SIZE)
    data, said, _, _ = sock.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, value in said:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(value[: len(value) - len(value) % _FD_SIZE])
    return data, list(fds)
