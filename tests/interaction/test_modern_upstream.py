"""Servers of the modern era behind the hub, over stdio and HTTP, for clients of both eras; always two users."""

import json

import anyio
import pytest
from mcp.types import CreateMessageResult, ElicitResult, TextContent

from tests.interaction.clients import (
    MODERN,
    PYTHON,
    SERVERS,
    connected,
    raw_client,
    request,
    text_of,
)
from tests.servers.modern_http import modern_server

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["legacy", MODERN])
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}


def modern(**fields):
    """Settings of the modern test server over stdio."""
    return {
        "command": PYTHON,
        "args": [str(SERVERS / "modern.py")],
        "groups": ["everyone"],
        "riskLevel": "critical",
        "sandbox": {"readable": [str(SERVERS)]},
        **fields,
    }


def remote(url, **fields):
    """Settings of the modern test server over HTTP."""
    return {
        "type": "http",
        "url": url,
        "groups": ["everyone"],
        "riskLevel": "critical",
        "userAware": True,
        **fields,
    }


@pytest.fixture(params=["stdio", "http"])
async def server(request):
    """Settings of a modern server, over each transport."""
    if request.param == "stdio":
        yield modern()
    else:
        async with modern_server() as state:
            yield remote(state.url)


def parsed(result):
    return json.loads(result["content"][0]["text"])


def call(tool, **arguments):
    return {"name": tool, "arguments": arguments}


async def both(work, hub):
    """Run `work(hub, user)` twice at once for each of two users."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for user in ("alice", "bob"):
                for _ in range(2):
                    group.start_soon(work, hub, user)


@ERAS
async def test_a_modern_server_lists_calls_reads_and_prompts(hub_of, server, mode):
    async def work(hub, user):
        async with connected(hub, user, "modern", mode) as client:
            assert "echo" in [tool.name for tool in (await client.list_tools()).tools]
            assert await text_of(client, "echo", {"text": f"of {user}"}) == f"of {user}"
            assert (await client.list_resources()).resources[0].uri == "mem://state"
            assert (await client.read_resource("mem://state")).contents
            assert (await client.get_prompt("hello")).messages[0].content.text == "hello"

    async with hub_of({"modern": server}) as hub:
        await both(work, hub)


async def test_each_user_has_an_own_modern_process(hub_of):
    async with hub_of({"modern": modern()}) as hub:
        async with (
            connected(hub, "alice", "modern") as alice,
            connected(hub, "bob", "modern", MODERN) as bob,
        ):
            await text_of(alice, "remember", {"value": "alice's"})
            assert await text_of(bob, "recall") == "None"
            assert await text_of(alice, "recall") == "alice's"


async def test_a_modern_server_gets_what_its_era_wants_and_nothing_of_the_client(hub_of, server):
    async with hub_of({"modern": server}) as hub:
        async with raw_client(hub, "alice", "modern") as alice:
            alice.capabilities = {"elicitation": {}, "sampling": {"tools": {}}, "roots": {}}
            await alice.open()
            meta = {"com.example/kept": [1, None], "dev.mcphub/user-context": "forged"}
            sent = request("tools/call", {**call("params", big=2**70), "task": {}, "_meta": meta})
            seen = parsed((await alice.post(sent)).json()["result"])
        async with raw_client(hub, "bob", "modern") as bob:
            raw = await bob.modern("tools/call", call("params"), meta=meta | {CAPABILITIES: ALL})
            modern_seen = parsed(raw.json()["result"])
    assert seen["arguments"] == {"big": 2**70}
    meta = seen["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == MODERN
    assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "mcphub"
    # a server that knows its user is offered the hub's own extension; that is not the client's
    offered = [meta[CAPABILITIES], modern_seen["_meta"][CAPABILITIES]]
    for capabilities in offered:
        assert set(capabilities.pop("extensions", {})) <= {"dev.mcphub/user-context"}
    assert meta[CAPABILITIES] == {"elicitation": {"form": {}}, "sampling": {"tools": {}}}
    assert meta["com.example/kept"] == [1, None] and "dev.mcphub/user-context" not in meta
    assert "task" not in seen
    assert modern_seen["_meta"][CAPABILITIES] == {
        key: ALL[key] for key in ("elicitation", "sampling")
    }


async def test_results_pass_raw_to_modern_clients_and_lose_their_era_for_legacy_ones(
    hub_of, server
):
    async with hub_of({"modern": server}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            raw = (await alice.modern("tools/call", call("echo", text="x"), id="own")).json()
            assert raw["id"] == "own" and raw["result"] == {
                "resultType": "complete", "content": [{"type": "text", "text": "x"}],
                "structuredContent": None, "unknown": {"kept": [1, None]},
            }  # fmt: skip
            read = (await alice.modern("resources/read", {"uri": "mem://state"})).json()["result"]
            assert (read["ttlMs"], read["cacheScope"]) == (5, "private")
            await bob.open()
            legacy = (await bob.post(request("tools/call", call("echo", text="x")))).json()[
                "result"
            ]
            era = {"resultType", "structuredContent"}  # which was an object or nothing
            assert legacy == {k: v for k, v in raw["result"].items() if k not in era}
            read = (await bob.post(request("resources/read", {"uri": "mem://state"}))).json()[
                "result"
            ]
            assert set(read) == {"contents"}


async def test_error_codes_are_those_of_the_callers_era(hub_of, server):
    async with hub_of({"modern": server}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            answer = await alice.modern("resources/read", {"uri": "mem://none"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
            await bob.open()
            read = request("resources/read", {"uri": "mem://none"})
            assert (await bob.post(read)).json()["error"]["code"] == -32002
            for given, legacy in ((-32020, -32603), (-32021, -32602), (-32022, -32603), (17, 17)):
                sent = call("error", code=given, data={"x": 1})
                raw = (await alice.modern("tools/call", sent)).json()["error"]
                assert (raw["code"], raw["data"]) == (given, {"x": 1})
                assert (await bob.post(request("tools/call", sent))).json()["error"][
                    "code"
                ] == legacy


@ERAS
async def test_progress_reaches_the_call_that_it_belongs_to(hub_of, server, mode):
    async def work(hub, user):
        seen = []

        async def progress(done, total, message):
            if not message.startswith("Starting"):  # the hub's own, while the server starts
                seen.append((done, message))

        async with connected(hub, user, "modern", mode) as client:
            await client.call_tool("progress", {"text": user}, progress_callback=progress)
        assert seen == [(1, user), (2, user), (3, user)]

    async with hub_of({"modern": server}) as hub:
        await both(work, hub)


@ERAS
async def test_questions_of_a_modern_server_are_answered_by_the_user_who_called(
    hub_of, server, mode
):
    async def work(hub, user):
        async def elicit(context, params):
            assert params.message == user
            return ElicitResult(action="accept", content={"by": user})

        async def sample(context, params):
            content = TextContent(type="text", text=user)
            return CreateMessageResult(role="assistant", content=content, model="m")

        options = {"elicitation_callback": elicit, "sampling_callback": sample}
        async with connected(hub, user, "modern", mode, **options) as client:
            asked = {"text": user, "rounds": 3, "kinds": ["form", "sampling"]}
            rounds = json.loads(await text_of(client, "ask", asked))
        assert len(rounds) == 3
        for number, answers in enumerate(rounds, start=1):
            assert answers[f"form-{number}"]["content"] == {"by": user}
            assert answers[f"sampling-{number}"]["content"]["text"] == user

    async with hub_of({"modern": server}) as hub:
        await both(work, hub)
