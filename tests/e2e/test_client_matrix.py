"""Every client of the matrix with every server of it, through the hub, as two users at once."""

import dataclasses
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import fastmcp
import httpx2
import pytest
from fastmcp.client.transports import StreamableHttpTransport
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult
from tests.e2e.client_matrix import ANSWER, COLUMNS, MODERN, ROWS, steps_of
from tests.e2e.servers_under_test import USERS, published_hub
from tests.packages_fixture import CACHE, install, library
from tests.polling import until

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.toolchain import find_toolchain

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
MCPHUB = str(Path(sys.executable).parent / "mcphub")
SDKS = {
    "typescript-1": "@modelcontextprotocol/sdk@1.32.2",
    "typescript-2": "@modelcontextprotocol/client@2.4.0",
}
PROGRAMS = {
    "inspector": ("-p", "@modelcontextprotocol/inspector@2.12.0", "mcp-inspector"),
    "mcp-remote": ("mcp-remote@0.15.1",),
}


@pytest.fixture(scope="module")
def store():
    """Packages of the clients; their Node.js is that of the test tools, since some ask for 22."""
    return PackageStore(CACHE, find_toolchain("/nowhere"), dict(os.environ))


@pytest.fixture(scope="module")
async def team(tmp_path_factory):
    """A hub with every server of the matrix and the old transport switched on."""
    place = tmp_path_factory.mktemp("matrix")
    servers = {name: column.entry for name, column in COLUMNS.items()}
    listen = {"listen": {"port": 0, "sse": True}}
    async with published_hub(place / "hub", servers, overrides=listen) as team:
        for name, column in COLUMNS.items():
            for user in USERS if column.credential else ():
                await team.credential(user, name, column.credential, f"{name}-token-of-{user}")
        yield team


@pytest.mark.parametrize("server", COLUMNS)
@pytest.mark.parametrize("client", ROWS)
async def test_a_client_does_with_a_server_what_both_can(team, store, tmp_path, client, server):
    row, column = ROWS[client], COLUMNS[server]
    steps = steps_of(row, column)
    drive = DRIVERS[row.kind]
    done = {}

    async def run(user):
        done[user] = await drive(Cell(team, store, tmp_path, row, column, server, user, steps))

    with anyio.fail_after(240):
        async with anyio.create_task_group() as group:
            for user in USERS:
                group.start_soon(run, user)
    for user in USERS:
        check(done[user], column, steps, user)
    if "cancel" in steps:
        await cancelled(team, column.cancel.tool)


def check(done, column, steps, user):
    """Compare what a client saw with what the server does."""
    assert column.call.tool in done["list"]
    assert column.call.expect.format(user=user) in done["call"]
    if "progress" in steps:
        assert done["progress"] == int(column.progress.expect)
    if "cancel" in steps:
        assert done["cancel"]
    if "elicit" in steps:
        assert column.elicit.expect in done["elicit"]
    assert set(done) == set(steps)


async def cancelled(team, tool):
    """Whoever cancelled a call has no call running any more, and it is recorded as cancelled."""
    await until(lambda: not any(one["in_flight"] for one in team.hub.instances()))
    await team.hub.recorder.flush()
    records = [one for one in (await team.hub.ground.requests.recent()).records if one.name == tool]
    assert {str(one.outcome) for one in records} <= {"ok", "cancelled"}
    assert "cancelled" in {str(one.outcome) for one in records[: 2 * len(USERS)]}


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One client at work: as whom, where, what."""

    team: object
    store: PackageStore
    place: Path
    row: object
    column: object
    server: str
    user: str
    steps: tuple

    @property
    def url(self):
        """Endpoint of the server."""
        return f"{self.team.url}/mcp/{self.server}"

    @property
    def bearer(self):
        """Value of the header that proves the user."""
        return self.team.headers(self.user)["Authorization"]

    def private(self, name, content):
        """Write a file that only this user's client reads; returns its path."""
        file = self.place / f"{name}-of-{self.user}"
        file.touch(mode=0o600)
        file.write_text(content)
        return str(file)

    @property
    def environment(self):
        """What a client's program needs."""
        return {"HOME": str(self.place), "PATH": os.environ["PATH"]}


async def drive_python(cell, client):
    """Run the steps with a connected client of the Python SDK, or one that has its methods."""
    done = {"list": [tool.name for tool in await tools_of(client)]}
    done["call"] = text_of(
        await client.call_tool(cell.column.call.tool, cell.column.call.arguments)
    )
    if "progress" in cell.steps:
        seen = []
        step = cell.column.progress
        await client.call_tool(step.tool, step.arguments, **hearing(client, seen.append))
        done["progress"] = len(seen)
    if "cancel" in cell.steps:
        step = cell.column.cancel
        with anyio.CancelScope() as scope:
            await client.call_tool(
                step.tool, step.arguments, **hearing(client, lambda _: scope.cancel())
            )
        done["cancel"] = scope.cancelled_caught
        step = cell.column.call
        await client.call_tool(step.tool, step.arguments)
    if "elicit" in cell.steps:
        step = cell.column.elicit
        done["elicit"] = text_of(await client.call_tool(step.tool, step.arguments))
    return done


async def tools_of(client):
    """List, whatever the list is wrapped in."""
    found = await client.list_tools()
    return getattr(found, "tools", found)


def hearing(client, heard):
    """Return the argument that makes a client tell of progress."""

    async def progress(done, total, message):
        heard(done)

    name = "progress_handler" if isinstance(client, fastmcp.Client) else "progress_callback"
    return {name: progress}


def text_of(result):
    """Return the text of a tool's result."""
    return "\n".join(getattr(part, "text", "") for part in result.content)


async def accept(*_):
    """Answer what the server asks."""
    return ElicitResult(action="accept", content=ANSWER)


async def python(cell):
    async with httpx2.AsyncClient(headers={"Authorization": cell.bearer}, timeout=100) as http:
        return await over(cell, streamable_http_client(cell.url, http_client=http))


async def python_sse(cell):
    url = cell.url.replace("/mcp/", "/sse/")
    return await over(cell, sse_client(url, headers={"Authorization": cell.bearer}, timeout=100))


async def over(cell, transport):
    """Run the steps over a transport of the Python SDK."""
    options = {"elicitation_callback": accept, "read_timeout_seconds": 100}
    async with Client(transport, mode=cell.row.era, **options) as client:
        return await drive_python(cell, client)


async def fast(cell):
    async def elicited(message, response_type, params, context):
        return ANSWER

    transport = StreamableHttpTransport(cell.url, headers={"Authorization": cell.bearer})
    async with fastmcp.Client(transport, elicitation_handler=elicited, timeout=100) as client:
        return await drive_python(cell, client)


async def typescript(cell):
    sdk = await library(cell.store, SDKS[cell.row.kind])
    job = {
        "sdk": str(sdk),
        "generation": int(cell.row.kind[-1]),
        "era": cell.row.era,
        "url": cell.url,
        "authorization": cell.bearer,
        "name": cell.row.kind,
        "answer": ANSWER,
        "steps": {
            name: dataclasses.asdict(getattr(cell.column, name))
            for name in cell.steps
            if name != "list"
        },
    }
    node = (await install(cell.store, "npx", "-y", *PROGRAMS["mcp-remote"])).argv[0]
    argv = [node, str(HERE / "typescript_client.mjs")]
    return json.loads(await printed(cell, argv, json.dumps(job).encode()))


async def inspector(cell):
    program = (await install(cell.store, "npx", "-y", *PROGRAMS["inspector"])).argv
    era = "modern" if cell.row.era == MODERN else "legacy"
    words = [*program, "--cli", "--format", "json", "--quiet", "--protocol-era", era]
    words += ["--transport", "http", "--server-url", cell.url]
    words += ["--header", f"Authorization: {cell.bearer}"]
    call = cell.column.call
    given = ["--tool-name", call.tool, "--tool-args-json", json.dumps(call.arguments)]
    listed = json.loads(await printed(cell, [*words, "--method", "tools/list"]))["result"]
    called = json.loads(await printed(cell, [*words, "--method", "tools/call", *given]))["result"]
    return {
        "list": [tool["name"] for tool in listed["tools"]],
        "call": "\n".join(part["text"] for part in called["content"]),
    }


async def printed(cell, argv, given=b""):
    """Run a program to its end and return what it printed."""
    done = await anyio.run_process(
        argv, input=given, env=cell.environment, cwd=cell.place, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout


async def mcp_remote(cell):
    program = (await install(cell.store, "npx", "-y", *PROGRAMS["mcp-remote"])).argv
    old = cell.row.kind.endswith("sse")
    url = cell.url.replace("/mcp/", "/sse/") if old else cell.url
    headers = cell.private("headers", f"Authorization: {cell.bearer}\n")
    words = ["--header-file", headers, "--transport", "sse-only" if old else "http-only"]
    return await over_stdio(cell, [*program, url, "--allow-http", *words])


async def connect(cell):
    key = cell.private("key", cell.team.running.keys[cell.user])
    return await over_stdio(cell, [MCPHUB, "connect", "--url", cell.url, "--key-file", key])


async def over_stdio(cell, argv):
    async with quiet(cell.place / f"stderr-of-{cell.user}") as errors:
        parameters = StdioServerParameters(
            command=argv[0], args=list(argv[1:]), env=cell.environment, cwd=cell.place
        )
        return await over(cell, stdio_client(parameters, errlog=errors))


@asynccontextmanager
async def quiet(file):
    """Open a file for what a program says besides."""
    with file.open("w") as stream:
        yield stream


DRIVERS = {
    "python": python,
    "python-sse": python_sse,
    "fastmcp": fast,
    "typescript-1": typescript,
    "typescript-2": typescript,
    "inspector": inspector,
    "mcp-remote": mcp_remote,
    "mcp-remote-sse": mcp_remote,
    "connect": connect,
}
