"""A wall clock that jumps by a day, forward or back, ends nothing and destroys nothing."""

import json

import anyio
import pytest

from mcphub.ids import LateClock, system_clock
from mcphub.testing.clock import MovableClock
from tests.interaction.clients import (
    MODERN,
    PYTHON,
    SERVERS,
    connected,
    plain,
    raw_client,
    request,
    text_of,
)
from tests.interaction.test_translation import FORM, accepted, call, modern

pytestmark = pytest.mark.anyio
DAY = 86_400.0
FORWARD_AND_BACK = [DAY, -2 * DAY, DAY]


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_sessions_instances_and_calls_live_through_jumps(hub_of, mode):
    clock = MovableClock(system_clock())
    idle = plain(sandbox={"idleSeconds": 600})
    async with (
        hub_of({"plain": idle}, clock=clock) as hub,
        connected(hub, "alice", mode=mode) as alice,
        connected(hub, "bob", mode=mode) as bob,
    ):
        for client, name in ((alice, "alice"), (bob, "bob")):
            await text_of(client, "remember", {"value": name})
        before = {one["id"] for one in hub.hub.instances()}
        async with anyio.create_task_group() as group:
            found = []

            async def slowly():
                found.append(await text_of(alice, "slow", {"seconds": 2}))

            group.start_soon(slowly)
            for jump in FORWARD_AND_BACK:
                clock.now += jump
                await anyio.sleep(0.6)  # two rounds of the sweeper
                await hub.hub.refresh()
                assert await text_of(bob, "recall") == "bob"
        assert found and await text_of(alice, "recall") == "alice"
        assert {one["id"] for one in hub.hub.instances()} == before


async def test_what_a_client_carries_lives_an_hour_by_no_wall_clock(hub_of):
    clock = MovableClock(system_clock())
    async with (
        hub_of({"modern": modern()}, clock=clock) as hub,
        raw_client(hub, "alice", "modern") as alice,
    ):
        asked = call("ask", rounds=1, text="?")
        for jump in FORWARD_AND_BACK:
            first = (await alice.modern("tools/call", asked, meta=FORM)).json()["result"]
            clock.now += jump
            answer = await alice.modern("tools/call", asked | accepted(first), meta=FORM)
            assert "error" not in answer.json(), answer.text
        steady = hub.hub.plane.states.clock
        first = (await alice.modern("tools/call", asked, meta=FORM)).json()["result"]
        hub.hub.plane.states.clock = lambda: steady() + 3601
        answer = await alice.modern("tools/call", asked | accepted(first), meta=FORM)
        assert answer.json()["error"]["code"] == -32602


async def test_a_server_that_failed_is_listed_again_however_far_the_wall_clock_went_back(
    hub_of, tmp_path
):
    """Its administrator's disk or network was at fault: nothing in the settings changes."""
    clock = MovableClock(system_clock())
    shown = tmp_path / "shown"
    shown.mkdir()
    script = f"test -e {shown}/ready && exec {PYTHON} {SERVERS / 'plain.py'}"
    sandbox = {"readable": [str(shown), str(SERVERS)]}
    servers = {"late": plain(command="/bin/sh", args=["-c", script], sandbox=sandbox)}
    async with (
        hub_of(servers, clock=clock) as hub,
        raw_client(hub, "alice", "") as alice,
        raw_client(hub, "bob", "") as bob,
    ):

        async def listed(client):
            result = (await client.modern("tools/list", {})).json()["result"]
            return any(tool["name"] == "late__recall" for tool in result["tools"])

        assert not await listed(alice) and not await listed(bob)
        (shown / "ready").touch()
        clock.now -= 365 * DAY
        steady = hub.hub.catalogs.steady
        hub.hub.catalogs.steady = lambda: steady() + 61
        with anyio.fail_after(30):
            while not (await listed(alice) and await listed(bob)):  # learned beside the lists
                await anyio.sleep(0.2)
                hub.hub.catalogs.steady = lambda: steady() + 122


async def test_a_jump_forward_removes_no_user_whose_grace_is_not_over(hub_of):
    clock = MovableClock(system_clock())
    async with hub_of({"plain": plain()}, clock=clock) as hub:
        directory = hub.hub.ground.directory
        for name, seconds in (("alice", DAY / 2), ("bob", -1.0)):
            await directory.disable_user(name)
            await directory.remove_later(name, clock.now + seconds)
        clock.now += DAY
        await hub.hub._remove_who_is_due()
        assert {user.name for user in await directory.users()} == {"alice", "root"}


async def test_a_late_clock_goes_on_with_time_that_went_by_and_back_with_the_wall_clock():
    wall, steady = MovableClock(1_000_000.0), MovableClock(50.0)
    late = LateClock(wall, steady)
    for moved, by in ((wall, 10.0), (steady, 10.0)):
        moved.now += by
    assert late() == 1_000_010.0
    wall.now += DAY
    steady.now += 60.0
    assert late() == 1_000_070.0
    wall.now -= 2 * DAY
    assert late() == wall.now


async def test_a_late_clock_follows_a_wall_clock_that_was_wrong_before_after_a_day():
    """A machine without a battery: its clock says 1970 until it has asked for the time."""
    wall, steady = MovableClock(30.0), MovableClock(30.0)
    late = LateClock(wall, steady)

    def pass_by(seconds):
        for clock in (wall, steady):
            clock.now += seconds
        return late()

    wall.now += 20_000 * DAY
    assert late() == 30.0
    assert pass_by(DAY - 1) == DAY + 29
    wall.now -= 20_000 * DAY  # it was no more than a jump: its day begins anew
    assert late() == DAY + 29
    wall.now += 20_000 * DAY
    assert pass_by(DAY - 1) == 2 * DAY + 28
    assert pass_by(DAY - 1) == 3 * DAY + 27
    assert pass_by(1) == wall.now


async def test_disabling_a_user_ends_the_sessions_and_streams_of_that_user_only(hub_of):
    async with (
        hub_of({"plain": plain()}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        for client in (alice, bob):
            await client.open()
            answer = await client.post(request("tools/call", call("who")))
            assert json.loads(answer.json()["result"]["content"][0]["text"])["pid"]
        assert len(hub.hub.sessions) == 2 and len(hub.hub.instances()) == 2
        await hub.hub.ground.directory.disable_user("alice")
        await hub.hub.refresh()
        assert len(hub.hub.sessions) == 1
        assert (await alice.post(request("ping"))).status_code == 401
        assert (await bob.post(request("ping"))).status_code == 200
        await hub.hub.ground.directory.enable_user("alice")
        await hub.hub.refresh()
        assert (
            await alice.post(request("ping"))
        ).status_code == 404  # the session is gone for good
