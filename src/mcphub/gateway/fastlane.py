"""The fast lane: the second door of the data plane, for plain `POST /mcp…` with a warm instance.

A connection class for uvicorn. It reads a request by itself only when it understands every byte of
its head, knows the caller, and the call can be sent to a running instance at once; then no task, no
ASGI scope and no header list is made for it. **Everything else goes to uvicorn's own protocol** and
through it to the ASGI door, byte for byte: other paths and methods, chunked bodies, repeated or odd
headers, refusals of every kind, streams, cold instances. So the fast lane refuses nothing and
streams nothing. Host, Origin, key, session, era and policy are checked by the code of the ASGI door.

A connection may go back and forth, but only where uvicorn has answered all it got and its parser
stands between two messages: no byte is ever read by both. A head must arrive within `HEAD_S`, and a
connection that never speaks is closed too (`gateway.bounded`).

Made for uvicorn 0.54 (the range in pyproject.toml); what it uses of `HttpToolsProtocol` is listed in
docs/decisions/0012-fast-lane.md.
"""

import asyncio
import re
from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from mcphub.errors import HubError, LimitExceeded
from mcphub.gateway import intake, warm
from mcphub.gateway.bounded import BoundedProtocol
from mcphub.gateway.calls import Call
from mcphub.gateway.heads import Heads
from mcphub.gateway.http import OWNER, Receive, Reply, Scope, Send
from mcphub.gateway.intake import Inbound
from mcphub.gateway.relay import LARGE, Begun, Cancelled, relay
from mcphub.gateway.replies import status_of
from mcphub.wire import envelope, eras

_log = structlog.get_logger()
HEAD_S: Final = 20.0
BODY_S: Final = 120.0
_MAX_HEAD: Final = 4096
_MAX_AHEAD: Final = 64 * 1024
_START: Final = b"POST /mcp"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE)
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:[^\r\n]*(?=\r\n)", re.IGNORECASE)
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

    def __init__(self, heads: Heads, *, fast: bool, **given: Any) -> None:
        super().__init__(heads.plane.unread, heads.plane.crowd, **given)
        self._plane, self._heads, self._fast = heads.plane, heads, fast
        self._parts: list[bytes] = []
        self._size = self._wanted = 0
        self._head = b""
        self._inbound: Inbound | None = None
        self._call: Call | None = None
        self._begun: Begun | None = None
        self._inside = self._leaving = self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; a connection that says nothing is closed like one that says nothing more."""
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self._expect(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client: for the fast lane where it can, else for uvicorn."""
        if self._begun is not None:
            self._parts.append(data)
            self._size += len(data)
            if self._size > _MAX_AHEAD:
                self.flow.pause_reading()
        elif self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size >= self._wanted:
                self._go_on_reading()
        elif self._is_uvicorns():
            super().data_received(data)
        elif self._fast:
            self._begin(data)
        else:
            self._to_uvicorn(_without_upgrade(data))

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything: no message is under way in either direction."""
        return self._begun is None and not self._parts and not self._is_uvicorns()

    def _is_uvicorns(self) -> bool:
        """Whether uvicorn's parser is in the middle of a message or has a request to answer."""
        busy = self.cycle is not None and not self.cycle.response_complete
        return busy or self._inside or bool(self.pipeline)

    def _begin(self, data: bytes) -> None:
        """Read a request from its first byte."""
        cut = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if cut < 0:
            if len(data) < _MAX_HEAD and data[: len(_START)] == _START[: len(data)]:
                self._wait_for(data, len(data) + 1, HEAD_S)
            else:
                self._to_uvicorn(_without_upgrade(data))
            return
        length = _LENGTH.search(data, 0, cut + 2)
        inbound = None
        if length is not None:
            inbound = self._known(data[: length.start()] + data[length.end() - 2 : cut])
        if length is None or inbound is None:
            self._to_uvicorn(_without_upgrade(data))
            return
        size = int(length[1])
        if len(data) == cut + 4 + size:
            if not self._send(inbound, data[cut + 4 :]):
                self._to_uvicorn(data)
        elif size > min(self._plane.limits.body_bytes, LARGE) or not self._plane.uploads.take(
            inbound.principal.user_id, size
        ):
            self._to_uvicorn(data)
        else:
            self._head, self._inbound = data[: cut + 4], inbound
            self._wait_for(data[cut + 4 :], size, BODY_S)
            if self._size >= size:
                self._go_on_reading()

    def _known(self, head: bytes) -> Inbound | None:
        """Return what a head says when the fast lane may go on with it."""
        inbound = self._heads.read(head)
        if inbound is not None:
            try:
                self._crowd.claim(self, inbound.principal.user_id)
            except LimitExceeded:
                return None  # the ASGI door says so
        return inbound

    def _wait_for(self, data: bytes, size: int, seconds: float) -> None:
        self._parts, self._size, self._wanted = [data], len(data), size
        self._expect(seconds)

    def _go_on_reading(self) -> None:
        """Look at what is there: enough has arrived for a next step."""
        data = b"".join(self._parts)
        self._parts = []
        inbound, self._inbound = self._inbound, None
        head, self._head = self._head, b""
        if inbound is None:
            self._begin(data)
            return
        self._plane.uploads.give(inbound.principal.user_id, self._wanted)
        rest = data[self._wanted :]
        if not self._send(inbound, data[: self._wanted] if rest else data):
            self._to_uvicorn(head)
            self._to_uvicorn(data)
        elif rest:
            self.data_received(rest)

    def _to_uvicorn(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def _send(self, inbound: Inbound, body: bytes) -> bool:
        """Send a warm call to its server; False when it is none."""
        plane = self._plane
        try:
            message = envelope.parse(body)
            if not message.is_request or self.flow.write_paused:
                return False
            request_id = plane.ids.new()
            call = intake.call_of(plane, inbound, message, len(body), request_id=request_id)
        except (envelope.Malformed, eras.Refused, HubError):
            return False
        begun = warm.begin(plane, call)
        if begun is None:
            return False
        self._unset_keepalive_if_required()
        self._deadline = 0.0
        self._call, self._begun, self._size = call, begun, 0
        begun.exchange.on_wake = self._woken
        return True

    def _woken(self) -> None:
        """Something came from the server: most of the time the answer."""
        call, begun = self._call, self._begun
        if call is None or begun is None:
            return
        self._call = self._begun = begun.exchange.on_wake = None
        try:
            if begun.exchange.failure is not None or not (
                begun.exchange.done and begun.exchange.quiet
            ):
                self._continue(call, begun)
            else:
                answer = warm.complete(self._plane, call, begun)
                if not self._lost:
                    self._answer(call, answer)
        except Exception:  # noqa: BLE001  the boundary: this connection ends, its server's lines go on
            _log.exception("fastlane.failed")
            self.transport.abort()

    def _answer(self, call: Call, answer: bytes) -> None:
        status, more = status_of(call, answer)
        head = _ANSWER % (STATUS_LINE[status], call.request_id.encode(), len(answer))
        if more:
            lines = b"".join(b"%b: %b\r\n" % header for header in more)
            head = head[:-2] + lines + b"\r\n"
        if len(answer) < _MAX_AHEAD:
            self.transport.write(head + answer)
        else:
            self.write_for(call.principal.user_id, (head, answer))
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

    def _continue(self, call: Call, begun: Begun) -> None:
        """Let uvicorn and `relay` go on with a call that is not warm after all."""
        plane = self._plane
        if self._lost:
            plane.tasks.start("fastlane.lost", relay(plane, call, begun))
            return

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[OWNER] = call.principal.user_id
            await receive()
            request_id = (b"x-mcphub-request-id", call.request_id.encode())
            reply = Reply(send, receive, plane.tasks, [request_id])
            call.emit, call.watch = reply.emit, reply.watch
            try:
                answer = await relay(plane, call, begun)
            except Cancelled:
                return
            await reply.finish(answer, *status_of(call, answer))

        ordinary, self.app = self.app, app  # pyright: ignore[reportAttributeAccessIssue]
        super().data_received(_GO_ON)
        self.app = ordinary
        self.cycle.keep_alive = not self._leaving
        if self._parts:
            self._read_ahead()

    # ------------------------------------------------------------------ uvicorn's side

    def on_message_begin(self) -> None:
        """Note that uvicorn's parser is inside a message."""
        self._inside = True
        self._expect(HEAD_S)
        super().on_message_begin()

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

    def on_message_complete(self) -> None:
        """Note that uvicorn's parser stands between two messages."""
        self._inside = False
        self._deadline = 0.0
        super().on_message_complete()

    def shutdown(self) -> None:
        """Answer a call in flight first, then close."""
        if self._begun is None:
            super().shutdown()
        else:
            self._leaving = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel a modern call, let a legacy one end as it will (as `relay` does for slow ones)."""
        self._lost = True
        self._parts = []
        if self._inbound is not None:
            self._plane.uploads.give(self._inbound.principal.user_id, self._wanted)
            self._inbound = None
        super().connection_lost(exc)
        if self._begun is not None and self._call is not None and self._call.modern is not None:
            self._begun.instance.upstream.cancel(self._begun.exchange)
            self._begun.exchange.fail(Cancelled("The caller closed the connection."))


def _without_upgrade(data: bytes) -> bytes:
    """Return bytes that begin with a request without its wish for another protocol (RFC 9110 §7.8).

    Java's HTTP client asks for HTTP/2 with each first request; uvicorn's parser would lose the body.
    """
    cut = data.find(b"\r\n\r\n", 0, _MAX_AHEAD)
    if cut < 0 or _UPGRADE.search(data, 0, cut + 2) is None:
        return data
    return _UPGRADE.sub(b"", data[: cut + 2]) + data[cut + 2 :]
