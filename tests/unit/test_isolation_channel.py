"""What a server answers over HTTP is read to its end, and a list that does not come is no empty one."""

import asyncio
import json

import pytest

from mcphub.errors import UpstreamFailed
from mcphub.isolation.channel import HttpChannel
from mcphub.isolation.discovery import discover
from mcphub.tasks import Tasks

pytestmark = pytest.mark.anyio


async def test_an_answer_that_comes_in_parts_is_read_to_its_end():
    whole = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": ["x" * 70_000]}}).encode()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(f"Content-Length: {len(whole)}\r\n\r\n".encode() + whole[:1000])
        await writer.drain()
        await asyncio.sleep(0.05)  # the first part is there by itself
        writer.write(whole[1000:])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Tasks() as tasks:
        channel = HttpChannel("", f"http://127.0.0.1:{port}/mcp", {}, tasks)
        answer = await channel.request("tools/list", {}, 5.0)
        await channel.gone()
    assert answer == json.loads(whole)


class Unlisted:
    """A server that says what it can do, and lists nothing."""

    def __init__(self, capabilities):
        self.initialized = {"capabilities": capabilities}

    async def raw(self, user, method, params):
        return {}


async def test_tools_that_are_not_listed_are_not_none():
    with pytest.raises(UpstreamFailed, match="does not list its tools"):
        await discover(Unlisted({"tools": {}}), "A")
    assert (await discover(Unlisted({"prompts": {}}), "A")).tools == {}
