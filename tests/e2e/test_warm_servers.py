"""Published Node.js servers say the same, byte for byte, whichever way they are started."""

import json
import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.e2e.servers_under_test import (
    EVERYTHING,
    OPERATOR_CANARY,
    SERVERS,
    USERS,
    must,
    published_hub,
)
from tests.packages_fixture import install
from tests.polling import until

from mcphub.catalog.settings_file import parse_settings
from mcphub.ids import instance_id
from mcphub.spawn.findings import Findings
from mcphub.spawn.modes import Prover, mode_of
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch
from mcphub.spawn.warm.spawner import WarmSpawner
from mcphub.spawn.zygote.spawner import ZygoteSpawner

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(900)]
HOME = "/home/u"
PARIS = {"name": "Paris", "entityType": "city", "observations": ["a river"]}
THOUGHT = {"thought": "one", "nextThoughtNeeded": True, "thoughtNumber": 1, "totalThoughts": 3}
CALLS = {
    "memory": [("create_entities", {"entities": [PARIS]}), ("read_graph", {})],
    "thinking": [("sequentialthinking", THOUGHT)],
    "everything": [("echo", {"message": "é"}), ("get-sum", {"a": 1, "b": 2}), ("get-env", {})],
    "files": [
        ("write_file", {"path": f"{HOME}/a.txt", "content": "a"}),
        ("read_text_file", {"path": f"{HOME}/a.txt"}),
        ("list_allowed_directories", {}),
        ("read_text_file", {"path": "/etc/passwd"}),
    ],
    "tasks": [("list_requests", {})],
    "bank": [("list_projects", {})],
    "git-workdir": [("git_init", {"path": f"{HOME}/repo"}), ("git_wrap_up", {})],
}


@pytest.fixture(scope="module")
async def ways(tmp_path_factory):
    place = tmp_path_factory.mktemp("ways")
    async with (
        SandboxedSpawner(SandboxSettings(place / "run")) as plain,
        ZygoteSpawner(plain) as forking,
        WarmSpawner(plain, forking) as warm,
    ):
        yield plain, warm, Prover(warm, Findings(place / "starts")), place


async def transcript(process, calls) -> list[bytes]:
    """Return the raw answers to a conversation."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
    hello["clientInfo"] = {"name": "t", "version": "1"}
    asked = [("initialize", hello), ("notifications/initialized", None), ("tools/list", {})]
    asked += [("tools/call", {"name": name, "arguments": words}) for name, words in calls]
    answers: list[bytes] = []
    pending = b""
    with anyio.fail_after(120):
        for number, (method, params) in enumerate(asked):
            message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
            message |= {} if params is None else {"id": number}
            os.write(process.stdin, json.dumps(message).encode() + b"\n")
            while params is not None:
                while b"\n" not in pending:
                    await anyio.wait_readable(process.stdout)
                    part = os.read(process.stdout, 65_536)
                    assert part, process.stderr.lines()
                    pending += part
                line, _, pending = pending.partition(b"\n")
                if f'"id":{number}'.encode() in line.replace(b" ", b""):
                    answers.append(line)
                    break
    return answers


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_says_the_same_in_a_warm_worker_to_two_users(ways, package_store, name):
    plain, warm, prover, place = ways
    entry = SERVERS[name]
    found = await install(package_store, entry["command"], *entry["args"])
    argv = tuple(word.replace("${USER_HOME}", HOME) for word in found.argv)
    env = {key: text.replace("${USER_HOME}", HOME) for key, text in entry.get("env", {}).items()}
    launch = Launch(instance_id(), "neutral", 0, argv, place / f"{name}-0", env=env)
    launch = replace(launch, readable=found.readable)
    await prover.prove(launch)
    spec = parse_settings(json.dumps({"mcpServers": {name: entry}}), {}).specs[name]
    mode = mode_of(spec, argv, prover.findings)
    assert mode is not None
    assert mode.kind == "warm", mode.reason
    users = [
        replace(
            launch,
            instance_id=instance_id(),
            owner=f"u_{number}",
            number=number,
            env={"OWN": f"token-of-{number}", **env},
            preload=mode.preload,
        )
        for number in (16, 17)
    ]
    for user in users:
        said = []
        for way in ("plain", "warm"):
            own = replace(user, home=Path(place, f"{name}-{user.number}-{way}"))
            if way == "plain":
                process = await plain.start(own)
            else:
                await until(lambda own=own: warm.is_stocked(own), 60)
                workers = {worker.process for worker in warm.workers()}
                process = await warm.start(own)
                assert process in workers
            try:
                said.append(await transcript(process, CALLS[name]))
            finally:
                await process.stop(0)
        assert said[1] == said[0]
        other = "17" if user.number == 16 else "16"
        assert f"token-of-{other}".encode() not in b"".join(said[1])


async def test_a_hub_finds_the_way_by_itself_and_each_user_gets_an_own_worker(tmp_path):
    """Files and credentials of two users, whose instances began as the same kind of worker."""
    async with published_hub(tmp_path / "hub", {"everything": EVERYTHING}) as team:
        for user in USERS:
            await team.credential(user, "everything", "API_TOKEN", f"own-of-{user}")
        spawner = team.hub.spawner
        assert isinstance(spawner, WarmSpawner)
        async with team.connected("alice", "everything") as alice:
            assert "own-of-alice" in await must(alice, "get-env")  # started plainly
        await until(
            lambda: not team.hub.launcher.programs.is_unproven(team.hub.access.specs["everything"]),
            300,
        )
        team.hub.pool.drain(lambda _: True, at_once=True)
        async with team.connected("alice", "everything") as alice:
            assert "own-of-alice" in await must(alice, "get-env")
            await until(spawner.workers, 60)
            (worker,) = spawner.workers()
            async with team.connected("bob", "everything") as bob:
                seen = await must(bob, "get-env")
                assert worker not in spawner.workers()
                assert not worker.process.exited.done()
            assert "own-of-bob" in seen
            assert "own-of-alice" not in seen
            assert OPERATOR_CANARY not in seen
            assert "own-of-alice" in await must(alice, "get-env")
