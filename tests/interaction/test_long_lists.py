"""Long lists are put together in steps, one of a user at a time: who lists in a loop does not keep others waiting."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest

from mcphub.gateway import naming
from mcphub.gateway.assembling import OneAtATime, each
from tests.doors import BOTH_DOORS
from tests.interaction.clients import raw_client, scripted
from tests.polling import until

pytestmark = pytest.mark.anyio
LONG, SHORT = 1000, 3


def tools(count):
    return [{"name": f"t{n}", "inputSchema": {"type": "object"}} for n in range(count)]


class Watched(OneAtATime):
    """Notes how many lists of a user are being put together, and how often others had a turn meanwhile."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.both, self.turns = Counter(), Counter(), False, []

    @asynccontextmanager
    async def turn(self, user_id, length):
        async with super().turn(user_id, length):
            self.now[user_id] += 1
            self.most[user_id] = max(self.most[user_id], self.now[user_id])
            self.both = self.both or len(+self.now) == 2
            ticks = asyncio.create_task(count())
            try:
                yield
            finally:
                ticks.cancel()
                self.turns.append(await ticks)
                self.now[user_id] -= 1


async def count():
    turns = 0
    try:
        while True:
            await asyncio.sleep(0)
            turns += 1
    except asyncio.CancelledError:
        return turns


@BOTH_DOORS
@pytest.mark.parametrize("path", ["", "long"])
async def test_a_user_s_long_lists_come_one_after_another_and_leave_turns_to_others(hub_of, path):
    servers = {"long": scripted({"tools": tools(LONG)}, tools={"deny": ["t7"]})}
    async with (
        hub_of(servers) as hub,
        raw_client(hub, "alice", path) as alice,
        raw_client(hub, "bob", path) as bob,
    ):
        watched = hub.hub.plane.lists = Watched()
        found = []

        async def lists(client):
            answer = (await client.modern("tools/list", {})).json()["result"]
            found.append({tool["name"] for tool in answer["tools"]})

        async with anyio.create_task_group() as group:
            for client in [alice] * 6 + [bob] * 2:
                group.start_soon(lists, client)
    prefix = "" if path else "long__"
    assert found == [{f"{prefix}t{n}" for n in range(LONG) if n != 7}] * 8
    assert set(watched.most.values()) == {1} and watched.both
    assert min(watched.turns) > LONG / 100, watched.turns


@BOTH_DOORS
async def test_a_long_list_is_gone_through_once_for_names_that_it_does_not_have(
    hub_of, monkeypatch
):
    looked_at, exposed = Counter(), naming.exposed

    def counted(server, own):
        looked_at[own] += 1
        return exposed(server, own)

    monkeypatch.setattr(naming, "exposed", counted)
    odd = [{"name": f"t {n}", "inputSchema": {"type": "object"}} for n in range(LONG)]
    async with hub_of({"long": scripted({"tools": odd})}) as hub:
        await until(lambda: hub.hub.catalogs.known(hub.hub.access.specs["long"]))
        for user in ("alice", "bob"):
            async with raw_client(hub, user, "") as client:
                for name in ("long__t_5.0123456789abcdef", "long", exposed("long", "t 5")):
                    call = {"name": name, "arguments": {}}
                    answer = (await client.modern("tools/call", call)).json()
                    assert ("error" in answer) == (name != exposed("long", "t 5")), answer
        assert set(looked_at.values()) == {1}
        for name in ("t 5", "t 6"):
            with_alias = hub.hub.catalogs.known(hub.hub.access.specs["long"]).lists["tools/list"]
            assert with_alias.aliases("long")[exposed("long", name)] == name


async def test_a_short_list_does_not_wait_for_a_long_one_of_its_user():
    turns = OneAtATime()
    async with turns.turn("alice", LONG):
        with anyio.fail_after(5):
            async with turns.turn("alice", SHORT), turns.turn("bob", LONG):
                assert await each(str, range(LONG)) == [str(n) for n in range(LONG)]
        second = asyncio.create_task(turns.turn("alice", LONG).__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
    await second
