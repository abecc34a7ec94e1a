"""The ASGI door of the data plane: `/mcp`, `/mcp/{server}`, `/mcp/@{group}` for clients of both eras.

Authenticates once, tells the eras apart, keeps the rules of Streamable HTTP, and hands each request
to `relay`. Modern requests are stateless; `initialize` opens a legacy session. Sources: MCP
2025-11-25 transports, 2026-07-28 streamable-http, versioning (requirements of both).
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from mcphub.errors import HubError, NotFound
from mcphub.gateway import asking, streams
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.http import (
    Disconnected,
    Receive,
    Reply,
    Scope,
    Send,
    TooLarge,
    read_body,
)
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.relay import Cancelled, relay
from mcphub.gateway.replies import Protocol, error_reply
from mcphub.gateway.sessions import Session
from mcphub.policy.model import Principal
from mcphub.wire import codes, envelope, eras, translate
from mcphub.wire.envelope import Malformed, Message

_TRACE: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")
_MAX_BATCH: Final = 64
_NO_STREAM: Final = (
    b"This endpoint answers POST; GET needs Accept: text/event-stream and Mcp-Session-Id.\n"
)


@dataclass(frozen=True, slots=True)
class _Inbound:
    """One HTTP request of an authenticated caller."""

    principal: Principal
    target: Target
    headers: dict[str, str]
    request_id: str
    reply: Reply


class McpEndpoint:
    """One ASGI application for all MCP endpoints of the hub."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, target: Target, headers: dict[str, str]
    ) -> None:
        """Serve one HTTP request to `target`; `headers` come from `http.read_headers`."""
        request_id = self._plane.ids.new()
        headers_out = [(b"x-mcphub-request-id", request_id.encode())]
        reply = Reply(send, receive, self._plane.tasks, headers_out)
        principal = self._authenticate(headers)
        if principal is None:
            await self._unauthenticated(reply)
            return
        inbound = _Inbound(principal, target, headers, request_id, reply)
        method = scope["method"]
        if method == "POST":
            await self._post(inbound, receive)
        elif method == "GET":
            await self._get(inbound)
        elif method == "DELETE":
            await self._delete(inbound)
        else:
            await reply.plain(405, b"", [(b"allow", b"GET, POST, DELETE")])

    def _authenticate(self, headers: dict[str, str]) -> Principal | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        principal = self._plane.access.authenticate(bearer.strip())
        if principal is not None:
            self._plane.seen_keys[principal.key_id] = self._plane.clock()
        return principal

    def _alive(self, headers: dict[str, str]) -> Callable[[], bool]:
        return lambda: self._authenticate(headers) is not None

    async def _unauthenticated(self, reply: Reply) -> None:
        body = envelope.error(
            b"",
            codes.HUB_DENIED,
            "An API key is needed: send Authorization: Bearer mcphub_… (an administrator makes one with "
            "`mcphub key create`). This one is missing, unknown, expired or revoked.",
            {"code": "unauthenticated"},
        )
        await reply.plain(
            401,
            body,
            [
                (b"www-authenticate", b'Bearer realm="mcphub"'),
                (b"content-type", b"application/json"),
            ],
        )

    async def _post(self, inbound: _Inbound, receive: Receive) -> None:
        reply, headers = inbound.reply, inbound.headers
        try:
            body = await read_body(
                receive, headers.get("content-length", ""), self._plane.limits.body_bytes
            )
            if (
                headers.get("content-type", "").partition(";")[0].strip().lower()
                != "application/json"
            ):
                await self._error(reply, b"", 415, "The body must be application/json.")
                return
            batch = envelope.split_batch(body)
            if batch is not None:
                await self._batch(inbound, batch)
                return
            message = envelope.parse(body)
        except TooLarge:
            await self._error(
                reply, b"", 413, f"The body is over {self._plane.limits.body_bytes} bytes."
            )
        except Malformed as error:
            await reply.finish(envelope.error(b"", error.code, error.reason), 400)
        except Disconnected:
            await self._error(reply, b"", 408, "The body did not arrive.")
        else:
            await self._message(inbound, message, len(body))

    async def _message(self, inbound: _Inbound, message: Message, size: int) -> None:
        reply = inbound.reply
        try:
            call = self._call(inbound, inbound.request_id, message, size)
        except (eras.Refused, HubError) as error:
            await _refuse(reply, message.id, error)
        else:
            if not message.is_request:
                self._one_way(call)
                await reply.plain(202)
            elif message.method == "subscriptions/listen" and call.modern is not None:
                await streams.listen(self._plane, call, reply, self._alive(inbound.headers))
            elif message.method == "initialize":
                await self._initialize(reply, call)
            else:
                await self._answer(reply, call)

    async def _answer(self, reply: Reply, call: Call) -> None:
        try:
            answer = await relay(self._plane, call)
        except Cancelled:
            return
        await reply.finish(answer, _status(call, answer))

    async def _initialize(self, reply: Reply, call: Call) -> None:
        answer = await relay(self._plane, call)
        result = envelope.object_of(envelope.object_of(answer).get("result"))
        if result:
            client = eras.client_name(call.params.get("clientInfo"))[:128]
            version = envelope.text(result.get("protocolVersion"))
            try:
                session = self._plane.sessions.open(
                    call.principal, call.target.path, version, client
                )
            except HubError as error:
                await reply.finish(error_reply(call.message.id, error), 503)
                return
            declared = envelope.object_of(call.params.get("capabilities"))
            session.capabilities = translate.capabilities_for_modern(version, declared)
            session.asks = eras.questions_for(envelope.object_of(session.capabilities))
            reply.add_header(b"mcp-session-id", session.id.encode())
        await reply.finish(answer)

    async def _batch(self, inbound: _Inbound, batch: list[msgspec.Raw]) -> None:
        """Answer a batch: only inside a 2025-03-26 session, each message as if it came alone."""
        try:
            calls = self._batch_calls(inbound, batch)
        except (eras.Refused, HubError) as error:
            await _refuse(inbound.reply, b"", error)
            return
        for call in calls:
            if not call.message.is_request:
                self._one_way(call)
        answers = await asyncio.gather(
            *(relay(self._plane, call) for call in calls if call.message.is_request)
        )
        if answers:
            await inbound.reply.finish(envelope.array(list(answers)))
        else:
            await inbound.reply.plain(202)

    def _batch_calls(self, inbound: _Inbound, batch: list[msgspec.Raw]) -> list[Call]:
        """Read the messages of a batch.

        Raises:
            Malformed, eras.Refused, HubError: One of them breaks the rules; then none is answered.
        """
        session = self._session(inbound)
        if (
            session is None
            or session.version != codes.BATCH_VERSION
            or not batch
            or len(batch) > _MAX_BATCH
        ):
            raise Protocol(
                codes.INVALID_REQUEST,
                f"Batches of 1 to {_MAX_BATCH} messages exist in sessions of protocol version "
                f"{codes.BATCH_VERSION} only.",
            )
        messages = [envelope.parse(raw) for raw in batch]
        if any(message.method == "initialize" for message in messages):
            raise Protocol(codes.INVALID_REQUEST, "initialize is not part of a batch.")
        calls = [
            self._call(inbound, f"{inbound.request_id}.{index}", message, len(batch[index]))
            for index, message in enumerate(messages)
        ]
        if any(call.modern is not None for call in calls):
            raise Protocol(
                codes.INVALID_REQUEST, "A request of the modern era is not part of a batch."
            )
        return calls

    async def _get(self, inbound: _Inbound) -> None:
        try:
            session = self._session(inbound)
        except NotFound as error:
            await inbound.reply.finish(error_reply(b"", error), 404)
            return
        if session is None or "text/event-stream" not in inbound.headers.get("accept", ""):
            headers = [(b"allow", b"POST"), (b"content-type", b"text/plain")]
            await inbound.reply.plain(405, _NO_STREAM, headers)
            return
        await streams.session_stream(
            self._plane,
            session,
            inbound.principal,
            inbound.target,
            inbound.reply,
            self._alive(inbound.headers),
        )

    async def _delete(self, inbound: _Inbound) -> None:
        try:
            session = self._session(inbound)
        except NotFound as error:
            await inbound.reply.finish(error_reply(b"", error), 404)
            return
        if session is None:
            await self._error(inbound.reply, b"", 400, "Header Mcp-Session-Id is missing.")
            return
        self._plane.sessions.end(session)
        await inbound.reply.plain(204)

    def _session(self, inbound: _Inbound) -> Session | None:
        given = inbound.headers.get("mcp-session-id")
        if not given:
            return None
        return self._plane.sessions.find(inbound.principal, inbound.target.path, given)

    def _call(self, inbound: _Inbound, request_id: str, message: Message, size: int) -> Call:
        """Read era, session and hop-owned data of one message.

        Raises:
            eras.Refused, HubError: The message breaks the rules of its era.
        """
        headers = inbound.headers
        params = envelope.object_of(message.members.get("params"))
        meta = envelope.object_of(params["_meta"]) if "_meta" in params else {}
        modern, session = None, None
        token = bytes(meta["progressToken"]) if "progressToken" in meta else b""
        version = headers.get("mcp-protocol-version", "")
        if _is_modern(message, params, meta, version):
            modern = eras.read_modern(message.method, params, headers)
        elif message.method != "initialize":
            session = self._legacy_session(inbound, version)
            if message.is_request and message.id in session.calls:
                raise Protocol(codes.INVALID_REQUEST, "A request with this id is still in flight.")
        trace = _TRACE.match(
            envelope.text(meta.get("traceparent")) or headers.get("traceparent", "")
        )
        return Call(
            request_id=request_id,
            principal=inbound.principal,
            target=inbound.target,
            message=message,
            params=params,
            progress_token=token,
            modern=modern,
            session=session,
            emit=inbound.reply.emit,
            watch=inbound.reply.watch,
            bytes_in=size,
            trace_id=trace[1] if trace is not None else "",
        )

    def _legacy_session(self, inbound: _Inbound, version: str) -> Session:
        if version and version not in codes.LEGACY_VERSIONS:
            raise Protocol(
                codes.UNSUPPORTED_VERSION,
                f"Protocol version {version[:40]} is not supported.",
                {
                    "supported": [*codes.MODERN_VERSIONS, *codes.LEGACY_VERSIONS],
                    "requested": version[:40],
                },
            )
        session = self._session(inbound)
        if session is None:
            raise Protocol(
                codes.INVALID_REQUEST, "Header Mcp-Session-Id is missing: initialize first."
            )
        return session

    def _one_way(self, call: Call) -> None:
        """Take a notification or a response of the client."""
        if not call.message.method:
            if call.session is not None:
                asking.take_answer(call.session, call.message)
            return
        if call.message.method != "notifications/cancelled" or call.session is None:
            return
        found = call.session.calls.get(bytes(call.params.get("requestId", b"")))
        if found is not None:
            instance, exchange = found
            instance.upstream.cancel(exchange)
            exchange.fail(Cancelled("The client cancelled the request."))

    async def _error(self, reply: Reply, raw_id: bytes, status: int, text: str) -> None:
        await reply.finish(envelope.error(raw_id, codes.INVALID_REQUEST, text), status)


async def _refuse(reply: Reply, raw_id: bytes, error: eras.Refused | HubError) -> None:
    """Answer a message that breaks the rules of its era or names a session that is not there."""
    if isinstance(error, eras.Refused):
        body = envelope.error(raw_id, error.code, error.reason, error.data)
        await reply.finish(body, codes.MODERN_HTTP_STATUS.get(error.code, 400))
    else:
        await reply.finish(error_reply(raw_id, error), 404 if isinstance(error, NotFound) else 400)


def _is_modern(
    message: Message, params: envelope.Members, meta: envelope.Members, version: str
) -> bool:
    """Tell the eras apart: a real `initialize` is legacy whatever its headers say (sloppy openings)."""
    if message.method == "initialize" and "protocolVersion" in params:
        return False
    return (
        codes.META_VERSION in meta
        or version in codes.MODERN_VERSIONS
        or message.method == "server/discover"
    )


def _status(call: Call, answer: bytes) -> int:
    """Return the HTTP status of a JSON answer: modern errors have their own, legacy ones are 200."""
    if call.modern is None or b'"error"' not in answer:
        return 200
    error = envelope.object_of(envelope.object_of(answer).get("error"))
    raw_code = bytes(error.get("code", b"0"))
    try:
        return codes.MODERN_HTTP_STATUS.get(int(raw_code), 200)
    except ValueError:
        return 200
