"""Published servers from npm and PyPI through one hub: both eras, two users, the real `mcp` client.

Every test lists the tools, makes a call that has to succeed, and then asks as the other user for
what the first one left behind.
"""

import json
import os
import re
import shutil
import subprocess

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp.types import PromptReference, ResourceUpdatedNotification
from tests.e2e.servers_under_test import (
    LEGACY,
    MODERN,
    OPERATOR_CANARY,
    SERVERS,
    answer,
    canary,
    must,
    tools_of,
)

from mcphub.testing.github_standin import alias

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.timeout(900),
]
DYNAMIC = "demo://resource/dynamic/text"
ERAS = pytest.mark.parametrize("mode", [LEGACY, MODERN])


@ERAS
@pytest.mark.parametrize("server", ["memory", "memory-default", "memory-own"])
async def test_memories_are_found_by_their_owner_only(team, mode, server):
    word = canary()
    entity = {"name": word, "entityType": "secret", "observations": [word]}
    async with team.both(server, mode) as (alice, bob):
        assert {"create_entities", "read_graph"} <= await tools_of(bob)
        # Without MEMORY_FILE_PATH the server writes into its package: read-only, or a copy of the user's.
        wrote = await answer(alice, "create_entities", {"entities": [entity]})
        assert word in wrote or server == "memory-default"
        if server != "memory-default":
            assert word in await must(alice, "search_nodes", {"query": word})
        else:
            assert "EROFS" in wrote or "EACCES" in wrote
        assert word not in await must(bob, "search_nodes", {"query": word})
        assert word not in await must(bob, "read_graph")


@ERAS
async def test_thoughts_and_branches_stay_with_their_thinker(team, mode):
    word = canary()
    thought = {"thought": word, "nextThoughtNeeded": True, "thoughtNumber": 1, "totalThoughts": 3}
    async with team.both("thinking", mode) as (alice, bob):
        assert await tools_of(alice) == {"sequentialthinking"}
        before = json.loads(await must(bob, "sequentialthinking", thought))
        branch = {"branchFromThought": 1, "branchId": word}
        hers = json.loads(await must(alice, "sequentialthinking", thought | branch))
        assert word in hers["branches"]
        his = json.loads(await must(bob, "sequentialthinking", thought))
        assert word not in his["branches"]
        assert his["thoughtHistoryLength"] == before["thoughtHistoryLength"] + 1


@ERAS
async def test_an_environment_holds_own_credentials_and_nothing_of_hub_or_others(team, mode):
    async with team.both("everything", mode) as (alice, bob):
        assert {"echo", "get-env"} <= await tools_of(alice)
        seen = {}
        for name, client in (("alice", alice), ("bob", bob)):
            text = await must(client, "get-env")
            assert OPERATOR_CANARY not in text
            assert not any(key in text for key in team.running.keys.values())
            seen[name] = json.loads(text)
        for name, env in seen.items():
            assert env["API_TOKEN"] == f"everything-token-of-{name}"
            assert not any(variable.startswith("MCPHUB") for variable in env)
        assert "token-of-alice" not in json.dumps(seen["bob"])


@ERAS
async def test_prompts_completions_resources_and_progress_of_a_server_pass(team, mode):
    steps = []

    async def progress(done, total, message):
        steps.append(done)

    async with team.connected("alice", "everything", mode) as alice:
        assert "args-prompt" in {prompt.name for prompt in (await alice.list_prompts()).prompts}
        prompt = await alice.get_prompt("args-prompt", {"city": "Paris"})
        assert "Paris" in prompt.messages[0].content.text
        reference = PromptReference(type="ref/prompt", name="completable-prompt")
        offered = await alice.complete(reference, {"name": "department", "value": "E"})
        assert offered.completion.values == ["Engineering"]
        assert (await alice.list_resource_templates()).resource_templates
        for uri in ((await alice.list_resources()).resources[0].uri, f"{DYNAMIC}/1"):
            assert (await alice.read_resource(uri)).contents[0].text
        work = {"duration": 1, "steps": 3}
        await alice.call_tool("trigger-long-running-operation", work, progress_callback=progress)
        assert steps == [1, 2, 3]
        weather = await alice.call_tool("get-structured-content", {"location": "Chicago"})
        assert set(weather.structured_content) == {"temperature", "conditions", "humidity"}
        image = await alice.call_tool("get-tiny-image", {})
        assert "image/png" in {getattr(part, "mime_type", "") for part in image.content}


@ERAS
async def test_a_resource_made_by_a_call_is_listed_and_read_by_its_maker_only(team, mode):
    name = f"{canary()}.gz"
    async with team.both("everything", mode) as (alice, bob):
        data = {"name": name, "data": "data:text/plain,hello", "outputType": "resourceLink"}
        made = await alice.call_tool("gzip-file-as-resource", data)
        uri = made.content[0].uri
        assert (await alice.read_resource(uri)).contents[0].blob
        await answer(bob, "echo", {"message": "his own instance runs"})
        lists = [(await client.list_resources()).resources for client in (alice, bob)]
        found = [name in {resource.name for resource in resources} for resources in lists]
        assert found == [True, False]
        with pytest.raises(MCPError):
            await bob.read_resource(uri)


@pytest.mark.filterwarnings("ignore:resources/subscribe is removed")
async def test_an_update_reaches_its_subscriber_only(team):
    uri = f"{DYNAMIC}/7"
    seen = {"alice": [], "bob": []}

    def listening(user):
        async def took(message):
            if isinstance(message, ResourceUpdatedNotification):
                seen[user].append(message.params.uri)

        return team.connected(user, "everything", message_handler=took)

    async with listening("alice") as alice, listening("bob") as bob:
        await must(bob, "echo", {"message": "his own instance runs"})
        await alice.subscribe_resource(uri)
        await must(alice, "toggle-subscriber-updates")
        with anyio.fail_after(60):
            while not seen["alice"]:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        await must(alice, "toggle-subscriber-updates")
        await must(bob, "echo", {"message": "whatever was on its way has arrived"})
    assert set(seen["alice"]) == {uri} and seen["bob"] == []


@ERAS
async def test_a_file_is_reached_by_no_path_of_its_owner(team, mode):
    word, name = canary(), f"{canary()}.txt"
    async with team.both("files", mode) as (alice, bob):
        assert "read_text_file" in await tools_of(bob)
        root = (await must(alice, "list_allowed_directories")).splitlines()[1].strip()
        await must(alice, "write_file", {"path": f"{root}/{name}", "content": word})
        assert await must(alice, "read_text_file", {"path": f"{root}/{name}"}) == word
        on_host = await team.home("alice", "files") / name
        assert on_host.read_text() == word
        for path in (f"{root}/{name}", str(on_host), f"{root}/../{on_host}"):
            assert word not in await answer(bob, "read_text_file", {"path": path})
        assert name not in await must(bob, "list_directory", {"path": root})


@ERAS
async def test_a_repository_is_read_by_its_owner_only(team, mode):
    words = {"alice": canary(), "bob": canary()}
    name = canary()
    async with team.both("git", mode) as clients:
        for (user, word), client in zip(words.items(), clients, strict=True):
            assert "git_log" in await tools_of(client)
            await answer(client, "git_status", {"repo_path": "nowhere"})  # makes the home
            make_repository(await team.home(user, "git") / name, word)
        hers = str(await team.home("alice", "git") / name)
        for word, client in zip(words.values(), clients, strict=True):
            log = await must(client, "git_log", {"repo_path": name})
            assert word in log and log.count("Commit:") == 1
        assert words["alice"] not in await answer(clients[1], "git_log", {"repo_path": hers})


def make_repository(folder, message):
    """Make a repository with one commit, owned by whom its directory's parent belongs to."""
    git = [shutil.which("git"), "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@t.test"]
    folder.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], check=True)
    owner = folder.parent.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


@ERAS
async def test_a_working_directory_counts_for_whom_set_it(team, mode):
    hers, his = canary(), canary()
    async with team.both("git-workdir", mode) as (alice, bob):
        assert {"git_init", "git_set_working_dir"} <= await tools_of(alice)
        await work_in(alice, hers)
        assert hers not in await answer(bob, "git_status")
        await work_in(bob, his)
        status = await must(alice, "git_status")
        assert hers in status and his not in status


async def work_in(client, branch):
    """Make a repository with this branch and work in it."""
    made = json.loads(await must(client, "git_init", {"path": branch, "initialBranch": branch}))
    await must(client, "git_set_working_dir", {"path": made["path"]})
    assert branch in await must(client, "git_status")


@ERAS
async def test_time_servers_answer_both_users_also_behind_a_banner_on_stdout(team, mode):
    async with team.both("time", mode) as clients:
        for client in clients:
            assert await tools_of(client) == {"get_current_time", "convert_time"}
            now = json.loads(await must(client, "get_current_time", {"timezone": "Asia/Tokyo"}))
            assert now["datetime"].endswith("+09:00")
    async with team.both("time-banner", mode) as clients:
        for client in clients:
            assert "days_in_month" in await tools_of(client)
            assert "29" in await must(client, "days_in_month", {"date": "2028-02-01"})


@ERAS
async def test_a_calculator_calculates_for_both_users(team, mode):
    async with team.both("calculator", mode) as clients:
        for client in clients:
            assert await tools_of(client) == {"calculate"}
            assert "42" in await must(client, "calculate", {"expression": "6 * 7"})


@ERAS
async def test_task_lists_are_their_owners(team, mode):
    word = canary()
    plan = {"originalRequest": word, "tasks": [{"title": word, "description": word}]}
    async with team.both("tasks", mode) as (alice, bob):
        assert "list_requests" in await tools_of(alice)
        made = await must(alice, "request_planning", plan)
        (task,) = set(re.findall(r"task-\d+", made))
        assert word in await must(alice, "list_requests")
        assert word not in await must(bob, "list_requests")
        assert word not in await answer(bob, "open_task_details", {"taskId": task})


@ERAS
async def test_a_memory_bank_is_its_owners(team, mode):
    project, word = canary(), canary()
    page = {"projectName": project, "fileName": "notes.md"}
    async with team.both("bank", mode) as (alice, bob):
        assert "memory_bank_read" in await tools_of(alice)
        await must(alice, "memory_bank_write", page | {"content": word})
        assert word in await must(alice, "memory_bank_read", page)
        assert word not in await answer(bob, "memory_bank_read", page)
        await must(bob, "memory_bank_write", page | {"projectName": canary(), "content": "his"})
        assert project in await must(alice, "list_projects")
        assert project not in await must(bob, "list_projects")


@ERAS
async def test_a_sqlite_table_is_its_owners(team, mode):
    word = canary()
    async with team.both("sqlite", mode) as (alice, bob):
        assert {"read_query", "list_tables"} <= await tools_of(alice)
        await must(alice, "create_table", {"query": f"CREATE TABLE {word} (v TEXT)"})
        await must(alice, "write_query", {"query": f"INSERT INTO {word} VALUES ('{word}')"})
        await must(alice, "append_insight", {"insight": word})
        assert word in await must(alice, "read_query", {"query": f"SELECT v FROM {word}"})
        assert word not in await must(bob, "list_tables")
        assert "no such table" in await answer(
            bob, "read_query", {"query": f"SELECT * FROM {word}"}
        )
        assert word in (await alice.read_resource("memo://insights")).contents[0].text
        assert word not in (await bob.read_resource("memo://insights")).contents[0].text


@ERAS
async def test_a_duckdb_table_is_its_owners(team, mode):
    word = canary()
    async with team.both("duckdb", mode) as (alice, bob):
        assert await tools_of(alice) == {"query"}
        await must(alice, "query", {"query": f"CREATE TABLE {word} AS SELECT '{word}' AS v"})
        assert word in await must(alice, "query", {"query": f"SELECT v FROM {word}"})
        assert word not in await must(bob, "query", {"query": "SHOW TABLES"})
        file = await team.home("alice", "duckdb") / "t.duckdb"
        assert file.exists()
        attached = await answer(bob, "query", {"query": f"ATTACH '{file}' AS hers (READ_ONLY)"})
        assert str(file) in attached and "does not exist" in attached


@ERAS
async def test_a_variable_of_a_repl_is_its_owners(team, mode):
    name, word = canary(), canary()
    async with team.both("python", mode) as (alice, bob):
        assert "run_python_code" in await tools_of(alice)
        await run(alice, f"{name} = {word!r}")
        assert word in await run(alice, f"print({name})")
        seen = await run(bob, f"print({name})")
        assert word not in seen and "NameError" in seen
        others = await run(
            bob, "import os; print(sorted(p for p in os.listdir('/proc') if p.isdigit()))"
        )
        assert len(re.findall(r"'\d+'", others)) < 10


async def run(client, code):
    """Run code in the user's REPL and return what it printed."""
    return await must(client, "run_python_code", {"code": code, "execution_mode": "inline"})


@ERAS
async def test_a_commanders_processes_history_and_configuration_are_its_owners(team, mode):
    word = canary()
    async with team.both("commander", mode) as (alice, bob):
        assert {"start_process", "set_config_value"} <= await tools_of(alice)
        command = {"command": f"echo {word}; sleep 600", "timeout_ms": 1000}
        started = await must(alice, "start_process", command)
        pid = re.search(r"PID (\d+)", started)[1]
        await must(alice, "set_config_value", {"key": "defaultShell", "value": f"/bin/{word}"})
        for tool, shown in (
            ("get_recent_tool_calls", word),
            ("list_processes", word),
            ("list_sessions", f"PID: {pid}"),
            ("get_config", word),
        ):
            assert shown in await must(alice, tool), tool
            assert shown not in await must(bob, tool), tool
        assert word not in await answer(bob, "read_process_output", {"pid": int(pid)})
        await must(alice, "set_config_value", {"key": "defaultShell", "value": "/bin/sh"})
        await must(alice, "force_terminate", {"pid": int(pid)})


@ERAS
async def test_a_document_is_its_owners_although_its_editor_chats_on_stdout(team, mode):
    word, name = canary(), f"{canary()}.docx"
    async with team.both("word", mode) as (alice, bob):
        assert "create_document" in await tools_of(alice)
        await must(alice, "create_document", {"filename": name})
        await must(alice, "add_paragraph", {"filename": name, "text": word})
        assert word in await must(alice, "get_document_text", {"filename": name})
        for path in (name, str(await team.home("alice", "word") / name)):
            assert word not in await answer(bob, "get_document_text", {"filename": path})
        assert name not in await must(bob, "list_available_documents", {"directory": "."})


@ERAS
async def test_each_call_to_an_api_carries_the_callers_token(team, mode):
    async with team.both("github", mode) as clients:
        for user, client in zip(("alice", "bob"), clients, strict=True):
            assert "search_repositories" in await tools_of(client)
            word = canary()
            await must(client, "search_repositories", {"query": word})
            (arrival,) = team.github.arrivals(word)
            assert arrival.caller == alias(f"github-token-of-{user}")


@ERAS
async def test_a_page_is_fetched_from_listed_hosts_only(team, mode):
    async with team.both("fetch", mode) as clients:
        for client in clients:
            assert await tools_of(client) == {"fetch"}
            word = canary()
            page = await must(client, "fetch", {"url": f"http://pages.test/{word}"})
            assert f"The page /{word} exists." in page
            for url in (team.url + "/healthz", "http://other.test/", "http://pages.test:81/"):
                refused = await answer(client, "fetch", {"url": url})
                assert "exists" not in refused and "status" not in refused


async def test_schemas_that_strict_clients_reject_are_relayed_as_they_are(team):
    headers = {"Accept": "application/json, text/event-stream", **team.headers("bob")}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:

        async def ask(method, params):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            reply = await http.post(f"{team.url}/mcp/gitlab", json=message)
            http.headers |= {
                name: reply.headers[name] for name in ("mcp-session-id",) if name in reply.headers
            }
            return reply.json()["result"]

        client = {"name": "raw", "version": "1"}
        await ask(
            "initialize",
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client},
        )
        tools = (await ask("tools/list", {}))["tools"]
        assert len(tools) == 9
        assert all("type" not in tool["inputSchema"] for tool in tools)


async def test_the_aggregated_endpoint_offers_every_server_to_a_lenient_client(team):
    from tests.interaction.clients import raw_client, request

    async with raw_client(team, "alice", "") as raw:
        await raw.open()
        tools = (await raw.post(request("tools/list"))).json()["result"]["tools"]
    servers = {tool["name"].partition("__")[0] for tool in tools}
    assert servers == {*SERVERS, "github", "fetch"}
