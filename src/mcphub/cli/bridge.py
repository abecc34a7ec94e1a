"""The stdio bridge: JSON-RPC lines of one client <-> Streamable HTTP of the hub, in either era.

Messages are relayed as bytes. Legacy requests (up to 2025-11-25) ride on one session that is opened
anew when the hub has forgotten it; modern requests (2026-07-28) get the headers that repeat their
body. Era is decided per message, because clients probe `server/discover` and then `initialize`.
Below: `cli.http1`; above: `cli.connect`, which owns stdin, stdout and the key.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mcphub.cli.http1 import Broken, Client, Reply
from mcphub.cli.messages import (
    Message,
    NotJson,
    RpcId,
    SseReader,
    answered_ids,
    error_line,
    one_line,
)

_ANSWER_LIMIT = 64 * 1024 * 1024
_NOTIFY_S = 10.0
_HEAD_S = 900.0  # beyond the hub's hard maximum of a call
_FINISH_S = 10.0
_GOODBYE_S = 1.5
_FLIGHTS = 256
_STATE_CALLS = 256
_RECONNECT_S = (0.2, 0.4, 0.8, 1.6)
_LISTEN_MAX_S = 30.0

# JSON-RPC numbers of this face; outside the range that the protocol reserves.
_UNREACHABLE = -31001
_REFUSED = -31002
_BROKEN = -31003

Write = Callable[[bytes], Awaitable[None]]


class _Refused(Exception):
    """The hub answered with an error; `line` is made per request from its body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """One legacy session: its id (may be empty) and the negotiated protocol version."""

    id: str = ""
    version: str = ""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request that the hub has not answered yet."""

    message: Message
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    cancelled: bool = False


class Bridge:
    """Carries one client's messages until its lines end.

    Args:
        client: The hub, with the Authorization header set.
        write: Writes one JSON-RPC line to the client.
        refusal: When not empty, the reason why no request can be sent at all (no key); every
            request is answered with it, because clients show errors but hide stderr.
    """

    def __init__(self, client: Client, write: Write, refusal: str = "") -> None:
        self._client = client
        self._write = write
        self._refusal = refusal
        self._session: _Session | None = None
        self._initialize: Message | None = None
        self._initialized: Message | None = None
        self._state_calls: dict[str, Message] = {}
        self._flights: dict[RpcId, _Flight] = {}
        self._room = asyncio.Semaphore(_FLIGHTS)
        self._opened = asyncio.Event()
        self._opened.set()
        self._renewing = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    async def run(self, lines: AsyncIterator[bytes], *, hurry: asyncio.Event) -> None:
        """Relay until `lines` end; then let calls under way finish, unless `hurry` is set."""
        async with asyncio.TaskGroup() as group:
            async for line in lines:
                await self._take(group, line)
            await self._finish(hurry)
            if self._listener is not None:
                self._listener.cancel()
        if self._session is not None and self._session.id:
            await self._goodbye(self._session)
        self._client.close()

    # Client -> hub.

    async def _take(self, group: asyncio.TaskGroup, line: bytes) -> None:
        try:
            message = Message.parse(line)
        except NotJson:
            await self._write(error_line(None, -32700, "Parse error: the line is not JSON.", {}))
            return
        if self._refusal:
            for id_ in message.ids:
                await self._fail(id_, _REFUSED, self._refusal, {"code": "unauthenticated"})
        elif message.ids:
            await self._room.acquire()
            self._depart(group, message)
        elif message.method == "notifications/cancelled":
            await self._cancel(message)
        else:
            await self._notify(group, message)

    def _depart(self, group: asyncio.TaskGroup, message: Message) -> None:
        """Start one request; requests overtake each other, but none overtakes an `initialize`."""
        flight = _Flight(message)
        for id_ in message.ids:
            self._flights[id_] = flight
        if message.method == "initialize":
            self._opened.clear()
            flight.task = group.create_task(self._open(flight))
        else:
            flight.task = group.create_task(self._fly(flight))

    async def _open(self, flight: _Flight) -> None:
        try:
            old, self._session = self._session, None
            self._initialize, self._initialized = flight.message, None
            self._state_calls.clear()
            if old is not None and old.id:
                await self._goodbye(old)
            await self._attempt(flight, self._greet)
        finally:
            self._opened.set()
            self._land(flight)

    async def _fly(self, flight: _Flight) -> None:
        try:
            if not flight.message.version:
                await self._opened.wait()
            await self._attempt(flight, self._call)
        finally:
            self._land(flight)

    def _land(self, flight: _Flight) -> None:
        self._room.release()
        for id_ in flight.message.ids:
            if self._flights.get(id_) is flight:
                del self._flights[id_]

    async def _attempt(
        self, flight: _Flight, work: Callable[[_Flight, set[RpcId]], Awaitable[None]]
    ) -> None:
        """Run one request to its end; whatever goes wrong becomes the client's answer."""
        open_ids = set(flight.message.ids)
        try:
            await work(flight, open_ids)
            failure: tuple[int, str, dict[str, Any]] = (
                _BROKEN,
                "The hub ended the stream without an answer.",
                {"code": "upstream_failed"},
            )
        except asyncio.CancelledError:
            if not flight.cancelled:
                raise
            return  # closing the stream was the cancellation; the client expects no answer
        except _Refused as refused:
            for id_ in open_ids:
                await self._write(_refusal_line(id_, refused))
            return
        except (Broken, ConnectionResetError, BrokenPipeError, ValueError) as error:
            failure = (
                _BROKEN,
                f"The connection to the hub at {self._client.endpoint.origin} broke: {error}. "
                "Whether the call was executed is not known.",
                {"code": "unavailable"},
            )
        except OSError as error:
            failure = (
                _UNREACHABLE,
                f"The hub at {self._client.endpoint.origin} cannot be reached ({_reason(error)}).",
                {"code": "unavailable", "hint": "Start it with `mcphub serve`, or correct --url."},
            )
        if not flight.cancelled:
            for id_ in open_ids:
                await self._fail(id_, *failure)

    async def _greet(self, flight: _Flight, open_ids: set[RpcId]) -> None:
        """Send the client's `initialize` and keep the session that it opens."""
        reply = await self._post(flight.message, None, flight.sent)
        await self._relay(reply, open_ids, opening=flight.message)

    async def _call(self, flight: _Flight, open_ids: set[RpcId]) -> None:
        message = flight.message
        if message.version:
            reply = await self._post(message, None, flight.sent)
        else:
            reply = await self._post_in_session(message, flight.sent)
            self._remember(message)
        await self._relay(reply, open_ids)

    async def _notify(self, group: asyncio.TaskGroup, message: Message) -> None:
        """Send a notification or an answer, in order with what came before."""
        await self._opened.wait()
        if self._session is None:
            return  # modern HTTP defines no client notifications; legacy ones need a session
        if message.method == "notifications/initialized":
            self._initialized = message
        try:
            async with asyncio.timeout(_NOTIFY_S):
                reply = await self._post_in_session(message, None)
                await reply.read(_ANSWER_LIMIT)
        except (OSError, ValueError, _Refused):
            return  # nobody waits for an answer; the next request will say what is wrong
        if self._initialized is message and (self._listener is None or self._listener.done()):
            self._listener = group.create_task(self._listen())

    async def _cancel(self, message: Message) -> None:
        target = message.params.get("requestId")
        flight = self._flights.get(target) if isinstance(target, (str, int, float)) else None
        if flight is None or flight.task is None:
            return
        flight.cancelled = True
        if flight.message.version:
            flight.task.cancel()  # closing the stream is the cancellation
            return
        try:
            async with asyncio.timeout(_NOTIFY_S):
                await flight.sent.wait()
                reply = await self._post_in_session(message, None)
                await reply.read(_ANSWER_LIMIT)
        except (OSError, ValueError, _Refused):
            flight.task.cancel()

    def _remember(self, message: Message) -> None:
        """Keep what a renewed session must be told again: the log level and the subscriptions."""
        uri = str(message.params.get("uri", ""))
        if message.method == "resources/unsubscribe":
            self._state_calls.pop(f"uri:{uri}", None)
        elif len(self._state_calls) < _STATE_CALLS:
            if message.method == "resources/subscribe":
                self._state_calls[f"uri:{uri}"] = message
            elif message.method == "logging/setLevel":
                self._state_calls["level"] = message

    # Sessions.

    async def _post_in_session(self, message: Message, sent: asyncio.Event | None) -> Reply:
        """Post a legacy message; when the hub has forgotten the session, open it anew and repeat.

        A 404 says that the message was not executed, so the repetition is safe.
        """
        session = self._session
        reply = await self._post(message, session, sent)
        if reply.status != 404 or session is None or not session.id:
            return reply
        body = await reply.read(_ANSWER_LIMIT)
        if _is_method_not_found(body):
            raise _Refused(404, body)
        await self._renew(session)
        return await self._post(message, self._session, sent)

    async def _renew(self, stale: _Session) -> None:
        async with self._renewing:
            if self._session is not stale or self._initialize is None:
                return
            reply = await self._post(self._initialize, None, None)
            if reply.status != 200:
                raise _Refused(reply.status, await reply.read(_ANSWER_LIMIT))
            async for line, value in _messages(reply):
                if self._initialize.ids[0] in answered_ids(value):
                    self._adopt(reply, value)
                    reply.close()
                    break
                await self._write(line)
            replayed = [self._initialized, *self._state_calls.values()]
            for message in replayed:
                if message is not None:
                    again = await self._post(message, self._session, None)
                    await again.read(_ANSWER_LIMIT)

    def _adopt(self, reply: Reply, answer: object) -> None:
        result = answer.get("result") if isinstance(answer, dict) else None
        if isinstance(result, dict):
            version = result.get("protocolVersion")
            self._session = _Session(
                id=reply.headers.get("mcp-session-id", ""),
                version=version if isinstance(version, str) and version.isascii() else "",
            )

    async def _goodbye(self, session: _Session) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                reply = await self._client.send("DELETE", _session_headers(session))
                await reply.read(_ANSWER_LIMIT)
        except (OSError, ValueError):
            return

    async def _finish(self, hurry: asyncio.Event) -> None:
        """Wait for calls under way, a while, then cancel them; a subscription has no end of its own."""
        tasks = {
            flight.task
            for flight in self._flights.values()
            if flight.task is not None and flight.message.method != "subscriptions/listen"
        }
        if tasks and not hurry.is_set():
            async with asyncio.TaskGroup() as group:
                rush = group.create_task(hurry.wait())
                pending = set(tasks)
                deadline = asyncio.get_running_loop().time() + _FINISH_S
                while pending and not rush.done():
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0:
                        break
                    _, waiting = await asyncio.wait(
                        pending | {rush}, timeout=left, return_when=asyncio.FIRST_COMPLETED
                    )
                    pending = waiting - {rush}
                rush.cancel()
        for flight in self._flights.values():
            flight.cancelled = True
            if flight.task is not None:
                flight.task.cancel()

    # Hub -> client.

    async def _post(
        self, message: Message, session: _Session | None, sent: asyncio.Event | None
    ) -> Reply:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        if message.version:
            headers |= message.modern_headers()
        elif session is not None:
            headers |= _session_headers(session)
        # A hub that restarts is away for a moment; a refused connection has executed nothing.
        for pause in _RECONNECT_S if self._session is not None else ():
            try:
                return await self._send("POST", headers, message.raw, sent)
            except ConnectionRefusedError:
                await asyncio.sleep(pause)
        return await self._send("POST", headers, message.raw, sent)

    async def _send(
        self, method: str, headers: dict[str, str], body: bytes, sent: asyncio.Event | None
    ) -> Reply:
        async with asyncio.timeout(_HEAD_S):
            return await self._client.send(method, headers, body, sent)

    async def _relay(
        self, reply: Reply, open_ids: set[RpcId], opening: Message | None = None
    ) -> None:
        """Write every message of one answer; `open_ids` loses the ids that were answered.

        Raises:
            _Refused: The hub answered with an HTTP error.
        """
        try:
            if reply.status == 202:
                await reply.read(_ANSWER_LIMIT)
                return
            if reply.status != 200:
                raise _Refused(reply.status, await reply.read(_ANSWER_LIMIT))
            async for line, value in _messages(reply):
                answered = open_ids.intersection(answered_ids(value))
                if opening is not None and answered:
                    self._adopt(reply, value)
                open_ids -= answered
                await self._write(line)
        finally:
            reply.close()

    async def _listen(self) -> None:
        """Hold the GET stream for messages that belong to no request, as long as the hub has one."""
        pause = 1.0
        while True:
            session = self._session
            if session is None:
                return
            try:
                if not await self._listen_once(session):
                    return
                pause = 1.0
            except (OSError, ValueError, _Refused):
                pause = min(pause * 2, _LISTEN_MAX_S)
            await asyncio.sleep(pause)

    async def _listen_once(self, session: _Session) -> bool:
        """Relay one GET stream to its end; return whether to open another."""
        headers = {"Accept": "text/event-stream"} | _session_headers(session)
        reply = await self._send("GET", headers, b"", None)
        try:
            if reply.status == 404 and session.id:
                await reply.read(_ANSWER_LIMIT)
                await self._renew(session)
                return True
            if reply.status != 200 or reply.media_type != "text/event-stream":
                await reply.read(_ANSWER_LIMIT)
                return reply.status >= 500
            async for line, _ in _messages(reply):
                await self._write(line)
            return True
        finally:
            reply.close()

    async def _fail(self, id_: RpcId, code: int, message: str, data: dict[str, Any]) -> None:
        await self._write(error_line(id_, code, message, data))


async def _messages(reply: Reply) -> AsyncIterator[tuple[bytes, object]]:
    """Yield each message of a JSON or SSE answer as one line and as a parsed value.

    Raises:
        ValueError: It is neither, or not JSON.
    """
    if reply.media_type == "text/event-stream":
        sse = SseReader(_ANSWER_LIMIT)
        async for chunk in reply.chunks():
            for data in sse.feed(chunk):
                if data.strip():
                    yield one_line(data), json.loads(data)
        return
    body = await reply.read(_ANSWER_LIMIT)
    if body.strip():
        yield one_line(body), json.loads(body)


def _session_headers(session: _Session) -> dict[str, str]:
    headers: dict[str, str] = {}
    if session.id:
        headers["Mcp-Session-Id"] = session.id
    if session.version:
        headers["MCP-Protocol-Version"] = session.version
    return headers


def _refusal_line(id_: RpcId, refused: _Refused) -> bytes:
    """Turn an HTTP error of the hub into the request's answer, keeping the hub's own words."""
    try:
        value = json.loads(refused.body)
    except ValueError:
        value = None
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and "code" in error and "message" in error:
        return json.dumps({"jsonrpc": "2.0", "id": id_, "error": error}).encode()
    data: dict[str, Any] = {"status": refused.status}
    message = f"The hub answered with HTTP status {refused.status}."
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        message = value["message"]
        data |= {key: value[key] for key in ("code", "hint") if isinstance(value.get(key), str)}
    elif refused.status == 401:
        message = "The hub does not accept the API key."
        data["hint"] = "Set MCPHUB_KEY or the key file to a valid key (`mcphub key create`)."
    return error_line(id_, _REFUSED, message, data)


def _is_method_not_found(body: bytes) -> bool:
    try:
        value = json.loads(body)
    except ValueError:
        return False
    error = value.get("error") if isinstance(value, dict) else None
    return isinstance(error, dict) and error.get("code") == -32601


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror or type(error).__name__).lower()
