"""What a user loses is lost at once, also where something of theirs is open: streams and instances."""

import json
import time

import anyio
import pytest

from mcphub.policy.model import EVERYONE
from mcphub.testing.hub import write_servers
from tests.interaction.clients import plain, raw_client, request, scripted, tools
from tests.polling import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(hub_of):
    servers = {"plain": plain(groups=["engineering", "data"]), "other": plain(groups=[EVERYONE])}
    async with hub_of(servers) as running:
        yield running


async def of(hub, user, server):
    """The user's running instances of a server."""
    user_id = (await hub.hub.ground.directory.user(user)).id
    return [
        found for found in hub.hub.pool.instances() if (found.owner, found.server) == (user_id, server)
    ]  # fmt: skip


async def leave(hub):
    await hub.hub.ground.directory.leave("alice", "engineering")
    await hub.hub.refresh()


async def heard(client, into, opening):
    """Keep what a stream brings."""
    method, body, headers = opening
    async with client.http.stream(
        method, client.url, json=body, headers=client.headers | headers
    ) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                into.append(line)


async def speak(instance, server):
    """Let a server say something of its own accord, as its process would."""
    line = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"of":"%b"}}'
    instance.upstream._line(line % server.encode())


LISTEN = {
    "jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen",
    "params": {
        "notifications": {"toolsListChanged": True},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}  # fmt: skip
MODERN = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}


@pytest.mark.parametrize(
    "opening",
    [("GET", None, {"Accept": "text/event-stream"}), ("POST", LISTEN, MODERN)],
    ids=["legacy", "modern"],
)
async def test_an_open_stream_tells_no_more_of_a_server_once_its_user_left_the_group(hub, opening):
    async with raw_client(hub, "alice", "") as alice, raw_client(hub, "bob", "plain") as bob:
        if opening[0] == "GET":
            await alice.open()
        lines = []
        async with anyio.create_task_group() as group:
            group.start_soon(heard, alice, lines, opening)
            await until(lambda: len(hub.hub.outlets) == 1)
            for server in ("plain", "other"):
                called = await alice.http.post(
                    f"{hub.url}/mcp/{server}",
                    json=request("tools/call", {"name": "echo", "_meta": LISTEN["params"]["_meta"]}),
                    headers={"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "echo"},
                )  # fmt: skip
                assert "result" in called.json()
            (one,), (other,) = await of(hub, "alice", "plain"), await of(hub, "alice", "other")
            await speak(one, "plain")
            await until(lambda: any('"of":"plain"' in line for line in lines))
            lines.clear()
            await leave(hub)
            await speak(one, "plain")
            await speak(other, "other")
            await until(lambda: any('"of":"other"' in line for line in lines))
            assert not any('"of":"plain"' in line for line in lines)
            group.cancel_scope.cancel()
        await bob.open()  # it is still there for bob
        assert "result" in (await bob.post(request("tools/list", id=2))).json()


async def test_an_instance_ends_when_its_user_may_not_use_its_server_any_more(hub):
    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        for client in (alice, bob):
            assert "result" in (await client.modern("tools/call", {"name": "echo"})).json()
        (hers,), (his,) = await of(hub, "alice", "plain"), await of(hub, "bob", "plain")
        await leave(hub)
        await until(lambda: hers not in hub.hub.pool.instances())
        assert "error" in (await alice.modern("tools/call", {"name": "echo"})).json()
        assert "result" in (await bob.modern("tools/call", {"name": "echo"})).json()
        assert await of(hub, "bob", "plain") == [his]


async def test_an_instance_ends_when_its_users_membership_expires(hub):
    directory = hub.hub.ground.directory
    await directory.leave("alice", "engineering")
    await directory.join("alice", "engineering", time.time() + 4)
    await hub.hub.refresh()
    async with raw_client(hub, "alice") as alice:
        assert "result" in (await alice.modern("tools/call", {"name": "echo"})).json()
        assert await of(hub, "alice", "plain")
        await until(lambda: not hub.hub.pool.instances(), 30)


SLOW = {"tools": tools("touch", "counts"), "start_delay_s": 1.5}


async def revoke_key(hub):
    directory = hub.hub.ground.directory
    for key in await directory.keys((await directory.user("alice")).id):
        if hub.keys["alice"].startswith(key.prefix):
            await directory.revoke_key(key.id)
    await hub.hub.refresh()


async def deny_tool(hub):
    entry = scripted(SLOW, groups=["engineering", "data"], tools={"deny": ["touch"]})
    write_servers(hub.hub.ground.settings.dir, {"slow": entry})
    await hub.hub.reload()


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize("withdraw", [revoke_key, leave, deny_tool])
async def test_a_call_that_waits_for_a_start_goes_no_further_once_it_is_not_permitted(
    hub_of, withdraw, progress
):
    async with hub_of({"slow": scripted(SLOW, groups=["engineering", "data"])}) as hub:
        directory = hub.hub.ground.directory
        second = (await directory.create_key("alice")).key.reveal()
        await hub.hub.refresh()
        meta = {"progressToken": "p"} if progress else {}
        answers = {}

        async def call(user):
            async with raw_client(hub, user, "slow") as client:
                answers[user] = (
                    await client.modern("tools/call", {"name": "touch"}, meta=meta)
                ).text

        async with anyio.create_task_group() as group:
            for user in ("alice", "bob"):
                group.start_soon(call, user)
                with anyio.fail_after(20):
                    while not await of(hub, user, "slow"):  # noqa: ASYNC110
                        await anyio.sleep(0.01)
            await withdraw(hub)
        assert "error" in answers["alice"]
        assert ("error" in answers["bob"]) is (withdraw is deny_tool)
        if withdraw is revoke_key:  # the instance lives on for the other key
            async with raw_client(hub, "alice", "slow") as alice:
                alice.http.headers["Authorization"] = f"Bearer {second}"
                told = (await alice.modern("tools/call", {"name": "counts"})).json()
            counts = json.loads(told["result"]["content"][0]["text"])
            assert counts["tools/call"] == 1, counts
