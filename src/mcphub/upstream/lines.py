"""Lines over a pair of pipes: the transport under an `Upstream`, without any protocol.

Reads and writes non-blocking descriptors on the event loop (`add_reader`, `add_writer`), bounded in
both directions: a line that is too long ends the connection, a writer waits when too much is queued.
A large line is read while it arrives, and written some of it a turn, so that no other user waits for it.
"""

import asyncio
import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Final, Protocol

from mcphub.upstream.pace import SHARE, Pace
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import LARGE
from mcphub.wire.pieces import Text, parts_of, start_of

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
BYTES_PER_S: Final = 256 * 1024 * 1024
"""What a server may say each second before it has to wait."""
LINE_COST: Final = 16 * 1024
"""What a line counts beside its bytes when it is more than one for each that the server got: looking
at it costs the hub more than reading it. Answers do not count: whoever asks pays for them."""
_READ: Final = 64 * 1024
"""As much as a pipe holds at first. Larger reads are no faster from a wide one: this much stays in a
processor's cache."""
_READ_LARGE: Final = 256 * 1024
"""As much of a large line is read at once: it is read in larger steps."""
_LARGE: Final = 128 * 1024
"""Bytes of a message for which a pipe is made wider."""
_WIDE: Final = 1024 * 1024
"""What a pipe holds while a large message goes through: the most that Linux gives without a privilege."""
_A_WRITE: Final = _WIDE // 2
"""Bytes that are written at once; uvloop may ask twice a turn."""
_LF: Final = ord("\n")
_VECTORS: Final = 64
_MOST_OWED: Final = 1024
_HIGH_WATER: Final = 1024 * 1024
_MOST_QUEUED: Final = 64 * 1024 * 1024
"""Bytes beyond which no answer to a server's question waits for it."""
_METHOD, _START = b'"method":', 80
"""Where the hub's own requests say what they are (`envelope.request`)."""
_TURN: Final = 256
"""Lines that are handed on in one turn of the loop when nobody asked for them."""
_PART: Final = 64
"""Bytes that even the smallest piece of a line takes in memory."""


class Pipe(Protocol):
    """What carries lines to a server and back."""

    has_headers: bool
    """Whether it says headers beside a message: HTTP does."""

    @property
    def congested(self) -> bool:
        """Whether so much is queued that the caller must `await drain()` before it writes more."""
        ...

    def write(self, line: Text, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Send one message on one line; does not wait.

        Args:
            line: The message.
            headers: What HTTP says beside it; nothing elsewhere.

        Raises:
            BrokenPipeError: The other side is gone.
        """
        ...

    async def drain(self) -> None:
        """Wait until no longer congested."""
        ...

    def abandon(self, request_id: int) -> bool:
        """Nobody waits for the answer to this request any more.

        Returns:
            Whether the other side learns of it by this alone.
        """
        ...

    def close(self, reason: Exception | None = None) -> None:
        """End the connection. Idempotent."""
        ...


Line = bytes | Arriving
"""A message as it came; a large one was read on its way."""
OnLine = Callable[[Line, int], None]
"""Takes a line, and the id of the request on whose stream it came: 0 where nothing says that."""
OnEnd = Callable[[Exception | None], None]
"""Takes the reason of the end, or None for a plain one."""
Connect = Callable[[OnLine, OnEnd], Pipe]
"""Opens a pipe."""


class LineTooLong(Exception):
    """The other side sent more than `limit` bytes without a line end."""


class NotRead(Exception):
    """The other side asks and asks, and does not read the answers."""


class LinePipe:
    """One connection. Owned by one `Upstream`; the descriptors belong to the process.

    Args:
        reader: Readable non-blocking descriptor.
        writer: Writable non-blocking descriptor.
        limit: Longest line, in bytes.
        on_line: Called with each line without its end; must not raise.
        on_end: Called once when nothing more can be read, with the reason or None for a plain end.
        share: The owner's, of the loop's time.
        large: Bytes of a line beyond which it is read while it arrives.
    """

    has_headers = False

    def __init__(
        self,
        reader: int,
        writer: int,
        limit: int,
        on_line: OnLine,
        on_end: OnEnd,
        share: Pace | None = None,
        large: int = LARGE,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader, self._writer = reader, writer
        self._limit = limit
        self._on_line, self._on_end = on_line, on_end
        self._partial: list[bytes] = []
        self._partial_size = 0
        self._beyond = large
        self._large: Arriving | None = None
        self._behind: bytes | None = None
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._drained: asyncio.Future[None] | None = None
        self._open = True
        self._waits = False
        self._widths: dict[int, int] = {}
        self._pace, self._share = Pace(BYTES_PER_S), share or Pace(SHARE)
        self._lines: list[bytes] = []
        self._paused = False
        self._owed = 0
        self._loop.add_reader(reader, self._readable)

    @property
    def congested(self) -> bool:
        """Whether so much is queued that the caller must `await drain()` before it writes more."""
        return self._queued > _HIGH_WATER

    def write(self, line: Text, headers: Mapping[str, str] = NO_HEADERS) -> None:  # noqa: ARG002
        """Send one line, with all others of this turn of the loop in one system call.

        A call to the system wakes the server's process; that is most of a small message's price.

        Raises:
            BrokenPipeError: The other side is gone.
        """
        if not self._open:
            raise BrokenPipeError
        if not self._queue:
            self._loop.call_soon(self._flush)
        self._queue += (*parts_of(line), b"\n")
        self._queued += len(line) + 1
        if start_of(line, _START).find(_METHOD) > 0:  # to an answer of the hub's nothing is owed
            self._owed = min(self._owed + 1, _MOST_OWED)
        elif self._queued > _MOST_QUEUED:
            self.close(NotRead())

    def abandon(self, request_id: int) -> bool:  # noqa: ARG002
        """Do nothing: an answer that nobody waits for is dropped when it comes."""
        return False

    async def drain(self) -> None:
        """Wait until the queue is below its bound."""
        while self.congested and self._open:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def close(self, reason: Exception | None = None) -> None:
        """Stop reading and writing; the descriptors stay open for their owner. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._reader)
        if self._waits:
            self._loop.remove_writer(self._writer)
        self._queue.clear()
        self._queued = 0
        self._large = None
        self._wake()
        self._on_end(reason)

    def _readable(self) -> None:
        try:
            data = os.read(self._reader, _READ if self._large is None else _READ_LARGE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error)
            return
        if data:
            self._take(data)
        else:
            self.close()

    def _take(self, data: bytes) -> None:
        """Hand on the lines that end in what was read."""
        if self._large is not None:
            self._add(self._large, data)
            return
        lines = self._split(data)
        if len(lines) > self._owed:
            self._lines = lines
            self._hand_on(len(data))
            return
        self._owed -= len(lines)
        for line in lines:
            self._on_line(line, 0)
        self._quiet()
        if rest := self._pace.take(len(data)):
            self._pause(rest, self._hand_on)

    def _hand_on(self, size: int = 0) -> None:
        """Hand on some lines of which not all were asked for, and read on when their time is paid."""
        if not self._open:
            return
        turn, self._lines = self._lines[:_TURN], self._lines[_TURN:]
        rest = 0.0
        if turn:
            began = self._loop.time()
            for line in turn:
                self._on_line(line, 0)
            owed = min(len(turn), self._owed)
            self._owed -= owed
            unasked = len(turn) - owed
            used = (self._loop.time() - began) * unasked / len(turn)
            rest = max(self._pace.take(size + unasked * LINE_COST), self._share.take(used))
        if rest or self._lines:
            self._pause(rest, self._hand_on)
            return
        self._quiet()
        self._resume()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Stay away from the pipe for a while."""
        if not self._open:
            return
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._reader)
        if seconds:
            self._loop.call_later(seconds, then)
        else:
            self._loop.call_soon(then)

    def _resume(self) -> None:
        """Read from the pipe again."""
        if self._paused and self._open:
            self._paused = False
            self._loop.add_reader(self._reader, self._readable)

    def _add(self, line: Arriving, data: bytes) -> None:
        """Take what comes next of a large line."""
        end = data.find(_LF)
        line.add(data if end < 0 else data[:end])
        if len(line) > self._limit:
            self.close(LineTooLong())
            return
        if end >= 0:
            line.end()
            self._behind = data[end + 1 :]
        if rest := self._pace.take(len(data)):
            self._pause(rest, self._read_large)
        else:
            self._read_large()

    def _read_large(self) -> None:
        """Read what has come of a large line, one step each turn, in its owner's time; hand it on at its end."""
        line, behind = self._large, self._behind
        if line is None:
            return
        began = self._loop.time()
        is_read = line.read()
        rest = self._share.take(self._loop.time() - began)
        if rest or not is_read:
            self._pause(rest, self._read_large)
        elif behind is None:
            self._resume()
        else:
            self._large = self._behind = None
            self._owed = max(0, self._owed - 1)
            self._on_line(line, 0)
            self._quiet()
            self._resume()
            if behind and self._open:
                self._take(behind)

    def _split(self, data: bytes) -> list[bytes]:
        """Take what was read; returns the lines that it has ended."""
        if _LF not in data:
            self._keep(data)
            return []
        *whole, rest = data.split(b"\n")
        if self._partial:
            whole[0] = b"".join([*self._partial, whole[0]])
            self._partial.clear()
            self._partial_size = 0
        if max(map(len, whole)) > self._limit:
            self.close(LineTooLong())
            return []
        if rest:
            self._keep(rest)
        return whole

    def _quiet(self) -> None:
        """Give back the width that a large message needed."""
        is_idle = not self._queue and not self._partial and self._large is None
        if is_idle and self._widths and self._open:
            self._narrow()

    def _keep(self, data: bytes) -> None:
        self._partial.append(data)
        self._partial_size += max(len(data), _PART)
        if self._partial_size >= _LARGE:
            self._widen(self._reader)
        if self._partial_size > self._limit:
            self._partial.clear()
            self.close(LineTooLong())
        elif self._partial_size > self._beyond:
            line = self._large = Arriving(mends=True)
            for part in self._partial:
                line.add(part)
            self._partial.clear()
            self._partial_size = 0

    def _flush(self) -> None:
        """Write what is queued; what the pipe does not take waits until it does."""
        if not self._open or not self._queue:
            return
        if not self._send_queue():
            self._loop.add_writer(self._writer, self._writable)
            self._waits = True

    def _writable(self) -> None:
        if self._send_queue():
            self._waits = False
            self._loop.remove_writer(self._writer)

    def _send_queue(self) -> bool:
        """Return whether nothing is left to write, or nothing can be written any more."""
        left = _A_WRITE
        while self._queue:
            if left <= 0:
                return False
            if self._queued >= _LARGE:
                self._widen(self._writer)
            try:
                sent = os.writev(self._writer, list(islice(self._queue, _VECTORS)))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self.close(error)
                return True
            self._queued -= sent
            left -= sent
            while sent:
                head = self._queue[0]
                if sent < len(head):
                    self._queue[0] = memoryview(head)[sent:]
                    break
                sent -= len(head)
                self._queue.popleft()
            self._wake()
        return True

    def _widen(self, fd: int) -> None:
        """Let a pipe hold a large message: each step through a narrow one wakes both sides.

        It stays as it is where the account has no more (`fs.pipe-user-pages-soft`, pipe(7)).
        """
        if fd not in self._widths:
            with contextlib.suppress(OSError):
                self._widths[fd] = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _WIDE)

    def _narrow(self) -> None:
        """Give back what others may need; a pipe that holds too much gets its width back later."""
        for fd, width in list(self._widths.items()):
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, width)
                del self._widths[fd]

    def _wake(self) -> None:
        if self._drained is not None and not self.congested:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
