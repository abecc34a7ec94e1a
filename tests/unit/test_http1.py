"""HTTP towards servers: one owner's kept connections, any framing, nothing ambiguous, nothing sent twice."""

import asyncio
import gzip
import time
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.polling import until

from mcphub.errors import MissingCredential, Unavailable
from mcphub.secret import Secret
from mcphub.tasks import Tasks
from mcphub.upstream.http1 import Client
from mcphub.upstream.http_modern import ModernHttpPipe
from mcphub.wire import envelope

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}'
ANSWER = b'{"jsonrpc":"2.0","id":7,"result":{}}'


def sized(body, *headers):
    return b"".join((OK, *headers, b"Content-Length: %d\r\n\r\n" % len(body), body))


class Server:
    """Says what a test tells it to, a list of pieces for each request; None ends the connection."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.heads, self.bodies, self.connections = [], [], []
        self.gone = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode("latin-1"))
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.bodies.append(await reader.readexactly(int(length or b"0")))
                for piece in self.answers.pop(0):
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(server):
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp?a=b"
    try:
        yield server
    finally:
        listening.close()
        for writer in server.connections:
            writer.close()


class Taken:
    """What came of one request."""

    def __init__(self):
        self.head, self.body, self.error = None, b"", None
        self.over = asyncio.Event()

    def on_head(self, head):
        self.head = head

    def on_data(self, data):
        self.body += data

    def on_end(self, error):
        self.error = error
        self.over.set()


class Laborious(Taken):
    """Whoever takes it needs two milliseconds of the loop for each part."""

    def on_data(self, data):
        super().on_data(data)
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass


@asynccontextmanager
async def client_of(server, headers=None, bearer=None):
    async with Tasks() as tasks:
        client = Client(server.url, headers or {}, tasks, bearer)
        try:
            yield client
        finally:
            client.close()
            tasks.cancel_all()


async def asked(client, body=b"{}", **more):
    taken = Taken()
    client.send("POST", taken, body, **more)
    assert not taken.over.is_set()
    with anyio.fail_after(10):
        await taken.over.wait()
    return taken


FRAMINGS = {
    "length": [sized(b"hello")],
    "byte by byte": [bytes([byte]) for byte in sized(b"hello")],
    "chunks": [OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: x\r\n\r\n"],
    "until the end": [OK + b"\r\nhel", b"lo", None],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\nhello", None],
    "interim heads": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", sized(b"hello")],
    "gzip": [sized(gzip.compress(b"hello"), b"Content-Encoding: gzip\r\n")],
    "Connection: close": [sized(b"hello", b"Connection: close\r\n"), None],
}  # fmt: skip


@pytest.mark.parametrize("pieces", FRAMINGS.values(), ids=FRAMINGS)
async def test_an_answer_arrives_in_every_framing(pieces):
    async with serving(Server(pieces, [sized(b"next")])) as server, client_of(server) as client:
        taken = await asked(client)
        assert (taken.error, taken.head.status, taken.body) == (None, 200, b"hello")
        assert (await asked(client)).body == b"next"
        kept = pieces[-1] is not None
        assert len(server.connections) == (1 if kept else 2)


AMBIGUOUS = {
    "length beside chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks beside length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a signed length": b"Content-Length: +2\r\n\r\nab",
    "another coding": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"A: b\r\n c: d\r\nContent-Length: 0\r\n\r\n",
    "a bare line feed": b"A: b\nContent-Length: 0\r\n\r\n",
    "a coding nobody asked for": b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nab",
    "no compression at all": b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
    "an endless head": b"A: " + b"x" * 400_000,
    "endless trailers": b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: " + b"x" * 900_000,
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_an_answer_that_can_be_read_in_two_ways_is_none(rest):
    async with serving(Server([OK + rest], [sized(b"next")])) as server:
        async with client_of(server) as client:
            taken = await asked(client)
            assert taken.error is not None
            assert (await asked(client)).body == b"next"
            assert len(server.connections) == 2


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"\x00\x01"]
)
async def test_what_is_no_answer_to_a_plain_request_is_refused(first):
    async with serving(Server([first])) as server, client_of(server) as client:
        assert "understood" in str((await asked(client)).error)


async def test_a_second_answer_is_nobodys(anyio_backend):
    forged = sized(b"forged")
    for pieces in ([sized(b"hello") + forged], [sized(b"hello"), forged]):
        async with serving(Server(pieces, [sized(b"next")])) as server:
            async with client_of(server) as client:
                assert (await asked(client)).body == b"hello"
                with anyio.fail_after(10):
                    await server.gone.wait()
                assert (await asked(client)).body == b"next"


async def test_a_request_is_never_sent_twice_however_the_connection_ends():
    for pieces in (
        [None],
        [OK, None],
        [sized(b"hello")[:-1], None],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None],
    ):
        async with serving(Server([sized(b"first")], pieces)) as server:
            async with client_of(server) as client:
                await asked(client)
                taken = await asked(client)
                assert "closed the connection" in str(taken.error)
                assert len(server.heads) == 2 and len(server.connections) == 1


async def test_a_connection_that_the_server_closed_is_not_used_again():
    async with serving(Server([sized(b"first"), None], [sized(b"next")])) as server:
        async with client_of(server) as client:
            await asked(client)
            with anyio.fail_after(10):
                while client._idle:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert (await asked(client)).body == b"next"


async def test_a_server_says_for_how_long_it_keeps_a_connection():
    short = sized(b"first", b"Keep-Alive: timeout=1\r\n")
    async with serving(Server([short], [sized(b"next")])) as server, client_of(server) as client:
        await asked(client)
        assert (await asked(client)).body == b"next"
        assert len(server.connections) == 2


async def test_an_answer_that_comes_before_the_request_was_read_ends_the_connection():
    class Hasty(Server):
        async def serve(self, reader, writer):
            self.connections.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sized(b"too much"))
            await writer.drain()
            await self.gone.wait()

    async with serving(Hasty()) as server, client_of(server) as client:
        assert (await asked(client, b"x" * 40_000_000)).body == b"too much"
        assert not client._idle
        server.gone.set()


async def test_closing_a_request_closes_its_connection_and_no_other():
    async with serving(Server([sized(b"first")], [], [sized(b"next")])) as server:
        async with client_of(server) as client:
            await asked(client)
            taken = Taken()
            request = client.send("POST", taken, b"{}")
            with anyio.fail_after(10):
                while len(server.heads) < 2:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                other = asyncio.ensure_future(asked(client))
                while len(server.connections) < 2:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                request.close()
                await server.gone.wait()
                assert (await other).body == b"next"
            assert not taken.over.is_set()


async def test_headers_are_merged_by_name_and_none_holds_a_line_break():
    async with serving(Server([sized(b"")], [sized(b"")])) as server:
        async with client_of(server, {"X-One": "1", "authorization": "a"}) as client:
            framing = {"content-length": "9", "Transfer-Encoding": "chunked", "Connection": "close"}
            await asked(client, headers={"x-one": "2", **framing})
            head = server.heads[0].lower()
            assert "chunked" not in head and "close" not in head
            assert head.startswith("post /mcp?a=b http/1.1\r\nhost: 127.0.0.1:")
            assert "x-one: 2\r\n" in head and "x-one: 1" not in head
            assert head.count("content-length: 2\r\n") == 1
            for name, value in (
                ("A", "b\r\nEvil: 1"),
                ("A", "b\0"),
                ("A\r\nB", "c"),
                ("A b", "c"),
                ("A", "b\n"),
            ):
                taken = await asked(client, headers={name: value})
                assert "no header can carry" in str(taken.error)
            assert len(server.heads) == 1


async def test_a_header_of_every_request_that_cannot_be_sent_is_told_and_nothing_is_sent():
    async with serving(Server()) as server, client_of(server, {"A": "b\r\nEvil: 1"}) as client:
        for _ in range(2):
            assert "no header can carry" in str((await asked(client)).error)
        assert not server.heads


async def test_connections_are_never_another_owners():
    async with serving(Server(*([sized(b"x")],) * 4)) as server:
        async with (
            client_of(server, {"A": "alice"}) as alice,
            client_of(server, {"A": "bob"}) as bob,
        ):
            for client in (alice, bob, alice, bob):
                await asked(client)
            assert len(server.connections) == 2
            assert ["alice" in head for head in server.heads] == [True, False, True, False]


async def test_a_body_that_explodes_is_bounded():
    bomb = sized(gzip.compress(b"[" + b"0," * 30_000_000), b"Content-Encoding: gzip\r\n")
    async with serving(Server([bomb])) as server, Tasks() as tasks:
        ends, lines = [], []
        ended = asyncio.Event()
        pipe = ModernHttpPipe(
            "s", server.url, {}, 1 << 20, tasks, lambda line, _: lines.append(line),
            lambda reason: (ends.append(reason), ended.set()),
        )  # fmt: skip
        pipe.write(CALL)
        with anyio.fail_after(10):
            await ended.wait()
        assert type(ends[0]).__name__ == "LineTooLong" and not lines


async def test_what_an_answer_inflates_to_lets_others_take_turns():
    """Two hundred kilobytes become a million events: they cost their own user time, and nobody else."""
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
    body = gzip.compress(note * 200_000 + b"data: " + ANSWER + b"\n\n")
    bomb = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with (
        serving(Server([bomb])) as server,
        serving(Server(*[[sized(ANSWER)]] * 50)) as other,
        client_of(other) as bob,
        Tasks() as tasks,
    ):
        taken, over = 0, asyncio.Event()

        def on_line(line, _):
            nonlocal taken
            taken += len(envelope.parse(line).method)  # as whoever takes it
            if line == ANSWER:
                over.set()

        pipe = ModernHttpPipe("s", server.url, {}, 1 << 20, tasks, on_line, lambda _: None)
        pipe.write(CALL)
        await until(lambda: taken)
        served = 0
        while not over.is_set() and served < 20:
            await asked(bob)
            served += 1
        pipe.close()
    assert served == 20


async def test_a_connection_that_rests_can_be_closed_and_answers_in_full_later():
    note = b"data: x\n\n" * 400_000
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(note) + note
    for closes in (False, True):
        async with serving(Server([whole], [sized(b"hi")])) as server, client_of(server) as client:
            taken = Laborious()
            request = client.send("POST", taken, b"{}")
            await until(lambda got=taken: len(got.body) >= len(note) * 3 // 4)
            if closes:
                request.close()
            else:
                with anyio.fail_after(30):
                    await taken.over.wait()
                assert taken.body == note and taken.error is None
            assert (await asked(client)).body == b"hi"
            assert len(server.connections) == 1 + closes


async def lines_of(pieces, *, until=1):
    """What a modern pipe hands on of one answer."""
    async with serving(Server(pieces)) as server, Tasks() as tasks:
        found, enough = [], asyncio.Event()

        def on_line(line, origin):
            found.append((line, origin))
            if len(found) == until:
                enough.set()

        pipe = ModernHttpPipe("s", server.url, {}, 1 << 20, tasks, on_line, lambda _: None)
        pipe.write(CALL)
        with anyio.fail_after(10):
            await enough.wait()
        pipe.close()
        return found


async def test_an_event_stream_is_read_however_it_is_split():
    note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
    body = (
        b"event: message\r\ndata: " + note + b"\r\n\r\n: ping\n\nid: 1\ndata: " + ANSWER + b"\n\n"
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
    for size in (1, 7, len(body)):
        pieces = [head, *(body[at : at + size] for at in range(0, len(body), size)), None]
        assert await lines_of(pieces, until=2) == [(note, 7), (ANSWER, 7)]


async def test_a_call_ends_with_an_error_when_its_answer_is_another_or_none():
    other = ANSWER.replace(b"7", b"8")
    for body in (
        b"",
        other,
        b'{"jsonrpc":"2.0","id":7,"result":{},"id":8}'.replace(b"7", b"9", 1),
        b"[]",
    ):
        found = await lines_of([sized(body)], until=2 if body not in {b"", b"[]"} else 1)
        assert envelope.parse(found[-1][0]).id == b"7"
        assert b"without an answer" in found[-1][0]


class Tokens:
    """A bearer with one token after the other."""

    def __init__(self, again):
        self.again, self.given, self.challenges = again, 0, []

    async def token(self):
        if self.given > 5:
            raise MissingCredential("No token.")
        self.given += 1
        return Secret(f"token-{self.given}")

    async def refused(self, token, status, challenges):
        self.challenges.append((token.reveal(), status, challenges))
        return self.again

    def rejected(self):
        return Unavailable("Refused again.", retry_after_s=1)


REFUSED = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer a="b"\r\nContent-Length: 0\r\n\r\n'


async def test_a_refused_token_is_told_and_the_request_is_sent_again_with_another():
    bearer = Tokens(again=True)
    async with serving(Server([REFUSED], [sized(b"hello")])) as server:
        async with client_of(server, {"Authorization": "own"}, bearer) as client:
            assert (await asked(client)).body == b"hello"
    assert bearer.challenges == [("token-1", 401, ('Bearer a="b"',))]
    assert ["token-1" in server.heads[0], "token-2" in server.heads[1]] == [True, True]
    assert all(head.lower().count("authorization:") == 1 for head in server.heads)


async def test_a_token_that_is_refused_again_or_missing_is_an_error_and_no_loop():
    bearer = Tokens(again=True)
    async with serving(Server(*([REFUSED],) * 6)) as server:
        async with client_of(server, bearer=bearer) as client:
            assert isinstance((await asked(client)).error, Unavailable)
            assert len(server.heads) == 2
            bearer.given = 9
            assert isinstance((await asked(client)).error, MissingCredential)
    assert len(server.heads) == 2


async def test_a_refusal_that_no_token_changes_is_handed_on():
    bearer = Tokens(again=False)
    async with serving(Server([REFUSED])) as server:
        async with client_of(server, bearer=bearer) as client:
            taken = await asked(client)
            assert (taken.error, taken.head.status) == (None, 401)
