"""A server of the modern era: no session, everything about the client in each request.

For a caller of the modern era results pass as they are. For one of the legacy era, `input_required`
becomes questions, one by one, in a call that seems open all the while; when all are answered the
request is sent again, under a new id, with the answers. What a server says outside of calls arrives
on one `subscriptions/listen` of this connection.
Source: MCP 2026-07-28 basic, server/discover, patterns/mrtr, patterns/subscriptions, cancellation.
"""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.errors import HubError, UpstreamFailed
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.lines import NO_HEADERS
from mcphub.upstream.listening import Listening
from mcphub.upstream.outgoing import Outgoing
from mcphub.upstream.upstream import ASKED_S, CLIENT_INFO, OpeningRefused, Upstream, number
from mcphub.wire import envelope, eras, translate
from mcphub.wire.codes import (
    DISCOVER,
    INVALID_PARAMS,
    META_SUBSCRIPTION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
    Era,
)
from mcphub.wire.envelope import Members, Message
from mcphub.wire.pieces import Raw
from mcphub.wire.splicing import PlainResult

MAX_ROUNDS: Final = 16
"""How often a server may ask in one call of a legacy client before the call is ended."""
_REFUSALS: Final = frozenset({METHOD_NOT_FOUND, INVALID_PARAMS})
_CANCEL_REASON: Final = b'"The caller cancelled."'
_DECLINED: Final = msgspec.Raw(b'{"action":"decline"}')
_CANCELLED: Final = msgspec.Raw(b'{"action":"cancel"}')


class _Round:
    """The questions of one `input_required` result, while a legacy client answers them."""

    __slots__ = ("answers", "keys", "number", "state")

    def __init__(self, order: int, state: Raw | None) -> None:
        self.number = order
        self.state = state
        self.keys: dict[bytes, tuple[str, str]] = {}
        self.answers: Members = {}


class ModernUpstream(Upstream):
    """The connection to one modern server. See `Upstream`."""

    era = Era.MODERN

    # made at first use: most servers never ask, never tell
    _rounds: dict[int, _Round] | None = None
    _listening: Listening | None = None
    _again: set[asyncio.Task[None]] | None = None

    async def open(self, timeout_s: float) -> bytes:
        """Ask the server what it is (server/discover), and listen to it where it has things to tell."""
        exchange = await self.send(Outgoing(DISCOVER, timeout_s), {})
        return self.take_opening(await self._opened(exchange))

    def take_opening(self, discovered: Raw) -> bytes:
        """Take a DiscoverResult; as `open` does.

        Raises:
            OpeningRefused: It speaks no revision that we know.
        """
        supported = envelope.object_of(discovered).get("supportedVersions")
        versions = [envelope.text(raw) for raw in envelope.array_of(supported)]
        if not set(versions) & set(MODERN_VERSIONS):
            raise OpeningRefused(
                f"Server '{self.name}' speaks the protocol versions {', '.join(versions)[:200]}, "
                "which the hub does not know.",
                number=UNSUPPORTED_VERSION,
            )
        self.opening = translate.opening_of(discovered)
        self._listening = Listening(self, self.opening)
        self._listening.start()
        return self.opening

    def reply(self, raw_id: bytes, members: Members) -> None:
        """Take a legacy client's answer; with the last one of a round the request is sent again."""
        for exchange in list(self._pending.values()):
            if raw_id in exchange.questions:
                exchange.take_reply(raw_id)
                self._take_reply(exchange, raw_id, members)
                return

    def cancel(self, exchange: Exchange) -> None:
        """Give up a call: HTTP by closing its stream, stdio by a notification."""
        if self._pending.pop(exchange.upstream_id, None) is None:
            return
        if self._rounds is not None:
            self._rounds.pop(exchange.upstream_id, None)
        if not exchange.questions:  # else nothing of it is at the server
            self.tell_cancelled(exchange.upstream_id)

    def tell_cancelled(self, upstream_id: int) -> None:
        """Tell the server that a request is given up."""
        if not self._pipe.abandon(upstream_id):
            body = b'{"requestId":%d,"reason":%b}' % (upstream_id, _CANCEL_REASON)
            self._notify("notifications/cancelled", body)

    async def subscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource: it joins what this connection listens to."""
        if self._listening is not None and await self._listening.add(uri, timeout_s):
            return {"result": msgspec.Raw(b"{}")}
        error = {
            "code": METHOD_NOT_FOUND,
            "message": "The server tells no updates of this resource.",
        }
        return {"error": envelope.raw(error)}

    async def unsubscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource no longer."""
        if self._listening is not None:
            await self._listening.remove(uri, timeout_s)
        return {"result": msgspec.Raw(b"{}")}

    def fail_all(self, error: Exception) -> None:
        """Fail every call in flight, and every later one, with `error`."""
        super().fail_all(error)
        if self._listening is not None:
            self._listening.stop()

    def close(self) -> None:
        """Stop using the pipes. Idempotent."""
        if self._listening is not None:
            self._listening.stop()
        super().close()

    # ------------------------------------------------------------------ the wire

    def write_listen(self, upstream_id: int, params: Members) -> None:
        """Send a `subscriptions/listen`, which is no call: nobody waits for its end.

        Raises:
            BrokenPipeError: The other side is gone.
        """
        body = translate.for_modern_server(params, capabilities=b"{}", client_info=CLIENT_INFO)
        line = envelope.request(upstream_id, Listening.METHOD, body)
        self._pipe.write(line, translate.routing_headers(Listening.METHOD, params))

    def next_id(self) -> int:
        """Return an id for a request (rule R2)."""
        return self._next_id()

    def _onward(self, outgoing: Outgoing, params: Members) -> Members:
        return translate.onward_to_modern(params, outgoing.rename, from_legacy=outgoing.one_by_one)

    def _as_written(
        self, exchange: Exchange, onward: Members, meta: Members, headers: Mapping[str, str]
    ) -> tuple[Members, Mapping[str, str]]:
        outgoing = exchange.outgoing
        body = translate.for_modern_server(
            onward,
            capabilities=outgoing.capabilities,
            client_info=CLIENT_INFO,
            log_level=outgoing.log_level,
            progress_id=exchange.upstream_id if outgoing.progress_token else None,
            meta=meta,
        )
        if not self._pipe.has_headers:
            return body, NO_HEADERS
        return body, {**headers, **translate.routing_headers(outgoing.method, onward)}

    def _ends(self, exchange: Exchange, plain: PlainResult) -> bool:
        """Only a complete result of a call that asks nothing, and never did."""
        asked = bool(self._rounds) and exchange.upstream_id in self._rounds
        return not asked and not exchange.questions and plain.told.is_complete

    def _answered(self, message: Message) -> None:
        upstream_id = number(message.id)
        exchange = self._pending.get(upstream_id)
        if exchange is None:
            if self._listening is not None:
                error = message.inner("error")
                refused = bool(error) and translate.code_of(error) in _REFUSALS
                self._listening.ended(upstream_id, refused=refused)
        elif exchange.questions:
            return  # a second answer, while its client is being asked
        elif exchange.outgoing.one_by_one and _asks(message):
            self._ask(exchange, message)
        else:
            del self._pending[upstream_id]
            if self._rounds is not None:
                self._rounds.pop(upstream_id, None)
            exchange.finish(message)

    def _asked(self, message: Message, origin: int) -> None:  # noqa: ARG002
        """Modern servers send no requests; one that does gets an error instead of silence."""
        if self._pipe.congested:
            return
        text = "Requests from servers do not exist in this protocol version."
        try:
            self._pipe.write(envelope.error(message.id, METHOD_NOT_FOUND, text))
        except BrokenPipeError:
            return

    def _logged(self, message: Message, origin: int) -> None:
        """To the request that asked for it; over stdio nothing says which, so only to the only one."""
        exchange = self._pending.get(origin)
        if exchange is None and self.one_owner:
            wanting = [one for one in self._pending.values() if one.outgoing.log_level]
            exchange = wanting[0] if len(wanting) == 1 else None
        if exchange is not None and exchange.outgoing.wants_log:
            exchange.event(message)

    def _told(self, message: Message) -> None:
        """Take a notification of the subscription, without the id that it has on this side."""
        params = message.inner("params")
        meta = message.inner("params", "_meta")
        mark = meta.pop(META_SUBSCRIPTION, None)
        if self._listening is not None and self._listening.took(message, mark, params):
            return
        if mark is not None:
            params["_meta"] = envelope.object_raw(meta)
            if not meta:
                del params["_meta"]
            message.members["params"] = envelope.object_raw(params)
        self._on_notification(message)

    # ------------------------------------------------------------------ questions for legacy clients

    def _ask(self, exchange: Exchange, message: Message) -> None:
        """Turn an `input_required` result into questions of the open call."""
        rounds = self._rounds = self._rounds if self._rounds is not None else {}
        before = rounds.pop(exchange.upstream_id, None)
        state = message.inner("result").get("requestState")
        now = _Round(before.number + 1 if before is not None else 1, state)
        requests = message.inner("result", "inputRequests")
        if now.number > MAX_ROUNDS or not (requests or now.state is not None):
            self._give_up(
                exchange, "asked its client again and again" if requests else "asked nothing"
            )
            return
        rounds[exchange.upstream_id] = now
        for key, raw in requests.items():
            self._ask_one(exchange, now, key, raw)
            if exchange.done:
                return
        exchange.deadline = max(exchange.deadline, self._loop.time() + ASKED_S)
        if not exchange.questions:
            self._retry(exchange, now)

    def _ask_one(self, exchange: Exchange, now: _Round, key: str, raw: Raw) -> None:
        question_id = bytes(envelope.raw(f"ask-{secrets.token_hex(8)}"))
        members = translate.question_for_legacy(raw, question_id[1:-1].decode())
        members["id"] = msgspec.Raw(question_id)
        method = envelope.text(members.get("method"))
        if eras.asked_by(method, members.get("params")) in exchange.outgoing.asks:
            now.keys[question_id] = (key, method)
            if exchange.question(Message(members, question_id, method)):
                return
        if method == eras.ELICIT:
            now.answers[key] = _DECLINED
        else:
            self._give_up(exchange, f"asked for {method[:64]}, which the client cannot be asked")

    def _take_reply(self, exchange: Exchange, raw_id: bytes, members: Members) -> None:
        now = (self._rounds or {}).get(exchange.upstream_id)
        if now is None or raw_id not in now.keys:
            return
        key, method = now.keys.pop(raw_id)
        if "result" in members:
            now.answers[key] = members["result"]
        elif method == eras.ELICIT:
            now.answers[key] = _CANCELLED
        else:
            text = envelope.text(envelope.object_of(members.get("error")).get("message"))
            self._give_up(exchange, f"asked for {method}, which the client refused: {text[:200]}")
            return
        if not exchange.questions:
            self._retry(exchange, now)

    def _retry(self, exchange: Exchange, now: _Round) -> None:
        """Send the request again, with a new id, the answers and the state as it came."""
        params = dict(exchange.params)
        params.pop("requestState", None)
        params["inputResponses"] = envelope.object_raw(now.answers)
        if now.state is not None:
            params["requestState"] = now.state
        self._forget(exchange)
        exchange.upstream_id = self._next_id()
        exchange.deadline = self._loop.time() + exchange.outgoing.timeout_s
        if self._rounds is not None:
            self._rounds[exchange.upstream_id] = now
        if self._is_ready(exchange.outgoing, params):
            self._write_again(exchange, params)
            return
        self._pending[exchange.upstream_id] = exchange  # so that it can be cancelled meanwhile
        again = self._again = self._again if self._again is not None else set()
        task = self._loop.create_task(self._prepare_again(exchange, params))
        again.add(task)
        task.add_done_callback(again.discard)

    async def _prepare_again(self, exchange: Exchange, params: Members) -> None:
        try:
            await self.ready(exchange.outgoing, params)
        except HubError as error:
            self._forget(exchange)
            exchange.fail(error)
        else:
            if self._pending.get(exchange.upstream_id) is exchange:
                self._write_again(exchange, params)

    def _write_again(self, exchange: Exchange, params: Members) -> None:
        try:
            self._write(exchange, params)
        except HubError as error:
            exchange.fail(error)

    def _give_up(self, exchange: Exchange, why: str) -> None:
        self._forget(exchange)
        exchange.questions = frozenset()
        exchange.fail(UpstreamFailed(f"Server '{self.name}' {why}."))

    def _forget(self, exchange: Exchange) -> None:
        super()._forget(exchange)
        if self._rounds is not None:
            self._rounds.pop(exchange.upstream_id, None)


def _asks(message: Message) -> bool:
    return translate.result_type(message.inner("result")) == translate.INPUT_REQUIRED
