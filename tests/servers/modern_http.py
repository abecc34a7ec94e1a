"""The modern server over HTTP, recording what reaches it; JSON answers, or event streams where it has more to say."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager, nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.servers import modern

STATUS = {-32601: 404, -32602: 400, -32020: 400, -32021: 400, -32022: 400}
STREAMED = {"progress", "log", "slow", "hang"}


class ModernServer:
    """State of the server: requests as they came, and how it may misbehave."""

    def __init__(self):
        self.requests = []
        self.refuse = 0
        self.error_for_all = None
        self.instead = None
        self.open_streams = 0
        self.closed = []
        self.hold = asyncio.Event()

    async def handle(self, request):
        if self.instead is not None:
            return await self.instead(request)
        body = await request.body()
        message = json.loads(body) if body else {}
        self.requests.append((request.method, dict(request.headers), message))
        if self.refuse:
            return Response(status_code=self.refuse)
        if request.method != "POST":
            return Response(status_code=405)
        if "id" not in message or "method" not in message:
            return Response(status_code=400)
        if self.error_for_all:
            return self.error(message, self.error_for_all)
        wrong = self.headers_differ(request.headers, message)
        if wrong and message["method"] != "initialize":
            return self.error(message, {"code": -32020, "message": wrong})
        if message["method"] == "subscriptions/listen":
            return StreamingResponse(self.listen(message), media_type="text/event-stream")
        if message.get("params", {}).get("name") in STREAMED:
            return StreamingResponse(self.stream(message), media_type="text/event-stream")
        try:
            result = modern.answer(
                message["method"], message.get("params", {}), message["id"], lambda *_: None
            )
        except modern.Failed as failed:
            return self.error(message, failed.error)
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    @staticmethod
    def headers_differ(headers, message):
        params = message.get("params", {})
        expected = {
            "mcp-protocol-version": modern.VERSION,
            "mcp-method": message["method"],
        }
        if message["method"] in {"tools/call", "prompts/get"}:
            expected["mcp-name"] = params["name"]
        if message["method"] == "resources/read":
            expected["mcp-name"] = params["uri"]
        if params.get("name") == "region":
            expected["mcp-param-region"] = params["arguments"]["region"]
        return next((f"{k} differs" for k, v in expected.items() if headers.get(k) != v), "")

    @staticmethod
    def error(message, error):
        body = {"jsonrpc": "2.0", "id": message.get("id"), "error": error}
        return JSONResponse(body, STATUS.get(error["code"], 200))

    async def stream(self, message):
        """Answer with notifications first; `hang` and `slow` wait until the test lets go."""
        events, params = [], message["params"]
        self.open_streams += 1
        try:
            if params["name"] in {"slow", "hang"}:
                yield ": open\n\n"
                await self.hold.wait()
                result = modern.text("let go")
            else:
                result = modern.answer(
                    message["method"], params, message["id"],
                    lambda method, params: events.append({"method": method, "params": params}),
                )  # fmt: skip
            for event in events:
                yield f"event: message\ndata: {json.dumps({'jsonrpc': '2.0', **event})}\n\n"
            done = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            yield f"data: {json.dumps(done)}\n\n"
        finally:
            self.open_streams -= 1
            self.closed.append(message["id"])

    async def listen(self, message):
        queue, loop = asyncio.Queue(), asyncio.get_running_loop()

        def send(method, params):
            told = {"jsonrpc": "2.0", "method": method, "params": params}
            loop.call_soon_threadsafe(queue.put_nowait, told)

        modern.listen(message["params"], message["id"], send)
        try:
            while True:
                yield f"data: {json.dumps(await queue.get())}\n\n"
        finally:
            modern.LISTENERS[:] = [one for one in modern.LISTENERS if one["send"] is not send]
            self.closed.append(message["id"])


@asynccontextmanager
async def serve(handle, paths=("/mcp",), methods=("GET", "POST", "DELETE")):
    """Serve one handler on a free loopback port; yields the base URL."""
    app = Starlette(routes=[Route(path, handle, methods=list(methods)) for path in paths])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        server.capture_signals = nullcontext
        serving = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True
            await serving


@asynccontextmanager
async def modern_server():
    """Serve the modern server; yields its state with its `url`."""
    state = ModernServer()
    async with serve(state.handle) as base:
        state.url = f"{base}/mcp"
        yield state
        state.hold.set()
