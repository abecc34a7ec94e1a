"""A legacy Streamable HTTP server that answers calls by an event stream cut into pieces as it is told.

`tools/call` takes `result` (text of the result), `cuts` (sizes of the pieces that are sent one by one),
`end` (how lines end), `lines` (data lines that the message is spread over) and `noise` (comments,
other fields and empty events between).
"""

import asyncio
import json
from contextlib import asynccontextmanager


@asynccontextmanager
async def splitting_server():
    """Serve on a free loopback port; yields the URL."""
    open_now = set()

    async def serve(reader, writer):
        open_now.add(asyncio.current_task())
        try:
            while await _answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_now.discard(asyncio.current_task())
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        if open_now:
            await asyncio.wait(open_now)


async def _answer(reader, writer):
    """Answer one request; returns False when the client is gone."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    if not head.startswith(b"POST"):
        status = b"405 Method Not Allowed" if head.startswith(b"GET") else b"204 No Content"
        return await _send(writer, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    message = json.loads(body)
    if "id" not in message:
        return await _send(writer, b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
    raw_id = json.dumps(message["id"]).encode()
    if message["method"] == "tools/call":
        given = message["params"]["arguments"]
        answer = (
            b'{"jsonrpc":"2.0","id":' + raw_id + b',"result":' + given["result"].encode() + b"}"
        )
        return await _stream(writer, _events(answer, given), given["cuts"])
    value = json.dumps({"jsonrpc": "2.0", "id": message["id"], **_said(message)}).encode()
    known = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: s\r\n"
    return await _send(writer, known + b"Content-Length: %d\r\n\r\n" % len(value) + value)


def _said(message):
    if message["method"] == "initialize":
        info = {"name": "splitting", "version": "1"}
        offers = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
        return {"result": {**offers, "serverInfo": info}}
    if message["method"] == "tools/list":
        return {"result": {"tools": [{"name": "split", "inputSchema": {"type": "object"}}]}}
    return {"error": {"code": -32601, "message": "no such method"}}


def _events(answer, given):
    """Write the answer as an event, the way `given` says."""
    end = given["end"].encode()
    pieces = _spread(answer, given["lines"])
    data = b"".join(b"data: " + piece + end for piece in pieces)
    if not given["noise"]:
        return data + end
    before = b": hello" + end + b"id: 7" + end + b"data:" + end + end + b"event: other" + end
    before += b"data: {}" + end + end + b"retry: 10" + end + b"event: message" + end
    return before + data + b"unknown" + end + end


def _spread(answer, lines):
    """Cut a message between its tokens, where JSON allows a line break: behind the first members."""
    marks = [b'"jsonrpc":"2.0",', b'"result":'][: max(0, lines - 1)]
    pieces, rest = [], answer
    for mark in marks:
        at = rest.index(mark) + len(mark)
        pieces.append(rest[:at])
        rest = rest[at:]
    return [*pieces, rest]


async def _stream(writer, events, cuts):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    at = 0
    for size in [*cuts, len(events)]:
        piece = events[at : at + size]
        at += size
        if piece:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
    return await _send(writer, b"0\r\n\r\n")


async def _send(writer, data):
    writer.write(data)
    await writer.drain()
    return True
