"""The old HTTP+SSE transport in front of two users, by the real `mcp` client and by raw requests."""

import json
from contextlib import asynccontextmanager

import anyio
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.types import ElicitResult

from tests.interaction.clients import plain, raw_client, request, text_of
from tests.polling import until

pytestmark = pytest.mark.anyio
SSE = {"listen": {"sse": True, "port": 0}}


@pytest.fixture
def sse_hub(hub_of):
    """Make a hub with the old transport switched on."""
    return lambda servers, **more: hub_of(servers, overrides=SSE | more)


@asynccontextmanager
async def old_client(hub, user, server="plain", **options):
    """Connect the real client over the old transport."""
    url = f"{hub.url}/sse/{server}" if server else f"{hub.url}/sse"
    async with Client(sse_client(url, headers=hub.headers(user)), mode="legacy", **options) as it:
        yield it


@asynccontextmanager
async def opened(client, path):
    """Open a raw stream; yields where to post and the events, one (kind, data) each."""
    headers = client.headers | {"Accept": "text/event-stream"}
    async with client.http.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200
        events = _events(stream.aiter_lines())
        kind, data = await anext(events)
        assert kind == "endpoint"
        yield data, events, stream


async def _events(lines):
    kind = ""
    async for line in lines:
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, line[6:]


async def test_it_is_off_unless_it_is_switched_on(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        for path in ("/sse", "/sse/plain"):
            headers = {"Accept": "text/event-stream"}
            assert (await alice.http.get(hub.url + path, headers=headers)).status_code == 404


@pytest.mark.requirement("7")
async def test_the_sse_client_lists_calls_and_hears_progress(sse_hub):
    async with sse_hub({"plain": plain()}) as hub, old_client(hub, "alice") as client:
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert await text_of(client, "echo", {"text": "grüß dich"}) == "grüß dich"
        seen = []

        async def progress(done, total, message):
            seen.append(done)

        await client.call_tool("progress", {"text": "x"}, progress_callback=progress)
        assert seen == [1, 2, 3]


async def test_the_sse_client_uses_all_servers_at_one_address(sse_hub):
    async with sse_hub({"one": plain(), "two": plain()}) as hub, old_client(hub, "bob", "") as bob:
        names = {tool.name for tool in (await bob.list_tools()).tools}
        assert {"one__echo", "two__echo"} <= names
        assert await text_of(bob, "two__echo", {"text": "hello"}) == "hello"


async def test_two_users_of_the_old_transport_do_not_meet(sse_hub):
    async with sse_hub({"plain": plain()}) as hub:
        async with old_client(hub, "alice") as alice, old_client(hub, "bob") as bob:
            await text_of(alice, "remember", {"value": "canary of alice"})
            assert await text_of(bob, "recall") == "None"
            assert await text_of(alice, "recall") == "canary of alice"


async def test_an_elicitation_is_answered_over_the_old_transport(sse_hub):
    async def elicit(context, params):
        return ElicitResult(action="accept", content={"colour": "red"})

    async with sse_hub({"plain": plain()}) as hub:
        async with old_client(hub, "alice", elicitation_callback=elicit) as alice:
            answer = json.loads(await text_of(alice, "ask", {"text": "colour?"}))
            assert answer["content"] == {"colour": "red"}


@pytest.mark.requirement("32", "R3")
async def test_the_message_endpoint_belongs_to_its_user(sse_hub):
    async with sse_hub({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            async with opened(alice, f"{hub.url}/sse/plain") as (where, events, _):
                assert where.startswith("/sse/plain?session_id=")
                stolen = await bob.http.post(hub.url + where, json=request("ping"))
                unknown = await bob.http.post(
                    f"{hub.url}/sse/plain?session_id=nobodys", json=request("ping")
                )
                assert stolen.status_code == unknown.status_code == 404
                assert stolen.json() == unknown.json()
                elsewhere = where.replace("/sse/plain", "/sse")
                own = await alice.http.post(hub.url + elsewhere, json=request("ping"))
                assert own.status_code == 404
                alice.headers = {"Mcp-Session-Id": where.partition("=")[2]}
                assert (await alice.post(request("ping"))).status_code == 404
                honest = await alice.http.post(hub.url + where, json=request("ping", id="own"))
                assert honest.status_code == 202
                with anyio.fail_after(10):
                    _, data = await anext(events)
                assert json.loads(data) == {"jsonrpc": "2.0", "id": "own", "result": {}}


async def test_a_stream_that_closes_ends_its_session_and_cancels_its_calls(sse_hub):
    async with sse_hub({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        async with opened(alice, f"{hub.url}/sse/plain") as (where, _, _):
            slow = {"name": "slow", "arguments": {"seconds": 20}}
            sent = await alice.http.post(hub.url + where, json=request("tools/call", slow))
            assert sent.status_code == 202
            await until(lambda: any(one["in_flight"] for one in hub.hub.instances()))
        await until(lambda: not any(one["in_flight"] for one in hub.hub.instances()), 5)
        assert len(hub.hub.sessions) == 0
        gone = await alice.http.post(hub.url + where, json=request("ping"))
        assert gone.status_code == 404


async def test_streams_of_a_revoked_key_end_and_its_messages_are_refused(sse_hub):
    async with sse_hub({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        async with opened(alice, f"{hub.url}/sse/plain") as (where, events, _):
            await hub.hub.ground.directory.disable_user("alice")
            await hub.hub.refresh()
            with anyio.fail_after(10):
                assert [event async for event in events] == []
            assert (await alice.http.post(hub.url + where, json=request("ping"))).status_code == 401


@pytest.mark.requirement("40")
async def test_a_user_holds_no_more_streams_than_sessions(sse_hub):
    limits = {"limits": {"sessions_per_user": 2}}
    async with sse_hub({"plain": plain()}, **limits) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            path = f"{hub.url}/sse/plain"
            async with opened(bob, path), opened(alice, path) as (_, first, _), opened(alice, path):
                async with opened(alice, path):
                    with anyio.fail_after(10):
                        assert [event async for event in first] == []
                    assert len(hub.hub.sessions) == 3


async def test_what_is_no_opening_is_refused_with_the_way_to_do_it(sse_hub):
    async with sse_hub({"plain": plain(groups=["data"])}) as hub, raw_client(hub, "alice") as alice:
        posted = await alice.http.post(f"{hub.url}/sse", json=request("initialize"))
        assert posted.status_code == 405 and "GET" in posted.text
        hidden = await alice.http.get(
            f"{hub.url}/sse/plain", headers={"Accept": "text/event-stream"}
        )
        missing = await alice.http.get(
            f"{hub.url}/sse/nosuch", headers={"Accept": "text/event-stream"}
        )
        assert hidden.status_code == missing.status_code == 404
        alice.http.headers.pop("authorization")
        assert (await alice.http.get(f"{hub.url}/sse")).status_code == 401


async def test_broken_messages_and_batches_are_answered(sse_hub):
    async with sse_hub({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        async with opened(alice, f"{hub.url}/sse/plain") as (where, events, _):
            post = alice.http.post
            headers = {"Content-Type": "application/json"}
            assert (await post(hub.url + where, content=b"{", headers=headers)).status_code == 400
            info = {"name": "old", "version": "1"}
            opening = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": info}
            await post(hub.url + where, json=request("initialize", opening))
            with anyio.fail_after(30):
                assert json.loads((await anext(events))[1])["result"]["protocolVersion"] == (
                    "2025-03-26"
                )
                batch = [request("ping", id=1), request("ping", id="two")]
                assert (await post(hub.url + where, json=batch)).status_code == 202
                answers = json.loads((await anext(events))[1])
                assert {answer["id"] for answer in answers} == {1, "two"}
                probe = request("server/discover", id="probe")
                assert (await post(hub.url + where, json=probe)).status_code == 202
                assert json.loads((await anext(events))[1])["error"]["code"] == -32602
