"""The old HTTP+SSE transport, for clients that know nothing newer: `/sse`, `/sse/{server}`, `/sse/@{group}`.

A client opens one event stream, whose first event says where it posts its messages: at the same path,
with the id of its session. Every answer comes on the stream. The session lives as long as the stream,
is found by its own user only, and is none of Streamable HTTP's. Off unless `listen.sse` is set.
Source: MCP 2024-11-05 transports §HTTP with SSE (deprecated since 2025-03-26).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

import msgspec

from mcphub.errors import HubError, LimitExceeded, NotFound
from mcphub.gateway import intake, streams
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.http import CONNECTION, Receive, Reply, Scope, Send, claim
from mcphub.gateway.intake import Inbound
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.relay import Cancelled, relay
from mcphub.gateway.replies import error_reply, overload_of
from mcphub.gateway.sessions import Session
from mcphub.wire import envelope, eras, sse
from mcphub.wire.envelope import Malformed, Message
from mcphub.wire.pieces import Text

_FIRST_VERSION: Final = "2024-11-05"
_HOW: Final = (
    b"This endpoint speaks the old HTTP+SSE transport: open it with GET and "
    b"Accept: text/event-stream. Streamable HTTP is at /mcp.\n"
)


_FULL: Final = error_reply(
    b"",
    LimitExceeded(
        "You have as many calls as you may whose answers are not read.", hint="Read the stream."
    ),
)


class SseEndpoint:
    """One ASGI application for all endpoints of the old transport."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._streams: dict[str, Reply] = {}
        self._posts: Counter[str] = Counter()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, target: Target, headers: Mapping[str, str]
    ) -> None:
        """Serve one HTTP request to `target`; `headers` come from `http.read_headers`."""
        request_id = self._plane.ids.new()
        reply = Reply(
            send,
            receive,
            self._plane.tasks,
            [(b"x-mcphub-request-id", request_id.encode())],
            scope.get(CONNECTION),
        )
        principal = intake.authenticated(self._plane, headers)
        if principal is None:
            await intake.unauthenticated(reply)
            return
        try:
            claim(self._plane.crowd, scope, principal.user_id)
        except LimitExceeded as error:
            await intake.turned_away(reply, error)
            return
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_id", [""])
        path = target.path.replace("/mcp", "/sse", 1)
        inbound = Inbound(principal, target, path, given[-1], headers, request_id, reply)
        if scope["method"] == "GET" and "text/event-stream" in headers.get("accept", ""):
            await self._stream(inbound)
        elif scope["method"] == "POST" and inbound.session_id:
            await self._post(inbound, receive)
        else:
            more = [(b"allow", b"GET"), (b"content-type", b"text/plain")]
            await reply.plain(405, _HOW, more)

    async def _stream(self, inbound: Inbound) -> None:
        """Open a session and its stream; both end together."""
        sessions = self._plane.sessions
        try:
            # as any endpoint does, it says first whether there is such a server for the caller
            if inbound.target.server:
                self._plane.access.permit(inbound.principal, inbound.target.server)
            session = sessions.open(inbound.principal, inbound.path, _FIRST_VERSION, "")
        except NotFound as error:
            await inbound.reply.finish(error_reply(b"", error), 404)
            return
        except HubError as error:
            status, headers = overload_of(error) or (403, [])
            await inbound.reply.finish(error_reply(b"", error), status, headers)
            return
        self._streams[session.id] = inbound.reply
        try:
            where = f"{inbound.path}?session_id={session.id}"
            await inbound.reply.event(sse.named("endpoint", where.encode()))
            await streams.session_stream(
                self._plane,
                session,
                lambda: intake.authenticated(self._plane, inbound.headers),
                inbound.target,
                inbound.reply,
            )
        finally:
            del self._streams[session.id]
            sessions.end(session)

    async def _post(self, inbound: Inbound, receive: Receive) -> None:
        try:
            session = intake.session_of(self._plane, inbound)
            out = self._streams[session.id] if session is not None else inbound.reply
        except (NotFound, KeyError):
            error = NotFound("There is no such session.", hint="Open the stream again.")
            await inbound.reply.finish(error_reply(b"", error), 404)
            return
        body = await intake.body_of(self._plane, inbound, receive)
        if body is None or session is None:
            return
        user_id = session.user_id
        if self._posts[user_id] >= self._plane.limits.calls_per_user:
            # the calls may have ended long ago: their answers wait for a stream that is not read
            await inbound.reply.finish(_FULL, 429, [(b"retry-after", b"1")])
            return
        self._posts[user_id] += 1
        try:
            inbound, message, size = body
            await self._take(inbound, session, out, message, size)
        finally:
            self._posts[user_id] -= 1
            if not self._posts[user_id]:
                del self._posts[user_id]

    async def _take(
        self,
        inbound: Inbound,
        session: Session,
        out: Reply,
        message: Message | list[msgspec.Raw],
        size: int,
    ) -> None:
        """Take what one POST holds; returns when all of it is answered on the stream."""
        try:
            if isinstance(message, Message):
                calls = [intake.call_of(self._plane, inbound, message, size, out=out)]
            else:
                calls = intake.batch_of(self._plane, inbound, message, out=out)
        except Malformed as error:
            await inbound.reply.finish(envelope.error(b"", error.code, error.reason), 400)
            return
        except (eras.Refused, HubError) as error:
            raw_id = message.id if isinstance(message, Message) else b""
            refused, status = intake.refusal(raw_id, error)
            if raw_id:
                await inbound.reply.plain(202)
                await out.emit(refused)
            else:
                await inbound.reply.finish(refused, status)
            return
        await inbound.reply.plain(202)
        await self._answer(session, calls, out, batch=not isinstance(message, Message))

    async def _answer(
        self, session: Session, calls: list[Call], out: Reply, *, batch: bool
    ) -> None:
        """Run the calls of one POST and send what they give on the session's stream."""
        for call in calls:
            if not call.message.is_request:
                intake.one_way(call)
        answers = await asyncio.gather(
            *(self._one(session, call) for call in calls if call.message.is_request)
        )
        raws = [answer for answer in answers if answer]
        if batch and raws:
            await out.emit(envelope.array(list(map(bytes, raws))))
        elif raws:
            await out.emit(raws[0])

    async def _one(self, session: Session, call: Call) -> Text:
        try:
            answer = await relay(self._plane, call)
        except Cancelled:
            return b""
        if call.method == "initialize" and (opening := intake.opened(call, answer)) is not None:
            session.version, session.client, capabilities = opening
            session.declare(capabilities)
        return answer
