"""What one user makes the hub hold is bounded in bytes, however many connections hold it; others are served."""

import asyncio
import contextlib
import json
import socket
from contextlib import asynccontextmanager

import anyio
import pytest

from mcphub.gateway.shares import SHARES
from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, plain, raw_client, request, scripted, tools
from tests.polling import until

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

MIB = 1024 * 1024
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
SIZES = {"one": scripted({"tools": tools("size")})}


def called(hub, user, size, pad=0):
    """Head and body of a call that is answered with `size` bytes."""
    arguments = {"bytes": size, "pad": "x" * pad}
    params = {"name": "size", "arguments": arguments, "_meta": META}
    body = json.dumps(request("tools/call", params)).encode()
    head = (
        "POST /mcp/one HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {hub.keys[user]}\r\nMCP-Protocol-Version: {MODERN}\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: size\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


@asynccontextmanager
async def connections(hub, number):
    """Connections that read nothing until they are asked to."""
    host, port = hub.url.removeprefix("http://").split(":")
    opened = []
    try:
        for _ in range(number):
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.connect((host, int(port)))
            opened.append(await asyncio.open_connection(sock=small, limit=1024))
            opened[-1][1].transport.pause_reading()
        yield opened
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def whole(reader, writer):
    """Whether an answer comes to its end, once it is read."""
    with contextlib.suppress(RuntimeError):
        writer.transport.resume_reading()
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(size)
    except (asyncio.IncompleteReadError, OSError):
        return False
    return True


async def test_answers_that_nobody_reads_are_bounded_for_each_user(hub_of):
    overrides = {"limits": {"line_bytes": 9 * MIB}}
    async with (
        hub_of(SIZES, overrides=overrides) as hub,
        raw_client(hub, "alice", "one") as alice,
        raw_client(hub, "bob", "one") as bob,
        connections(hub, 6) as deaf,
    ):
        small = {"name": "size", "arguments": {"bytes": 1}}
        for client in (alice, bob):
            assert "result" in (await client.modern("tools/call", small)).json()
        unread = hub.hub.plane.unread
        unread._most = 8 * MIB  # the kernel holds some of each answer
        for _, writer in deaf:
            writer.writelines(called(hub, "alice", 8 * MIB))
            await anyio.sleep(0.05)
            (waiting,) = list(unread._waiting.values()) or [{}]
            assert sum(one.unread for one in waiting) <= 8 * MIB
        await until(lambda: not hub.hub.plane.in_flight, 60)
        assert [await whole(*one) for one in deaf].count(False) >= 2  # ended, not only forgotten
        for client in (alice, bob):
            assert "result" in (await client.modern("tools/call", small)).json()


async def test_a_client_that_reads_nothing_at_all_is_shown_out(hub_of, monkeypatch):
    monkeypatch.setattr("mcphub.gateway.bounded.UNREAD_S", 0.3)
    async with hub_of(SIZES) as hub, connections(hub, 1) as ((_, writer),):
        writer.writelines(called(hub, "alice", 16 * MIB))
        unread = hub.hub.plane.unread
        await until(lambda: unread._waiting)
        await until(lambda: not unread._waiting)


async def test_a_client_that_reads_slowly_gets_all_of_its_answer(hub_of, monkeypatch):
    monkeypatch.setattr("mcphub.gateway.bounded.UNREAD_S", 2.0)
    async with hub_of(SIZES) as hub, connections(hub, 1) as ((reader, writer),):
        writer.writelines(called(hub, "alice", 12 * MIB))
        await until(lambda: hub.hub.plane.unread._waiting)
        writer.transport.resume_reading()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        got = 0
        while got < length:
            part = await reader.read(MIB)
            assert part
            got += len(part)
            await anyio.sleep(0.001)
        assert got == length and not hub.hub.plane.unread._waiting


async def test_bodies_that_arrive_are_bounded_for_each_user(hub_of):
    async with (
        hub_of(SIZES, overrides={"limits": {"body_bytes": MIB}}) as hub,
        raw_client(hub, "alice", "one") as alice,
        raw_client(hub, "bob", "one") as bob,
        connections(hub, 12) as opened,
    ):
        small = {"name": "size", "arguments": {"bytes": 1}}
        large = {"name": "size", "arguments": {"bytes": 1, "pad": "x" * 600_000}}
        assert "result" in (await bob.modern("tools/call", small)).json()
        head, body = called(hub, "alice", 1, pad=MIB - 2000)
        for _, writer in opened:
            writer.transport.resume_reading()
            writer.write(head + body[:-1000])
        refused = [asyncio.create_task(reader.readuntil(b"\r\n")) for reader, _ in opened]
        await until(lambda: sum(task.done() for task in refused) == 12 - SHARES)
        answers = [task.result() for task in refused if task.done()]
        assert all(b" 429 " in answer for answer in answers)
        assert "result" in (await bob.modern("tools/call", large)).json()
        assert "result" in (await alice.modern("tools/call", small)).json()
        for number, (_, writer) in enumerate(opened):
            if not refused[number].done():
                writer.write(body[-1000:])
        await until(lambda: all(task.done() for task in refused))
        assert sum(b" 200 " in task.result() for task in refused) == SHARES
        await until(lambda: not hub.hub.plane.uploads._held)
        assert "result" in (await alice.modern("tools/call", large)).json()


async def test_bodies_of_calls_that_last_are_bounded_for_each_user(hub_of):
    """A body is in memory until its call ends: while the server works, while a stream is open."""
    listen = {"notifications": {"toolsListChanged": True}, "pad": "x" * (MIB - 2000)}
    slow = {"name": "slow", "arguments": {"seconds": 60, "pad": "x" * (MIB - 2000)}}
    small = {"name": "echo", "arguments": {"text": "x"}}
    async with (
        hub_of({"plain": plain()}, overrides={"limits": {"body_bytes": MIB}}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
        anyio.create_task_group() as group,
    ):
        held = hub.hub.plane.held
        for client in (alice, bob, alice, bob):
            assert "result" in (await client.modern("tools/call", small)).json()
        for number in range(SHARES):
            method, params = [("tools/call", slow), ("subscriptions/listen", listen)][number % 2]
            group.start_soon(alice.modern, method, params)
        await until(lambda: len(held._held) == 1 and not held.has_room(*held._held, MIB // 2))
        for method, params in (("tools/call", slow), ("subscriptions/listen", listen)):
            answer = await alice.modern(method, params)
            assert answer.json()["error"]["data"]["code"] == "limit_exceeded", answer.text
        large = {"name": "echo", "arguments": {"text": "x" * (MIB - 2000)}}
        assert "result" in (await bob.modern("tools/call", large)).json()
        assert "result" in (await alice.modern("tools/call", small)).json()
        group.cancel_scope.cancel()
    await until(lambda: not held._held)


async def test_what_a_session_keeps_is_bounded(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        alice.capabilities = {"experimental": {"x": {"pad": "x" * 70_000}}}
        assert (await alice.open()).json()["error"]["code"] == -32602
        assert not len(hub.hub.sessions)
        alice.capabilities = {}
        await alice.open()
        long = await alice.post(request("resources/subscribe", {"uri": "mem://" + "x" * 9000}))
        assert long.json()["error"]["code"] == -32602
        for number in range(256):
            answer = await alice.post(request("resources/subscribe", {"uri": f"mem://{number}"}))
            assert answer.json()["result"] == {}
        more = await alice.post(request("resources/subscribe", {"uri": "mem://more"}))
        assert more.json()["error"]["data"]["code"] == "limit_exceeded"
        assert len(hub.hub.plane.watches) == 256


async def test_answers_for_an_old_stream_that_is_not_read_are_bounded(hub_of):
    overrides = {"listen": {"sse": True}, "limits": {"calls_per_user": 4}}
    async with (
        hub_of(SIZES, overrides=overrides) as hub,
        connections(hub, 1) as ((reader, writer),),
    ):
        key = hub.headers("alice")["Authorization"]
        writer.write(
            b"GET /sse/one HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
            b"Authorization: %b\r\n\r\n" % key.encode()
        )
        writer.transport.resume_reading()
        await reader.readuntil(b"data: ")
        path = (await reader.readuntil(b"\n")).strip().decode()
        writer.transport.pause_reading()
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob", "one") as bob:
            alice.url = hub.url + path
            opening = {
                "protocolVersion": "2024-11-05",
                "capabilities": {},
                "clientInfo": {"name": "x", "version": "1"},
            }
            assert (await alice.post(request("initialize", opening))).status_code == 202
            statuses = []
            params = {"name": "size", "arguments": {"bytes": 8 * MIB}}
            with anyio.fail_after(30):
                while statuses[-3:] != [429] * 3:
                    call = request("tools/call", params, len(statuses))
                    statuses.append((await alice.post(call)).status_code)
                    await anyio.sleep(0.05)
            assert statuses.count(202) < 10
            small = {"name": "size", "arguments": {"bytes": 1}}
            assert "result" in (await bob.modern("tools/call", small)).json()
