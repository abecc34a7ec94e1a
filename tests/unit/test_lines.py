"""Lines over pipes: whole, in order, bounded both ways, whatever the pipe takes at once."""

import asyncio
import fcntl
import os
import socket
import time

import anyio
import pytest
from tests.polling import until

from mcphub.upstream.lines import LinePipe, LineTooLong, NotRead
from mcphub.upstream.pace import Shares
from mcphub.wire import envelope
from mcphub.wire.arriving import Arriving
from mcphub.wire.pieces import Pieces

pytestmark = pytest.mark.anyio


class Ends:
    """A `LinePipe` and the far ends of its pipes."""

    def __init__(self, limit=4 << 20, pair=os.pipe, on_line=None, share=None):
        self.reader, self.far_writer = pair()
        self.far_reader, self.writer = pair()
        for fd in (self.reader, self.writer):
            os.set_blocking(fd, False)
        self.lines, self.ended = [], []
        self.pipe = LinePipe(
            self.reader,
            self.writer,
            limit,
            on_line or (lambda line, _: self.lines.append(line)),
            self.ended.append,
            share,
        )

    def close(self):
        self.pipe.close()
        for fd in (self.reader, self.writer, self.far_reader, self.far_writer):
            os.close(fd)


@pytest.fixture
async def ends():
    made = Ends()
    yield made
    made.close()


async def read_all(fd, size):
    data = b""
    while len(data) < size:
        data += await asyncio.to_thread(os.read, fd, size - len(data))
    return data


async def test_lines_of_one_turn_arrive_whole_and_in_order(ends):
    lines = [b"x" * size + str(size).encode() for size in range(200)]
    for line in lines:
        ends.pipe.write(line)
    expected = b"".join(line + b"\n" for line in lines)
    with anyio.fail_after(10):
        assert await read_all(ends.far_reader, len(expected)) == expected


async def test_more_than_a_pipe_holds_is_queued_and_waited_for(ends):
    big = b"y" * 3_000_000
    ends.pipe.write(big)
    ends.pipe.write(b"last")
    await asyncio.sleep(0)
    assert ends.pipe.congested
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ends.pipe.drain)
            assert await read_all(ends.far_reader, len(big) + 6) == big + b"\nlast\n"
    assert not ends.pipe.congested


def sockets():
    """Like a pipe, without a width that could be set."""
    return [end.detach() for end in socket.socketpair()]


@pytest.mark.parametrize("pair", [os.pipe, sockets])
async def test_a_pipe_is_wider_while_a_large_line_goes_through_where_that_is_possible(pair):
    params = b'{"text":"' + b"y" * 3_000_000 + b'"}'
    ends, line = Ends(pair=pair), b'{"jsonrpc":"2.0","method":"m","params":' + params + b"}"
    try:
        for count in (1, 2):
            with anyio.fail_after(20):
                ends.pipe.write(line)
                assert await read_all(ends.far_reader, len(line) + 1) == line + b"\n"
                await asyncio.to_thread(os.write, ends.far_writer, line)
                if pair is os.pipe:
                    assert width(ends.reader) == width(ends.writer) == 1 << 20
                os.write(ends.far_writer, b"\n")
                while len(ends.lines) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert [bytes(one.message().members["params"]) for one in ends.lines] == [
                params
            ] * count
            if pair is os.pipe:
                assert width(ends.reader) == width(ends.writer) == 64 * 1024
    finally:
        ends.close()


async def test_a_pipe_that_nobody_has_read_gets_its_width_back_later(ends):
    line = b"y" * 3_000_000
    ends.pipe.write(line)
    os.write(ends.far_writer, b"busy\n")
    with anyio.fail_after(20):
        while not ends.lines:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert width(ends.writer) == 1 << 20
        await read_all(ends.far_reader, len(line) + 1)
        os.write(ends.far_writer, b"done\n")
        while len(ends.lines) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert width(ends.writer) == 64 * 1024


async def test_small_lines_leave_their_pipes_as_they_are(ends):
    before = width(ends.reader)
    ends.pipe.write(b"x" * 100_000)
    os.write(ends.far_writer, b"y\n")
    with anyio.fail_after(10):
        await read_all(ends.far_reader, 100_001)
        while not ends.lines:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert width(ends.reader) == width(ends.writer) == before


def width(fd):
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


async def test_a_line_may_come_in_any_pieces(ends):
    os.write(ends.far_writer, b"ab")
    await asyncio.sleep(0.01)
    os.write(ends.far_writer, b"c\nd\n\ne")
    os.write(ends.far_writer, b"f\n")
    with anyio.fail_after(5):
        while len(ends.lines) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert ends.lines == [b"abc", b"d", b"", b"ef"]


async def test_a_line_over_the_limit_ends_the_connection():
    ends = Ends(limit=1000)
    try:
        os.write(ends.far_writer, b"z" * 2000)
        with anyio.fail_after(5):
            while not ends.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert isinstance(ends.ended[0], LineTooLong)
        with pytest.raises(BrokenPipeError):
            ends.pipe.write(b"more")
    finally:
        ends.close()


async def test_the_other_sides_end_is_told_once_and_later_writes_fail(ends):
    os.close(ends.far_writer)
    with anyio.fail_after(5):
        while not ends.ended:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    ends.far_writer = os.dup(ends.reader)
    assert ends.ended == [None]
    with pytest.raises(BrokenPipeError):
        ends.pipe.write(b"late")


@pytest.mark.parametrize(("asked", "waits"), [(0, 1), (1000, 0)])
async def test_a_server_waits_for_lines_that_nobody_asked_for_and_not_for_answers(
    ends, asked, waits
):
    for _ in range(asked):
        ends.pipe.write(b'{"method":"ask"}')
    os.write(ends.far_writer, b"x\n" * 17_000)
    with anyio.fail_after(5):
        while len(ends.lines) < 17_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert bool(ends.pipe._pace.floods) == waits


async def test_to_answers_of_the_hub_nothing_is_owed_and_a_server_that_reads_none_is_ended(ends):
    for _ in range(1000):
        ends.pipe.write(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    os.write(ends.far_writer, b"x\n" * 17_000)
    await until(lambda: len(ends.lines) == 17_000)
    assert ends.pipe._pace.floods
    for _ in range(70):
        if not ends.ended:
            ends.pipe.write(b'{"jsonrpc":"2.0","id":1,"result":"%b"}' % (b"x" * (1 << 20)))
    assert type(ends.ended[0]) is NotRead


async def test_servers_of_one_owner_share_the_time_that_what_they_say_unasked_takes():
    shares, lines = Shares(), []
    alice, bob = shares.of("alice"), shares.of("bob")
    assert shares.of("alice") is alice is not bob

    def laborious(line, _):
        lines.append(line)
        until_then = time.perf_counter() + 0.001
        while time.perf_counter() < until_then:
            pass

    floods = [Ends(on_line=laborious, share=alice) for _ in range(3)]
    quiet = Ends(share=bob)
    for each in floods:
        os.write(each.far_writer, b"x\n" * 2000)
    await until(lambda: lines)
    for number in range(20):  # while thousands wait
        os.write(quiet.far_writer, b"y\n")
        await until(lambda count=number: len(quiet.lines) > count)
    assert len(lines) < 3000 and alice.floods and not bob.floods
    for each in (*floods, quiet):
        each.close()


def numbered(number, text):
    """A line of a server with a number and a text, as JSON."""
    return b'{"jsonrpc":"2.0","id":%d,"result":{"text":"%b"}}' % (number, text)


def number_of(line):
    message = line.message() if isinstance(line, Arriving) else envelope.parse(line)
    return int(message.id), len(bytes(message.inner("result")["text"])) - 2


@pytest.mark.parametrize("text", [b"x", b"\\n", b"\\u00e9"], ids=["plain", "escaped", "unicode"])
async def test_large_and_small_lines_come_whole_and_in_order(text):
    ends = Ends()
    sizes = [10, 300_000, 10, 20, 1_000_000, 700_000, 262_144, 10]
    lines = [numbered(number, text * (size // len(text))) for number, size in enumerate(sizes)]
    expected = [(number, size // len(text) * len(text)) for number, size in enumerate(sizes)]
    try:
        for together in (True, False):
            ends.lines.clear()
            with anyio.fail_after(20):
                if together:
                    data = b"".join(line + b"\n" for line in lines)
                    await asyncio.to_thread(write_all, ends.far_writer, data)
                else:
                    for line in lines:
                        await asyncio.to_thread(write_all, ends.far_writer, line)
                        await asyncio.sleep(0.01)
                        await asyncio.to_thread(write_all, ends.far_writer, b"\n")
                while len(ends.lines) < len(lines):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert [number_of(line) for line in ends.lines] == expected
            assert sum(isinstance(line, Arriving) for line in ends.lines) >= 2
    finally:
        ends.close()


async def test_a_large_line_over_the_limit_ends_the_connection_and_half_of_one_is_nothing():
    for size, reason in ((5 << 20, LineTooLong), (1 << 20, type(None))):
        ends = Ends()
        try:
            with anyio.fail_after(20):
                writing = asyncio.create_task(
                    asyncio.to_thread(write_all, ends.far_writer, numbered(1, b"x" * size))
                )
                if reason is not LineTooLong:
                    await writing
                    os.close(ends.far_writer)
                    ends.far_writer = os.dup(ends.far_reader)
                while not ends.ended:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if reason is LineTooLong:
                    os.close(ends.reader)
                    ends.reader = os.dup(ends.far_reader)
                    await asyncio.gather(writing, return_exceptions=True)
            assert ends.lines == []
            assert [type(one) for one in ends.ended] == [reason]
        finally:
            ends.close()


async def test_a_large_message_is_written_half_a_mebibyte_a_turn(monkeypatch, ends):
    turn, by_turn, taken = 0, {}, []

    def writev(_fd, parts):
        part = b"".join(parts)[:300_000]  # it reads as fast as it is written to
        taken.append(part)
        by_turn[turn] = by_turn.get(turn, 0) + len(part)
        return len(part)

    monkeypatch.setattr(os, "writev", writev)
    pieces = Pieces([bytes([64 + number]) * 65_536 for number in range(50)])
    ends.pipe.write(pieces)
    ends.pipe.write(b"small")
    expected = bytes(pieces) + b"\nsmall\n"
    with anyio.fail_after(20):
        while sum(by_turn.values()) < len(expected):
            turn += 1
            await asyncio.sleep(0)
    assert b"".join(taken) == expected
    assert len(by_turn) >= 3
    assert max(by_turn.values()) <= (1 << 19) + 300_000


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
