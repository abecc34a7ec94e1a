"""A legacy MCP server behind a pipe of lines: ids of our own, answers to their exchanges, the rest to its owner.

One `LegacyUpstream` belongs to one instance and so to one user (rules R2, R8). It relays bytes: only
ids, the progress token and hop-owned `_meta` change. What the server asks in the middle of a call
(elicitation, sampling) goes to the call of a client that can be asked; anything else gets a JSON-RPC
error instead of silence.

Not here: how lines travel (`upstream.lines` for processes, `upstream.http` for URLs), starting and
stopping (`spawn`), who may call (`policy`), eras of the caller.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from mcphub import __version__
from mcphub.errors import HubError, Unavailable, UpstreamFailed
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.lines import Connect, LineTooLong
from mcphub.wire import envelope
from mcphub.wire.codes import LATEST_LEGACY, LEGACY_VERSIONS, METHOD_NOT_FOUND
from mcphub.wire.envelope import Members, Message

_INITIALIZE: Final = msgspec.json.encode(
    {
        "protocolVersion": LATEST_LEGACY,
        # no roots: a client's paths mean nothing in the sandbox, and some servers replace their
        # allowed directories by them
        "capabilities": {"sampling": {}, "elicitation": {"form": {}, "url": {}}},
        "clientInfo": {"name": "mcphub", "title": "MCPHub", "version": __version__},
    }
)
_CANCEL_REASON: Final = b'"The caller cancelled."'
ASKED_S: Final = 600.0
"""Seconds that a person has to answer a server's question; the call's own limit waits meanwhile."""
SLOW_S: Final = 0.25
"""Seconds after which the relay is told that a call is slow (it then watches for a disconnect)."""


class TimedOut(Unavailable):
    """The upstream did not answer in time; the call was cancelled."""

    code = "timeout"


class LegacyUpstream:
    """The connection to one running server.

    Life cycle: made with a pipe; `initialize()` once; `send()` for calls; `close()`.

    Args:
        name: Name of the server spec, for error texts.
        connect: Opens the pipe, given what takes a line and what takes the end.
        on_notification: Gets every notification that belongs to no single exchange.
        on_end: Called once when nothing more comes from the server.
        one_owner: All calls are of one user. If not, what names no call reaches no call.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        on_notification: Callable[[Message], None],
        on_end: Callable[[], None],
        one_owner: bool = True,
    ) -> None:
        self.name = name
        self._one_owner = one_owner
        self.noise = 0
        self.initialize_result = b""
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Exchange] = {}
        self._last_id = 0
        self._ended: Exception | None = None
        self._on_notification = on_notification
        self._on_end = on_end
        self._pipe = connect(self._line, self._end)

    @property
    def pending(self) -> int:
        """Calls in flight."""
        return len(self._pending)

    async def initialize(self, timeout_s: float) -> bytes:
        """Open the legacy session with the server; returns the raw InitializeResult.

        Raises:
            UpstreamFailed: It ended, answered an error or speaks no revision that we know.
            TimedOut: It did not answer in `timeout_s` seconds.
        """
        exchange = await self.send("initialize", _INITIALIZE, timeout_s=timeout_s)
        while not exchange.done:
            await exchange.next()
        if exchange.failure is not None:
            raise exchange.failure
        answer = exchange.answer
        if answer is None or "result" not in answer.members:
            raise UpstreamFailed(f"Server '{self.name}' refused to initialize.")
        members = envelope.object_of(answer.members["result"])
        if envelope.text(members.get("protocolVersion")) not in LEGACY_VERSIONS:
            raise UpstreamFailed(
                f"Server '{self.name}' speaks a protocol version that the hub does not know."
            )
        self.initialize_result = bytes(answer.members["result"])
        self.notify("notifications/initialized", None)
        return self.initialize_result

    async def send(
        self,
        method: str,
        params: bytes | Callable[[int], bytes] | None,
        *,
        timeout_s: float,
        progress_token: bytes = b"",
        wants_log: bool = False,
        asks: frozenset[str] = frozenset(),
    ) -> Exchange:
        """Send a request; returns as soon as it is written or queued.

        Args:
            method: JSON-RPC method.
            params: Raw params on one line, or a function from the upstream id to them.
            timeout_s: Seconds until the sweeper cancels the call.
            progress_token: The caller's own token, raw, for the way back.
            wants_log: Whether log messages may travel on this request's stream.
            asks: Methods that the server may ask the calling client.

        Raises:
            UpstreamFailed: The server is gone.
        """
        if self._pipe.congested:
            await self._pipe.drain()
        self._check()
        self._last_id += 1
        upstream_id = self._last_id
        now = self._loop.time()
        exchange = Exchange(
            upstream_id, method, started=now, deadline=now + timeout_s,
            progress_token=progress_token, wants_log=wants_log, asks=asks,
        )  # fmt: skip
        body = params(upstream_id) if callable(params) else params
        self._pending[upstream_id] = exchange
        try:
            self._pipe.write(envelope.request(upstream_id, method, body))
        except BrokenPipeError:
            self._pending.pop(upstream_id, None)
            self._check()
            raise UpstreamFailed(f"Server '{self.name}' ended.") from None
        return exchange

    def reply(self, raw_id: bytes, members: Members) -> None:
        """Answer a question of the server: `result` or `error`, under the server's own id."""
        for exchange in self._pending.values():
            exchange.questions.discard(raw_id)
        kept = {name: members[name] for name in ("result", "error") if name in members}
        try:
            self._pipe.write(
                envelope.join({"jsonrpc": envelope.VERSION, "id": msgspec.Raw(raw_id), **kept})
            )
        except BrokenPipeError:
            return

    def notify(self, method: str, params: bytes | None) -> None:
        """Send a notification; one to a server that is gone is dropped."""
        if self._ended is None:
            try:
                self._pipe.write(envelope.notification(method, params))
            except BrokenPipeError:
                return

    def cancel(self, exchange: Exchange) -> None:
        """Give up a call: tell the server and forget the exchange (MCP basic §Cancellation)."""
        if (
            self._pending.pop(exchange.upstream_id, None) is not None
            and exchange.method != "initialize"
        ):
            body = b'{"requestId":%d,"reason":%b}' % (exchange.upstream_id, _CANCEL_REASON)
            self.notify("notifications/cancelled", body)

    def sweep(self, now: float) -> None:
        """End exchanges past their deadline, tell slow ones; called by the pool's sweeper."""
        for exchange in list(self._pending.values()):
            if now >= exchange.deadline:
                self.cancel(exchange)
                seconds = exchange.deadline - exchange.started
                exchange.fail(
                    TimedOut(
                        f"Server '{self.name}' did not answer {exchange.method} within {seconds:g} s.",
                        hint="Try again, or ask an administrator to raise timeoutSeconds of this server.",
                    )
                )
            elif not exchange.armed and now - exchange.started >= SLOW_S:
                exchange.armed = True
                exchange.wake()

    def fail_all(self, error: Exception) -> None:
        """Fail every call in flight, and every later one, with `error`."""
        if self._ended is None:
            self._ended = error
        pending, self._pending = self._pending, {}
        for exchange in pending.values():
            exchange.fail(error)

    def close(self) -> None:
        """Stop using the pipes. Idempotent; the process is stopped by its spawner."""
        self._pipe.close()

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _end(self, reason: Exception | None) -> None:
        if isinstance(reason, LineTooLong):
            self.fail_all(
                UpstreamFailed(
                    f"Server '{self.name}' sent a message over the size limit and was stopped.",
                    hint="An administrator can raise limits.line_bytes.",
                )
            )
        elif isinstance(reason, HubError):
            self.fail_all(reason)
        self._on_end()

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = envelope.parse(line)
        except envelope.Malformed:
            self.noise += (
                1  # some servers print a banner on stdout; it is no message of the protocol
            )
            return
        if not message.method:
            self._answer(message)
        elif message.id:
            self._asked(message)
        elif message.method == "notifications/progress":
            self._progress(message)
        elif message.method == "notifications/message":
            self._log(message)
        else:
            self._on_notification(message)

    def _answer(self, message: Message) -> None:
        exchange = self._pending.pop(_number(message.id), None)
        if exchange is not None:
            exchange.finish(message)

    def _asked(self, message: Message) -> None:
        """Pass a question to the youngest call whose client can be asked; else say that nobody can.

        Legacy servers do not say which call a question belongs to: only where all calls are of one
        user may it be any of them. One whose client is asked something already counts only when
        there is no other.
        """
        candidates = list(reversed(self._pending.values())) if self._one_owner else []
        candidates = [one for one in candidates if not one.questions] or candidates
        for exchange in candidates:
            if message.method in exchange.asks and exchange.question(message):
                exchange.deadline = max(exchange.deadline, self._loop.time() + ASKED_S)
                return
        if len(candidates) == 1:
            candidates[0].refused = message.method
        if message.method == "ping":
            reply = envelope.result(message.id, b"{}")
        else:
            reply = envelope.error(
                message.id, METHOD_NOT_FOUND, "The client did not declare this capability."
            )
        if self._pipe.congested:
            return  # it asks without reading the answers: nothing is queued for it without bound
        try:
            self._pipe.write(reply)
        except BrokenPipeError:
            return

    def _progress(self, message: Message) -> None:
        params = envelope.object_of(message.members.get("params"))
        exchange = self._pending.get(_number(bytes(params.get("progressToken", b""))))
        if exchange is None or not exchange.progress_token:
            return
        params["progressToken"] = msgspec.Raw(exchange.progress_token)
        message.members["params"] = msgspec.Raw(envelope.join(params))
        exchange.event(message)

    def _log(self, message: Message) -> None:
        """A log message names no request: it goes to the one call in flight, else to the owner's streams."""
        if self._one_owner and len(self._pending) == 1:
            (exchange,) = self._pending.values()
            if exchange.wants_log:
                exchange.event(message)
                return
        self._on_notification(message)


def _number(raw_id: bytes) -> int:
    try:
        return int(raw_id)
    except ValueError:
        return -1
