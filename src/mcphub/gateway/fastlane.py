"""The fast lane: the second door of the data plane, for plain `POST /mcp…` with a warm instance.

A connection class for uvicorn. It reads a request by itself only when it understands every byte of
its head, knows the caller, and the call can be sent to a running instance at once; then no task, no
ASGI scope and no header list is made for it. **Everything else goes to uvicorn's own protocol** and
through it to the ASGI door, byte for byte: other paths and methods, chunked bodies and those of over a MiB,
repeated or odd headers, refusals, streams, cold instances. So the fast lane refuses
nothing and streams nothing. Host, Origin, key, session, era and policy are checked by the code of the ASGI door.

A connection may go back and forth, but only where uvicorn has answered all it got and its parser
stands between two messages: no byte is ever read by both. What has to arrive has a deadline
(`gateway.bounded`), and a connection that never speaks is closed too.

Made for uvicorn 0.54 (the range in pyproject.toml); what it uses of `HttpToolsProtocol` is listed in
docs/decisions/0012-fast-lane.md.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from mcphub.errors import LimitExceeded
from mcphub.gateway.arrived import LARGEST, Arrived
from mcphub.gateway.bounded import BoundedProtocol
from mcphub.gateway.heads import Head, Heads, without_upgrade
from mcphub.gateway.http import OWNER, Receive, Reply, Scope, Send
from mcphub.gateway.relay import Cancelled, relay
from mcphub.gateway.replies import status_of
from mcphub.gateway.warm import Sent
from mcphub.wire.arriving import Arriving
from mcphub.wire.pieces import Pieces, Text, parts_of

_log = structlog.get_logger()
_MAX_HEAD: Final = 4096
_MAX_AHEAD: Final = 64 * 1024
_START: Final = b"POST /mcp"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE)
_MAX_DIGITS: Final = 9
_GO_ON: Final = b"POST /mcp HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
_ANSWER: Final = (
    b"%bx-mcphub-request-id: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)


class FastLane(BoundedProtocol):
    """One connection; what uvicorn calls a HTTP protocol. See the module's text.

    Args:
        heads: Shared by all connections of a hub.
        fast: Answer warm calls here; if not, all is uvicorn's, and only the deadlines are kept.
        given: What uvicorn gives.
    """

    __slots__ = (
        "_arrived", "_fast", "_heads", "_known", "_leaving", "_lost", "_parts", "_plane", "_sent", "_size",
    )  # fmt: skip

    def __init__(self, heads: Heads, *, fast: bool, **given: Any) -> None:
        super().__init__(heads.plane.unread, heads.plane.crowd, **given)
        self._plane, self._heads, self._fast = heads.plane, heads, fast
        self._parts: list[bytes] = []
        self._size = 0
        self._known: Head | None = None
        self._arrived: Arrived | None = None
        self._sent: Sent | None = None
        self._leaving = self._lost = False

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client: for the fast lane where it can, else for uvicorn."""
        if self._sent is not None:
            self._parts.append(data)
            self._size += len(data)
            if self._size > _MAX_AHEAD:
                self.flow.pause_reading()
        elif self._arrived is not None:
            self._arrived.add(data)
            self._go_on(self._arrived)
        elif self._parts:  # of a head
            self._begin(b"".join((*self._parts, data)))
        elif self._is_uvicorns():
            super().data_received(data)
        elif self._fast:
            self._begin(data)
        else:
            self._to_uvicorn(without_upgrade(data))

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything: no message is under way in either direction."""
        waits = self._sent is not None or self._arrived is not None or bool(self._parts)
        return not waits and not self._is_uvicorns()

    def _is_uvicorns(self) -> bool:
        """Whether uvicorn's parser is in the middle of a message or has a request to answer."""
        if not self._between:
            return True
        return self.cycle is not None and (not self.cycle.response_complete or bool(self.pipeline))

    def _begin(self, data: bytes) -> None:
        """Read a request from its first byte."""
        waits, self._parts = bool(self._parts), []
        head = self._known
        if head is not None and data.startswith(head.before):
            start = len(head.before)
            end = data.find(b"\r\n", start)
            digits = data[start:end]
            if (
                end - start <= _MAX_DIGITS
                and digits.isdigit()
                and data.startswith(head.after, end)
                and self._heads.counts(head)
            ):
                self._take(head, data, end + len(head.after), int(digits))
                return
        cut = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if cut < 0 and len(data) < _MAX_HEAD and data[: len(_START)] == _START[: len(data)]:
            self._parts = [data]
            if not waits:
                self._expect_head()
            return
        length = _LENGTH.search(data, 0, cut + 2) if cut >= 0 else None
        if length is not None:
            start, end = length.span(1)
            head = self._known = self._heads.read(data[:start], data[end : cut + 4])
            if head is not None:
                self._take(head, data, cut + 4, int(length[1]))
                return
        self._to_uvicorn(without_upgrade(data))

    def _take(self, head: Head, data: bytes, cut: int, size: int) -> None:
        """Take a request whose head is understood, and whose body begins at `cut`."""
        try:
            self._crowd.claim(self, head.user_id)
        except LimitExceeded:
            self._to_uvicorn(data)  # the ASGI door says so
            return
        if len(data) == cut + size:
            if not self._send(head, data[cut:]):
                self._to_uvicorn(data)
        elif size > min(self._plane.limits.body_bytes, LARGEST) or not self._plane.uploads.take(
            head.user_id, size
        ):
            self._to_uvicorn(data)
        else:
            self._arrived = Arrived(head, data[:cut], data[cut:], size)
            self._expect_body()
            self._go_on(self._arrived)

    def _go_on(self, arrived: Arrived) -> None:
        """Send a request on whose body has come; a large one is read first, in its user's share of the time."""
        if arrived.left > 0:
            return
        if arrived.large is None:
            self._have(arrived, arrived.data[: arrived.size])
        elif not arrived.is_read:
            arrived.is_read = True
            self._deadline = 0.0
            self.flow.pause_reading()
            self._plane.tasks.start("fastlane.body", self._read(arrived, arrived.large))

    async def _read(self, arrived: Arrived, large: Arriving) -> None:
        await self._plane.readers.of(arrived.head.user_id).catch_up(large)
        if self._arrived is arrived and not self.transport.is_closing():  # else its client is gone
            self.flow.resume_reading()
            self._have(arrived, large)

    def _have(self, arrived: Arrived, body: bytes | Arriving) -> None:
        """Send a request on whose body is read: whoever sent its head may have lost the right meanwhile."""
        self._forget_arrived()
        if not (self._heads.counts(arrived.head) and self._send(arrived.head, body)):
            self._to_uvicorn(arrived.before)
            self._to_uvicorn(arrived.data)
            if self._leaving:
                super().shutdown()
        elif arrived.left:
            self.data_received(arrived.data[arrived.size :])

    def _forget_arrived(self) -> None:
        if self._arrived is not None:
            self._plane.uploads.give(self._arrived.head.user_id, self._arrived.size)
            self._arrived = None

    def _to_uvicorn(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def _send(self, head: Head, body: bytes | Arriving) -> bool:
        """Send a warm call to its server; False when it is none."""
        if self._stalled is not None:
            return False
        sent = head.ways.send(self._plane, head.inbound, body)
        if sent is None:
            return False
        self._unset_keepalive_if_required()
        self._deadline = 0.0
        self._sent, self._size = sent, 0
        sent.exchange.on_wake = self._woken
        return True

    def _woken(self) -> None:
        """Something came from the server: most of the time the answer."""
        sent = self._sent
        if sent is None:
            return
        exchange = sent.exchange
        self._sent = exchange.on_wake = None
        try:
            if exchange.is_over():
                answer, status, more = sent.complete(self._plane)
                if self._lost:
                    return
                if len(answer) > LARGEST and isinstance(answer, Pieces):
                    self._by_uvicorn(sent, lambda reply: reply.finish(answer, status, more))
                else:
                    self._answer(sent, answer, status, more)
            else:
                self._continue(sent)
        except Exception:  # noqa: BLE001  the boundary: this connection ends, its server's lines go on
            _log.exception("fastlane.failed")
            self.transport.abort()

    def _answer(
        self, sent: Sent, answer: Text, status: int, more: list[tuple[bytes, bytes]]
    ) -> None:
        head = _ANSWER % (STATUS_LINE[status], sent.request_id.encode(), len(answer))
        if more:
            lines = b"".join(b"%b: %b\r\n" % header for header in more)
            head = head[:-2] + lines + b"\r\n"
        if isinstance(answer, bytes) and len(answer) < _MAX_AHEAD:
            self.transport.write(head + answer)
        else:
            self.write_for(sent.user_id, (head, *parts_of(answer)))
        self.server_state.total_requests += 1
        self._plane.metrics.fast += 1
        if self._leaving:
            self.transport.close()
        elif self._parts:
            self._read_ahead()
        else:
            self._expect(self.timeout_keep_alive)

    def _read_ahead(self) -> None:
        """Read what the client sent before it had its answer."""
        ahead, self._parts = self._parts, []
        self.flow.resume_reading()
        self.data_received(b"".join(ahead))

    def _continue(self, sent: Sent) -> None:
        """Let uvicorn and `relay` go on with a call that is not warm after all."""
        plane, call, begun = self._plane, sent.call, sent.begun
        if self._lost:
            plane.tasks.start("fastlane.lost", relay(plane, call, begun))
            return

        async def go_on(reply: Reply) -> None:
            call.emit, call.watch = reply.emit, reply.watch
            try:
                answer = await relay(plane, call, begun)
            except Cancelled:
                return
            await reply.finish(answer, *status_of(call))

        self._by_uvicorn(sent, go_on)

    def _by_uvicorn(self, sent: Sent, give: Callable[[Reply], Awaitable[None]]) -> None:
        """Let uvicorn send what `give` gives: it waits for a client that reads slowly."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[OWNER] = sent.user_id
            await receive()
            request_id = (b"x-mcphub-request-id", sent.request_id.encode())
            await give(Reply(send, receive, self._plane.tasks, [request_id], self))

        ordinary, self.app = self.app, app  # pyright: ignore[reportAttributeAccessIssue]
        super().data_received(_GO_ON)
        self.app = ordinary
        self.cycle.keep_alive = not self._leaving
        if self._parts:
            self._read_ahead()

    def shutdown(self) -> None:
        """Answer a call that has arrived first, then close."""
        if self._sent is None and (self._arrived is None or not self._arrived.is_read):
            super().shutdown()
        else:
            self._leaving = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel a modern call, let a legacy one end as it will (as `relay` does for slow ones)."""
        self._lost = True
        self._parts = []
        self._forget_arrived()
        super().connection_lost(exc)
        if (sent := self._sent) is not None and sent.is_modern:
            sent.instance.upstream.cancel(sent.exchange)
            sent.exchange.fail(Cancelled("The caller closed the connection."))
