"""The two doors on one port: nothing slips between them, slow talkers are shown out, keys die at once."""

import contextlib
import json
import re

import anyio
import pytest
from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, plain, request
from tests.polling import until
from tests.security.raw_http import exchange, status_of

from mcphub.gateway import bounded
from mcphub.gateway.shares import Reader

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

SERVERS = {"plain": plain(timeoutSeconds=20)}


class Wire:
    """One keep-alive connection, written to byte by byte."""

    def __init__(self, stream, hub, user):
        self.stream, self.hub, self.user = stream, hub, user
        self.session = ""
        self.buffer = b""
        self.number = 0

    def head(self, length, *more, path="/mcp/plain", verb="POST"):
        lines = [
            f"{verb} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Authorization: Bearer {self.hub.keys[self.user]}", *more,
        ]  # fmt: skip
        if self.session:
            lines += [f"Mcp-Session-Id: {self.session}", "MCP-Protocol-Version: 2025-11-25"]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, "", ""]).encode()

    def message(self, method, params, *more, **where):
        self.number += 1
        body = json.dumps(request(method, params, self.number)).encode()
        return self.head(len(body), *more, **where) + body

    def echo(self, text, *more, **where):
        return self.message(
            "tools/call", {"name": "echo", "arguments": {"text": text}}, *more, **where
        )

    async def answer(self):
        """The next answer: status, head, body. Status 0 when the connection ended."""
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if found:
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                if length is not None and len(rest) >= int(length[1]):
                    size = int(length[1])
                    self.buffer = rest[size:]
                    return int(head[9:12]), head, rest[:size]
                if length is None and rest.endswith(b"0\r\n\r\n"):
                    self.buffer = b""
                    return int(head[9:12]), head, rest
            try:
                self.buffer += await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return 0, b"", b""

    async def ask(self, data):
        await self.stream.send(data)
        return await self.answer()

    async def says(self, text, *more):
        status, _, body = await self.ask(self.echo(text, *more))
        assert status == 200, (status, body)
        assert json.loads(body)["result"]["content"][0]["text"] == text


@contextlib.asynccontextmanager
async def wire(hub, user="alice", seconds=60):
    """A connection of a user with a session, whose instance runs."""
    host, _, port = hub.url.removeprefix("http://").rpartition(":")
    with anyio.fail_after(seconds):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            one = Wire(stream, hub, user)
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            }
            status, head, _ = await one.ask(one.message("initialize", hello))
            assert status == 200
            one.session = re.search(rb"mcp-session-id: ([^\r]+)", head)[1].decode()
            await one.says("warm")
            yield one


def taken(hub):
    """Calls that the fast lane has answered."""
    return hub.hub.plane.metrics.fast


async def test_a_plain_warm_call_takes_the_fast_lane_only_where_it_is_on(hub, fast_lane):
    async with wire(hub) as alice, wire(hub, "bob") as bob:
        before = taken(hub)
        await alice.says("for alice")
        await bob.says("for bob")
        assert taken(hub) - before == (2 if fast_lane else 0)


async def test_a_connection_goes_from_door_to_door_and_back(hub, fast_lane):
    async with wire(hub) as alice:
        before = taken(hub)
        await alice.says("one")
        assert (await alice.ask(alice.head(None, path="/healthz", verb="GET")))[0] == 200
        await alice.says("two")
        chunked = alice.message("tools/call", {"name": "echo", "arguments": {"text": "c"}})
        body = chunked.partition(b"\r\n\r\n")[2]
        head = alice.head(None, "Transfer-Encoding: chunked")
        status, _, answer = await alice.ask(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert status == 200 and b'"text": "c"' in answer.replace(b'":"', b'": "')
        await alice.says("three")
        assert taken(hub) - before == (3 if fast_lane else 0)


async def test_a_request_may_arrive_in_any_pieces(hub):
    async with wire(hub) as alice:
        data = alice.echo("in pieces")
        for cut in (1, 9, 40, len(data) - 30, len(data) - 1):
            with anyio.fail_after(20):
                await alice.stream.send(data[:cut])
                await anyio.wait_all_tasks_blocked()
                status, _, body = await alice.ask(data[cut:])
            assert status == 200 and b"in pieces" in body


async def test_pipelined_requests_are_answered_in_order_whichever_door_each_takes(hub):
    async with wire(hub) as alice:
        slow = alice.message("tools/call", {"name": "slow", "arguments": {"seconds": 0.6}})
        first, last = alice.echo("first"), alice.echo("last")
        health = alice.head(None, path="/healthz", verb="GET")
        await alice.stream.send(first + slow + health + last)
        bodies = [(await alice.answer())[2] for _ in range(4)]
        assert b"first" in bodies[0]
        assert b'"result"' in bodies[1]
        assert b"status" in bodies[2]
        assert b"last" in bodies[3]


@pytest.mark.parametrize("piece", [40_000, 250_000, 10_000_000])
async def test_large_requests_are_answered_in_order_too(hub, piece):
    texts = [letter * size for letter, size in zip("abcde", SIZES, strict=True)]
    async with wire(hub) as alice:
        await alice.says("warm")
        data = b"".join(alice.echo(text) for text in texts)
        async with anyio.create_task_group() as group:

            async def send():
                for at in range(0, len(data), piece):
                    await alice.stream.send(data[at : at + piece])

            group.start_soon(send)
            for text in texts:
                status, _, body = await alice.answer()
                assert status == 200 and text.encode() in body


async def test_a_call_that_becomes_a_stream_is_one_and_the_connection_lives_on(hub):
    async with wire(hub) as alice:
        params = {"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}}
        status, head, body = await alice.ask(alice.message("tools/call", params))
        assert status == 200 and b"text/event-stream" in head
        assert body.count(b"notifications/progress") == 3
        await alice.says("still here")


SIZES = [100, 300_000, 900_000, 2_000_000, 400_000]
SMUGGLED = b"POST /mcp/plain HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "odd",
    [
        ("Content-Length: {n}", "Content-Length: {n}"),
        ("Content-Length: {n}", "Content-Length: 0"),
        ("Content-Length: {n}", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: {n}"),
        ("Content-Length: {n}", "Transfer-Encoding : chunked"),
        ("Content-Length: {n}", "Transfer-Encoding: xchunked"),
        ("Content-Length: {n}", "Transfer-Encoding:\tchunked"),
        ("Content-Length: +{n}",),
        ("Content-Length: -{n}",),
        ("Content-Length: 0x{n}",),
        ("Content-Length: {n}, {n}",),
        ("Content-Length: {n} 0",),
        ("Content-Length : {n}",),
        (" Content-Length: {n}",),
        ("X: y\nContent-Length: 0", "Content-Length: {n}"),
        ("X: y\rContent-Length: 0", "Content-Length: {n}"),
        ("X: y\x00", "Content-Length: {n}"),
        ("X: y\r\n folded", "Content-Length: {n}"),
        ("Content-Length: {n}", "Expect: 100-continue, x"),
        ("Content-Length: {n}", "Content-Length:"),
    ],
)
async def test_a_request_of_unclear_length_hides_no_second_one(hub, odd):
    """Whatever happens to the first request, what follows it is never taken for a message of its own."""
    async with wire(hub) as alice:
        body = json.dumps(
            request("tools/call", {"name": "echo", "arguments": {"text": "x"}})
        ).encode()
        hidden = alice.message(
            "tools/call", {"name": "remember", "arguments": {"value": "smuggled"}}
        )
        payload = body + hidden
        lines = [line.format(n=len(payload)) for line in odd]
        head = alice.head(None, *lines)
        await alice.stream.send(head + payload)
        with anyio.move_on_after(5):
            status, _, answer = await alice.answer()
            assert status == 0 or status >= 400 or b"smuggled" not in answer
    async with wire(hub) as again:
        _, _, answer = await again.ask(
            again.message("tools/call", {"name": "recall", "arguments": {}})
        )
        assert b"smuggled" not in answer


UPGRADES = [
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB"),
    ("Upgrade: websocket", "Connection: keep-alive, upgrade"),
]


@pytest.mark.parametrize("lines", UPGRADES, ids=["h2c", "websocket"])
@pytest.mark.parametrize("cut", ["whole", "behind the head", "within the head"])
async def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(hub, lines, cut):
    async with wire(hub) as alice:
        hidden = alice.message(
            "tools/call", {"name": "remember", "arguments": {"value": "smuggled"}}
        )
        head = alice.head(len(hidden), *lines)
        at = {"whole": 0, "behind the head": len(head), "within the head": 40}[cut]
        if at:
            await alice.stream.send((head + hidden)[:at])
            await anyio.sleep(0.05)  # another packet
        await alice.stream.send((head + hidden)[at:])
        status, _, _ = await alice.answer()
        assert status in {0, 400}
        with anyio.move_on_after(1):
            status, _, _ = await alice.answer()
            assert status == 0
    async with wire(hub) as again:
        _, _, answer = await again.ask(
            again.message("tools/call", {"name": "recall", "arguments": {}})
        )
        assert b"smuggled" not in answer


@pytest.mark.parametrize("lines", UPGRADES, ids=["h2c", "websocket"])
async def test_a_wish_for_another_protocol_is_passed_over(hub, lines):
    """Java's HTTP client has it with each first request."""
    async with wire(hub) as alice:
        await alice.says("as it is", *lines)
        await alice.says("and on", *lines)
        await alice.says("without")


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer x",
        "Mcp-Session-Id: x",
        "Host: evil.example",
        "Origin: https://evil.example",
    ],
)
async def test_a_second_or_foreign_header_is_refused_as_at_the_other_door(hub, header):
    async with wire(hub) as alice:
        before = taken(hub)
        assert (await alice.ask(alice.echo("x", header)))[0] in {400, 401, 403}
        assert taken(hub) == before


async def test_a_revoked_key_is_refused_on_the_next_call_of_an_open_connection(hub):
    services = hub.hub.ground
    made = await services.directory.create_key("alice")
    hub.keys["spare"] = made.key.reveal()
    await hub.hub.refresh()
    async with wire(hub, "spare") as spare, wire(hub) as alice:
        await spare.says("it counts")
        await services.directory.revoke_key(made.info.id)
        await hub.hub.refresh()
        assert (await spare.ask(spare.echo("no more")))[0] == 401
        await alice.says("her other key does")


@pytest.mark.parametrize("size", [100, 400_000])
async def test_a_key_that_is_revoked_while_a_body_arrives_is_refused(hub, size):
    services = hub.hub.ground
    made = await services.directory.create_key("alice")
    hub.keys["slow"] = made.key.reveal()
    await hub.hub.refresh()
    async with wire(hub, "slow") as slow, wire(hub) as alice:
        await slow.says("it counts")
        data = slow.echo("x" * size)
        await slow.stream.send(data[:-10])
        await alice.says("so it has come")
        await services.directory.revoke_key(made.info.id)
        await hub.hub.refresh()
        await slow.stream.send(data[-10:])
        assert (await slow.answer())[0] == 401
        await alice.says("her other key does")


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_a_large_request_that_has_come_is_answered_while_the_hub_stops(
    hub, monkeypatch, is_revoked
):
    services = hub.hub.ground
    made = await services.directory.create_key("alice")
    hub.keys["last"] = made.key.reveal()
    await hub.hub.refresh()
    read = Reader.catch_up

    async def read_and_stop(reader, large):
        await read(reader, large)
        if len(large) == size:
            if is_revoked:
                await services.directory.revoke_key(made.info.id)
                await hub.hub.refresh()
            for own in list(hub.hub.plane.crowd._of.values()):
                for connection in list(own):
                    connection.shutdown()

    monkeypatch.setattr(Reader, "catch_up", read_and_stop)
    async with wire(hub, "last") as last:
        data = last.echo("x" * 400_000)
        size = len(data) - data.index(b"\r\n\r\n") - 4
        status, _, body = await last.ask(data)
        assert status == (401 if is_revoked else 200)
        assert is_revoked or len(json.loads(body)["result"]["content"][0]["text"]) == 400_000
        assert await last.answer() == (0, b"", b""), "and closed"


async def test_a_users_session_is_nothing_in_anothers_hands(hub):
    async with wire(hub) as alice, wire(hub, "bob") as bob:
        own, bob.session = bob.session, alice.session
        assert (await bob.ask(bob.echo("mine?")))[0] == 404
        bob.session = own
        await bob.says("mine")


async def test_a_head_that_never_ends_is_shown_out(hub, monkeypatch):
    monkeypatch.setattr(bounded, "HEAD_S", 0.5)
    for start in (
        b"POST /mcp/plain HTTP/1.1\r\nHost: loc",
        b"GET /healthz HTTP/1.1\r\nHost: loc",
        b"P",
    ):
        async with wire(hub) as alice:
            await alice.stream.send(start)
            assert (await alice.answer())[0] in {0, 400}


POST = b"POST /mcp/plain HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "headers": (POST, b"X: y\r\n" * 10_000),
    "a header": (POST + b"X: ", b"y" * 60_000),
    "a path": (b"POST /mcp?", b"y" * 60_000),
    "what a chunk says": (CHUNKED + b"1;", b"y" * 60_000),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "crumbs": (CHUNKED, b"1\r\n \r\n" * 10_000),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("whose", ["a stranger's", "a user's"])
async def test_what_never_ends_is_shown_out_before_it_is_kept(hub, what, whose):
    """Seconds of it were gigabytes of memory, and it needs no key."""
    start, more = ENDLESS[what]
    if whose == "a user's":
        key = f"Authorization: Bearer {hub.keys['alice']}\r\nContent-Type: application/json\r\n"
        start = start.replace(b"Host", key.encode() + b"Host", 1)
    async with wire(hub, "bob") as bob:
        await bob.says("before")
        answer = await exchange(hub.url, start, *[more] * 100, seconds=10)
        assert status_of(answer) in {0, 400, 401}
        await bob.says("after")


async def test_a_body_that_never_ends_is_shown_out(hub, monkeypatch):
    monkeypatch.setattr(bounded, "BODY_S", 0.5)
    monkeypatch.setattr(bounded, "HEAD_S", 0.5)
    async with wire(hub) as alice:
        data = alice.echo("never whole")
        await alice.stream.send(data[:-5])
        assert (await alice.answer())[0] in {0, 408}
        assert len(hub.hub.plane.in_flight) == 0


async def test_a_megabyte_goes_through_both_ways(hub):
    async with wire(hub) as alice:
        await alice.says("m" * 1_000_000)
        await alice.says("after it")


async def test_a_caller_that_leaves_is_counted_out(hub):
    for version in ("legacy", "modern"):
        async with wire(hub) as alice:
            params = {"name": "slow", "arguments": {"seconds": 1}}
            more = []
            if version == "modern":
                alice.session = ""
                params["_meta"] = {
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientCapabilities": {},
                }
                more = [
                    f"MCP-Protocol-Version: {MODERN}",
                    "Mcp-Method: tools/call",
                    "Mcp-Name: slow",
                ]
            await alice.stream.send(alice.message("tools/call", params, *more))
            await until(lambda: len(hub.hub.plane.in_flight) == 1)
        await until(lambda: len(hub.hub.plane.in_flight) == 0)


async def test_metrics_are_for_administrators_and_name_no_user(hub):
    async with wire(hub) as alice, wire(hub) as root:
        root.user = "root"
        status, _, _ = await alice.ask(alice.head(None, path="/metrics", verb="GET"))
        assert status == 403
        status, head, body = await root.ask(root.head(None, path="/metrics", verb="GET"))
        assert status == 200 and b"text/plain" in head
        assert b'mcphub_calls_total{server="plain",method="tools/call",outcome="ok"}' in body
        for name in (*hub.keys, *hub.hub.access.active_users):
            assert name.encode() not in body
