"""What a user loses is lost at once, also where something of theirs is open: streams and instances."""

import json
import time
from contextlib import suppress

import anyio
import pytest

from mcphub.policy.model import EVERYONE
from mcphub.testing.hub import write_servers
from tests.interaction.clients import plain, raw_client, request, scripted, tools
from tests.polling import until
from tests.security import raw_http

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


def in_two_parts(hub, user, path, message, method="POST", **headers):
    """The bytes of a request, its body cut in two; `headers` with `_` for `-`."""
    body = json.dumps(message).encode()
    given = {"Host": hub.url.removeprefix("http://"), **hub.headers(user)}
    given |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    given |= {"Accept": "application/json, text/event-stream", "Connection": "close"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body[:9], body[9:]


@pytest.mark.parametrize("withdraw", [revoke_key, leave])
async def test_a_request_whose_body_comes_after_its_caller_lost_the_right_is_refused(
    hub_of, withdraw
):
    entry = plain(groups=["engineering", "data"], env={"T": "${USER_T}"})
    async with hub_of({"plain": entry}) as hub:
        place = "/api/me/credentials/plain/T"
        for user in ("alice", "bob"):
            first, rest = in_two_parts(hub, user, place, {"value": f"of {user}"}, "PUT")
            assert raw_http.status_of(await raw_http.exchange(hub.url, first, rest)) == 204
        told = {}

        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            sessions = {}
            for user, client in (("alice", alice), ("bob", bob)):
                await client.open()
                sessions[user] = client.headers
                warm = await client.post(request("tools/call", {"name": "recall", "arguments": {}}))
                assert "result" in warm.json()

        async def late(user, name, first, rest):
            host, _, port = hub.url.removeprefix("http://").rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send(first)
                under_way[user, name].set()
                await gone.wait()
                await stream.send(rest)
                received = b""
                with suppress(anyio.EndOfStream):
                    while True:
                        received += await stream.receive()
                told[user, name] = received

        call = {"name": "recall", "arguments": {}, "_meta": LISTEN["params"]["_meta"]}
        modern = MODERN | {"Mcp-Method": "tools/call", "Mcp-Name": "recall"}
        requests = {
            "modern": lambda user: in_two_parts(
                hub, user, "/mcp/plain", request("tools/call", call), **modern
            ),
            "legacy": lambda user: in_two_parts(
                hub,
                user,
                "/mcp/plain",
                request("tools/call", call | {"_meta": {}}),
                **sessions[user],
            ),
            "credential": lambda user: in_two_parts(hub, user, place, {"value": "late"}, "PUT"),
        }
        under_way = {(user, name): anyio.Event() for user in sessions for name in requests}
        gone = anyio.Event()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for user, name in under_way:
                    group.start_soon(late, user, name, *requests[name](user))
                for event in under_way.values():
                    await event.wait()
                await anyio.sleep(0.3)  # the heads are read, and nothing says so
                await withdraw(hub)
                gone.set()
        for name in requests:
            assert b"error" in told["alice", name] or b"message" in told["alice", name], name
            assert b'"result"' not in told["alice", name], name
        assert raw_http.status_of(told["alice", "credential"]) in {401, 404}
        assert b'"result"' in told["bob", "modern"] and b'"result"' in told["bob", "legacy"]
        assert raw_http.status_of(told["bob", "credential"]) == 204
