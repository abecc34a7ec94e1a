"""The MCP Inspector's command line as a client: over HTTP in both eras, and over `mcphub connect`."""

import json
import os
import sys
from pathlib import Path

import anyio
import pytest
from tests.e2e.servers_under_test import EVERYTHING, MEMORY, MODERN, USERS, canary, published_hub
from tests.packages_fixture import CACHE, install

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.toolchain import find_toolchain

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
]
INSPECTOR = ("npx", "-y", "-p", "@modelcontextprotocol/inspector@2.12.0", "mcp-inspector")
MCPHUB = str(Path(sys.executable).parent / "mcphub")
DOORS = pytest.mark.parametrize(
    "door", ["http-legacy", "http-modern", "connect-legacy", "connect-modern"]
)


@pytest.fixture(scope="module")
async def inspector():
    """Install the Inspector and return its command line; its Node.js is that of the test tools."""
    # It asks for Node.js 22; systems have older ones.
    store = PackageStore(CACHE, find_toolchain("/nowhere"), dict(os.environ))
    return (await install(store, *INSPECTOR)).argv


@pytest.fixture(scope="module")
async def team(tmp_path_factory):
    """A hub with two servers."""
    place = tmp_path_factory.mktemp("inspected")
    async with published_hub(place / "hub", {"memory": MEMORY, "everything": EVERYTHING}) as team:
        for user in USERS:
            await team.credential(user, "everything", "API_TOKEN", f"token-of-{user}")
        yield team


@pytest.fixture
def inspect(inspector, team, tmp_path):
    """Run one method as a user through a door; returns the result that the Inspector printed."""

    async def run(door, user, server, method, tool="", arguments=None):
        url, env = f"{team.url}/mcp/{server}", {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        words = ["--cli", "--method", method, "--format", "json", "--quiet"]
        if tool:
            words += ["--tool-name", tool, "--tool-args-json", json.dumps(arguments or {})]
        kind, _, era = door.partition("-")
        words += ["--protocol-era", era]
        if kind == "connect":
            key = tmp_path / f"key-of-{user}"
            key.touch(mode=0o600)
            key.write_text(team.running.keys[user])
            target = [MCPHUB, "connect", "--url", url, "--key-file", str(key)]
            argv = [*inspector, *words, *target]
        else:
            bearer = f"Authorization: {team.headers(user)['Authorization']}"
            target = ["--transport", "http", "--server-url", url, "--header", bearer]
            argv = [*inspector, *words, *target]
        with anyio.fail_after(120):
            done = await anyio.run_process(argv, env=env, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return json.loads(done.stdout)["result"]

    return run


def text_of(result):
    """Return the text of a tool's result."""
    return "\n".join(part["text"] for part in result["content"])


@DOORS
async def test_the_inspector_lists_and_calls_as_each_user(inspect, door):
    for user in USERS:
        tools = (await inspect(door, user, "everything", "tools/list"))["tools"]
        assert {"echo", "get-env"} <= {tool["name"] for tool in tools}
        env = json.loads(text_of(await inspect(door, user, "everything", "tools/call", "get-env")))
        assert env["API_TOKEN"] == f"token-of-{user}"


@DOORS
async def test_what_one_user_stores_by_the_inspector_the_other_does_not_find(inspect, door):
    word = canary()
    entities = {"entities": [{"name": word, "entityType": "secret", "observations": [word]}]}
    await inspect(door, "alice", "memory", "tools/call", "create_entities", entities)
    query = {"query": word}
    found = [
        text_of(await inspect(door, user, "memory", "tools/call", "search_nodes", query))
        for user in USERS
    ]
    assert word in found[0] and word not in found[1]


async def test_an_open_subscription_does_not_hold_the_bridge_up_when_its_client_leaves(team):
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    argv = [MCPHUB, "connect", "--url", f"{team.url}/mcp/memory"]
    env = {"MCPHUB_KEY": team.running.keys["alice"], "PATH": os.environ["PATH"]}
    with anyio.fail_after(60):
        async with await anyio.open_process(argv, env=env, stderr=None) as bridge:
            await bridge.stdin.send(json.dumps(message).encode() + b"\n")
            assert b"subscriptions/acknowledged" in await bridge.stdout.receive()
            await bridge.stdin.aclose()
            # Calls under way get ten seconds to finish; a stream without an end is not one of them.
            with anyio.fail_after(8):
                assert await bridge.wait() == 0
