"""How the hub finds out which era a server speaks, and that it asks only once."""

import pytest

from tests.interaction.clients import PYTHON, SERVERS, connected, raw_client, request, text_of
from tests.interaction.test_modern_upstream import modern, remote
from tests.servers.modern_http import modern_server
from tests.servers.recording_http import recording_server

pytestmark = pytest.mark.anyio


def difficult(habit, heard, **fields):
    """Settings of a legacy server that is difficult about what comes before `initialize`."""
    return {
        "command": PYTHON,
        "args": [str(SERVERS / "opening.py"), habit, "heard.txt" if heard is None else str(heard)],
        "groups": ["everyone"],
        "riskLevel": "critical",
        "sandbox": {"readable": [str(SERVERS)]},
        **fields,
    }


async def heard_by(hub, user):
    """Return (pid, method) as the user's own instance heard them."""
    principal = await hub.hub.ground.directory.principal_of(user)
    home = hub.hub.ground.settings.homes / principal.user_id / "difficult"
    return [tuple(line.split()) for line in (home / "heard.txt").read_text().splitlines()]


HABITS = ["silent", "exit", "slow", "-32601", "-32602", "-32000", "-32002", "0", "-1"]


@pytest.mark.parametrize("habit", HABITS)
async def test_a_legacy_server_that_is_difficult_about_the_probe_works(hub_of, habit):
    async with hub_of({"difficult": difficult(habit, None)}) as hub:
        for user in ("alice", "bob"):
            async with connected(hub, user, "difficult") as client:
                assert '"text": "x"' in await text_of(client, "echo", {"text": "x"})
            heard = [method for _, method in await heard_by(hub, user)]
            # an instance of nobody was asked: no user's start is slower for it
            assert heard[:2] == ["initialize", "notifications/initialized"]


async def test_a_server_that_the_probe_confuses_is_started_again(hub_of):
    servers = {"difficult": difficult("break", None)}
    async with hub_of(servers, overrides={"limits": {"start_timeout_s": 3}}) as hub:
        async with connected(hub, "alice", "difficult") as client:
            assert '"text": "x"' in await text_of(client, "echo", {"text": "x"})
        assert "discover" not in str(await heard_by(hub, "alice"))


async def test_what_a_server_speaks_is_remembered_across_restarts(hub_of):
    async with modern_server() as new, recording_server() as old:
        servers = {"new": remote(new.url), "old": remote(old.url)}
        for _ in range(2):
            async with hub_of(servers) as hub:
                for server in servers:
                    for user in ("alice", "bob"):
                        async with raw_client(hub, user, server) as client:
                            assert "result" in (await client.open()).json()
        methods = [message.get("method") for _, _, message in old.requests]
        assert methods.count("server/discover") == 1
        assert "initialize" not in [message.get("method") for _, _, message in new.requests]


async def test_a_server_that_changes_its_era_is_probed_anew(hub_of):
    async with modern_server() as new, recording_server() as old:
        async with hub_of({"remote": remote(new.url)}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                await alice.open()
                new.instead = old.handle
                hub.hub.pool.drain(lambda _: True, at_once=True)
                assert "result" in (await alice.open()).json()


async def test_a_server_that_changes_its_era_under_a_connection_is_probed_anew(hub_of):
    recall = request("tools/call", {"name": "recall", "arguments": {}})
    async with modern_server() as new, recording_server() as old:
        async with hub_of({"remote": remote(new.url)}) as hub:
            async with (
                raw_client(hub, "alice", "remote") as alice,
                raw_client(hub, "bob", "remote") as bob,
            ):
                for client in (alice, bob):
                    await client.open()
                for handler in (old.handle, None):
                    new.instead = handler
                    for client in (alice, bob):
                        changed = (await client.post(recall)).text
                        assert "Call again" in changed
                        assert "None" in (await client.post(recall)).text


async def test_a_server_that_speaks_only_a_newer_revision_is_never_initialized(hub_of):
    async with modern_server() as server:
        server.error_for_all = {
            "code": -32022, "message": "no", "data": {"supported": ["2027-01-01"]},
        }  # fmt: skip
        async with hub_of({"remote": remote(server.url)}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                assert "refused server/discover" in (await alice.open()).text
        assert {message["method"] for _, _, message in server.requests} == {"server/discover"}


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_say_nothing_about_the_era(hub_of, status):
    async with modern_server() as server:
        server.refuse = status
        async with hub_of({"remote": remote(server.url)}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                assert "refused your credentials" in (await alice.open()).text
        assert {message["method"] for _, _, message in server.requests} == {"server/discover"}


async def test_an_administrator_can_say_which_era_a_server_speaks(hub_of):
    async with hub_of(
        {"one": modern(era="modern"), "difficult": difficult("silent", None, era="legacy")}
    ) as hub:
        async with connected(hub, "alice", "one") as client:
            assert await text_of(client, "echo", {"text": "x"}) == "x"
        async with connected(hub, "bob", "difficult") as client:
            assert await text_of(client, "echo", {"text": "x"})
