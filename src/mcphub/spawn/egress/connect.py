"""The proxy port, for programs that insist on a proxy: `CONNECT` and nothing else (RFC 9110 §9.3.6).

Port 3128 of loopback in an instance's network (`rules.PROXY`). Nothing tells a program of it and none needs it: names
and addresses work without. What is asked for here passes the same list and the same checks as what is
dialled; only the refusal is friendlier, because this protocol has words for it.
"""

import asyncio
import contextlib
import re
import socket
import struct
from dataclasses import dataclass
from typing import Final

from mcphub.spawn.egress.rules import Endpoint

_HEAD_S: Final = 10.0
_MAX_HEAD: Final = 8192
_REQUEST: Final = re.compile(rb"CONNECT ([A-Za-z0-9._-]{1,254}):([0-9]{1,5}) HTTP/1\.[01]\r\n")
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_REFUSED: Final = (
    "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n"
    "Connection: close\r\n\r\n{text}"
)


class NoRequest(Exception):
    """What came is no `CONNECT` with a host and a port."""


@dataclass(slots=True)
class Entrance:
    """The instance's side of one connection, until it is joined to the other side.

    Attributes:
        proxied: It came to the proxy port.
    """

    client: socket.socket
    proxied: bool = False
    _welcomed: bool = False

    async def asked(self) -> Endpoint:
        """Read the request of a proxied connection and return whom it is to.

        Raises:
            NoRequest: There is none.
        """
        loop = asyncio.get_running_loop()
        data = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEAD_S):
                while b"\r\n\r\n" not in data and len(data) < _MAX_HEAD:
                    part = await loop.sock_recv(self.client, _MAX_HEAD - len(data))
                    if not part:
                        break
                    data += part
        found = _REQUEST.match(data)
        # nothing may follow yet: it would be sent to a host that is not decided on
        if found is None or not data.endswith(b"\r\n\r\n") or not 0 < int(found[2]) < 65536:
            raise NoRequest
        return found[1].decode().lower().rstrip("."), int(found[2])

    async def welcome(self) -> None:
        """Say that what comes from now on goes to the other side."""
        if self.proxied and not self._welcomed:
            self._welcomed = True
            await asyncio.get_running_loop().sock_sendall(self.client, _ESTABLISHED)

    async def refuse(self, reason: str, status: str = "403 Forbidden") -> None:
        """Tell the instance that there is no way there: in words where they are understood, else by a reset."""
        if not self.proxied or self._welcomed:
            reset(self.client)
            return
        text = f"Not reachable from this MCP server: {reason} (sandbox.egress).\n"
        reply = _REFUSED.format(status=status, length=len(text), text=text).encode()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.client, reply)


def reset(sock: socket.socket) -> None:
    """Make the close that follows a reset, so that the peer learns at once."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
