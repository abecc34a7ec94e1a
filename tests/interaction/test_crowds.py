"""Connections and sessions by the thousand: bounded for each user, and others get in."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from mcphub.cli.running import RunningHub
from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, plain, raw_client, request
from tests.polling import until

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def echo(hub, user):
    """Head and body of a call."""
    params = {"name": "echo", "arguments": {"text": user}, "_meta": META}
    body = json.dumps(request("tools/call", params)).encode()
    head = (
        "POST /mcp/plain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {hub.keys[user]}\r\nMCP-Protocol-Version: {MODERN}\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: echo\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


class Line:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def asked(self, hub, user):
        """Make a call; the status and the text of its answer, or 0 where the hub closed it."""
        self.writer.write(b"".join(echo(hub, user)))
        return await self.answer()

    async def answer(self):
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            return 0, ""
        return int(head.split()[1]), body.decode()

    async def ended(self):
        """Whether the hub has closed it: looks until something comes."""
        try:
            return await self.reader.read(1) == b""
        except OSError:
            return True


@asynccontextmanager
async def lines(hub, number):
    host, port = hub.url.removeprefix("http://").split(":")
    opened = []
    try:
        while len(opened) < number:
            opened.append(Line(*await asyncio.open_connection(host, int(port))))
        yield opened
    finally:
        for line in opened:
            line.writer.transport.abort()


def limits(**given):
    return {"limits": given}


async def test_of_a_users_connections_too_many_the_longest_idle_end(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections_per_user=4)) as hub,
        lines(hub, 8) as alices,
        lines(hub, 1) as (bob,),
    ):
        assert (await bob.asked(hub, "bob"))[0] == 200
        for line in alices:
            status, text = await line.asked(hub, "alice")
            assert status == 200 and "alice" in text
        assert [await line.ended() for line in alices[:4]] == [True] * 4
        for line in alices[4:]:
            assert (await line.asked(hub, "alice"))[0] == 200
        assert (await bob.asked(hub, "bob"))[0] == 200
        assert len(hub.hub.plane.crowd) == 5


async def test_a_connection_used_again_lately_stays(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections_per_user=4)) as hub,
        lines(hub, 6) as alices,
    ):
        for line in (*alices[:4], *alices[:2]):
            assert (await line.asked(hub, "alice"))[0] == 200
        for newer, older in ((4, 2), (5, 3)):
            assert (await alices[newer].asked(hub, "alice"))[0] == 200
            assert await alices[older].ended()
        for line in (*alices[:2], *alices[4:]):
            assert (await line.asked(hub, "alice"))[0] == 200


async def test_a_user_whose_connections_are_all_in_use_gets_429_and_others_get_in(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections_per_user=4)) as hub,
        lines(hub, 6) as alices,
        lines(hub, 2) as bobs,
    ):
        assert (await alices[0].asked(hub, "alice"))[0] == 200
        head, body = echo(hub, "alice")
        for line in alices[:4]:
            line.writer.write(head + body[:10])
        own = hub.hub.plane.crowd._of
        await until(lambda: sum(len(of) for user, of in own.items() if user) == 4)
        for line in alices[4:]:
            status, text = await line.asked(hub, "alice")
            assert status == 429 and "limits.connections_per_user" in text
            assert await line.ended()
        for bob in bobs:
            assert (await bob.asked(hub, "bob"))[0] == 200
        for line in alices[:4]:
            line.writer.write(body[10:])
            assert (await line.answer())[0] == 200


async def test_strangers_who_only_connect_keep_nobody_out(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections=16)) as hub,
        lines(hub, 40),
    ):
        assert len(hub.hub.plane.crowd) == 16
        async with lines(hub, 2) as users:
            for line, user in zip(users, ("alice", "bob"), strict=True):
                assert (await line.asked(hub, user))[0] == 200
            async with lines(hub, 40):
                for line, user in zip(users, ("alice", "bob"), strict=True):
                    assert (await line.asked(hub, user))[0] == 200


async def test_a_user_who_has_most_connections_makes_room_for_others(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections=8)) as hub,
        lines(hub, 8) as alices,
    ):
        for line in alices:
            assert (await line.asked(hub, "alice"))[0] == 200
        async with lines(hub, 2) as bobs:
            for bob in bobs:
                assert (await bob.asked(hub, "bob"))[0] == 200
            assert await alices[0].ended() and await alices[1].ended()
            assert (await alices[7].asked(hub, "alice"))[0] == 200


async def test_a_connection_belongs_to_whoever_used_it_last(hub_of):
    async with (
        hub_of({"plain": plain()}, overrides=limits(connections_per_user=2)) as hub,
        lines(hub, 3) as proxied,
    ):
        for user in ("alice", "bob", "alice", "bob"):
            for line in proxied[:2]:
                status, text = await line.asked(hub, user)
                assert status == 200 and user in text
        assert (await proxied[2].asked(hub, "alice"))[0] == 200
        assert {len(of) for of in hub.hub.plane.crowd._of.values()} == {1, 2}


async def test_a_client_that_ends_its_side_leaves_nothing(hub_of):
    async with hub_of({"plain": plain()}) as hub, lines(hub, 12) as opened:
        async with raw_client(hub, "bob") as bob:
            assert "result" in (await bob.modern("tools/call", {"name": "echo"})).json()
        head, body = echo(hub, "alice")
        assert (await opened[0].asked(hub, "alice"))[0] == 200
        for number, line in enumerate(opened):
            sent = (head + body, head + body[:20], head[:40])[number % 3]
            line.writer.write(sent)
            line.writer.write_eof()
        for line in opened:
            await line.answer()  # an answer or a clean end
            assert await line.ended()
        plane = hub.hub.plane
        await until(lambda: not plane.in_flight and not plane.uploads._held)
        await until(
            lambda: not len(plane.crowd) and not any(i.in_flight for i in hub.hub.pool.instances())
        )


async def test_of_a_users_sessions_too_many_the_idle_ones_end_first(hub_of):
    overrides = limits(sessions_per_user=3)
    async with (
        hub_of({"plain": plain()}, overrides=overrides) as hub,
        raw_client(hub, "alice") as first,
        raw_client(hub, "bob") as bob,
    ):
        await first.open()
        await bob.open()
        stream = {"Accept": "text/event-stream"}
        async with first.http.stream("GET", first.url, headers=first.headers | stream):
            await until(lambda: any(s.outlet for s in hub.hub.sessions._by_id.values()))
            for _ in range(20):
                async with raw_client(hub, "alice") as other:
                    assert "result" in (await other.open()).json()
            assert (await first.post(request("ping", id=2))).status_code == 200
            assert (await bob.post(request("ping", id=2))).status_code == 200
            assert len(hub.hub.sessions) == 4


async def test_a_flood_of_the_control_socket_is_bounded_and_its_owner_is_answered(hub_of, tmp_path):
    async with hub_of({"plain": plain()}) as hub, lines(hub, 1) as (bob,):
        path = tmp_path / "hub" / "run" / "hub.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        flood, junk = [], [b"\x00\xff" * 500, b"GET /status HTTP/1.1\r\nHo", b""]
        try:
            for number in range(300):
                flood.append(Line(*await asyncio.open_unix_connection(path)))
                flood[-1].writer.write(junk[number % 3])
            hubs = RunningHub(path)
            assert await hubs.refresh()
            assert (await hubs.get("/status"))["sandboxLevel"] is not None
            assert (await bob.asked(hub, "bob"))[0] == 200
            await until(lambda: sum(line.reader._eof for line in flood) >= 300 - 64)
        finally:
            for line in flood:
                line.writer.transport.abort()
