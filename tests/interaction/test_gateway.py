"""Two users on one ordinary server through the hub, in both eras, by the real `mcp` client."""

import json

import anyio
import pytest

from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, connected, plain, raw_client, request, text_of

pytestmark = [pytest.mark.anyio, BOTH_DOORS]
ERAS = pytest.mark.parametrize("mode", ["legacy", MODERN])


@ERAS
async def test_users_do_not_share_the_state_of_a_server(hub_of, mode):
    async with hub_of({"plain": plain()}) as hub:
        async with (
            connected(hub, "alice", mode=mode) as alice,
            connected(hub, "bob", mode=mode) as bob,
        ):
            await text_of(alice, "remember", {"value": "canary of alice"})
            assert await text_of(bob, "recall") == "None"
            assert await text_of(alice, "recall") == "canary of alice"


@ERAS
async def test_a_server_lists_calls_reads_and_prompts_through_the_hub(hub_of, mode):
    async with hub_of({"plain": plain()}) as hub, connected(hub, "alice", mode=mode) as client:
        tools = await client.list_tools()
        assert "echo" in {tool.name for tool in tools.tools}
        assert await text_of(client, "echo", {"text": "grüß dich"}) == "grüß dich"
        assert (await client.list_resources()).resources[0].name == "state"
        assert (await client.read_resource("mem://state")).contents[0].text == "None"
        assert (await client.list_prompts()).prompts[0].name == "hello"
        assert (await client.get_prompt("hello")).messages[0].content.text == "hello"


@ERAS
async def test_listing_starts_no_process_of_the_user(hub_of, mode):
    async with hub_of({"plain": plain()}) as hub, connected(hub, "alice", mode=mode) as client:
        await client.list_tools()
        await client.list_prompts()
        assert hub.hub.instances() == []


@ERAS
async def test_progress_reaches_the_call_that_asked_for_it_and_no_other(hub_of, mode):
    seen = {f"{user} {number}": [] for user in ("alice", "bob") for number in (1, 2)}

    async def ask(client, text):
        async def progress(done, total, message):
            if message in seen:  # not that the server starts
                seen[text].append((done, message))

        await client.call_tool("progress", {"text": text}, progress_callback=progress)

    async def run(hub, user):
        async with connected(hub, user, mode=mode) as client, anyio.create_task_group() as calls:
            for number in (1, 2):
                calls.start_soon(ask, client, f"{user} {number}")

    async with hub_of({"plain": plain()}) as hub, anyio.create_task_group() as group:
        for user in ("alice", "bob"):
            group.start_soon(run, hub, user)
    assert seen == {text: [(1, text), (2, text), (3, text)] for text in seen}


@ERAS
async def test_log_messages_travel_on_the_call_of_their_user(hub_of, mode):
    got = []

    async def logged(params):
        got.append(params.data)

    async with hub_of({"plain": plain()}) as hub:
        async with connected(hub, "alice", mode=mode, logging_callback=logged) as alice:
            meta = {"io.modelcontextprotocol/logLevel": "info"} if mode == MODERN else None
            await alice.call_tool("log", {"text": "hello log"}, meta=meta)
            with anyio.fail_after(5):
                while not got:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
    assert got == ["hello log"]


async def test_unknown_fields_and_explicit_nulls_survive_both_ways(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as client:
        await client.open()
        params = {
            "name": "params",
            "arguments": {"a": None},
            "future": {"x": None},
            "_meta": {"vendor/key": [1, None]},
        }
        answer = await client.post(request("tools/call", params, id="own-id"))
        assert answer.json()["id"] == "own-id"
        assert json.loads(answer.json()["result"]["content"][0]["text"]) == params
        echoed = (
            await client.post(request("tools/call", {"name": "echo", "arguments": {"text": ""}}))
        ).json()["result"]
        assert echoed["structuredContent"] is None and echoed["unknown"] == {"kept": [1, None]}
        tool = (await client.post(request("tools/list"))).json()["result"]["tools"][0]
        assert tool["x-unknown"] == {"kept": None}


async def test_hop_owned_meta_of_a_modern_request_stays_at_the_hub(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as client:
        meta = {
            "vendor/key": 1,
            "dev.mcphub/user-context": "forged",
            "progressToken": "t",
            "traceparent": "x",
        }
        answer = await client.modern("tools/call", {"name": "params", "arguments": {}}, meta=meta)
        events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        body = json.loads(events[-1][6:]) if events else answer.json()
        arrived = json.loads(body["result"]["content"][0]["text"])
        assert set(arrived["_meta"]) == {"vendor/key", "progressToken", "traceparent"}
        assert arrived["_meta"]["progressToken"] != "t"
        assert body["result"]["resultType"] == "complete"


async def test_fifty_users_with_colliding_ids_and_tokens_get_their_own_bytes_only(hub_of):
    users = {f"user{number}": [] for number in range(50)}
    servers = {"one": plain(), "two": plain()}

    async def work(hub, user):
        for server in servers:
            async with raw_client(hub, user, server) as client:
                await client.open()
                for _ in range(3):
                    canary = f"canary-of-{user}-{server}-"
                    params = {
                        "name": "progress",
                        "arguments": {"text": canary},
                        "_meta": {"progressToken": 1},
                    }
                    text = (await client.post(request("tools/call", params, id=1))).text
                    assert text.count(canary) == 3 and text.count("canary-of-") == 3
                    params = {"name": "echo", "arguments": {"text": canary}}
                    text = (await client.post(request("tools/call", params, id=1))).text
                    assert text.count(canary) == 1 and text.count("canary-of-") == 1

    async with hub_of(servers, users) as hub:
        with anyio.fail_after(150):
            async with anyio.create_task_group() as group:
                for user in users:
                    group.start_soon(work, hub, user)
        owners = {instance["user"] for instance in hub.hub.instances()}
        assert len(owners) == 50 and len(hub.hub.instances()) == 100


async def test_the_aggregated_endpoint_names_tools_by_server(hub_of):
    servers = {"one": plain(), "two": plain(groups=["data"])}
    async with hub_of(servers) as hub:
        async with connected(hub, "alice", "") as alice, connected(hub, "bob", "") as bob:
            names = {tool.name for tool in (await alice.list_tools()).tools}
            assert "one__echo" in names and not any(name.startswith("two__") for name in names)
            await text_of(bob, "two__remember", {"value": "bob's"})
            assert await text_of(bob, "one__recall") == "None"
            assert await text_of(alice, "echo", {"text": "bare name"}) == "bare name"
        async with connected(hub, "bob", "") as bob:
            with pytest.raises(Exception, match="More than one server"):
                await text_of(bob, "echo", {"text": "which?"})
        async with connected(hub, "bob", "@data") as bob:
            names = {tool.name for tool in (await bob.list_tools()).tools}
            assert names and all(name.startswith("two__") for name in names)


async def test_a_server_of_another_group_is_not_found(hub_of):
    async with hub_of({"plain": plain(groups=["data"])}) as hub, raw_client(hub, "alice") as client:
        hidden = (await client.open()).json()["error"]
        async with raw_client(hub, "alice", "no-such") as other:
            missing = (await other.open()).json()["error"]
        assert hidden["code"] == missing["code"] == -32602
        assert hidden["message"].replace("plain", "no-such") == missing["message"]


async def test_filtered_tools_are_neither_listed_nor_called(hub_of):
    async with (
        hub_of({"plain": plain(tools={"deny": ["who", "cra*"]})}) as hub,
        connected(hub, "alice") as client,
    ):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert "echo" in names and not names & {"who", "crash"}
        with pytest.raises(Exception, match="not allowed"):
            await client.call_tool("who", {})


async def test_a_session_of_another_user_is_not_found(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            await alice.open()
            await alice.post(
                request("tools/call", {"name": "remember", "arguments": {"value": "a"}})
            )
            bob.headers = alice.headers
            stolen = await bob.post(request("tools/call", {"name": "recall", "arguments": {}}))
            assert stolen.status_code == 404 and "error" in stolen.json()
            assert (await bob.http.delete(bob.url, headers=bob.headers)).status_code == 404
            assert (await bob.http.get(bob.url, headers=bob.headers)).status_code == 404
            assert (await alice.post(request("ping"))).status_code == 200


async def test_a_revoked_key_ends_calls_and_streams_at_once(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.open()
        assert (await alice.post(request("ping"))).status_code == 200
        async with alice.http.stream("GET", alice.url, headers=alice.headers) as stream:
            assert stream.status_code == 200
            (key,) = [
                key
                for key in await hub.hub.ground.directory.keys()
                if hub.keys["alice"].startswith(key.prefix)
            ]
            await hub.hub.ground.directory.revoke_key(key.id)
            await hub.hub.refresh()
            with anyio.fail_after(5):
                async for _ in stream.aiter_raw():
                    pass
        assert (await alice.post(request("ping"))).status_code == 401


async def test_a_cancelled_legacy_call_is_cancelled_at_the_server(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.open()
        await alice.post(request("tools/call", {"name": "echo", "arguments": {"text": ""}}))
        async with anyio.create_task_group() as group:
            group.start_soon(
                alice.post,
                request("tools/call", {"name": "slow", "arguments": {"seconds": 20}}, id="s"),
            )
            with anyio.fail_after(5):
                while not any(instance["in_flight"] for instance in hub.hub.instances()):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            await alice.post(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": "s"},
                }
            )
        answer = await alice.post(request("tools/call", {"name": "cancelled", "arguments": {}}))
        assert answer.json()["result"]["content"][0]["text"] == "1"


async def test_a_modern_client_that_leaves_cancels_its_call(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.modern("tools/call", {"name": "echo", "arguments": {"text": ""}})
        with anyio.move_on_after(1):
            await alice.modern("tools/call", {"name": "slow", "arguments": {"seconds": 20}})
        with anyio.fail_after(5):
            while (await alice.modern("tools/call", {"name": "cancelled", "arguments": {}})).json()[  # noqa: ASYNC110
                "result"
            ]["content"][0]["text"] != "1":
                await anyio.sleep(0.05)


async def test_a_hanging_server_times_out_and_delays_nobody(hub_of):
    servers = {"plain": plain(timeoutSeconds=2)}
    async with (
        hub_of(servers) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        await alice.open()
        await bob.open()
        await bob.post(request("tools/call", {"name": "echo", "arguments": {"text": "warm"}}))
        async with anyio.create_task_group() as group:
            slow = {}

            async def hang():
                slow["answer"] = (
                    await alice.post(request("tools/call", {"name": "slow", "arguments": {}}))
                ).json()

            group.start_soon(hang)
            with anyio.fail_after(1.5):
                for _ in range(10):
                    await bob.post(
                        request("tools/call", {"name": "echo", "arguments": {"text": "quick"}})
                    )
        text = slow["answer"]["result"]["content"][0]["text"]
        assert slow["answer"]["result"]["isError"] and "within 2 s" in text


async def test_a_crash_is_told_to_its_caller_only_and_the_next_call_works(hub_of):
    servers = {"plain": plain(env={"TOKEN": "${USER_TOKEN}"})}
    async with hub_of(servers) as hub:
        for user in ("alice", "bob"):
            await set_credential(hub, user, "plain", "TOKEN", f"secret-of-{user}")
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            await alice.open()
            await bob.open()
            await bob.post(request("tools/call", {"name": "remember", "arguments": {"value": "b"}}))
            crashed = (
                await alice.post(request("tools/call", {"name": "crash", "arguments": {}}))
            ).text
            assert "ended unexpectedly" in crashed and "going down" in crashed
            assert "secret-of-alice" not in crashed
            again = await alice.post(
                request("tools/call", {"name": "echo", "arguments": {"text": "back"}})
            )
            assert again.json()["result"]["content"][0]["text"] == "back"
            kept = await bob.post(request("tools/call", {"name": "recall", "arguments": {}}))
            assert kept.json()["result"]["content"][0]["text"] == "b"


async def test_a_missing_credential_tells_the_agent_what_to_do_and_never_uses_anothers(hub_of):
    servers = {"github": plain(env={"TOKEN": "${USER_GITHUB_TOKEN}"})}
    async with hub_of(servers) as hub:
        await set_credential(hub, "alice", "github", "GITHUB_TOKEN", "token-of-alice")
        async with (
            raw_client(hub, "alice", "github") as alice,
            raw_client(hub, "bob", "github") as bob,
        ):
            await alice.open()
            await bob.open()
            who = {"name": "who", "arguments": {}}
            assert "token-of-alice" in (await alice.post(request("tools/call", who))).text
            refused = (await bob.post(request("tools/call", who))).json()["result"]
            text = refused["content"][0]["text"]
            assert refused["isError"] and "GITHUB_TOKEN" in text
            assert (
                "mcphub credential set github GITHUB_TOKEN" in text and "token-of-alice" not in text
            )


async def test_a_new_credential_starts_a_new_instance(hub_of):
    servers = {"plain": plain(env={"TOKEN": "${USER_TOKEN}"})}
    async with hub_of(servers) as hub, raw_client(hub, "alice") as alice:
        await alice.open()
        pids = set()
        for value in ("first", "second"):
            await set_credential(hub, "alice", "plain", "TOKEN", value)
            answer = await alice.post(request("tools/call", {"name": "who", "arguments": {}}))
            assert (
                json.loads(answer.json()["result"]["content"][0]["text"])["env"]["TOKEN"] == value
            )
            pids |= {
                instance["pid"] for instance in hub.hub.instances() if instance["state"] == "ready"
            }
        assert len(pids) == 2


async def test_list_changes_reach_the_owner_only(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            await alice.open()
            await bob.open()
            lines = {"alice": [], "bob": []}

            async def listen(name, client):
                async with client.http.stream("GET", client.url, headers=client.headers) as stream:
                    async for line in stream.aiter_lines():
                        lines[name].append(line)

            async with anyio.create_task_group() as group:
                group.start_soon(listen, "alice", alice)
                group.start_soon(listen, "bob", bob)
                with anyio.fail_after(10):
                    while len(hub.hub.outlets) < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                    await bob.post(
                        request("tools/call", {"name": "echo", "arguments": {"text": ""}})
                    )
                    await alice.post(request("tools/call", {"name": "change", "arguments": {}}))
                    while not any("list_changed" in line for line in lines["alice"]):  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                names = {
                    tool["name"]
                    for tool in (await alice.post(request("tools/list"))).json()["result"]["tools"]
                }
                others = {
                    tool["name"]
                    for tool in (await bob.post(request("tools/list"))).json()["result"]["tools"]
                }
                group.cancel_scope.cancel()
            assert "new_tool" in names and "new_tool" not in others
            assert not any("list_changed" in line for line in lines["bob"])


async def test_modern_listen_acknowledges_first_and_carries_the_subscription_id(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = request(
            "subscriptions/listen",
            {"notifications": {"toolsListChanged": True}, "_meta": meta},
            id="sub",
        )
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
        async with alice.http.stream("POST", alice.url, json=body, headers=headers) as stream:
            lines = stream.aiter_lines()
            messages = []
            with anyio.fail_after(10):
                async for line in lines:
                    if line.startswith("data: "):
                        messages.append(json.loads(line[6:]))
                        if len(messages) == 1:
                            await alice.modern(
                                "tools/call", {"name": "change", "arguments": {}}, id=2
                            )
                        else:
                            break
        assert messages[0]["method"] == "notifications/subscriptions/acknowledged"
        assert messages[0]["params"]["notifications"] == {"toolsListChanged": True}
        assert messages[1]["method"] == "notifications/tools/list_changed"
        assert all(
            m["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "sub"
            for m in messages
        )


async def test_every_request_is_recorded_without_arguments(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with connected(hub, "alice") as alice, connected(hub, "bob", mode=MODERN) as bob:
            await text_of(alice, "echo", {"text": "private words"})
            await text_of(bob, "echo", {"text": "private words"})
            await hub.hub.recorder.flush()
            records = (await hub.hub.ground.requests.recent()).records
        calls = [record for record in records if record.method == "tools/call"]
        assert {(record.name, record.era, str(record.outcome)) for record in calls} == {
            ("echo", "legacy", "ok"),
            ("echo", "modern", "ok"),
        }
        assert len({record.user_id for record in calls}) == 2
        assert "private words" not in repr(records)


async def test_an_edit_of_the_settings_counts_without_a_restart(hub_of, tmp_path):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.open()
        assert (
            await alice.post(request("tools/call", {"name": "who", "arguments": {}}))
        ).status_code == 200
        file = tmp_path / "hub" / "mcp_settings.json"
        file.write_text(json.dumps({"mcpServers": {"plain": plain(env={"COLOUR": "blue"})}}))
        with anyio.fail_after(20):
            answer = ""
            while "blue" not in answer:
                answer = (
                    await alice.post(request("tools/call", {"name": "who", "arguments": {}}))
                ).text
                await anyio.sleep(0.1)
        file.write_text('{"mcpServers": {"plain": {"comand": "x"}}}')
        with anyio.fail_after(20):
            while not hub.hub.status()["settingsError"]:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        assert "command" in str(hub.hub.status()["settingsError"])
        assert (
            "blue"
            in (await alice.post(request("tools/call", {"name": "who", "arguments": {}}))).text
        )


async def set_credential(hub, user, server, slot, value):
    """Set a credential as its owner."""
    from mcphub.secret import Secret

    principal = await hub.hub.ground.directory.principal_of(user)
    await hub.hub.ground.vault.put(principal, server, slot, Secret(value))
    await hub.hub.refresh()
