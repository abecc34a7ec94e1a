"""What happens to calls between the eras when a server dies, a client vanishes or does not read."""

import os
import signal
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from tests.interaction.clients import MODERN, Raw, plain, raw_client, request
from tests.interaction.test_modern_upstream import call, modern
from tests.interaction.test_translation import FORM, accepted, opened, streaming

from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SERVERS = pytest.mark.parametrize("server", ["modern", "plain"])


@pytest.fixture
def hub_of(tmp_path):
    @asynccontextmanager
    async def make():
        servers = {"modern": modern(), "plain": plain()}
        users = {"alice": [], "bob": []}
        async with serving_hub(tmp_path / "hub", servers, users, environ=dict(os.environ)) as hub:
            yield hub

    return make


async def kill(hub, user, server):
    """Kill a user's instance, and wait until the hub knows."""
    principal = await hub.hub.ground.directory.principal_of(user)

    def own():
        return [
            one
            for one in hub.hub.pool.instances()
            if (one.owner, one.server) == (principal.user_id, server)
        ]

    (instance,) = own()
    os.kill(instance.process.pid, signal.SIGKILL)
    await until(lambda: not own())


async def until(true):
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def in_flight(hub, calls):
    await until(
        lambda: (
            sum(one.upstream.pending for one in hub.hub.pool.instances() if one.in_flight) >= calls
        )
    )


def idle(hub):
    """Nothing of any call is left in the hub."""
    return (
        not len(hub.hub.plane.parked)
        and not hub.hub.plane.in_flight
        and all(not one.in_flight for one in hub.hub.pool.instances())
    )


async def post(client, message, mode):
    if mode == MODERN:
        answer = await client.modern(message["method"], message["params"], message["id"])
    else:
        answer = await client.post(message)
    return answer.json()["result"]["content"][0]["text"]


@SERVERS
@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_server_that_is_killed_in_a_call_fails_that_users_calls_only(hub_of, server, mode):
    async with hub_of() as hub:
        async with raw_client(hub, "alice", server) as alice, raw_client(hub, "bob", server) as bob:
            if mode == "legacy":
                await opened(alice)
                await opened(bob)
            texts = {}

            async def one(client, name, number):
                slow = request("tools/call", call("slow", seconds=3), id=number)
                texts[name, number] = await post(client, slow, mode)

            async with anyio.create_task_group() as group:
                for number in (1, 2):
                    group.start_soon(one, alice, "alice", number)
                    group.start_soon(one, bob, "bob", number)
                await in_flight(hub, 4)
                await kill(hub, "alice", server)
            for number in (1, 2):
                assert "ended unexpectedly" in texts["alice", number]
                assert texts["bob", number] == "slept"
            recall = request("tools/call", call("recall"), id=3)
            assert await post(alice, recall, mode) == "None"
        assert idle(hub)


@SERVERS
async def test_a_server_that_is_killed_while_its_client_is_asked(hub_of, server):
    async with hub_of() as hub, raw_client(hub, "alice", server) as alice:
        await opened(alice, elicitation={})
        ask = request("tools/call", call("ask"), id=1)
        async with streaming(alice, ask) as read:
            question = await read()
            await kill(hub, "alice", server)
            reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
            assert (await alice.post(reply)).status_code == 202
            result = (await read())["result"]
            assert result["isError"] and "ended unexpectedly" in result["content"][0]["text"]
        assert idle(hub)


async def test_a_killed_legacy_server_takes_its_parked_calls_along(hub_of):
    async with hub_of() as hub, raw_client(hub, "alice", "plain") as alice:
        asked = call("ask")
        first = (await alice.modern("tools/call", asked, meta=FORM)).json()["result"]
        second = (await alice.modern("tools/call", asked, meta=FORM)).json()["result"]
        await kill(hub, "alice", "plain")
        answer = await alice.modern("tools/call", asked | accepted(first), meta=FORM)
        # the hub has given them up, or says why it ended
        assert "ended unexpectedly" in answer.text or answer.json()["error"]["code"] == -32602
        await until(lambda: idle(hub))
        late = await alice.modern("tools/call", asked | accepted(second), meta=FORM)
        assert late.json()["error"]["code"] == -32602


async def test_a_killed_modern_server_goes_on_with_the_state_that_its_client_carries(hub_of):
    async with hub_of() as hub, raw_client(hub, "alice", "modern") as alice:
        asked = call("ask")
        first = (await alice.modern("tools/call", asked, meta=FORM)).json()["result"]
        await kill(hub, "alice", "modern")
        done = await alice.modern("tools/call", asked | accepted(first), meta=FORM)
        assert "accept" in done.json()["result"]["content"][0]["text"]
        assert idle(hub)


@SERVERS
async def test_a_client_that_vanishes_while_it_is_asked_leaves_nothing(hub_of, server):
    async with hub_of() as hub:
        async with raw_client(hub, "alice", server) as alice, raw_client(hub, "bob", server) as bob:
            await opened(alice, elicitation={})
            await opened(bob)
            async with streaming(alice, request("tools/call", call("ask"), id=1)) as read:
                await read()
            assert not idle(hub)  # leaving is no cancellation in this era
            await alice.http.delete(alice.url, headers=alice.headers)
            await until(lambda: idle(hub))
            echo = request("tools/call", call("echo", text="x"))
            assert await post(bob, echo, "legacy") == "x"


@SERVERS
async def test_a_client_that_does_not_read_holds_up_nobody(hub_of, server):
    async with hub_of() as hub:
        async with raw_client(hub, "alice", server) as alice, raw_client(hub, "bob", server) as bob:
            await opened(alice)
            await opened(bob)
            flood = request("tools/call", call("progress", steps=3000, text="x" * 8000), id=1)
            flood["params"]["_meta"] = {"progressToken": "p"}
            async with streaming(alice, flood) as read:
                await until(lambda: not _pending(hub, "alice"))
                with anyio.fail_after(10):
                    echo = request("tools/call", call("echo", text="x"))
                    assert await post(bob, echo, "legacy") == "x"
                seen = 0
                while "result" not in (message := await read()):
                    assert message["params"]["progressToken"] == "p"
                    seen += 1
                assert 0 < seen < 3000  # what nobody reads is not kept without bound
        await until(lambda: idle(hub))


def _pending(hub, user):
    return sum(one.upstream.pending for one in hub.hub.pool.instances())


async def test_a_thousand_calls_of_many_users_wait_for_their_clients_and_expire(tmp_path):
    users = [f"user{number}" for number in range(63)]
    async with asking_server() as server:
        async with serving_hub(
            tmp_path / "hub",
            {"remote": {
                "type": "http", "url": server.url, "groups": ["everyone"], "riskLevel": "critical",
                "userAware": True, "timeoutSeconds": 60,
            }},
            dict.fromkeys(users, ()),
            environ=dict(os.environ),
        ) as hub:  # fmt: skip
            waiting = {}

            async def park(client, user):
                for number in range(16):
                    asked = call("ask", text=f"{user} {number}")
                    answer = await client.modern(
                        "tools/call", asked, meta=FORM, **hub.headers(user)
                    )
                    waiting[user, number] = answer.json()["result"]

            await each(park, hub, users)
            assert len(hub.hub.plane.parked) == 63 * 16 == 1008

            async def answer_half(client, user):
                for number in range(8):
                    asked = call("ask", text=f"{user} {number}")
                    first = waiting[user, number]
                    assert first["inputRequests"]["q1"]["params"]["message"] == f"{user} {number}"
                    retry = asked | accepted(first)
                    done = await client.modern("tools/call", retry, meta=FORM, **hub.headers(user))
                    assert done.json()["result"]["content"][0]["text"] == f"{user} {number}"

            await each(answer_half, hub, users)
            assert len(hub.hub.plane.parked) == 63 * 8
            hub.hub.plane.parked.sweep(hub.hub.pool.now() + 601)
            await until(lambda: idle(hub))
            await until(lambda: server.open_questions == 0)


async def each(work, hub, users):
    """Run `work(client, user)` for all users, some at a time, over one HTTP client."""
    some = anyio.CapacityLimiter(8)
    accept = {"Accept": "application/json, text/event-stream"}

    async def one(http, user):
        async with some:
            await work(Raw(http, f"{hub.url}/mcp/remote"), user)

    with anyio.fail_after(150):
        async with httpx2.AsyncClient(headers=accept, timeout=60) as http:
            async with anyio.create_task_group() as group:
                for user in users:
                    group.start_soon(one, http, user)


@asynccontextmanager
async def asking_server():
    """A legacy HTTP server whose tool asks on the stream of its own call, and waits."""
    from tests.servers.asking_http import AskingServer
    from tests.servers.modern_http import serve

    state = AskingServer()
    async with serve(state.handle) as base:
        state.url = f"{base}/mcp"
        yield state
