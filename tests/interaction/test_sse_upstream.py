"""Servers of the first HTTP transport: one stream per user, nothing shared, messages to their own host only."""

import anyio
import pytest
from mcp.types import ElicitResult

from tests.interaction.clients import MODERN, connected, raw_client, request, text_of
from tests.interaction.test_http_upstream import remote, tokens
from tests.servers.modern_http import modern_server
from tests.servers.sse_http import sse_server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ["legacy", MODERN])
@pytest.mark.parametrize("kind", ["sse", "http"])
async def test_each_user_has_an_own_stream_with_own_credentials(hub_of, mode, kind):
    async with sse_server() as server, hub_of({"remote": remote(server.url, type=kind)}) as hub:
        await tokens(hub, "alice", "bob")
        async with (
            connected(hub, "alice", "remote", mode) as alice,
            connected(hub, "bob", "remote", mode) as bob,
        ):
            await text_of(alice, "set", {"value": "alice's"})
            assert await text_of(bob, "get") == "None"
            assert await text_of(alice, "get") == "alice's"
            assert [tool.name for tool in (await bob.list_tools()).tools] == ["set", "get"]
        assert len(server.streams) == 2
        posted = [(h["authorization"], p) for m, p, h, _ in server.requests if p == "/messages"]
        assert {owner for owner, _ in posted} == {"Bearer token-of-alice", "Bearer token-of-bob"}
        if kind == "sse":  # what the settings say is tried first
            assert server.requests[0][0] == "GET"


async def test_questions_travel_on_the_stream_of_the_user(hub_of):
    async with sse_server() as server, hub_of({"remote": remote(server.url, type="sse")}) as hub:
        await tokens(hub, "alice", "bob")
        for user in ("alice", "bob"):

            async def elicit(context, params, user=user):
                return ElicitResult(action="accept", content={"by": user})

            for mode in ("legacy", MODERN):
                async with connected(hub, user, "remote", mode, elicitation_callback=elicit) as one:
                    assert f'"by": "{user}"' in await text_of(one, "ask")


async def test_messages_and_credentials_go_to_the_servers_own_host_only(hub_of):
    async with sse_server() as server, modern_server() as elsewhere:
        server.endpoint = elsewhere.url
        async with hub_of({"remote": remote(server.url, type="sse")}) as hub:
            await tokens(hub, "alice")
            async with raw_client(hub, "alice", "remote") as alice:
                answer = await alice.open()
            assert "another host" in answer.text and "token-of-alice" not in answer.text
        assert elsewhere.requests == []


async def test_a_stream_that_ends_is_told_and_the_next_call_works(hub_of):
    async with sse_server() as server, hub_of({"remote": remote(server.url, type="sse")}) as hub:
        await tokens(hub, "alice")
        async with raw_client(hub, "alice", "remote") as alice:
            await alice.open()
            get = request("tools/call", {"name": "get", "arguments": {}})
            ask = request("tools/call", {"name": "ask", "arguments": {}}, id=9)
            alice.capabilities = {"elicitation": {}}
            await alice.open()
            async with anyio.create_task_group() as group:

                async def waiting():
                    assert "closed its stream" in (await alice.post(ask)).text

                group.start_soon(waiting)
                with anyio.fail_after(10):
                    while not any(m.get("id") and "ask" in str(m) for *_, m in server.requests):  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                for queue in list(server.streams.values()):
                    queue.put_nowait(None)
            assert "None" in (await alice.post(get)).text
