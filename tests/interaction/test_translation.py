"""Between the eras: questions, states, pages, watched resources, cancellation, logs. Always two users."""

import json
from contextlib import asynccontextmanager

import anyio
import pytest
from mcp.types import ElicitResult, ListRootsResult, Root

from tests.interaction.clients import MODERN, connected, plain, raw_client, request, text_of
from tests.interaction.test_modern_upstream import CAPABILITIES, both, call, modern, remote
from tests.servers.modern_http import modern_server

pytestmark = pytest.mark.anyio
FORM = {CAPABILITIES: {"elicitation": {"form": {}}}}
PAGES = {CAPABILITIES: {"elicitation": {"url": {}}}}
PAGE = call("connect", url="https://example.com/connect")
CLIENTS = [("legacy", "modern"), (MODERN, "modern"), ("legacy", "plain"), (MODERN, "plain")]
PAIRS = pytest.mark.parametrize(("mode", "server"), CLIENTS)


def servers(**fields):
    return {"modern": modern(**fields), "plain": plain(**fields)}


@asynccontextmanager
async def streaming(client, message):
    """Send a request and yield a function that waits for the next message of its stream."""
    async with client.http.stream(
        "POST", client.url, json=message, headers=client.headers
    ) as answer:
        yield reader(answer)


@asynccontextmanager
async def listening(client):
    """Open the GET stream of a legacy session."""
    accept = {"Accept": "text/event-stream"}
    async with client.http.stream("GET", client.url, headers=client.headers | accept) as answer:
        yield reader(answer)


def reader(answer):
    lines = answer.aiter_lines()

    async def next_message(timeout_s=10):
        with anyio.fail_after(timeout_s):
            async for line in lines:
                if line.startswith("data: "):
                    return json.loads(line[6:])
        raise EOFError

    return next_message


async def opened(client, version="2025-11-25", **capabilities):
    client.capabilities = capabilities
    await client.open(version)
    return client


def accepted(first, **more):
    answers = {key: {"action": "accept", "content": {"round": 1}} for key in first["inputRequests"]}
    return {"requestState": first["requestState"], "inputResponses": answers, **more}


async def test_a_state_opens_for_the_same_user_and_request_only(hub_of):
    async with modern_server() as one, modern_server() as two:
        async with hub_of(
            {"modern": modern(), "one": remote(one.url), "two": remote(two.url)}
        ) as hub:
            for server in ("modern", "one"):
                async with (
                    raw_client(hub, "alice", server) as alice,
                    raw_client(hub, "bob", server) as bob,
                    raw_client(hub, "alice", "two") as elsewhere,
                ):
                    asked = call("ask", rounds=2, text="?")

                    async def retry(client, more, asked=asked):
                        return (await client.modern("tools/call", asked | more, meta=FORM)).json()

                    first = (await retry(alice, {}))["result"]
                    assert first["resultType"] == "input_required"
                    assert (
                        first["x-unknown"] == {"kept": None}
                        and "round" not in first["requestState"]
                    )
                    good = accepted(first)
                    state = first["requestState"]
                    forged = [
                        state[:-5] + ("A" if state[-5] != "A" else "B") + state[-4:],
                        state[:20], "s.", "w.", "", json.dumps({"round": 2, "seen": []}), "é",
                    ]  # fmt: skip
                    for other in forged:
                        answer = await retry(alice, good | {"requestState": other})
                        assert answer["error"]["code"] == -32602, other
                    for client in (bob, elsewhere):
                        assert (await retry(client, good))["error"]["code"] == -32602
                    altered = good | {"arguments": {"rounds": 2, "text": "!"}}
                    assert (await retry(alice, altered))["error"]["code"] == -32602
                    second = (await retry(alice, good))["result"]
                    assert second["resultType"] == "input_required"
                    done = (await retry(alice, accepted(second)))["result"]
                    assert len(json.loads(done["content"][0]["text"])) == 2


async def test_a_retry_without_the_answer_is_asked_again_by_the_server(hub_of):
    async with hub_of({"modern": modern()}) as hub, raw_client(hub, "alice", "modern") as alice:
        first = (await alice.modern("tools/call", call("ask"), meta=FORM)).json()["result"]
        retry = call("ask") | {"requestState": first["requestState"], "inputResponses": {}}
        second = (await alice.modern("tools/call", retry, meta=FORM)).json()["result"]
        assert second["inputRequests"].keys() == {"form-1"}


async def test_a_modern_server_cannot_ask_what_the_client_did_not_declare(hub_of):
    async with hub_of({"modern": modern()}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            asked = call("ask", kinds=["sampling"])
            answer = await alice.modern("tools/call", asked, meta=FORM)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32021)
            assert answer.json()["error"]["data"] == {"requiredCapabilities": {"sampling": {}}}
            await opened(bob, elicitation={})
            refused = (await bob.post(request("tools/call", asked))).json()["result"]
            assert refused["isError"] and "sampling/createMessage" in refused["content"][0]["text"]
            declined = call("ask", kinds=["url"])
            answers = (await bob.post(request("tools/call", declined))).json()["result"]
            assert json.loads(answers["content"][0]["text"]) == [{"url-1": {"action": "decline"}}]


async def test_a_revision_without_elicitation_declines(hub_of):
    async with hub_of({"modern": modern()}) as hub, raw_client(hub, "alice", "modern") as alice:
        await opened(alice, "2025-03-26", elicitation={"form": {}, "url": {}})
        answer = (await alice.post(request("tools/call", call("ask")))).json()["result"]
        assert json.loads(answer["content"][0]["text"]) == [{"form-1": {"action": "decline"}}]


async def test_a_page_of_a_modern_server_reaches_a_legacy_client_with_an_id(hub_of):
    async def work(hub, user):
        async with raw_client(hub, user, "modern") as client:
            await opened(client, elicitation={"url": {}})
            async with streaming(client, request("tools/call", call("ask", kinds=["url"]))) as read:
                question = await read()
                assert question["params"]["mode"] == "url" and question["params"]["elicitationId"]
                reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
                await client.post(reply)
                answer = await read()
        assert json.loads(answer["result"]["content"][0]["text"]) == [
            {"url-1": {"action": "accept"}}
        ]

    async with hub_of({"modern": modern()}) as hub:
        await both(work, hub)


async def test_a_page_of_a_legacy_server_is_an_input_request_and_the_call_is_sent_again(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            first = (await alice.modern("tools/call", PAGE, meta=PAGES)).json()["result"]
            asked = first["inputRequests"]["url1"]
            assert asked["method"] == "elicitation/create"
            assert asked["params"] == {
                "mode": "url", "message": "Connect first", "url": "https://example.com/connect",
            }  # fmt: skip
            retry = PAGE | accepted(first)
            stolen = (await bob.modern("tools/call", retry, meta=PAGES)).json()
            assert stolen["error"]["code"] == -32602
            done = (await alice.modern("tools/call", retry, meta=PAGES)).json()["result"]
            assert done["content"][0]["text"] == "connected"

            unable = (await bob.modern("tools/call", PAGE, meta=FORM)).json()["error"]
            assert unable["code"] == -32021
            assert unable["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


async def test_a_page_that_is_declined_ends_the_call(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        first = (await alice.modern("tools/call", PAGE, meta=PAGES)).json()["result"]
        retry = PAGE | accepted(first) | {"inputResponses": {"url1": {"action": "decline"}}}
        done = (await alice.modern("tools/call", retry, meta=PAGES)).json()["result"]
        assert done["isError"] and "declined" in done["content"][0]["text"]


async def test_a_legacy_client_gets_the_error_of_a_legacy_server_as_it_is(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await opened(alice)
        error = (await alice.post(request("tools/call", PAGE))).json()["error"]
        assert error["code"] == -32042
        assert error["data"]["elicitations"][0]["elicitationId"] == "own-id"


@PAIRS
async def test_directories_are_told_only_where_the_administrator_said_so(hub_of, mode, server):
    async def roots(context):
        return ListRootsResult(roots=[Root(uri="file:///home/of/client")])

    asked = {"kinds": ["roots"]} if server == "modern" else {"method": "roots/list"}
    for told in (False, True):
        async with hub_of(servers(roots=told)) as hub:
            for user in ("alice", "bob"):
                async with connected(hub, user, server, mode, list_roots_callback=roots) as client:
                    try:
                        answer = await text_of(client, "ask", asked)
                    except Exception as error:  # noqa: BLE001
                        answer = str(error)
                    assert ("file:///home/of/client" in answer) is told, answer


async def test_a_watched_resource_is_told_to_its_watchers_only_also_after_a_restart(hub_of):
    async with hub_of({"modern": modern()}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            await opened(alice)
            await opened(bob)
            subscribe = request("resources/subscribe", {"uri": "mem://state"})
            touch = request("tools/call", call("touch", uri="mem://state"))
            assert (
                "error"
                in (await alice.post(request("resources/subscribe", {"uri": "mem://none"}))).json()
            )
            assert (await alice.post(subscribe)).json()["result"] == {}
            async with listening(alice) as alices, listening(bob) as bobs:
                for client in (alice, bob):
                    await client.post(touch)
                told = await alices()
                assert told["method"] == "notifications/resources/updated"
                assert told["params"] == {"uri": "mem://state"}

                await alice.post(request("tools/call", call("crash")))
                await alice.post(request("tools/call", call("recall")))
                with anyio.fail_after(10):
                    while True:
                        await alice.post(touch)
                        try:
                            assert (await alices(0.5))["params"] == {"uri": "mem://state"}
                            break
                        except TimeoutError:
                            continue

                await bob.post(request("tools/call", call("change")))
                assert (await bobs())["method"] == "notifications/tools/list_changed"


async def test_a_resource_is_watched_upstream_once_and_until_the_last_stops(hub_of):
    async with hub_of({"modern": modern()}) as hub:

        async def wanted(client):
            state = await client.post(request("tools/call", call("state")))
            return json.loads(state.json()["result"]["content"][0]["text"])["listening"][-1]

        async with (
            raw_client(hub, "alice", "modern") as one,
            raw_client(hub, "alice", "modern") as two,
        ):
            await opened(one)
            await opened(two)
            subscribe = request("resources/subscribe", {"uri": "mem://state"})
            async with anyio.create_task_group() as at_once:
                for client in (one, *[two] * 12):
                    at_once.start_soon(client.post, subscribe)
            assert (await wanted(one))["resourceSubscriptions"] == ["mem://state"]
            await one.post(request("resources/unsubscribe", {"uri": "mem://state"}))
            assert (await wanted(one))["resourceSubscriptions"] == ["mem://state"]
            await two.post(request("resources/unsubscribe", {"uri": "mem://state"}))
            assert "resourceSubscriptions" not in await wanted(one)
            assert len(hub.hub.plane.watches) == 0


async def test_a_listen_stream_is_acknowledged_first_and_carries_the_clients_own_id(hub_of):
    async with hub_of({"modern": modern()}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            # a server that runs already: what it gets at once is a call, and this is none
            await alice.modern("tools/call", call("echo", text="x"))
            listen = {"notifications": {
                "toolsListChanged": True, "resourceSubscriptions": ["mem://state", "mem://none"],
            }}  # fmt: skip
            params = {**listen, "_meta": {
                "io.modelcontextprotocol/protocolVersion": MODERN, CAPABILITIES: {},
            }}  # fmt: skip
            alice.headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
            async with streaming(alice, request("subscriptions/listen", params, id="mine")) as read:
                first = await read()
                assert first["method"] == "notifications/subscriptions/acknowledged"
                assert first["params"]["notifications"] == {
                    "toolsListChanged": True, "resourceSubscriptions": ["mem://state"],
                }  # fmt: skip
                await bob.modern("tools/call", call("touch", uri="mem://state"))
                async with raw_client(hub, "alice", "modern") as also:
                    await also.modern("tools/call", call("touch", uri="mem://state"))
                told = await read()
                assert told["method"] == "notifications/resources/updated"
                assert told["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "mine"}
        with anyio.fail_after(10):
            while len(hub.hub.plane.watches):  # noqa: ASYNC110
                await anyio.sleep(0.02)


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_log_messages_reach_the_call_that_wanted_them(hub_of, mode):
    async def work(hub, user):
        seen = []

        async def logged(params):
            seen.append(params.data)

        async with connected(hub, user, "modern", mode, logging_callback=logged) as client:
            meta = {"io.modelcontextprotocol/logLevel": "info"} if mode == MODERN else {}
            await client.call_tool("log", {"text": f"of {user}"}, meta=meta)
        assert set(seen) <= {f"of {user}"}
        return seen

    async with modern_server() as state, hub_of({"modern": remote(state.url)}) as hub:
        await both(work, hub)
        assert await work(hub, "alice") == ["of alice"]


async def test_a_modern_client_that_asked_for_no_log_gets_none(hub_of):
    async with hub_of({"modern": modern()}) as hub, raw_client(hub, "alice", "modern") as alice:
        answer = await alice.modern("tools/call", call("log", text="unasked"))
        assert answer.json()["result"]["content"][0]["text"] == "logged"
        assert "unasked" not in answer.text


async def waits(state, streams):
    with anyio.fail_after(10):
        while state.open_streams != streams:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_cancelling_closes_the_stream_of_a_modern_server_and_leaving_only_in_the_modern_era(
    hub_of,
):
    async with modern_server() as state, hub_of({"modern": remote(state.url)}) as hub:
        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            await opened(alice)
            slow = request("tools/call", call("hang"), id=7)
            async with anyio.create_task_group() as group:
                group.start_soon(alice.post, slow)
                await waits(state, 1)
                cancelled = {"requestId": 7}
                await alice.post(
                    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}
                )
                with anyio.fail_after(1.5):
                    await waits(state, 0)
            # a legacy client that leaves does not cancel
            with anyio.move_on_after(0.6):
                await alice.post(slow)
            await waits(state, 1)
            # a modern one does
            with anyio.move_on_after(0.6):
                await bob.modern("tools/call", call("hang"))
            with anyio.fail_after(10):
                while len(state.closed) != 2:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert state.open_streams == 1


async def test_calling_a_tool_never_lists_tools_and_headers_come_from_the_list_of_the_user(hub_of):
    async with modern_server() as state, hub_of({"modern": remote(state.url)}) as hub:

        def lists():
            return sum(m.get("method") == "tools/list" for _, _, m in state.requests)

        async with (
            raw_client(hub, "alice", "modern") as alice,
            raw_client(hub, "bob", "modern") as bob,
        ):
            region = call("region", region="Zürich ")
            param = {"Mcp_Param_Region": "=?base64?WsO8cmljaCA=?="}
            early = await bob.modern("tools/call", call("region", region="a"), Mcp_Param_Region="a")
            assert early.json()["result"]["content"][0]["text"] == "a"
            await opened(alice)
            for _ in range(3):
                await alice.post(request("tools/call", call("echo", text="x")))
            assert lists() == 0
            await alice.post(request("tools/list"))
            done = await alice.post(request("tools/call", call("region", region="a b")))
            assert done.json()["result"]["content"][0]["text"] == "a b"
            await bob.modern("tools/list")
            wrong = await bob.modern("tools/call", region)
            assert wrong.json()["error"]["code"] == -32020
            sent = [h for _, h, m in state.requests if m.get("params", {}).get("name") == "region"]
            assert sent[-1]["mcp-param-region"] == "a b"
            await bob.modern("tools/call", region, **param)
            sent = [h for _, h, m in state.requests if m.get("params", {}).get("name") == "region"]
            assert sent[-1]["mcp-param-region"] == param["Mcp_Param_Region"]
            assert lists() == 2


async def test_headers_of_arguments_are_known_after_a_restart_too(hub_of):
    async with modern_server() as state, hub_of({"modern": remote(state.url)}) as hub:
        for user in ("alice", "bob"):
            async with raw_client(hub, user, "modern") as client:
                await opened(client)
                tools = (await client.post(request("tools/list"))).json()["result"]["tools"]
                assert "broken" not in [tool["name"] for tool in tools]
                hub.hub.pool.drain(lambda _: True, at_once=True)
                done = await client.post(request("tools/call", call("region", region=user)))
                assert done.json()["result"]["content"][0]["text"] == user
        assert sum(m.get("method") == "tools/list" for _, _, m in state.requests) == 2


async def test_a_server_that_asks_again_and_again_is_stopped(hub_of):
    async with hub_of({"modern": modern()}) as hub:
        rounds = 0

        async def elicit(context, params):
            nonlocal rounds
            rounds += 1
            return ElicitResult(action="accept", content={})

        async with connected(hub, "alice", "modern", elicitation_callback=elicit) as client:
            answer = await text_of(client, "ask", {"rounds": 20})
        assert rounds == 16 and "again and again" in answer


async def test_two_calls_of_one_user_keep_their_questions_apart(hub_of):
    async with modern_server() as state:
        async with hub_of({"modern": modern(), "remote": remote(state.url)}) as hub:
            for server in ("modern", "remote"):
                async with raw_client(hub, "alice", server) as alice:
                    await opened(alice, elicitation={})
                    one = request("tools/call", call("ask", text="one"), id=1)
                    two = request("tools/call", call("ask", text="two"), id=2)
                    async with streaming(alice, one) as first, streaming(alice, two) as second:
                        asked = [await first(), await second()]
                        assert [q["params"]["message"] for q in asked] == ["one", "two"]
                        for question in reversed(asked):
                            content = {"said": question["params"]["message"]}
                            result = {"action": "accept", "content": content}
                            await alice.post(
                                {"jsonrpc": "2.0", "id": question["id"], "result": result}
                            )
                        for read, said in ((first, "one"), (second, "two")):
                            answer = json.loads((await read())["result"]["content"][0]["text"])
                            assert answer[0]["form-1"]["content"] == {"said": said}
