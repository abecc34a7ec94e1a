"""The ASGI door of the data plane: `/mcp`, `/mcp/{server}`, `/mcp/@{group}` for clients of both eras.

Keeps the rules of Streamable HTTP and hands each request to `relay`; who calls and what a message
means is read by `intake`. Modern requests are stateless; `initialize` opens a legacy session.
Sources: MCP 2025-11-25 transports, 2026-07-28 streamable-http.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.errors import HubError, LimitExceeded, NotFound
from mcphub.gateway import intake, streams
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.http import CONNECTION, Receive, Reply, Scope, Send, claim
from mcphub.gateway.intake import Inbound
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.relay import Cancelled, relay
from mcphub.gateway.replies import error_reply, status_of
from mcphub.wire import envelope, eras
from mcphub.wire.envelope import Malformed, Message

_NO_STREAM: Final = (
    b"This endpoint answers POST; GET needs Accept: text/event-stream and Mcp-Session-Id.\n"
)


class McpEndpoint:
    """One ASGI application for all MCP endpoints of the hub."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        target: Target,
        headers: Mapping[str, str],
    ) -> None:
        """Serve one HTTP request to `target`; `headers` come from `http.read_headers`."""
        request_id = self._plane.ids.new()
        headers_out = [(b"x-mcphub-request-id", request_id.encode())]
        reply = Reply(send, receive, self._plane.tasks, headers_out, scope.get(CONNECTION))
        principal = intake.authenticated(self._plane, headers)
        if principal is None:
            await intake.unauthenticated(reply)
            return
        try:
            claim(self._plane.crowd, scope, principal.user_id)
        except LimitExceeded as error:
            await intake.turned_away(reply, error)
            return
        session_id = headers.get("mcp-session-id", "")
        inbound = Inbound(principal, target, target.path, session_id, headers, request_id, reply)
        method = scope["method"]
        if method == "POST":
            await self._post(inbound, receive)
        elif method == "GET":
            await self._get(inbound)
        elif method == "DELETE":
            await self._delete(inbound)
        else:
            await reply.plain(405, b"", [(b"allow", b"GET, POST, DELETE")])

    def _caller(self, headers: Mapping[str, str]) -> streams.Caller:
        return lambda: intake.authenticated(self._plane, headers)

    async def _post(self, inbound: Inbound, receive: Receive) -> None:
        body = await intake.body_of(self._plane, inbound, receive)
        if body is None:
            return
        inbound, message, size = body
        if isinstance(message, Message):
            await self._message(inbound, message, size)
        else:
            await self._batch(inbound, message)

    async def _message(self, inbound: Inbound, message: Message, size: int) -> None:
        reply = inbound.reply
        try:
            call = intake.call_of(self._plane, inbound, message, size)
        except (eras.Refused, HubError) as error:
            await reply.finish(*intake.refusal(message.id, error))
            return
        if not message.is_request:
            intake.one_way(call)
            await reply.plain(202)
        elif message.method == "subscriptions/listen" and call.modern is not None:
            await streams.listen(self._plane, call, reply, self._caller(inbound.headers))
        elif message.method == "initialize":
            await self._initialize(reply, call)
        else:
            await self._answer(reply, call)

    async def _answer(self, reply: Reply, call: Call) -> None:
        try:
            answer = await relay(self._plane, call)
        except Cancelled:
            return
        await reply.finish(answer, *status_of(call))

    async def _initialize(self, reply: Reply, call: Call) -> None:
        answer = await relay(self._plane, call)
        opening = intake.opened(call, answer)
        if opening is not None:
            version, client, capabilities = opening
            try:
                session = self._plane.sessions.open(
                    call.principal, call.target.path, version, client
                )
            except HubError as error:
                call.refused = error
                answer = error_reply(call.message.id, error)
                await reply.finish(answer, *status_of(call))
                return
            session.declare(capabilities)
            reply.add_header(b"mcp-session-id", session.id.encode())
        await reply.finish(answer, *status_of(call))

    async def _batch(self, inbound: Inbound, batch: list[msgspec.Raw]) -> None:
        """Answer a batch: only inside a 2025-03-26 session, each message as if it came alone."""
        try:
            calls = intake.batch_of(self._plane, inbound, batch)
        except Malformed as error:
            await inbound.reply.finish(envelope.error(b"", error.code, error.reason), 400)
            return
        except (eras.Refused, HubError) as error:
            await inbound.reply.finish(*intake.refusal(b"", error))
            return
        for call in calls:
            if not call.message.is_request:
                intake.one_way(call)
        answers = await asyncio.gather(
            *(relay(self._plane, call) for call in calls if call.message.is_request)
        )
        if answers:
            await inbound.reply.finish(envelope.array(list(map(bytes, answers))))
        else:
            await inbound.reply.plain(202)

    async def _get(self, inbound: Inbound) -> None:
        try:
            session = intake.session_of(self._plane, inbound)
        except NotFound as error:
            await inbound.reply.finish(*intake.refusal(b"", error))
            return
        if session is None or "text/event-stream" not in inbound.headers.get("accept", ""):
            headers = [(b"allow", b"POST"), (b"content-type", b"text/plain")]
            await inbound.reply.plain(405, _NO_STREAM, headers)
            return
        await streams.session_stream(
            self._plane,
            session,
            self._caller(inbound.headers),
            inbound.target,
            inbound.reply,
        )

    async def _delete(self, inbound: Inbound) -> None:
        try:
            session = intake.session_of(self._plane, inbound)
        except NotFound as error:
            await inbound.reply.finish(*intake.refusal(b"", error))
            return
        if session is None:
            await intake.refuse(inbound.reply, 400, "Header Mcp-Session-Id is missing.")
            return
        self._plane.sessions.end(session)
        await inbound.reply.plain(204)
