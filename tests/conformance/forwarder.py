"""A forwarder on loopback that adds an API key to every request, for clients that cannot send one.

All else passes untouched in both directions, Host and Origin included, so that what is tested is
the hub. HTTP/1.1 only.
"""

import asyncio
from contextlib import asynccontextmanager, suppress

_READ = 64 * 1024


@asynccontextmanager
async def with_key(port: int, bearer: str):
    """Forward a free port to `port` of 127.0.0.1; yields the free port."""
    open_now = set()
    header = f"Authorization: {bearer}\r\n".encode()

    async def serve(reader, writer):
        open_now.add(asyncio.current_task())
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            back = asyncio.ensure_future(_pipe(up_reader, writer))
            try:
                with suppress(asyncio.IncompleteReadError, ConnectionError):
                    while True:
                        await _request(reader, up_writer, header)
            finally:
                up_writer.close()
                back.cancel()
                writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.close()
        finally:
            open_now.discard(asyncio.current_task())

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        if open_now:
            await asyncio.wait(open_now)


async def _request(reader, writer, header):
    """Pass on one request with the header added behind its request line."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    writer.write(line + b"\r\n" + header + fields)
    names = {
        name.strip().lower(): value.strip()
        for name, _, value in (field.partition(b":") for field in fields.split(b"\r\n"))
    }
    if b"chunked" in names.get(b"transfer-encoding", b"").lower():
        size = -1
        while size != 0:
            size_line = await reader.readuntil(b"\r\n")
            size = int(size_line.partition(b";")[0], 16)
            writer.write(size_line + await reader.readexactly(size + 2))
    else:
        writer.write(await reader.readexactly(int(names.get(b"content-length", b"0"))))
    await writer.drain()


async def _pipe(reader, writer):
    """Pass on answers until the hub closes the connection."""
    with suppress(ConnectionError):
        while data := await reader.read(_READ):
            writer.write(data)
            await writer.drain()
    writer.close()
