"""From HTTP requests to calls: who calls, what the body holds, era, session, hop-owned data, batches.

What Streamable HTTP (`gateway.endpoint`) and the old HTTP+SSE (`gateway.old_sse`) have in common.
Sources: MCP 2025-11-25 transports, 2026-07-28 streamable-http and versioning.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from mcphub.errors import HubError, LimitExceeded, NotFound
from mcphub.gateway import asking
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.http import Disconnected, Receive, Reply, TooLarge, read_body
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.relay import Cancelled
from mcphub.gateway.replies import Protocol, error_reply, overload_of
from mcphub.gateway.sessions import Session
from mcphub.policy.model import Principal
from mcphub.wire import codes, envelope, eras, translate
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import LARGE, Malformed, Message
from mcphub.wire.pieces import Text

_TRACE: Final = re.compile(
    r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$"
)
_MAX_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Inbound:
    """One HTTP request of an authenticated caller.

    Attributes:
        path: Endpoint that a legacy session of this request belongs to.
        session_id: The legacy session that the request names, or "".
        headers: As `http.read_headers` gives them.
        request_id: The hub's id of the request.
        reply: The reply to the request.
    """

    principal: Principal
    target: Target
    path: str
    session_id: str
    headers: Mapping[str, str]
    request_id: str
    reply: Reply


def authenticated(plane: DataPlane, headers: Mapping[str, str]) -> Principal | None:
    """Return who an `Authorization` header proves, or None."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    principal = plane.access.authenticate(bearer.strip())
    if principal is not None:
        plane.seen_keys[principal.key_id] = plane.clock()
    return principal


async def unauthenticated(reply: Reply) -> None:
    """Answer a request without a valid key."""
    body = envelope.error(
        b"",
        codes.HUB_DENIED,
        "An API key is needed: send Authorization: Bearer mcphub_… (an administrator makes one with "
        "`mcphub key create`). This one is missing, unknown, expired or revoked.",
        {"code": "unauthenticated"},
    )
    headers = [
        (b"www-authenticate", b'Bearer realm="mcphub"'),
        (b"content-type", b"application/json"),
    ]
    await reply.plain(401, body, headers)


async def turned_away(reply: Reply, error: LimitExceeded) -> None:
    """Answer a request on a connection too many, before it is read, and close that."""
    status, more = overload_of(error) or (429, [])
    await reply.finish(error_reply(b"", error), status, [*more, (b"connection", b"close")])


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether a body is said to be JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def body_of(
    plane: DataPlane, inbound: Inbound, receive: Receive
) -> tuple[Inbound, Message | list[msgspec.Raw], int] | None:
    """Return the request with its caller as of now, the message or the raw batch of a POST, and its size.

    None when it was refused. A body may take its time, and its caller's rights may end meanwhile.
    """
    reply, headers = inbound.reply, inbound.headers
    declared, limit = headers.get("content-length", ""), plane.limits.body_bytes
    known = plane.access.generation
    try:
        with plane.uploads.of(inbound.principal.user_id) as upload:
            reader = plane.readers.of(inbound.principal.user_id)
            body = await read_body(receive, declared, limit, upload, reader)
        if known != plane.access.generation:
            principal = authenticated(plane, headers)
            if principal is None:
                await unauthenticated(reply)
                return None
            inbound = replace(inbound, principal=principal)
        if not is_json(headers):
            await refuse(reply, 415, "The body must be application/json.")
            return None
        if isinstance(body, Arriving):
            if body.is_batch:
                text = f"A batch is over {LARGE} bytes: send its messages one by one."
                await refuse(reply, 413, text)
                return None
            return inbound, body.message(), len(body)
        batch = envelope.split_batch(body)
        return inbound, (batch if batch is not None else envelope.parse(body)), len(body)
    except TooLarge:
        await refuse(reply, 413, f"The body is over {plane.limits.body_bytes} bytes.")
    except Malformed as error:
        await reply.finish(envelope.error(b"", error.code, error.reason), 400)
    except Disconnected:
        await refuse(reply, 408, "The body did not arrive.")
    except LimitExceeded as error:
        status, more = overload_of(error) or (429, [])
        await reply.finish(error_reply(b"", error), status, more)
    return None


async def refuse(reply: Reply, status: int, text: str) -> None:
    """Answer a request that holds no message."""
    await reply.finish(envelope.error(b"", codes.INVALID_REQUEST, text), status)


def session_of(plane: DataPlane, inbound: Inbound) -> Session | None:
    """Return the session that a request names; None when it names none.

    Raises:
        NotFound: There is no such session of this user at this endpoint.
    """
    if not inbound.session_id:
        return None
    return plane.sessions.find(inbound.principal, inbound.path, inbound.session_id)


def call_of(
    plane: DataPlane,
    inbound: Inbound,
    message: Message,
    size: int,
    *,
    out: Reply | None = None,
    request_id: str = "",
    chosen: bool = False,
) -> Call:
    """Read era, session and hop-owned data of one message of `size` bytes.

    Args:
        plane: Services.
        inbound: The request that brought it.
        message: The message.
        size: Its bytes.
        out: Where messages ahead of the answer go; the reply to the request when not given. Whoever
            gives it looks after disconnects.
        request_id: The hub's id of this message, where the request brought several.
        chosen: By chance it gets a span.

    Raises:
        eras.Refused, HubError: The message breaks the rules of its era.
    """
    headers = inbound.headers
    params = message.inner("params")
    meta = message.inner("params", "_meta") if "_meta" in params else {}
    modern, session = None, None
    token = bytes(meta["progressToken"]) if "progressToken" in meta else b""
    version = headers.get("mcp-protocol-version", "")
    if _is_modern(message, params, meta, version):
        modern = eras.read_modern(message.method, params, meta, headers)
    elif message.method != "initialize":
        session = _legacy_session(plane, inbound, version)
        if message.is_request and message.id in session.calls:
            raise Protocol(codes.INVALID_REQUEST, "A request with this id is still in flight.")
    parent = envelope.text(meta.get("traceparent")) or headers.get("traceparent", "")
    found = _TRACE.match(parent) if parent else None
    trace_id, parent_id, flags = found.groups() if found is not None else ("", "", "")
    trace = None
    if plane.traces is not None:
        trace = plane.traces.begin(trace_id, parent_id, flags, chosen=chosen)
    return Call(
        request_id=request_id or inbound.request_id,
        principal=inbound.principal,
        target=inbound.target,
        message=message,
        params=params,
        progress_token=token,
        modern=modern,
        session=session,
        emit=(out or inbound.reply).emit,
        watch=inbound.reply.watch if out is None else _unwatched,
        bytes_in=size,
        trace_id=trace.trace_id if trace is not None else trace_id,
        trace=trace,
    )


def batch_of(
    plane: DataPlane, inbound: Inbound, batch: list[msgspec.Raw], out: Reply | None = None
) -> list[Call]:
    """Read the messages of a batch: only inside a 2025-03-26 session.

    Raises:
        Malformed, eras.Refused, HubError: One of them breaks the rules; then none is answered.
    """
    session = session_of(plane, inbound)
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
        call_of(
            plane, inbound, message, len(batch[index]), out=out,
            request_id=f"{inbound.request_id}.{index}",
        )
        for index, message in enumerate(messages)
    ]  # fmt: skip
    if any(call.modern is not None for call in calls):
        raise Protocol(codes.INVALID_REQUEST, "A request of the modern era is not part of a batch.")
    return calls


def one_way(call: Call) -> None:
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


def opened(call: Call, answer: Text) -> tuple[str, str, bytes] | None:
    """Return version, client and capabilities as a modern server wants them, of an `initialize`.

    None when it failed.
    """
    result = envelope.object_of(envelope.object_of(bytes(answer)).get("result"))
    if not result:
        return None
    version = envelope.text(result.get("protocolVersion"))
    declared = envelope.object_of(call.params.get("capabilities"))
    return (
        version,
        eras.client_name(call.params.get("clientInfo"))[:128],
        translate.capabilities_for_modern(version, declared),
    )


def refusal(raw_id: bytes, error: eras.Refused | HubError) -> tuple[bytes, int]:
    """Return body and HTTP status for a message that breaks a rule or names no session of the caller's."""
    if isinstance(error, eras.Refused):
        body = envelope.error(raw_id, error.code, error.reason, error.data)
        return body, codes.MODERN_HTTP_STATUS.get(error.code, 400)
    return error_reply(raw_id, error), 404 if isinstance(error, NotFound) else 400


def _unwatched(_gone: Callable[[], None]) -> None:
    """Nothing to do: the stream that the call answers on is watched as a whole."""


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


def _legacy_session(plane: DataPlane, inbound: Inbound, version: str) -> Session:
    if version and version not in codes.LEGACY_VERSIONS:
        raise Protocol(
            codes.UNSUPPORTED_VERSION,
            f"Protocol version {version[:40]} is not supported.",
            {
                "supported": [*codes.MODERN_VERSIONS, *codes.LEGACY_VERSIONS],
                "requested": version[:40],
            },
        )
    session = session_of(plane, inbound)
    if session is None:
        raise Protocol(codes.INVALID_REQUEST, "Header Mcp-Session-Id is missing: initialize first.")
    return session
