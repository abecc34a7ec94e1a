"""What a caller gets when something is full: a status, when to come back, and why, in words."""

import anyio
import pytest
from mcp.shared.exceptions import MCPError

from tests.doors import BOTH_DOORS
from tests.interaction.clients import PYTHON, connected, plain, raw_client, request, text_of
from tests.polling import until

pytestmark = [pytest.mark.anyio, BOTH_DOORS]
ECHO = {"name": "echo", "arguments": {"text": "hello"}}
ODD = """
import json, sys
OPENING = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
           "serverInfo": {"name": "odd", "version": "1"}}
RESULTS = {"initialize": OPENING, "tools/list": {"tools": []}}
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = RESULTS.get(message["method"])
        said = {"result": result} if result else {"error": {"code": 5030, "message": "mine"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
"""
"""A server with an error code that the hub uses too."""


def running(code):
    """Settings of a server that is this code."""
    return {"command": PYTHON, "args": ["-c", code], "groups": ["everyone"]}


def refusal_in(answer, status):
    """Return the error of an answer that says "later", in HTTP and in JSON-RPC alike."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == {429: 4290, 503: 5030}[status]
    assert int(answer.headers["retry-after"]) >= max(1, error["data"]["retryAfterSeconds"])
    return error


async def test_a_hub_that_is_full_says_503_and_serves_who_is_in(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides={"limits": {"instances": 1}}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        await until(lambda: not hub.hub.pool.instances())
        assert (await alice.modern("tools/call", ECHO)).status_code == 200
        error = refusal_in(await bob.modern("tools/call", ECHO), 503)
        assert "the most that it may" in error["message"] and "idle" in error["data"]["hint"]
        assert (await alice.modern("tools/call", ECHO)).status_code == 200


async def test_a_user_with_too_many_servers_gets_429_and_another_user_none(hub_of):
    limits = {"limits": {"instances_per_user": 1}}
    async with hub_of({"one": plain(), "two": plain()}, overrides=limits) as hub:
        async with raw_client(hub, "alice", "one") as one, raw_client(hub, "alice", "two") as two:
            assert (await one.modern("tools/call", ECHO)).status_code == 200
            error = refusal_in(await two.modern("tools/call", ECHO), 429)
            assert "You run 1 servers already" in error["message"] and error["data"]["hint"]
        async with raw_client(hub, "bob", "two") as bob:
            assert (await bob.modern("tools/call", ECHO)).status_code == 200


async def test_the_members_of_a_group_share_its_limit_and_others_do_not(hub_of):
    limits = {"limits": {"instances_per_group": {"engineering": 1}}}
    users = {"alice": ["engineering"], "ann": ["engineering"], "bob": ["data"]}
    async with hub_of({"plain": plain()}, users, limits) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "ann") as ann:
            assert (await alice.modern("tools/call", ECHO)).status_code == 200
            error = refusal_in(await ann.modern("tools/call", ECHO), 429)
            assert "group 'engineering' run 1 servers" in error["message"]
            async with raw_client(hub, "bob") as bob:
                assert (await bob.modern("tools/call", ECHO)).status_code == 200
            (first,) = [one for one in hub.hub.pool.instances() if one.groups & {"engineering"}]
            await hub.hub.pool.stop(first)
            assert (await ann.modern("tools/call", ECHO)).status_code == 200


async def test_too_many_calls_of_one_user_at_once_are_429(hub_of):
    slow = {"name": "slow", "arguments": {"seconds": 30}}
    async with (
        hub_of({"plain": plain()}, overrides={"limits": {"calls_per_user": 1}}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
        anyio.create_task_group() as group,
    ):
        group.start_soon(alice.modern, "tools/call", slow)
        await until(lambda: any(one.in_flight for one in hub.hub.pool.instances()))
        refusal_in(await alice.modern("tools/call", ECHO, id=2), 429)
        assert (await bob.modern("tools/call", ECHO)).status_code == 200
        group.cancel_scope.cancel()


async def test_a_full_queue_of_starts_is_503_and_a_free_one_serves_again(hub_of):
    slow = running("import time; time.sleep(60)")
    limits = {"limits": {"starts_at_once": 1, "starts_waiting": 0}}
    async with (
        hub_of({"slow": slow, "plain": plain()}, overrides=limits) as hub,
        raw_client(hub, "alice", "slow") as alice,
        raw_client(hub, "bob") as bob,
        anyio.create_task_group() as group,
    ):
        group.start_soon(alice.modern, "tools/call", ECHO)
        await until(lambda: hub.hub.pool.starts)
        refusal_in(await bob.modern("tools/call", ECHO), 503)
        group.cancel_scope.cancel()


async def test_no_room_for_another_session_is_503_before_there_is_one(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides={"limits": {"sessions": 1}}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        assert (await alice.open()).status_code == 200
        assert "as many sessions" in refusal_in(await bob.open(), 503)["message"]


async def test_inside_a_legacy_session_the_same_words_come_with_200(hub_of):
    """Python's `mcp` 1.x ends its session at any other status, and its user never reads why."""
    async with (
        hub_of({"plain": plain()}, overrides={"limits": {"instances": 1}}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        assert (await alice.modern("tools/call", ECHO)).status_code == 200
        await bob.open()
        answer = await bob.post(request("tools/call", ECHO))
        assert answer.status_code == 200 and "retry-after" not in answer.headers
        error = answer.json()["error"]
        assert error["code"] == 5030 and error["data"]["retryAfterSeconds"] >= 1


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_real_client_shows_why_and_goes_on(hub_of, mode):
    async with hub_of({"plain": plain()}, overrides={"limits": {"instances": 1}}) as hub:
        async with connected(hub, "alice", mode=mode) as alice:
            assert await text_of(alice, "echo", {"text": "in"}) == "in"
            async with connected(hub, "bob", mode=mode) as bob:
                with pytest.raises(MCPError, match="the most that it may") as told:
                    await text_of(bob, "echo", {"text": "out"})
                assert told.value.error.data["retryAfterSeconds"] >= 1
                (running,) = hub.hub.pool.instances()
                await hub.hub.pool.stop(running)
                assert await text_of(bob, "echo", {"text": "in now"}) == "in now"


async def test_what_a_server_says_is_no_status_of_the_hub(hub_of):
    async with hub_of({"odd": running(ODD)}) as hub, raw_client(hub, "alice", "odd") as alice:
        for number in (1, 2):  # cold, then warm
            answer = await alice.modern("tools/call", {"name": "odd", "arguments": {}}, id=number)
            assert answer.status_code == 200 and "retry-after" not in answer.headers
            assert answer.json()["error"]["message"] == "mine"


async def test_a_call_that_a_stopping_hub_cuts_off_is_503(hub_of):
    slow = {"name": "slow", "arguments": {"seconds": 30}}
    found = []
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:

        async def ask():
            found.append(await alice.modern("tools/call", slow))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: any(one.in_flight for one in hub.hub.pool.instances()))
            hub.hub.pool.end_calls()
    assert "stopping" in refusal_in(found[0], 503)["message"]
