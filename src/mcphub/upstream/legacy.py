"""A server of the legacy era: `initialize` once, questions as requests in the middle of a call.

It relays bytes: only ids, the progress token and hop-owned `_meta` change. What the server asks goes
to the call of a client that can be asked; anything else gets a JSON-RPC error instead of silence.
Source: MCP 2025-11-25 basic/lifecycle, client/*, server/utilities/logging.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.upstream.exchange import Exchange
from mcphub.upstream.outgoing import Outgoing
from mcphub.upstream.upstream import (
    ASKED_S,
    CLIENT_INFO,
    OpeningRefused,
    Upstream,
    number,
)
from mcphub.wire import envelope, eras, translate
from mcphub.wire.codes import (
    CANCELLED,
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    LOG_LEVELS,
    METHOD_NOT_FOUND,
    Era,
)
from mcphub.wire.envelope import Members, Message
from mcphub.wire.splicing import PlainResult

_CAN: Final = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}}
_CANCEL_REASON: Final = b'"The caller cancelled."'
_SET_LEVEL: Final = "logging/setLevel"
_SET_LEVEL_S: Final = 5.0


class LegacyUpstream(Upstream):
    """The connection to one legacy server. See `Upstream`."""

    era = Era.LEGACY
    _level = ""

    async def open(self, timeout_s: float) -> bytes:
        """Open the legacy session with the server."""
        # Roots only where the administrator said so: a client's paths mean nothing in the sandbox,
        # and some servers replace their allowed directories by them.
        can = {**_CAN, "roots": {}} if self.roots else _CAN
        can = {**can, **self.offers}
        params: Members = {
            "protocolVersion": envelope.raw(LATEST_LEGACY),
            "capabilities": envelope.raw(can),
            "clientInfo": msgspec.Raw(CLIENT_INFO),
        }
        exchange = await self.send(Outgoing("initialize", timeout_s), params)
        result = await self._opened(exchange)
        version = envelope.text(envelope.object_of(result).get("protocolVersion"))
        if version not in LEGACY_VERSIONS:
            raise OpeningRefused(
                f"Server '{self.name}' speaks a protocol version that the hub does not know."
            )
        self.opening = bytes(result)
        self._notify("notifications/initialized", None)
        return self.opening

    async def ready(self, outgoing: Outgoing, params: Members) -> None:
        """Tell the server what the caller wants to hear, where it can be told, and wait for the rest."""
        level = outgoing.log_level
        if level and self._is_unheard(level):
            self._level = level
            wanted: Members = {"level": envelope.raw(level)}
            await self.send(Outgoing(_SET_LEVEL, _SET_LEVEL_S), wanted)  # answered whenever
        await super().ready(outgoing, params)

    def send_now(self, outgoing: Outgoing, params: Members) -> Exchange | None:
        """Send a request at once, unless the server has to be told something before it."""
        level = outgoing.log_level
        if level and self._is_unheard(level):
            return None
        exchange = super().send_now(outgoing, params)
        if exchange is not None and self._asks_next is not None and outgoing.method != _SET_LEVEL:
            question, self._asks_next = self._asks_next, None
            self._ask(question, [exchange])
        return exchange

    def reply(self, raw_id: bytes, members: Members) -> None:
        """Answer a question of the server."""
        for exchange in self._pending.values():
            exchange.take_reply(raw_id)
        kept = {name: members[name] for name in ("result", "error") if name in members}
        try:
            self._pipe.write(
                envelope.written({"jsonrpc": envelope.VERSION, "id": msgspec.Raw(raw_id), **kept})
            )
        except BrokenPipeError:
            return

    def cancel(self, exchange: Exchange) -> None:
        """Give up a call (MCP basic §Cancellation)."""
        if self._pending.pop(exchange.upstream_id, None) is None:
            return
        if exchange.outgoing.method != "initialize":
            body = b'{"requestId":%d,"reason":%b}' % (exchange.upstream_id, _CANCEL_REASON)
            self._notify(CANCELLED, body)
        self._pipe.abandon(exchange.upstream_id)

    async def subscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource."""
        return await self._about("resources/subscribe", uri, timeout_s)

    async def unsubscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource no longer."""
        return await self._about("resources/unsubscribe", uri, timeout_s)

    async def _about(self, method: str, uri: str, timeout_s: float) -> Members:
        exchange = await self.send(Outgoing(method, timeout_s), {"uri": envelope.raw(uri)})
        return (await exchange.settled()).members

    def _is_unheard(self, level: str) -> bool:
        """Whether a caller wants to hear more than the server was told, and the server can be told."""
        if level not in LOG_LEVELS or b'"logging"' not in self.opening:
            return False
        return not self._level or LOG_LEVELS.index(self._level) > LOG_LEVELS.index(level)

    def _onward(self, outgoing: Outgoing, params: Members) -> Members:
        return translate.onward_to_legacy(params, outgoing.rename)

    def _as_written(
        self, exchange: Exchange, onward: Members, meta: Members, headers: Mapping[str, str]
    ) -> tuple[Members, Mapping[str, str]]:
        progress_id = exchange.upstream_id if exchange.outgoing.progress_token else None
        return translate.for_legacy_server(onward, progress_id=progress_id, meta=meta), headers

    def _ends(self, exchange: Exchange, plain: PlainResult) -> bool:  # noqa: ARG002
        return True

    def _answered(self, message: Message) -> None:
        exchange = self._pending.pop(number(message.id), None)
        if exchange is not None:
            exchange.finish(message)

    def _asked(self, message: Message, origin: int) -> None:
        """Pass a question to a call whose client can be asked; else say that nobody can.

        Over HTTP the stream says which call a question belongs to. Over stdio nothing does: only
        where all calls are of one user may it be any of them, and then it is the youngest. One
        whose client is asked something already counts only when there is no other.
        """
        if origin in self._pending:
            candidates = [self._pending[origin]]
        else:
            candidates = list(reversed(self._pending.values())) if self.one_owner else []
            candidates = [one for one in candidates if not one.questions] or candidates
            if not candidates and self.one_owner and self.roots and message.method == eras.ROOTS:
                # Many ask for the client's directories once they are opened: the next request is asked.
                before, self._asks_next = self._asks_next, message
                if before is not None:
                    self._ask(before, [])
                return
        self._ask(message, candidates)

    def _ask(self, message: Message, candidates: list[Exchange]) -> None:
        """Hand a question to the first of these calls whose client can be asked that, else answer it."""
        wanted = eras.asked_by(message.method, message.members.get("params"))
        for exchange in candidates:
            if wanted in exchange.outgoing.asks and exchange.question(message):
                for one in candidates:  # it may be any of them that waits for the answer
                    one.deadline = max(one.deadline, self._loop.time() + ASKED_S)
                return
        if len(candidates) == 1:
            candidates[0].refused = wanted
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

    def _told(self, message: Message) -> None:
        """A question that the server takes back ends where it was asked; its id means nothing elsewhere."""
        if message.method != CANCELLED:
            super()._told(message)
            return
        params = message.inner("params")
        raw_id = bytes(params.get("requestId", b""))
        if self._asks_next is not None and self._asks_next.id == raw_id:
            self._asks_next = None
        for exchange in self._pending.values():
            if raw_id in exchange.questions:
                exchange.take_reply(raw_id)
                exchange.event(message)

    def _logged(self, message: Message, origin: int) -> None:
        """Over HTTP the stream says whose log it is; else it is that of the one call in flight."""
        exchange = self._pending.get(origin)
        if exchange is None and self.one_owner and len(self._pending) == 1:
            (exchange,) = self._pending.values()
        if exchange is not None and exchange.outgoing.wants_log:
            exchange.event(message)
        elif self.one_owner:
            self._on_notification(message)
