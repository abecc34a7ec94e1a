"""A user-aware notebook over Streamable HTTP, in this process: records the requests that reach it."""

import asyncio
import hashlib
import json
import socket
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from pydantic import BaseModel

from mcphub_sdk import current_user, current_user_or_none, user_aware


class Answer(BaseModel):
    ok: bool


def notebook(**options):
    """Return the server; options go to `user_aware`."""
    server = MCPServer("notebook", log_level="CRITICAL")

    @server.tool()
    def remember(text: str) -> str:
        current_user().state["note"] = text
        return "kept"

    @server.tool()
    def recall() -> str:
        return str(current_user().state.get("note"))

    @server.tool()
    def whoami() -> str:
        user = current_user_or_none()
        if user is None:
            return "nobody"
        told = [user.id, sorted(user.groups), sorted(user.permissions), user.client]
        return json.dumps(told)

    @server.tool()
    def credential(slot: str) -> str:
        return hashlib.sha256(current_user().credential(slot).encode()).hexdigest()

    async def ask() -> Elicit[Answer]:
        return Elicit(f"Sure, {current_user().id}?", Answer)

    @server.tool()
    async def confirm(answer: Annotated[Answer, Resolve(ask)], text: str = "") -> str:
        return f"{current_user().id} {answer.ok} {len(text)}"

    return user_aware(server, **options)


class Recorder:
    """An ASGI application around another one: keeps headers and messages."""

    def __init__(self):
        self.app, self.requests = None, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        body = b""

        async def listening():
            nonlocal body
            event = await receive()
            body += event.get("body", b"")
            if event["type"] == "http.request" and not event.get("more_body"):
                self.requests.append((headers, json.loads(body) if body else {}))
            return event

        await self.app(scope, listening, send)

    def calls(self, method="tools/call"):
        """Return (headers, params) of the requests of a method."""
        return [(h, m["params"]) for h, m in self.requests if m.get("method") == method]


def free_port():
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def serving_notebook(server, port):
    """Serve a server at `http://127.0.0.1:<port>/mcp`; yields its recorder."""
    recorder = Recorder()
    recorder.app = server.streamable_http_app()
    recorder.url = f"http://127.0.0.1:{port}/mcp"
    served = uvicorn.Server(
        uvicorn.Config(recorder, host="127.0.0.1", port=port, log_config=None, ws="none")
    )
    served.capture_signals = nullcontext
    serving = asyncio.create_task(served.serve())
    try:
        while not served.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield recorder
    finally:
        served.should_exit = True
        served.force_exit = True
        await serving
