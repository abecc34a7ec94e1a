"""Clients that vanish, do not read, or never come back: the hub keeps nothing of them for long."""

import json
import os
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.interaction.clients import MODERN, plain, raw_client, request, scripted, tools
from tests.polling import until

from mcphub.gateway.listen import Outlet, Outlets
from mcphub.testing.hub import serving_hub
from mcphub.wire import envelope

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}
ASK = {"name": "ask", "arguments": {"text": "colour?", "patience": 300}}
SLOW = {"name": "slow", "arguments": {"seconds": 60}}


@asynccontextmanager
async def hub_with(place, servers, users=("alice", "bob"), **limits):
    """Serve a hub with the old transport switched on."""
    overrides = {"limits": limits, "listen": {"port": 0, "sse": True}}
    groups = {user: [] for user in users}
    async with serving_hub(
        place / "hub", servers, groups, environ=dict(os.environ), overrides=overrides
    ) as hub:
        yield hub


class Vanishing:
    """A client that sends one request and then is gone, by a reset of its connection."""

    def __init__(self, hub, user, verb, path, message=None, headers=()):
        host, _, port = hub.url.removeprefix("http://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        body = json.dumps(message).encode() if message is not None else b""
        lines = [
            f"{verb} {path} HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {hub.keys[user]}",
            "Accept: application/json, text/event-stream", "Content-Type: application/json",
            f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers), "", "",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode() + body)

    @classmethod
    def modern(cls, hub, user, method, params, server="plain"):
        """Send a modern request."""
        headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", method)]
        if "name" in params:
            headers.append(("Mcp-Name", params["name"]))
        meta = META | params.get("_meta", {})
        message = request(method, {**params, "_meta": meta}, id="gone")
        return cls(hub, user, "POST", f"/mcp/{server}", message, headers)

    def vanish(self):
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def in_flight(hub):
    """How many calls servers work on."""
    return sum(one["in_flight"] for one in hub.hub.instances())


def busy(hub):
    """Whether a call is in flight."""
    return in_flight(hub) > 0


def at_rest(hub):
    """Whether the hub holds nothing for any client."""
    plane = hub.hub.plane
    return not (busy(hub) or plane.in_flight or plane.listening or len(hub.hub.outlets))


@pytest.mark.requirement("22")
async def test_a_modern_client_that_vanishes_cancels_what_it_began(tmp_path):
    async with hub_with(tmp_path, {"plain": plain()}) as hub:
        for begun in ("call", "progress", "listen"):
            if begun == "listen":
                wanted = {"notifications": {"toolsListChanged": True}}
                client = Vanishing.modern(hub, "alice", "subscriptions/listen", wanted)
                await until(lambda: len(hub.hub.outlets) == 1)
            else:
                params = SLOW | ({"_meta": {"progressToken": 1}} if begun == "progress" else {})
                client = Vanishing.modern(hub, "alice", "tools/call", params)
                await until(lambda: busy(hub))
                await anyio.sleep(0.6)  # long enough to be watched, as a client that gives up is
            client.vanish()
            await until(lambda: at_rest(hub), 5)
        async with raw_client(hub, "alice") as alice:
            counted = await alice.modern("tools/call", {"name": "cancelled", "arguments": {}})
            assert counted.json()["result"]["content"][0]["text"] == "2"


@pytest.mark.requirement("22")
async def test_a_legacy_client_that_vanishes_cancels_nothing_until_its_session_ends(tmp_path):
    async with hub_with(tmp_path, {"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as old, raw_client(hub, "alice") as new:
            new.capabilities = {"elicitation": {}}
            await old.open("2025-03-26")
            await new.open()
            batch = [request("tools/call", SLOW, id="b"), request("ping")]
            sent = [
                (old, request("tools/call", SLOW, id="s")),
                (old, batch),
                (new, request("tools/call", ASK, id="a")),
            ]
            for number, (owner, message) in enumerate(sent, 1):
                session = owner.headers.items()
                client = Vanishing(hub, "alice", "POST", "/mcp/plain", message, session)
                await until(lambda wanted=number: in_flight(hub) == wanted)
                client.vanish()
            for owner in (old, new):
                session = owner.headers.items()
                stream = Vanishing(hub, "alice", "GET", "/mcp/plain", headers=session)
                await until(lambda: len(hub.hub.outlets) == 1)
                stream.vanish()
                await until(lambda: not len(hub.hub.outlets), 5)
            assert in_flight(hub) == 3
            for owner in (old, new):
                left = await owner.http.delete(owner.url, headers=owner.headers)
                assert left.status_code == 204
            await until(lambda: at_rest(hub), 5)


@pytest.mark.requirement("40")
async def test_clients_that_vanish_while_they_open_or_list_leave_nothing(tmp_path):
    servers = {"plain": plain(), "slow": scripted({"tools": tools("a"), "list_delay_s": 2})}
    async with hub_with(tmp_path, servers) as hub:
        info = {"name": "gone", "version": "1"}
        opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        for _ in range(10):
            for user in ("alice", "bob"):
                Vanishing(hub, user, "POST", "/mcp", request("initialize", opening)).vanish()
                Vanishing.modern(hub, user, "tools/list", {}, server="slow").vanish()
                Vanishing(hub, user, "GET", "/sse/plain").vanish()
                half = Vanishing(hub, user, "POST", "/mcp/plain", None, [("Content-Length", "9")])
                half.vanish()
        await until(lambda: at_rest(hub), 20)
        assert len(hub.hub.sessions) <= 20  # of Streamable HTTP: bounded, and ended when idle
        async with raw_client(hub, "bob", "") as bob:
            names = [
                tool["name"] for tool in (await bob.modern("tools/list")).json()["result"]["tools"]
            ]
            assert "slow__a" in names and "plain__echo" in names


def resident():
    """Bytes of memory that this process, and so the hub, has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.requirement("40")
async def test_a_client_that_does_not_read_makes_the_hub_hold_little(tmp_path):
    flood = {"name": "flood", "arguments": {"count": 100_000, "bytes": 1000}}
    async with hub_with(tmp_path, {"one": scripted({"tools": tools("flood", "line")})}) as hub:
        async with raw_client(hub, "alice", "one") as alice, raw_client(hub, "bob", "one") as bob:
            for client in (alice, bob):
                await client.modern("tools/call", {"name": "line", "arguments": {}})
            before = resident()
            params = flood | {"_meta": {"progressToken": "p"}}
            deaf = Vanishing.modern(hub, "alice", "tools/call", params, server="one")
            await until(lambda: busy(hub))
            most = 0
            with anyio.fail_after(120):
                for _ in range(40):  # a hundred megabytes go by; others are served meanwhile
                    await bob.modern("tools/call", {"name": "line", "arguments": {}})
                    most = max(most, resident() - before)
                    await anyio.sleep(0.05)
            assert most < 48 * 1024 * 1024
            deaf.vanish()
            await until(lambda: at_rest(hub), 30)


@pytest.mark.requirement("40")
async def test_a_stream_that_is_not_read_keeps_its_newest_messages_only():
    outlets, outlet = Outlets(), Outlet(user_id="u_1", covers=lambda _: True)
    outlets.add(outlet)
    for number in range(10_000):
        params = b'{"n":%d}' % number
        outlet.offer("one", envelope.parse(envelope.notification("notifications/x", params)))
    kept = await outlet.next(0)
    assert len(kept) == 512 and kept[-1].endswith(b'{"n":9999}}')


@pytest.mark.requirement("32", "40")
async def test_a_thousand_calls_wait_for_their_clients_and_each_gets_its_own_answer(tmp_path):
    users = [f"user{number}" for number in range(63)]
    async with hub_with(tmp_path, {"plain": plain()}, users, starts_at_once=8) as hub:
        states = {}

        async def park(user):
            async with raw_client(hub, user) as client:
                for number in range(16):
                    params = {"name": "ask", "arguments": asked(user, number)}
                    answer = await client.modern("tools/call", params, meta=META)
                    result = answer.json()["result"]
                    assert result["inputRequests"]["q1"]["params"]["message"] == f"{user} {number}"
                    states[user, number] = result["requestState"]

        async def resume(user):
            async with raw_client(hub, user) as client:
                stranger = states[users[users.index(user) - 1], 0]
                stolen = await client.modern(
                    "tools/call", answered(users[users.index(user) - 1], 0, stranger), meta=META
                )
                assert stolen.json()["error"]["code"] == -32602
                for number in range(16):
                    params = answered(user, number, states[user, number])
                    answer = await client.modern("tools/call", params, meta=META)
                    text = answer.json()["result"]["content"][0]["text"]
                    assert json.loads(text)["content"] == {"colour": f"{user} {number}"}

        async def all_of(work):
            async with anyio.create_task_group() as group:
                for user in users:
                    group.start_soon(work, user)

        with anyio.fail_after(300):
            before = resident()
            await all_of(park)
            assert len(hub.hub.plane.parked) == len(states) == 1008
            assert resident() - before < 128 * 1024 * 1024
            await all_of(resume)
        assert len(hub.hub.plane.parked) == 0
        await until(lambda: at_rest(hub))


def asked(user, number):
    """Arguments of a call that asks, and waits long enough."""
    return {"text": f"{user} {number}", "patience": 300}


def answered(user, number, state):
    """A retry of a call that asked, with the answer."""
    content = {"colour": f"{user} {number}"}
    return {
        "name": "ask",
        "arguments": asked(user, number),
        "requestState": state,
        "inputResponses": {"q1": {"action": "accept", "content": content}},
    }
