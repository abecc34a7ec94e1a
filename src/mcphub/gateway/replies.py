"""Errors of the hub as JSON-RPC: the one table of numbers of the data plane, and tool errors for agents.

An overload also shows in HTTP: 429 where the caller has to do less, 503 where the hub cannot now, both
with `Retry-After` (RFC 9110 §10.2.3). Which callers get them as a status is in `status_of`.
"""

import math
from typing import Final

import msgspec

from mcphub.errors import (
    Conflict,
    Denied,
    HubError,
    InvalidInput,
    LimitExceeded,
    MissingCredential,
    NotFound,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from mcphub.gateway.calls import Call
from mcphub.upstream.upstream import TimedOut
from mcphub.wire import codes, envelope

_NUMBERS: Final[tuple[tuple[type[HubError], int], ...]] = (
    (TimedOut, codes.HUB_TIMEOUT),
    (InvalidInput, codes.INVALID_PARAMS),
    (NotFound, codes.INVALID_PARAMS),
    (Unauthenticated, codes.HUB_DENIED),
    (Denied, codes.HUB_DENIED),
    (Conflict, codes.HUB_CONFLICT),
    (LimitExceeded, codes.HUB_LIMIT),
    (Unavailable, codes.HUB_UNAVAILABLE),
    (UpstreamFailed, codes.HUB_UPSTREAM_FAILED),
)


class Protocol(HubError):
    """A protocol error with its own JSON-RPC number.

    Attributes:
        number: JSON-RPC error code.
        data: The error's `data`, or None.
    """

    code = "protocol"

    def __init__(self, number: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.number = number
        self.data = data


def number_of(error: HubError) -> int:
    """Return the JSON-RPC error code for an error of the hub."""
    if isinstance(error, Protocol):
        return error.number
    return next(
        (number for kind, number in _NUMBERS if isinstance(error, kind)), codes.INTERNAL_ERROR
    )


def error_reply(raw_id: bytes, error: HubError) -> bytes:
    """Return the JSON-RPC error for an error of the hub: message, stable code, hint, retry time."""
    if isinstance(error, Protocol):
        return envelope.error(raw_id, error.number, error.message, error.data)
    data: dict[str, object] = {"code": error.code}
    if error.hint:
        data["hint"] = error.hint
    if isinstance(error, LimitExceeded | Unavailable):
        data["retryAfterSeconds"] = round(error.retry_after_s, 1)
    return envelope.error(raw_id, number_of(error), str(error), data)


def overload_of(error: HubError | None) -> tuple[int, list[tuple[bytes, bytes]]] | None:
    """Return HTTP status and headers of an error that says "later"; None for any other."""
    if isinstance(error, TimedOut) or not isinstance(error, LimitExceeded | Unavailable):
        return None
    seconds = max(1, math.ceil(error.retry_after_s))
    status = 429 if isinstance(error, LimitExceeded) else 503
    return status, [(b"retry-after", b"%d" % seconds)]


def status_of(call: Call) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Return HTTP status and headers of the JSON answer to a call that is over.

    Modern errors have their own status (MCP 2026-07-28 streamable-http). In the legacy era an answer
    is 200 whatever it says: Python's `mcp` 1.x ends the whole session at any other status, and its
    user never reads why. Only `initialize`, before which there is no session, may be 429 or 503.
    """
    if call.modern is None and call.method != "initialize":
        return 200, []
    overload = overload_of(call.refused)
    if overload is not None:
        return overload
    if call.modern is None or call.failed_with is None:
        return 200, []
    return codes.MODERN_HTTP_STATUS.get(call.failed_with, 200), []


def answers_as_tool_error(method: str, error: HubError) -> bool:
    """Whether the agent, not only its program, should read this error: it can act on it or tell its user."""
    return method == "tools/call" and isinstance(
        error, MissingCredential | UpstreamFailed | TimedOut
    )


def tool_error(text: str) -> bytes:
    """Return a CallToolResult with `isError` (MCP server/tools §Error Handling)."""
    return msgspec.json.encode({"content": [{"type": "text", "text": text}], "isError": True})
