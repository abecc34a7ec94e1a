"""`mcphub connect` as a real process between the SDK's stdio client and a real HTTP server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from mcp import Client, StdioServerParameters, stdio_client
from mcp.server.mcpserver import Context, MCPServer
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from mcphub.cli.connect import KeyProblem, read_key

KEY = "mcphub_test_key_of_the_first_user"
MCPHUB = str(Path(sys.executable).parent / "mcphub")


class Recorder:
    """A real MCP server behind a door that checks the key, notes requests and can forget sessions."""

    def __init__(self) -> None:
        self.server = MCPServer("stand-in")
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.forgotten: set[str] = set()
        self.cancelled = threading.Event()
        self.started = threading.Event()
        self.server.tool()(self.echo)
        self.server.tool()(self.count)
        self.server.tool()(self.wait)
        self.app = self.server.streamable_http_app()
        self.url = ""

    async def echo(self, text: str) -> str:
        return f"echo {text}"

    async def count(self, to: int, ctx: Context) -> int:
        for done in range(to):
            await ctx.report_progress(done + 1, to)
        return to

    async def wait(self) -> str:
        self.started.set()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return "late"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = b""
        more = True
        while more and scope["method"] == "POST":
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        self.requests.append((scope["method"], headers, json.loads(body) if body else None))
        if headers.get("authorization") != f"Bearer {KEY}":
            refusal = {"code": "unauthenticated", "message": "Unknown key.", "hint": "Ask."}
            await JSONResponse(refusal, 401)(scope, receive, send)
            return
        if headers.get("mcp-session-id") in self.forgotten:
            await JSONResponse({}, 404)(scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given or scope["method"] != "POST":
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def of(self, method: str) -> list[tuple[dict[str, str], Any]]:
        """Requests whose JSON-RPC method is `method`."""
        return [
            (h, b) for _, h, b in self.requests if isinstance(b, dict) and b.get("method") == method
        ]

    @property
    def sessions(self) -> list[str]:
        """Session ids in the order of their first use."""
        return list(
            dict.fromkeys(h["mcp-session-id"] for _, h, _ in self.requests if "mcp-session-id" in h)
        )


@pytest.fixture
def hub() -> Iterator[Recorder]:
    recorder = Recorder()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        recorder.url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        config = uvicorn.Config(recorder, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started)
        yield recorder
        server.should_exit = True
        thread.join(10)


def until(condition: Callable[[], object], limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def client_of(hub: Recorder, mode: str) -> Client:
    parameters = StdioServerParameters(
        command=MCPHUB, args=["connect", "--url", hub.url], env={"MCPHUB_KEY": KEY}
    )
    return Client(stdio_client(parameters), mode=mode)


class Bridge:
    """The bridge as a process, spoken to line by line."""

    def __init__(self, url: str, key: str = KEY, *options: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [MCPHUB, "connect", "--url", url, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "MCPHUB_KEY": key} | env,
        )

    def say(self, **message: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def ask(self, id_: int, method: str, **params: Any) -> dict[str, Any]:
        self.say(id=id_, method=method, params=params)
        return self.hear()

    def initialize(self) -> None:
        client = {"name": "test", "version": "1"}
        answer = self.ask(
            0, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client
        )
        assert answer["result"]["serverInfo"]["name"] == "stand-in"
        self.say(method="notifications/initialized")


@contextlib.contextmanager
def bridge(url: str, key: str = KEY, *options: str, **env: str) -> Iterator[Bridge]:
    running = Bridge(url, key, *options, **env)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(10)
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def modern(**more: Any) -> dict[str, Any]:
    return {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    } | more


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_the_sdk_client_works_through_the_bridge_in_both_eras(
    hub: Recorder, mode: str
) -> None:
    with anyio.fail_after(30):
        async with client_of(hub, mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool("echo", {"text": "hällo\n"})
            seen: list[float] = []

            async def progress(done: float, total: float | None, message: str | None) -> None:
                seen.append(done)

            counted = await client.call_tool("count", {"to": 3}, progress_callback=progress)
    assert [tool.name for tool in tools.tools] == ["echo", "count", "wait"]
    assert result.content[0].text == "echo hällo\n"
    assert counted.content[0].text == "3"
    assert seen == [1, 2, 3]


@pytest.mark.anyio
async def test_calls_at_once_each_get_their_own_answer(hub: Recorder) -> None:
    answers: dict[int, str] = {}
    with anyio.fail_after(30):
        async with client_of(hub, "legacy") as client, anyio.create_task_group() as group:

            async def call(number: int) -> None:
                result = await client.call_tool("echo", {"text": str(number)})
                answers[number] = result.content[0].text

            for number in range(40):
                group.start_soon(call, number)
    assert answers == {number: f"echo {number}" for number in range(40)}


def test_modern_requests_get_the_headers_that_repeat_their_body(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        answer = client.ask(1, "server/discover", **modern())
        assert "2026-07-28" in answer["result"]["supportedVersions"]
        client.ask(2, "tools/call", **modern(name="echo", arguments={"text": "x"}))
        client.ask(3, "tools/call", **modern(name="größe", arguments={}))
    headers = hub.requests[1][1]
    assert headers["mcp-protocol-version"] == "2026-07-28"
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"] == "echo"
    assert "mcp-session-id" not in headers
    assert hub.requests[2][1]["mcp-name"] == "=?base64?Z3LDtsOfZQ==?="


def test_legacy_requests_carry_session_and_version_and_the_end_deletes_the_session(
    hub: Recorder,
) -> None:
    with bridge(hub.url) as client:
        client.initialize()
        assert client.ask(1, "tools/list")["result"]["tools"]
        client.process.stdin.close()
        assert client.process.wait(10) == 0
    [(headers, _)] = hub.of("tools/list")
    assert headers["mcp-protocol-version"] == "2025-11-25"
    method, last, _ = hub.requests[-1]
    assert (method, last["mcp-session-id"]) == ("DELETE", headers["mcp-session-id"])


def test_a_discover_probe_and_then_initialize_work_in_one_process(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.ask(7, "server/discover", **modern())
        client.initialize()
        assert client.ask(8, "tools/list")["id"] == 8


def test_a_forgotten_session_is_opened_again_without_the_client_noticing(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.initialize()
        client.ask(1, "tools/list")
        hub.forgotten.update(hub.sessions)
        answer = client.ask(2, "tools/call", name="echo", arguments={"text": "again"})
    assert answer["result"]["content"][0]["text"] == "echo again"
    assert len(hub.sessions) == 2
    assert len(hub.of("initialize")) == 2
    assert len(hub.of("notifications/initialized")) == 2


def test_lines_written_in_one_go_are_answered_before_the_bridge_ends(hub: Recorder) -> None:
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "pipe", "version": "1"},
        },
    }
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    tools = {"jsonrpc": "2.0", "id": "two", "method": "tools/list"}
    done = subprocess.run(
        [MCPHUB, "connect", "--url", hub.url],
        input="\n".join(json.dumps(line) for line in (initialize, initialized, tools)),
        env={"PATH": os.environ["PATH"], "MCPHUB_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, "two"]


def test_a_legacy_cancellation_passes_through(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.initialize()
        client.say(id=5, method="tools/call", params={"name": "wait", "arguments": {}})
        assert hub.started.wait(10)
        client.say(method="notifications/cancelled", params={"requestId": 5})
        assert hub.cancelled.wait(10)
    [(_, body)] = hub.of("notifications/cancelled")
    assert body["params"] == {"requestId": 5}


def test_a_modern_cancellation_closes_the_stream_and_is_not_sent(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.say(id=5, method="tools/call", params=modern(name="wait", arguments={}))
        assert hub.started.wait(10)
        client.say(method="notifications/cancelled", params={"requestId": 5})
        assert hub.cancelled.wait(10)
        assert client.ask(6, "tools/list", **modern())["id"] == 6
    assert hub.of("notifications/cancelled") == []


def test_a_refused_key_is_told_in_the_words_of_the_hub_and_never_shown(hub: Recorder) -> None:
    wrong = "mcphub_wrong_canary"
    with bridge(hub.url, wrong) as client:
        answer = client.ask(1, "tools/list", **modern())
        client.process.stdin.close()
        assert client.process.wait(10) == 0
        printed = json.dumps(answer).encode() + client.process.stderr.read()
    assert answer["error"]["message"] == "Unknown key."
    assert answer["error"]["data"] == {"status": 401, "code": "unauthenticated", "hint": "Ask."}
    assert wrong.encode() not in printed


def test_a_hub_that_is_not_running_is_named_with_the_next_step() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
        with bridge(url) as client:
            error = client.ask("a", "server/discover")["error"]
    assert "cannot be reached" in error["message"]
    assert "mcphub serve" in error["data"]["hint"]


def test_a_missing_key_is_an_answer_that_the_user_sees(tmp_path: Path) -> None:
    with bridge("http://127.0.0.1:9/mcp", "", HOME=str(tmp_path)) as client:
        assert "mcphub key create" in client.ask(1, "initialize")["error"]["message"]


def test_a_line_that_is_not_json_is_a_parse_error_and_the_bridge_goes_on(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.process.stdin.write(b"what\n")
        client.process.stdin.flush()
        assert client.hear()["error"]["code"] == -32700
        client.initialize()


def test_a_signal_ends_the_bridge_although_a_call_is_under_way(hub: Recorder) -> None:
    with bridge(hub.url) as client:
        client.initialize()
        client.say(id=5, method="tools/call", params={"name": "wait", "arguments": {}})
        assert hub.started.wait(10)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(5) == 0
    assert hub.requests[-1][0] == "DELETE"


def test_the_key_file_must_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPHUB_KEY", "mcphub_from_environment")
    file = tmp_path / "key"
    file.write_text("mcphub_from_file\n")
    file.chmod(0o644)
    with pytest.raises(KeyProblem, match="chmod 600"):
        read_key(str(file))
    file.chmod(0o600)
    assert read_key(str(file)) == "mcphub_from_file"
    assert read_key(None) == "mcphub_from_environment"


def test_the_bridge_imports_nothing_heavy() -> None:
    code = "import sys, mcphub.cli, mcphub.cli.connect; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {
        "pydantic",
        "typer",
        "rich",
        "sqlalchemy",
        "httpx2",
        "starlette",
        "structlog",
        "msgspec",
    }
    assert heavy.isdisjoint(loaded.stdout.split())
