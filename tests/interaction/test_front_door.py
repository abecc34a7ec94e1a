"""One address for clients of every revision at once: openings, sessions, headers, streams, sizes."""

import json

import anyio
import pytest

from mcphub.gateway import http, streams
from mcphub.settings import load
from mcphub.wire.codes import LEGACY_VERSIONS
from tests.interaction.clients import MODERN, connected, plain, raw_client, request, scripted, tools
from tests.polling import until

pytestmark = pytest.mark.anyio
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
VERSION = "io.modelcontextprotocol/protocolVersion"
ECHO = {"name": "echo", "arguments": {"text": "hello"}}


def opening(version="2025-11-25", **more):
    """An `initialize` request's params."""
    info = {"name": "raw", "version": "1"}
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": info, **more}


def text_in(answer):
    """The text of a tool's result."""
    return answer.json()["result"]["content"][0]["text"]


@pytest.mark.requirement("1", "7")
async def test_clients_of_every_revision_work_at_one_address_at_the_same_time(hub_of):
    async with hub_of({"plain": plain()}) as hub:

        async def work(user, version):
            value = f"{user} {version}"
            async with raw_client(hub, user) as client:
                if version == MODERN:
                    call = client.modern
                else:
                    answer = await client.open(version)
                    assert answer.json()["result"]["protocolVersion"] == version

                    async def call(method, params):
                        return await client.post(request(method, params))

                for _ in range(5):
                    params = {"name": "echo", "arguments": {"text": value}}
                    assert text_in(await call("tools/call", params)) == value

        with anyio.fail_after(90):
            async with anyio.create_task_group() as group:
                for user in ("alice", "bob"):
                    for version in (*LEGACY_VERSIONS, MODERN):
                        group.start_soon(work, user, version)
        assert len(hub.hub.instances()) == 2


@pytest.mark.requirement("7")
async def test_an_unknown_revision_gets_the_latest_that_has_sessions(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        for asked in ("1999-01-01", "2099-01-01", MODERN, ""):
            answer = await alice.post(request("initialize", opening(asked)))
            assert answer.json()["result"]["protocolVersion"] == LEGACY_VERSIONS[0]


@pytest.mark.requirement("10a")
@pytest.mark.parametrize("server", ["plain", ""])
async def test_sloppy_openings_end_in_a_session_that_works(hub_of, server):
    tool = "plain__echo" if not server else "echo"
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice", server) as alice:

        async def works():
            params = {"name": tool, "arguments": {"text": "hello"}}
            assert text_in(await alice.post(request("tools/call", params))) == "hello"

        discovered = await alice.modern("server/discover", id="probe")
        assert discovered.json()["id"] == "probe"
        assert MODERN in discovered.json()["result"]["supportedVersions"]
        await alice.open()
        await works()
        first = dict(alice.headers)
        for more in ({}, {"MCP_Protocol_Version": "2025-11-25"}, {"MCP_Protocol_Version": MODERN}):
            # once more, within the session and with headers of either era
            again = await alice.post(request("initialize", opening()), **more)
            assert again.status_code == 200 and again.headers["mcp-session-id"]
            alice.headers = first
            await works()
            alice.headers = first | {"Mcp-Session-Id": again.headers["mcp-session-id"]}
            await works()
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await alice.post(note)).status_code == 202
        assert "result" in (await alice.modern("tools/list")).json()
        await works()


@pytest.mark.requirement("10a", "1")
async def test_a_discover_and_an_initialize_may_cross(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        found = {}

        async def ask(name, send):
            found[name] = await send

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, "discover", alice.modern("server/discover"))
                opened = alice.post(request("initialize", opening()))
                group.start_soon(ask, "initialize", opened)
                second = alice.post(request("initialize", opening("2025-06-18")))
                group.start_soon(ask, "again", second)
        assert {answer.status_code for answer in found.values()} == {200}
        sessions = {found[name].headers["mcp-session-id"] for name in ("initialize", "again")}
        assert len(sessions) == 2 and "mcp-session-id" not in found["discover"].headers


@pytest.mark.requirement("10a")
async def test_a_probe_does_not_wait_for_a_server_that_is_slow_to_open(hub_of):
    slow = scripted({"tools": tools("a"), "list_delay_s": 4})
    async with hub_of({"slow": slow}) as hub, raw_client(hub, "alice", "slow") as alice:
        with anyio.fail_after(2):
            early = (await alice.modern("server/discover")).json()["result"]
        assert hub.hub.catalogs.known(hub.hub.access.specs["slow"]) is None
        assert early["supportedVersions"] == [MODERN] and early["ttlMs"] == 0
        # what it asks then is waited for, and so is the opening of a session
        await alice.open()
        listed = (await alice.modern("tools/list")).json()["result"]["tools"]
        assert [tool["name"] for tool in listed] == ["a"]
        known = (await alice.modern("server/discover")).json()["result"]
        assert known["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "scripted"


@pytest.mark.requirement("7")
async def test_sessions_keep_the_rules_of_streamable_http(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        assert (await alice.post(request("ping"))).status_code == 400
        unknown = {"Mcp-Session-Id": "nothing", "MCP-Protocol-Version": "2025-11-25"}
        alice.headers = unknown
        gone = await alice.post(request("ping", id="p"))
        assert (gone.status_code, gone.json()["id"]) == (404, "p")
        events = {"Accept": "text/event-stream"}
        assert (await alice.http.get(alice.url, headers=unknown | events)).status_code == 404
        assert (await alice.http.delete(alice.url, headers=unknown)).status_code == 404
        alice.headers = {}
        assert (await alice.http.get(alice.url, headers=events)).status_code == 405
        assert (await alice.http.delete(alice.url)).status_code == 400
        await alice.open()
        # another endpoint's session is none here
        async with raw_client(hub, "alice", "") as other:
            other.headers = alice.headers
            assert (await other.post(request("ping"))).status_code == 404
        assert (await alice.http.delete(alice.url, headers=alice.headers)).status_code == 204
        assert (await alice.post(request("ping"))).status_code == 404


@pytest.mark.requirement("7")
async def test_a_missing_version_header_is_fine_and_a_wrong_one_is_not(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.open("2025-03-26")
        session = {"Mcp-Session-Id": alice.headers["Mcp-Session-Id"]}
        alice.headers = session
        assert text_in(await alice.post(request("tools/call", ECHO))) == "hello"
        batch = [request("ping", id=1), request("ping", id="b")]
        answers = (await alice.post(batch)).json()
        assert {answer["id"] for answer in answers} == {1, "b"}
        for wrong in ("2025-11-26", "latest", "1"):
            refused = await alice.post(request("ping"), MCP_Protocol_Version=wrong)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32022)
            assert "2025-11-25" in refused.json()["error"]["data"]["supported"]


@pytest.mark.requirement("3")
@pytest.mark.parametrize("server", ["one", ""])
async def test_discovery_tells_versions_capabilities_and_extensions(hub_of, server):
    ui = {"io.modelcontextprotocol/ui": {}, "example.com/own": {"a": None}}
    script = {"tools": tools("a"), "prompts": [], "capabilities": {"extensions": ui}}
    async with hub_of({"one": scripted(script)}) as hub, raw_client(hub, "alice", server) as alice:
        await until(lambda: hub.hub.catalogs.known(hub.hub.access.specs["one"]))
        result = (await alice.modern("server/discover")).json()["result"]
        assert result["supportedVersions"] == [MODERN]
        assert result["resultType"] == "complete"
        assert (result["ttlMs"], result["cacheScope"]) == (0, "private")
        assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"]
        known = result["capabilities"]["extensions"]
        # among several servers, what the hub can bring to its owner
        assert known == (ui if server else {"io.modelcontextprotocol/ui": {}})
        assert {"tools", "prompts"} <= set(result["capabilities"])
        meta = {VERSION: "2027-01-01"}
        refused = await alice.modern(
            "server/discover", meta=meta, MCP_Protocol_Version="2027-01-01"
        )
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, -32022)
        assert error["data"] == {"supported": [MODERN], "requested": "2027-01-01"}


WRONG_HEADERS = {
    "no version": ({"MCP-Protocol-Version": None}, -32020),
    "another version": ({"MCP-Protocol-Version": "2025-11-25"}, -32020),
    "no method": ({"Mcp-Method": None}, -32020),
    "another method": ({"Mcp-Method": "tools/list"}, -32020),
    "method in another case": ({"Mcp-Method": "Tools/Call"}, -32020),
    "no name": ({"Mcp-Name": None}, -32020),
    "another name": ({"Mcp-Name": "recall"}, -32020),
    "broken base64": ({"Mcp-Name": "=?base64?!!!?="}, -32020),
    "base64 of another name": ({"Mcp-Name": "=?base64?cmVjYWxs?="}, -32020),
}


@pytest.mark.requirement("4")
@pytest.mark.parametrize("case", WRONG_HEADERS)
async def test_headers_that_say_something_else_than_the_body_are_refused(hub_of, case):
    changed, code = WRONG_HEADERS[case]
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        meta = {VERSION: MODERN, CAPABILITIES: {}}
        routing = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
        headers = {name: value for name, value in (routing | changed).items() if value is not None}
        answer = await alice.http.post(
            alice.url, json=request("tools/call", ECHO | {"_meta": meta}), headers=headers
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.requirement("4")
async def test_names_in_base64_are_read_and_repeated_headers_refused(hub_of):
    script = {"tools": tools("grüß dich", "line")}
    async with hub_of({"one": scripted(script)}) as hub, raw_client(hub, "alice", "one") as alice:
        coded = "=?base64?Z3LDvMOfIGRpY2g=?="
        params = {"name": "grüß dich", "arguments": {}}
        meta = {VERSION: MODERN, CAPABILITIES: {}}
        routing = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": coded}
        body = request("tools/call", params | {"_meta": meta})
        answer = await alice.http.post(alice.url, json=body, headers=routing)
        assert json.loads(text_in(answer))["name"] == "grüß dich"
        for name in ("Mcp-Name", "Mcp-Method", "MCP-Protocol-Version"):
            twice = [*routing.items(), (name, routing[name])]
            assert (await alice.http.post(alice.url, json=body, headers=twice)).status_code == 400


@pytest.mark.requirement("6")
async def test_unknown_methods_and_missing_meta_have_the_status_of_their_era(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice", "") as alice:
        unknown = await alice.modern("no/such", id="m")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, -32601)
        await alice.open()
        unknown = await alice.post(request("no/such", id="l"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (200, -32601)
        alice.headers = {}
        routing = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
        for meta in ({}, {VERSION: MODERN}, {CAPABILITIES: {}}, {VERSION: MODERN, CAPABILITIES: 1}):
            answer = await alice.http.post(
                alice.url, json=request("tools/list", {"_meta": meta}), headers=routing
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602), meta


@pytest.mark.requirement("1")
async def test_a_modern_request_neither_needs_nor_makes_nor_touches_a_session(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        answer = await alice.modern("tools/call", ECHO, Mcp_Session_Id="left-over")
        assert text_in(answer) == "hello" and "mcp-session-id" not in answer.headers
        assert len(hub.hub.sessions) == 0


@pytest.mark.requirement("21")
async def test_a_listen_stream_opens_also_when_the_server_runs_already(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        assert text_in(await alice.modern("tools/call", ECHO)) == "hello"
        params = {"notifications": {"toolsListChanged": True}}
        meta = {VERSION: MODERN, CAPABILITIES: {}}
        body = request("subscriptions/listen", params | {"_meta": meta}, id="sub")
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "subscriptions/listen"}
        async with alice.http.stream("POST", alice.url, json=body, headers=headers) as stream:
            with anyio.fail_after(10):
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        assert "acknowledged" in line
                        break


@pytest.mark.requirement("9")
@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_result_of_five_megabytes_arrives_whole(hub_of, mode):
    size = 5 * 1024 * 1024
    async with hub_of({"one": scripted({"tools": tools("size")})}) as hub:
        for server, name in (("one", "size"), ("", "one__size")):
            async with connected(hub, "alice", server, mode) as client:
                result = await client.call_tool(name, {"bytes": size})
                assert result.content[0].text == "x" * size


@pytest.mark.requirement("9")
async def test_an_answer_is_json_until_there_is_something_to_say_before_it(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        short = await alice.modern("tools/call", ECHO)
        assert short.headers["content-type"] == "application/json"
        told = {"name": "progress", "arguments": {"text": "x"}}
        long = await alice.modern("tools/call", told, meta={"progressToken": "t"})
        assert long.headers["content-type"] == "text/event-stream"
        assert long.headers["x-accel-buffering"] == "no"
        assert "no-transform" in long.headers["cache-control"]
        events = [line for line in long.text.splitlines() if line.startswith("data: ")]
        assert len(events) == 4 and '"progressToken":"t"' in events[0]


@pytest.mark.requirement("9")
async def test_quiet_streams_are_kept_alive(hub_of, monkeypatch):
    assert http.KEEP_ALIVE_S <= 30
    for module in (http, streams):
        monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.2)
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        await alice.open()

        async def comments(stream):
            found = 0
            with anyio.fail_after(20):
                async for line in stream.aiter_lines():
                    found += line == ":"
                    if found == 3:
                        return stream.status_code
            return None

        headers = alice.headers | {"Accept": "text/event-stream"}
        async with alice.http.stream("GET", alice.url, headers=headers) as stream:
            assert await comments(stream) == 200
        slow = request("tools/call", {"name": "slow", "arguments": {"seconds": 20}})
        async with alice.http.stream("POST", alice.url, json=slow, headers=alice.headers) as stream:
            assert await comments(stream) == 200


@pytest.mark.requirement("8")
def test_the_hub_listens_on_loopback_unless_it_is_told_otherwise(tmp_path):
    assert load(tmp_path, environ={}).listen.host == "127.0.0.1"
