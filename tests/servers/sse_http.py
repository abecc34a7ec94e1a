"""A legacy server over HTTP with SSE (2024-11-05), recording what reaches it; one memory per stream."""

import asyncio
import json
import secrets
from contextlib import asynccontextmanager

from starlette.responses import Response, StreamingResponse

from tests.servers.modern_http import serve


class SseServer:
    """State of the server.

    Attributes:
        requests: (method, path, headers, message) as they came.
        streams: Session -> queue of its open stream.
        endpoint: Where clients are told to post; "" for the honest place.
    """

    def __init__(self):
        self.requests = []
        self.streams = {}
        self.values = {}
        self.endpoint = ""

    async def handle(self, request):
        body = await request.body()
        message = json.loads(body) if body else {}
        headers = dict(request.headers)
        self.requests.append((request.method, request.url.path, headers, message))
        if request.method == "GET" and request.url.path == "/sse":
            return StreamingResponse(self.stream(), media_type="text/event-stream")
        queue = self.streams.get(request.query_params.get("session"))
        if request.method != "POST" or request.url.path == "/sse" or queue is None:
            return Response(status_code=405 if request.url.path == "/sse" else 404)
        await self.take(request.query_params["session"], queue, message)
        return Response(status_code=202)

    async def stream(self):
        session, queue = secrets.token_hex(8), asyncio.Queue()
        self.streams[session] = queue
        try:
            yield f"event: endpoint\ndata: {self.endpoint or f'/messages?session={session}'}\n\n"
            while (message := await queue.get()) is not None:
                yield f"event: message\ndata: {json.dumps(message)}\n\n"
        finally:
            self.streams.pop(session, None)

    async def take(self, session, queue, message):
        if "method" not in message:
            done = {"content": [{"type": "text", "text": json.dumps(message["result"])}]}
            await queue.put({"jsonrpc": "2.0", "id": self.asking, "result": done})
        elif "id" in message:
            result = self.answer(session, message)
            if result is not None:
                await queue.put({"jsonrpc": "2.0", "id": message["id"], "result": result})
            else:
                self.asking = message["id"]
                schema = {"type": "object", "properties": {}}
                params = {"message": "who?", "requestedSchema": schema}
                await queue.put(
                    {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params}
                )

    def answer(self, session, message):
        if message["method"] == "initialize":
            return {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "old", "version": "1"},
            }
        if message["method"] == "tools/list":
            return {
                "tools": [{"name": n, "inputSchema": {"type": "object"}} for n in ("set", "get")]
            }
        name, args = message["params"]["name"], message["params"].get("arguments", {})
        if name == "ask":
            return None
        if name == "set":
            self.values[session] = args["value"]
        return {"content": [{"type": "text", "text": str(self.values.get(session))}]}


@asynccontextmanager
async def sse_server():
    """Serve on a free loopback port; yields the state with the `url` of its stream."""
    state = SseServer()
    async with serve(state.handle, paths=("/sse", "/messages")) as base:
        state.url = f"{base}/sse"
        yield state
        for queue in list(state.streams.values()):
            queue.put_nowait(None)
