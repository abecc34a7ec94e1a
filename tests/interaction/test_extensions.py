"""MCP Apps and tasks through the hub: passed on as they are, brought to their owner, and to no other user."""

import json

import pytest

from mcphub.catalog.versions import exact_version
from tests.interaction.clients import raw_client, request, scripted, tools
from tests.polling import until

pytestmark = pytest.mark.anyio
UI = "io.modelcontextprotocol/ui"
TASKS = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
BOARD = {
    "name": "board",
    "inputSchema": {"type": "object"},
    "_meta": {"ui": {"resourceUri": "ui://one/board", "visibility": ["model", "app"]}, "x/y": None},
}
MOVE = {
    "name": "move",
    "inputSchema": {"type": "object"},
    "_meta": {"ui": {"visibility": ["app"]}, "ui/resourceUri": "ui://one/flat"},
}
APPS = {"tools": [BOARD, MOVE], "resources": [], "capabilities": {"extensions": {UI: {}}}}
OTHER = {"tools": tools("other"), "resources": [{"uri": "file:///x", "name": "x"}]}


async def ready(hub):
    """Wait until the lists of all servers are known."""
    specs = hub.hub.access.specs.values()
    await until(lambda: all(hub.hub.catalogs.known(spec) is not None for spec in specs))


@pytest.mark.requirement("14")
async def test_tools_of_apps_survive_among_other_servers(hub_of):
    async with hub_of({"one": scripted(APPS), "two": scripted(OTHER)}) as hub:
        await ready(hub)
        async with raw_client(hub, "alice", "") as alice:
            listed = (await alice.modern("tools/list")).json()["result"]["tools"]
            assert listed[:2] == [BOARD | {"name": "one__board"}, MOVE | {"name": "one__move"}]
            # the page of an app knows the bare name only, also of a tool that no model sees
            answer = await alice.modern("tools/call", {"name": "move", "arguments": {"to": "e4"}})
            text = answer.json()["result"]["content"][0]["text"]
            assert json.loads(text) == {"name": "move", "arguments": {"to": "e4"}}


@pytest.mark.requirement("14")
async def test_a_page_of_an_app_is_read_from_the_server_whose_tool_shows_it(hub_of):
    async with hub_of({"one": scripted(APPS), "two": scripted(OTHER)}) as hub:
        await ready(hub)
        async with raw_client(hub, "alice", "") as alice:
            for uri in ("ui://one/board", "ui://one/flat"):
                answer = await alice.modern("resources/read", {"uri": uri})
                (page,) = answer.json()["result"]["contents"]
                assert page["uri"] == uri
            assert {one["server"] for one in hub.hub.instances()} == {"one"}


@pytest.mark.requirement("14")
async def test_a_name_or_page_of_two_servers_is_an_error_that_names_them(hub_of):
    async with hub_of({"one": scripted(APPS), "two": scripted(APPS)}) as hub:
        await ready(hub)
        async with raw_client(hub, "alice", "") as alice:
            tool = await alice.modern("tools/call", {"name": "move", "arguments": {}})
            hint = tool.json()["error"]["data"]["hint"]
            assert "one__move" in hint and "two__move" in hint
            page = await alice.modern("resources/read", {"uri": "ui://one/board"})
            assert "one, two" in page.json()["error"]["data"]["hint"]


@pytest.mark.requirement("12")
async def test_methods_of_an_extension_pass_raw_where_there_is_one_server(hub_of):
    async with hub_of({"one": scripted({"tools": []})}) as hub:
        async with raw_client(hub, "alice", "one") as alice:
            await alice.open()
            params = {"any": [1, None], "_meta": {"example.com/k": None}}
            answer = await alice.post(request("example.com/method", params))
            assert answer.json()["result"] == {"asked": "example.com/method", "params": params}


@pytest.mark.requirement("12", "32")
async def test_a_task_is_found_by_its_own_user_only(hub_of):
    servers = {name: scripted({"tools": tools("task")}) for name in ("one", "two")}
    async with hub_of(servers) as hub:
        await ready(hub)
        async with raw_client(hub, "alice", "") as alice, raw_client(hub, "bob", "") as bob:
            for client in (alice, bob):
                await client.open()
            begun = {"name": "two__task", "arguments": {"id": "t-1"}, "task": {"ttl": 1000}}
            answer = (await alice.post(request("tools/call", begun))).json()["result"]
            assert answer == {"task": {"taskId": "t-1", "status": "working"}}
            for method in ("tasks/get", "tasks/result", "tasks/cancel"):
                asked = (await alice.post(request(method, {"taskId": "t-1"}))).json()["result"]
                assert asked == {"asked": method, "params": {"taskId": "t-1"}}
                foreign = (await bob.post(request(method, {"taskId": "t-1"}))).json()["error"]
                unknown = (await alice.post(request(method, {"taskId": "t-2"}))).json()["error"]
                assert foreign == unknown and foreign["code"] == -32602
            listed = (await alice.post(request("tasks/list"))).json()["error"]
            assert listed["code"] == -32601
            # the same id of another server: nobody can tell which is meant
            other = begun | {"name": "one__task"}
            await alice.post(request("tools/call", other))
            unclear = (await alice.post(request("tasks/get", {"taskId": "t-1"}))).json()["error"]
            assert "one, two" in unclear["data"]["hint"]


@pytest.mark.requirement("12", "32")
async def test_on_a_shared_server_a_task_is_found_by_its_own_user_only(hub_of):
    shared = scripted({"tools": tools("task")}, riskLevel="low", isolation="shared")
    async with hub_of({"one": shared}) as hub:
        version = exact_version(hub.hub.access.specs["one"], None)
        await hub.hub.ground.states.acknowledge("one", version, "root", "for the test")
        await hub.hub.refresh()
        async with raw_client(hub, "alice", "one") as alice, raw_client(hub, "bob", "one") as bob:
            for client in (alice, bob):
                await client.open()
            begun = {"name": "task", "arguments": {"id": "t-1"}}
            assert "t-1" in (await alice.post(request("tools/call", begun))).text
            own = await alice.post(request("tasks/get", {"taskId": "t-1"}))
            assert own.json()["result"]["asked"] == "tasks/get"
            for method in ("tasks/get", "tasks/result", "tasks/cancel", "tasks/list"):
                foreign = await bob.post(request(method, {"taskId": "t-1"}))
                assert "error" in foreign.json(), method
        assert [one["user"] for one in hub.hub.instances()] == ["shared"]


@pytest.mark.requirement("12")
async def test_a_task_instead_of_an_answer_reaches_only_clients_that_declared_tasks(hub_of):
    from tests.interaction.test_modern_upstream import modern

    async with hub_of({"one": modern()}) as hub, raw_client(hub, "alice", "one") as alice:
        task = {"resultType": "task", "taskId": "t-1", "status": "working"}
        call = {"name": "result", "arguments": {"result": task}}
        refused = await alice.modern("tools/call", call)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, -32021)
        assert error["data"] == {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        able = {CAPABILITIES: {"extensions": {TASKS: {}}}}
        begun = (await alice.modern("tools/call", call, meta=able)).json()["result"]
        assert begun["resultType"] == "task" and begun["taskId"] == "t-1"
        async with raw_client(hub, "bob", "one") as old:
            await old.open()
            answer = (await old.post(request("tools/call", call))).json()
            assert "resultType" not in json.dumps(answer) and "t-1" not in json.dumps(answer)
