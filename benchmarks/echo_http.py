"""The same echo server over HTTP/1.1: what a direct connection costs, with no gateway at all.

A raw uvloop protocol, keep-alive, JSON answers, one session id for everybody. Prints its port.
"""

import asyncio

import uvloop
from echo_server import answer


class Echo(asyncio.Protocol):
    """One connection; pipelining works, chunked bodies do not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.buffer = b""
        self.parts: list[bytes] = []
        self.size = self.wanted = 0

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)
        if self.size < self.wanted:
            return
        self.buffer = b"".join(self.parts)
        self._answers()
        self.parts, self.size = [self.buffer], len(self.buffer)

    def _answers(self) -> None:
        self.wanted = 0
        while (cut := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:cut].lower()
            if not head.startswith(b"post "):  # no stream, no session to end
                self.buffer = self.buffer[cut + 4 :]
                self.transport.write(
                    b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"
                )
                continue
            at = head.index(b"content-length:") + 15
            length = int(head[at:].partition(b"\r\n")[0])
            end = cut + 4 + length
            if len(self.buffer) < end:
                self.wanted = end
                return
            body, self.buffer = self.buffer[cut + 4 : end], self.buffer[end:]
            reply = answer(body)
            if reply is None:
                self.transport.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
            else:
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"mcp-session-id: echo\r\ncontent-length: %d\r\n\r\n%b" % (len(reply), reply)
                )


async def main() -> None:
    """Serve on a free port of loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
