"""Endpoints of several servers: names, order, pages, servers that are missing, two users."""

import json
import re

import anyio
import pytest

from mcphub.gateway import catalogs
from tests.interaction.clients import (
    MODERN,
    connected,
    plain,
    raw_client,
    request,
    scripted,
    text_of,
    tools,
)
from tests.polling import until

pytestmark = pytest.mark.anyio
PAGES = {"limits": {"page_items": 4}}
BUDGET = {"limits": {"list_budget_s": 1.5}}


async def whole_list(client, ask, member="tools"):
    """Follow the cursors; returns the pages, each a list of names."""
    pages, cursor = [], None
    for _ in range(50):
        result = (await ask(client, {"cursor": cursor} if cursor is not None else {})).json()
        pages.append([item["name"] for item in result["result"][member]])
        cursor = result["result"].get("nextCursor")
        if cursor is None:
            return pages
    raise AssertionError("the list has no end")


async def methods(stream):
    """Yield the method of each message on an event stream."""
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])["method"]


async def legacy(client, params, method="tools/list"):
    return await client.post(request(method, params))


async def modern(client, params, method="tools/list"):
    return await client.modern(method, params)


ASKS = pytest.mark.parametrize("ask", [legacy, modern])


@pytest.mark.requirement("14")
@ASKS
async def test_a_list_of_several_servers_is_in_the_same_order_every_time(hub_of, ask):
    servers = {name: scripted({"tools": tools("z", "a", "m")}) for name in ("zebra", "ant", "cat")}
    async with hub_of(servers) as hub, raw_client(hub, "alice", "") as alice:
        await alice.open()
        wanted = [f"{server}__{tool}" for server in ("ant", "cat", "zebra") for tool in "zam"]
        for _ in range(3):
            assert await whole_list(alice, ask) == [wanted]


@pytest.mark.requirement("15")
@ASKS
async def test_pages_give_each_item_once_whatever_their_size(hub_of, ask):
    servers = {
        "one": scripted({"tools": tools(*[f"t{n}" for n in range(7)]), "page": 3}),
        "two": scripted({"tools": tools("a")}),
        "three": scripted({"tools": tools(*[f"u{n}" for n in range(4)])}),
        "empty": scripted({"prompts": []}),
    }
    async with hub_of(servers, overrides=PAGES) as hub:
        async with raw_client(hub, "alice", "") as alice, raw_client(hub, "alice", "one") as one:
            await alice.open()
            await one.open()
            pages = await whole_list(alice, ask)
            assert [len(page) for page in pages] == [4, 4, 4]
            names = [name for page in pages for name in page]
            assert len(set(names)) == 12 and names == sorted(names, key=lambda n: n.split("__")[0])
            assert [len(page) for page in await whole_list(one, ask)] == [4, 3]


async def test_the_real_client_reads_all_pages(hub_of):
    servers = {"one": scripted({"tools": tools(*[f"t{n}" for n in range(9)])})}
    async with hub_of(servers, overrides=PAGES) as hub:
        for mode in ("legacy", MODERN):
            async with connected(hub, "alice", "", mode) as client:
                found, cursor = [], None
                while True:
                    page = await client.list_tools(cursor=cursor)
                    found += [tool.name for tool in page.tools]
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                assert found == [f"one__t{n}" for n in range(9)]


@pytest.mark.requirement("15", "32", "R3")
async def test_a_cursor_of_anybody_or_anything_else_is_refused(hub_of):
    shared = {"tools": tools(*"abcdefgh"), "prompts": [{"name": n} for n in "abcdefgh"]}
    servers = {"one": scripted(shared), "two": scripted(shared)}
    async with hub_of(servers, overrides=PAGES) as hub:
        async with raw_client(hub, "alice", "") as alice, raw_client(hub, "bob", "") as bob:
            cursor = (await modern(alice, {})).json()["result"]["nextCursor"]
            assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
            assert (
                "one" not in cursor and "result" in (await modern(alice, {"cursor": cursor})).json()
            )
            refused = [
                await modern(bob, {"cursor": cursor}),
                await modern(alice, {"cursor": cursor}, "prompts/list"),
            ]
            async with raw_client(hub, "alice", "one") as one:
                refused.append(await modern(one, {"cursor": cursor}))
            changed = ("B" if cursor[9] != "B" else "C").join((cursor[:9], cursor[10:]))
            others = (changed, cursor[:-4], cursor + "AAAA", "", "x", "0", "=" * 9, "é", 7, {})
            refused += [await modern(alice, {"cursor": other}) for other in others]
            for answer in refused:
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
            assert "result" in (await modern(alice, {"cursor": None})).json()


@pytest.mark.requirement("15")
async def test_a_list_that_changes_between_pages_repeats_and_skips_nothing(hub_of):
    servers = {"one": scripted({"tools": tools("add", *[f"t{n}" for n in range(7)])})}
    async with hub_of(servers, overrides=PAGES) as hub, raw_client(hub, "alice", "") as alice:
        first = (await modern(alice, {})).json()["result"]
        await alice.modern("tools/call", {"name": "one__add", "arguments": {"name": "late"}})
        second = (await modern(alice, {"cursor": first["nextCursor"]})).json()["result"]
        third = (await modern(alice, {"cursor": second["nextCursor"]})).json()["result"]
        names = [tool["name"] for page in (first, second, third) for tool in page["tools"]]
        assert names == ["one__add", *[f"one__t{n}" for n in range(7)], "one__late"]


ODD = [
    "with space", "a/b", "grüß", "x" * 128, "x" * 127 + "y", "", "a.b-c_d", "UPPER",
    "looks.0123456789abcdef", "a__b", "line\nbreak", '"quoted"', "💥",
]  # fmt: skip


@pytest.mark.requirement("14")
@ASKS
async def test_every_name_is_fit_for_clients_and_leads_back_to_its_tool(hub_of, ask):
    long = "s" * 63
    async with hub_of({long: scripted({"tools": tools(*ODD)})}) as hub:
        async with raw_client(hub, "alice", "") as alice:
            await alice.open()
            (names,) = await whole_list(alice, ask)
            assert len(set(names)) == len(ODD)
            assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) for name in names)
            assert f"{long}__a.b-c_d" in names and f"{long}__a__b" in names
            for own, name in zip(ODD, names, strict=True):
                if own:
                    answer = await alice.modern("tools/call", {"name": name, "arguments": {}})
                    called = json.loads(answer.json()["result"]["content"][0]["text"])
                    assert called["name"] == own
            unknown = f"{long}__nothing.0123456789abcdef"
            refused = await alice.modern("tools/call", {"name": unknown, "arguments": {}})
            assert refused.json()["error"]["code"] == -32602


@pytest.mark.requirement("14")
async def test_a_denied_tool_has_no_way_in_by_another_name(hub_of):
    odd = "delete everything"
    servers = {"one": scripted({"tools": tools(odd, "ok")}, tools={"deny": ["delete*"]})}
    other = {"two": scripted({"tools": tools(odd)})}
    async with hub_of(servers | other) as hub, raw_client(hub, "alice", "") as alice:
        (names,) = await whole_list(alice, modern)
        (alias,) = [name for name in names if name.startswith("two__")]
        assert [name for name in names if name.startswith("one__")] == ["one__ok"]
        for name in (f"one__{odd}", alias.replace("two__", "one__")):
            answer = await alice.modern("tools/call", {"name": name, "arguments": {}})
            assert "error" in answer.json(), name


@pytest.mark.requirement("15")
async def test_a_slow_server_delays_a_list_by_its_budget_only_and_is_named(hub_of):
    servers = {
        "quick": scripted({"tools": tools("a")}),
        "slow": scripted({"tools": tools("b"), "list_delay_s": 6}),
        "dead": plain(command="/bin/false", args=[]),
        "broken": scripted({"tools": tools("c"), "fail_list": True}),
    }
    async with hub_of(servers, overrides=BUDGET) as hub, raw_client(hub, "alice", "") as alice:
        await until(lambda: hub.hub.catalogs.known(hub.hub.access.specs["quick"]))
        with anyio.fail_after(5):
            result = (await modern(alice, {})).json()["result"]
        names = [tool["name"] for tool in result["tools"]]
        missing = result["_meta"]["dev.mcphub/unavailable"]
        assert "quick__a" in names and not {"slow__b", "dead__x"} & set(names)
        assert {"slow", "dead"} <= set(missing) and "quick" not in missing
        assert "1.5 s" in missing["slow"]
        told = {(one["server"], bool(one["user"])) for one in hub.hub.unavailable()}
        assert ("slow", True) in told
        # nobody waits for it, and still it is learned: the next list has it
        with anyio.fail_after(30):
            while "slow__b" not in names:
                await anyio.sleep(0.2)
                result = (await modern(alice, {})).json()["result"]
                names = [tool["name"] for tool in result["tools"]]
        assert "slow" not in {one["server"] for one in hub.hub.unavailable()}


async def test_a_server_that_failed_is_tried_again_by_no_list_until_it_is_another_or_time_has_passed(
    hub_of, tmp_path
):
    async with (
        hub_of({"dead": plain(command="/bin/false", args=[])}) as hub,
        raw_client(hub, "alice", "") as alice,
        raw_client(hub, "bob", "") as bob,
    ):

        async def listed(client):
            result = (await modern(client, {})).json()["result"]
            missing = result.get("_meta", {}).get("dev.mcphub/unavailable", {})
            return [tool["name"] for tool in result["tools"]], missing.get("dead", "")

        starts = hub.hub.pool._back_off  # counts them
        _, why = await listed(alice)
        assert "ended while it was being started" in why
        for _ in range(5):
            assert await listed(alice) == ([], why)
        assert [failures.count for failures in starts._failures.values()] == [1]
        await listed(bob)
        steady = hub.hub.catalogs.steady
        hub.hub.catalogs.steady = lambda: steady() + 61
        assert (await listed(alice))[1]
        assert sorted(failures.count for failures in starts._failures.values()) == [1, 2]
        # what its administrator mends counts at once
        (tmp_path / "hub" / "mcp_settings.json").write_text(
            json.dumps({"mcpServers": {"dead": scripted({"tools": tools("a")})}})
        )
        await hub.hub.reload()
        assert await listed(alice) == (["dead__a"], "")
        assert await listed(bob) == (["dead__a"], "")


async def test_clients_are_told_when_a_list_that_was_not_waited_for_is_there(hub_of):
    servers = {"slow": scripted({"tools": tools("b"), "list_delay_s": 4})}
    async with hub_of(servers, overrides=BUDGET) as hub, raw_client(hub, "alice", "") as alice:
        await alice.open()
        told = []

        async def listen():
            async with alice.http.stream("GET", alice.url, headers=alice.headers) as stream:
                async for method in methods(stream):
                    told.append(method)  # noqa: PERF401  looked at while it grows

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await until(lambda: len(hub.hub.outlets) == 1)
            assert (await legacy(alice, {})).json()["result"]["tools"] == []
            await until(lambda: "notifications/tools/list_changed" in told)
            group.cancel_scope.cancel()
        assert await whole_list(alice, legacy) == [["slow__b"]]


@pytest.mark.requirement("21", "34", "R9")
async def test_list_changes_of_any_server_reach_exactly_their_owner(hub_of):
    script = {"tools": tools("add")}
    servers = {"one": scripted(script), "two": scripted(script, groups=["data"])}
    async with hub_of(servers) as hub:
        async with raw_client(hub, "alice", "") as alice, raw_client(hub, "bob", "") as bob:
            told = {"alice": [], "bob": []}

            async def listen(name, client):
                async with client.http.stream("GET", client.url, headers=client.headers) as stream:
                    async for method in methods(stream):
                        told[name].append(method)

            for client in (alice, bob):
                await client.open()
            async with anyio.create_task_group() as group:
                group.start_soon(listen, "alice", alice)
                group.start_soon(listen, "bob", bob)
                await until(lambda: len(hub.hub.outlets) == 2)
                for name in ("one__add", "two__add"):
                    params = {"name": name, "arguments": {"name": f"new-{name[:3]}"}}
                    await bob.post(request("tools/call", params))
                await until(lambda: len(told["bob"]) == 2)
                params = {"name": "one__add", "arguments": {"name": "hers"}}
                await alice.post(request("tools/call", params))
                await until(lambda: told["alice"])
                group.cancel_scope.cancel()
            assert told == {
                "alice": ["notifications/tools/list_changed"],
                "bob": ["notifications/tools/list_changed"] * 2,
            }
            assert await whole_list(alice, legacy) == [["one__add", "one__hers"]]
            assert await whole_list(bob, legacy) == [
                ["one__add", "one__new-one", "two__add", "two__new-two"]
            ]
            # a tool that only the own instance has is found by its bare name as well
            answer = await bob.post(request("tools/call", {"name": "new-two", "arguments": {}}))
            assert json.loads(answer.json()["result"]["content"][0]["text"])["name"] == "new-two"


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_prompts_of_several_servers_are_named_and_found(hub_of, mode):
    servers = {
        n: scripted({"prompts": [{"name": "say it"}, {"name": "plain"}]}) for n in ("a", "b")
    }
    async with hub_of(servers) as hub, connected(hub, "alice", "", mode) as client:
        names = [prompt.name for prompt in (await client.list_prompts()).prompts]
        assert len(set(names)) == 4
        for name in names:
            said = (await client.get_prompt(name)).messages[0].content.text
            assert said == ("plain" if name.endswith("__plain") else "say it")


@pytest.mark.requirement("42")
async def test_calling_tools_asks_no_server_for_its_list(hub_of):
    script = {
        "tools": tools("counts", "line", "odd name"),
        "resources": [{"uri": "x:y", "name": "x"}],
    }
    async with hub_of({"one": scripted(script)}) as hub:
        for mode in ("legacy", MODERN):
            for server, prefix in (("one", ""), ("", "one__")):
                async with connected(hub, "alice", server, mode) as client:
                    await client.list_tools()
                    before = json.loads(await text_of(client, f"{prefix}counts"))
                    for _ in range(5):
                        await client.call_tool(f"{prefix}line", {})
                        if not server:
                            await client.call_tool("line", {})
                    after = json.loads(await text_of(client, f"{prefix}counts"))
                    calls = after.pop("tools/call") - before.pop("tools/call")
                    assert after == before and calls == (6 if server else 11)
                    assert "tools/list" not in after


async def test_a_list_with_always_another_page_ends_and_is_named_and_the_others_are_listed(
    hub_of, monkeypatch
):
    monkeypatch.setattr(catalogs, "_LONGEST_S", 1.0)
    names = [f"t{number}" for number in range(100)]
    endless = scripted({"tools": tools(*names), "page": 1, "list_delay_s": 0.1})
    async with hub_of({"endless": endless, "plain": plain()}) as hub:
        async with raw_client(hub, "alice", "endless") as alice:
            told = (await alice.modern("tools/list")).json()
        assert "lists for more than 1 s" in told["error"]["message"]
        async with raw_client(hub, "bob", "") as bob:
            listed = (await bob.modern("tools/list")).json()["result"]
        assert {tool["name"].partition("__")[0] for tool in listed["tools"]} == {"plain"}
        assert "endless" in listed["_meta"]["dev.mcphub/unavailable"]
