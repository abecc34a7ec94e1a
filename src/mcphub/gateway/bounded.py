"""`BoundedProtocol`: a connection of uvicorn's that no client can hold open for nothing.

What uvicorn leaves out: deadlines for what has to arrive and bounds of its size, and clients that do not
read, for which the hub holds what it sends. A connection of which nothing is read for `UNREAD_S` ends;
what waits to be read is counted for its user, whatever the number of connections, and beyond that
user's share those are ended that wait longest.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcphub.gateway.crowd import Crowd
from mcphub.gateway.http import CONNECTION, OWNER

HEAD_S: Final = 20.0
"""Seconds in which the head of a request has to arrive."""
BODY_S: Final = 120.0
"""Seconds in which its body has to."""
UNREAD_S: Final = 60.0
_MOST_FRAMING: Final = 128 * 1024
"""Bytes of a request without one of its body: its head, what chunks say beside their size, trailers."""
_MOST_HEADERS: Final = 256
_MOST_PIECES: Final = 4096
"""Chunks of a body in one read of the connection, which takes 256 KiB at most."""


class Unread:
    """Connections whose clients do not read fast enough, by user, those first that wait longest.

    Args:
        most: Bytes that may wait for the clients of one user; beyond them connections are ended.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, dict[BoundedProtocol, None]] = {}

    def add(self, user_id: str, connection: "BoundedProtocol") -> None:
        """Take a connection that has begun to wait."""
        own = self._waiting.setdefault(user_id, {})
        own[connection] = None
        left = sum(one.unread for one in own)
        for one in list(own):
            if left <= self._most:
                return
            left -= one.unread
            self.remove(user_id, one)
            one.abort()

    def remove(self, user_id: str, connection: "BoundedProtocol") -> None:
        """Forget a connection that waits no longer. Idempotent."""
        own = self._waiting.get(user_id)
        if own is not None:
            own.pop(connection, None)
            if not own:
                del self._waiting[user_id]


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose client has to send and to read in time.

    Args:
        unread: Shared by all connections of a hub.
        crowd: All of them.
        given: What uvicorn gives.
    """

    # What calls look at lies together, uvicorn's attributes too: of many connections, each finds its own cold in the caches.
    __slots__ = (
        "_all_unread", "_between", "_body", "_crowd", "_deadline", "_framing", "_stalled", "_timer",
        "_timer_s", "_unread_of", "_written_for", "cycle", "loop", "owner", "recent", "server_state",
        "timeout_keep_alive", "timeout_keep_alive_task", "transport", "waiting",
    )  # fmt: skip

    def __init__(self, unread: Unread, crowd: Crowd, **given: Any) -> None:
        super().__init__(**given)
        self._all_unread, self._crowd = unread, crowd
        self.owner: str | None = None
        self.recent = False
        self.waiting = 0
        self._deadline = self._timer_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._written_for = self._unread_of = ""
        self._stalled: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self._between, self._framing = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Count it; one that says nothing is closed like one that says nothing more."""
        super().connection_made(transport)
        self._crowd.enter(self)
        self._expect(self.timeout_keep_alive)

    def on_message_begin(self) -> None:
        """Let the application say whose request it is; the head has its time from here."""
        self._expect_head()
        super().on_message_begin()
        self._between, self._framing = False, 0
        self.scope[CONNECTION] = self  # pyright: ignore[reportGeneralTypeIssues]

    def data_received(self, data: bytes) -> None:
        """Let uvicorn read, with all of a body that has come at once, and no more around it than it may have."""
        super().data_received(data)
        if self._hand_on() or self._between:
            self._framing = 0
            return
        self._framing += len(data)
        if self._framing > _MOST_FRAMING:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer.

        Raises:
            ValueError: There are too many. uvicorn answers 400 and closes.
        """
        if len(self.headers) >= _MOST_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Give the body its time; whoever reads it has a shorter limit.

        Raises:
            ValueError: The parser takes what follows for another protocol: the body would be read as
                further requests. uvicorn answers 400 and closes.
        """
        if self.parser.should_upgrade():  # pyright: ignore[reportOptionalMemberAccess]
            raise ValueError("a request that asks for another protocol")
        self._expect(BODY_S + HEAD_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece until all has been read that came: putting each to the others costs all of them.

        Raises:
            ValueError: There are too many. uvicorn answers 400 and closes.
        """
        if len(self._body) >= _MOST_PIECES:
            raise ValueError("a body in crumbs")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand on what is left of the body first; nothing has to arrive any more."""
        self._hand_on()
        self._between, self._deadline = True, 0.0
        super().on_message_complete()

    def _hand_on(self) -> bool:
        """Give uvicorn the body as far as it has come; returns whether there was any."""
        if not self._body:
            return False
        body = b"".join(self._body)
        self._body.clear()
        super().on_body(body)
        return True

    @property
    def idle(self) -> bool:
        """Whether uvicorn has answered all that it got."""
        return self.cycle is None or self.cycle.response_complete

    def end(self) -> None:
        """Close it; what waits for the client is dropped."""
        if self.unread:
            self.abort()
        else:
            self.transport.close()

    def write_for(self, user_id: str, parts: Iterable[bytes]) -> None:
        """Send what is a user's, without an ASGI scope that says so."""
        self._written_for = user_id
        self.transport.writelines(parts)
        self._written_for = ""

    def pause_writing(self) -> None:
        """Note that the client has more to read than the system holds for it."""
        super().pause_writing()
        asked = self.cycle.scope if self.cycle is not None else {}
        self._unread_of = self._written_for or asked.get(OWNER, "")
        self._stalled = self.loop.call_later(UNREAD_S, self._check_read, self.unread)
        self._all_unread.add(self._unread_of, self)

    def resume_writing(self) -> None:
        """Note that it has read."""
        self._is_read()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was waited for."""
        self._crowd.leave(self)
        self._is_read()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def unread(self) -> int:
        """Bytes that wait for the client."""
        return self.transport.get_write_buffer_size() + self.waiting

    def abort(self) -> None:
        """End the connection, and drop what waits for the client."""
        self.transport.abort()

    def _check_read(self, before: int) -> None:
        now = self.unread
        if now >= before:
            self.abort()
        else:
            self._stalled = self.loop.call_later(UNREAD_S, self._check_read, now)

    def _is_read(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            self._all_unread.remove(self._unread_of, self)

    def _expect_head(self) -> None:
        self._expect(HEAD_S)

    def _expect_body(self) -> None:
        self._expect(BODY_S)

    def _expect(self, seconds: float) -> None:
        """Close the connection when nothing resets this within `seconds`.

        The timer stays when the deadline moves on: setting one costs more than all else here.
        """
        self._deadline = self.loop.time() + seconds
        if self._timer is None or seconds < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = seconds
            self._timer = self.loop.call_at(self._deadline, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left = self._deadline - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._expect(left)
