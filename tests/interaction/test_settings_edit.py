"""An edit of the settings file counts from the next call on: for instances, streams, lists and the fast lane."""

import json
import time
from contextlib import asynccontextmanager

import anyio
import pytest

from mcphub.catalog.pins import Pin
from mcphub.catalog.versions import exact_version
from mcphub.errors import Unavailable
from mcphub.secret import Secret
from tests.doors import BOTH_DOORS
from tests.interaction.clients import SERVERS, plain, raw_client
from tests.polling import until

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

SHARED = {"riskLevel": "low"}


async def edit(hub, tmp_path, **servers):
    """Write other settings and send the hub what SIGHUP sends it."""
    (tmp_path / "hub" / "mcp_settings.json").write_text(json.dumps({"mcpServers": servers}))
    await hub.hub.reload()


def running(hub):
    """The instances of users, and shared ones."""
    return [one for one in hub.hub.pool.instances() if one.owner != "neutral"]


async def told(client, tool, **arguments):
    """Call a tool; its text, or the code of the error."""
    answer = (await client.modern("tools/call", {"name": tool, "arguments": arguments})).json()
    if "error" in answer:
        return answer["error"]["data"]["code"]
    return answer["result"]["content"][0]["text"]


@asynccontextmanager
async def both(hub, server="plain"):
    async with raw_client(hub, "alice", server) as alice, raw_client(hub, "bob", server) as bob:
        yield alice, bob


async def share(hub, server="plain"):
    """Give the evidence with which a server is shared."""
    version = exact_version(hub.hub.access.specs[server], None)
    await hub.hub.ground.states.acknowledge(server, version, "root", "for the test")
    await hub.hub.refresh()


async def alike(alice, bob):
    """Whether both users are answered by one process."""
    assert await told(alice, "remember", value="of alice") == "ok"
    return await told(bob, "recall") == "of alice"


@pytest.mark.parametrize(
    "stricter",
    [
        {"riskLevel": "critical"},
        {"riskLevel": "low", "requiresUserIsolation": True},
        {"riskLevel": "low", "isolation": "user"},
    ],
    ids=["risk", "requires", "isolation"],
)
async def test_a_server_that_may_not_be_shared_any_more_serves_nobody_together(
    hub_of, tmp_path, stricter
):
    async with hub_of({"plain": plain(**SHARED)}) as hub, both(hub) as (alice, bob):
        await share(hub)
        assert await alike(alice, bob)
        (shared,) = running(hub)
        await edit(hub, tmp_path, plain=plain(**stricter))
        assert await told(bob, "recall") == "None"
        assert await told(alice, "recall") == "None"
        await until(lambda: shared not in running(hub))
        assert {one.owner[:2] for one in running(hub)} == {"u_"}


async def test_a_shared_server_ends_when_its_evidence_is_withdrawn(hub_of):
    async with hub_of({"plain": plain(**SHARED)}) as hub, both(hub) as (alice, bob):
        await share(hub)
        assert await alike(alice, bob)
        (shared,) = running(hub)
        version = exact_version(hub.hub.access.specs["plain"], None)
        await hub.hub.ground.states.withdraw("plain", version)
        await hub.hub.refresh()
        assert await told(bob, "recall") == "None"
        await until(lambda: shared not in running(hub))


async def test_a_group_that_is_removed_from_a_server_loses_it_at_once(hub_of, tmp_path):
    servers = {"plain": plain(groups=["engineering", "data"])}
    async with hub_of(servers) as hub, both(hub) as (alice, bob):
        assert (
            await told(alice, "remember", value="a") == await told(bob, "echo", text="ok") == "ok"
        )
        await edit(hub, tmp_path, plain=plain(groups=["data"]))
        assert await told(alice, "recall") == "not_found"
        assert await told(bob, "echo", text="still") == "still"
        await until(lambda: len(running(hub)) == 1)
        await edit(hub, tmp_path, plain=plain(groups=["engineering", "data"]))
        assert await told(alice, "recall") == "None"


async def test_a_tool_that_is_denied_is_refused_on_the_next_call(hub_of, tmp_path):
    async with hub_of({"plain": plain()}) as hub, both(hub) as (alice, bob):
        assert await told(alice, "echo", text="1") == await told(bob, "echo", text="1") == "1"
        await edit(hub, tmp_path, plain=plain(tools={"deny": ["echo"]}))
        assert (
            await told(alice, "echo", text="2")
            == await told(bob, "echo", text="2")
            == "tool-denied"
        )
        listed = (await bob.modern("tools/list")).json()["result"]["tools"]
        assert listed and "echo" not in {tool["name"] for tool in listed}


async def test_a_slot_that_is_removed_is_not_given_to_the_server_any_more(hub_of, tmp_path):
    env = {"TOKEN": "${USER_TOKEN}"}
    async with hub_of({"plain": plain(env=env)}) as hub, both(hub) as (alice, bob):
        for user in ("alice", "bob"):
            principal = await hub.hub.ground.directory.principal_of(user)
            await hub.hub.ground.vault.put(principal, "plain", "TOKEN", Secret(f"of-{user}"))
        await hub.hub.refresh()
        assert "of-alice" in await told(alice, "who") and "of-bob" in await told(bob, "who")
        await edit(hub, tmp_path, plain=plain())
        for client in (alice, bob):
            assert "TOKEN" not in await told(client, "who")
        await until(lambda: len(running(hub)) == 2)


async def test_a_server_that_is_removed_is_gone_with_its_instances_and_its_lists(hub_of, tmp_path):
    servers = {"plain": plain(), "other": plain()}
    async with hub_of(servers) as hub, both(hub) as (alice, bob), both(hub, "") as (all_a, all_b):
        assert await told(alice, "echo", text="1") == await told(bob, "echo", text="1") == "1"
        assert await told(all_a, "plain__echo", text="1") == "1"
        await edit(hub, tmp_path, other=plain())
        for client in (alice, bob):
            assert await told(client, "echo", text="2") == "not_found"
            assert (await client.modern("tools/list")).json()["error"]["data"][
                "code"
            ] == "not_found"
        for client in (all_a, all_b):
            assert await told(client, "plain__echo", text="2") == "not_found"
            listed = (await client.modern("tools/list")).json()["result"]["tools"]
            assert {tool["name"].partition("__")[0] for tool in listed} == {"other"}
        await until(lambda: not running(hub))


async def test_another_command_is_what_the_next_call_gets(hub_of, tmp_path):
    async with hub_of({"plain": plain()}) as hub, both(hub) as (alice, bob):
        for client in (alice, bob):
            assert await told(client, "remember", value="old") == "ok"
        changed = plain()
        changed["args"] = [*changed["args"], "--other"]
        await edit(hub, tmp_path, plain=changed)
        for client in (alice, bob):
            assert await told(client, "recall") == "None"
        await until(lambda: len(running(hub)) == 2)


async def test_an_edit_counts_also_when_the_database_fails_at_that_moment(
    hub_of, tmp_path, monkeypatch
):
    servers = {"plain": plain(groups=["engineering", "data"])}
    async with hub_of(servers) as hub, both(hub) as (alice, bob):
        assert await told(alice, "echo", text="1") == await told(bob, "echo", text="1") == "1"
        states = hub.hub.ground.states

        async def broken(_):
            raise Unavailable("The database is locked.")

        monkeypatch.setattr(type(states), "all", broken)
        with pytest.raises(Unavailable):
            await edit(hub, tmp_path, plain=plain(groups=["data"]))
        assert await told(alice, "echo", text="2") == "not_found"
        assert await told(bob, "echo", text="3") == "3"
        await until(lambda: len(running(hub)) == 1)


async def test_a_server_that_nobodys_instance_could_not_list_once_is_tried_again_later(
    hub_of, tmp_path
):
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o755)
    script = f"test -e {place}/there || exit 1; exec /usr/bin/python3 {SERVERS}/plain.py"
    readable = [str(SERVERS), str(place)]
    servers = {
        "plain": plain(command="/bin/sh", args=["-c", script], sandbox={"readable": readable})
    }
    now = time.time()
    seen = []
    for passed, there in ((0, False), (60, True), (7200, True)):
        if there:
            (place / "there").touch()
        async with hub_of(servers, clock=lambda at=now + passed: at) as hub:
            seen.append((await hub.hub.catalogs.offer(hub.hub.access.specs["plain"])).per_user)
    assert seen == [True, True, False]
    async with hub_of(servers, clock=lambda: now + 7300) as hub, both(hub) as (alice, bob):
        for client in (alice, bob):
            listed = (await client.modern("tools/list")).json()["result"]["tools"]
            assert "echo" in {tool["name"] for tool in listed}
        assert not running(hub)  # it starts nothing of a user's


async def test_many_who_want_the_database_read_anew_at_once_share_a_reading(hub_of, monkeypatch):
    async with hub_of({"plain": plain()}) as hub, both(hub) as (alice, bob):
        assert await told(alice, "echo", text="1") == await told(bob, "echo", text="1") == "1"
        read, load = [], hub.hub.access.load

        async def counted(users):
            read.append(1)
            await load(users)

        monkeypatch.setattr(hub.hub.access, "load", counted)
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(hub.hub.refresh)
            await hub.hub.ground.directory.disable_user("alice")
            await hub.hub.refresh()
            assert (await alice.modern("tools/list")).status_code == 401
        assert len(read) <= 6  # not 51; the watch reads too
        assert await told(bob, "echo", text="2") == "2"


async def test_a_call_outlives_the_first_pin_of_a_server_that_is_being_started_for_it(
    hub_of, tmp_path
):
    gate = tmp_path / "gate" / "open"
    gate.parent.mkdir()
    gate.touch()
    waits = f"while [ ! -e {gate} ]; do sleep 0.02; done; exec /usr/bin/python3 {SERVERS}/plain.py"
    slow = plain(
        command="/bin/sh",
        args=["-c", waits],
        sandbox={"readable": [str(SERVERS), str(gate.parent)]},
    )
    async with hub_of({"plain": slow}) as hub, raw_client(hub, "alice") as alice:
        await until(lambda: hub.hub.catalogs.known(hub.hub.access.specs["plain"]))
        gate.unlink()
        answers = []

        async def call():
            answers.append(await told(alice, "echo", text="still here"))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(lambda: running(hub))
            [first] = running(hub)
            await hub.hub.ground.states.set_pin(
                "plain", Pin("npm", "plain", "1.0.0", "sha512-x", (), 0)
            )
            await hub.hub.refresh()
            await until(lambda: first not in running(hub))
            gate.touch()
        assert answers == ["still here"]
        [instance] = running(hub)
        assert instance.owner == first.owner
