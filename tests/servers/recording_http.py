"""A legacy Streamable HTTP server that records what reaches it; sessions, JSON and event-stream answers."""

import asyncio
import json
import secrets
import socket
from contextlib import asynccontextmanager, nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class RecordingServer:
    """State of the server: requests as they came, values remembered per session."""

    def __init__(self):
        self.requests, self.targets = [], []
        self.sessions = {}
        self.refuse, self.list_fails = 0, False

    async def handle(self, request):
        body = await request.body()
        message = json.loads(body) if body else {}
        query = request.scope["query_string"]
        self.targets.append(b"?".join(filter(None, (request.scope["raw_path"], query))).decode())
        self.requests.append((request.method, dict(request.headers), message))
        given = request.headers.get("mcp-session-id")
        if self.refuse:
            return Response(status_code=self.refuse)
        if message.get("method") == "initialize":
            session = secrets.token_hex(16)
            self.sessions[session] = None
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}, "logging": {}},
                "serverInfo": {"name": "recording", "version": "1"},
            }
            return self.json(
                message, result, {"Mcp-Session-Id": session, "Set-Cookie": f"who={session}; Path=/"}
            )
        if given not in self.sessions:
            return Response(status_code=404)
        if request.method == "GET":
            return Response(status_code=405)
        if request.method == "DELETE":
            del self.sessions[given]
            return Response(status_code=204)
        if "id" not in message:
            return Response(status_code=202)
        return self.answer(message, given)

    def answer(self, message, session):
        if message["method"] == "tools/list" and self.list_fails:
            error = {"code": -32603, "message": "not now"}
            return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error})
        if message["method"] == "tools/list":
            return self.json(
                message,
                {
                    "tools": [
                        {"name": name, "inputSchema": {"type": "object"}}
                        for name in ("remember", "recall", "steps", "redirect")
                    ]
                },
            )
        name, args = message["params"]["name"], message["params"].get("arguments", {})
        if name == "remember":
            self.sessions[session] = args["value"]
        if name == "redirect":
            return Response(status_code=307, headers={"Location": args["to"]})
        if name == "steps":
            return StreamingResponse(self.steps(message), media_type="text/event-stream")
        return self.json(
            message, {"content": [{"type": "text", "text": str(self.sessions[session])}]}
        )

    async def steps(self, message):
        token = message["params"].get("_meta", {}).get("progressToken")
        for step in (1, 2):
            note = {
                "jsonrpc": "2.0",
                "method": "notifications/progress",
                "params": {"progressToken": token, "progress": step},
            }
            yield f"event: message\r\ndata: {json.dumps(note)}\r\n\r\n"
        done = json.dumps(
            {
                "jsonrpc": "2.0",
                "id": message["id"],
                "result": {"content": [{"type": "text", "text": "x" * 200_000}]},
            },
            indent=1,
        )
        yield "".join(f"data: {line}\n" for line in done.splitlines()) + "\n"

    @staticmethod
    def json(message, result, headers=None):
        return JSONResponse(
            {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers
        )


@asynccontextmanager
async def recording_server():
    """Serve on a free loopback port; yields the state with its `url`."""
    state = RecordingServer()
    app = Starlette(
        routes=[
            Route("/mcp/{rest:path}", state.handle, methods=["GET", "POST", "DELETE"]),
            Route("/mcp", state.handle, methods=["GET", "POST", "DELETE"]),
        ]
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        state.url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        server.capture_signals = nullcontext
        serving = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield state
        finally:
            server.should_exit = True
            server.force_exit = True
            await serving
