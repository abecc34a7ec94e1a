"""Errors as HTTP and JSON: the one table of status numbers for both small APIs, and what wraps them.

Who calls: `api.user` and `api.control`. The numbers of the MCP endpoint are in `gateway.replies`.
"""

import asyncio
import math
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcphub.errors import (
    Conflict,
    Denied,
    HubError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)

_log = structlog.get_logger()
_BODY_S: Final = 60.0

Endpoint = Callable[[Request], Awaitable[Response]]

_STATUS: Final[tuple[tuple[type[HubError], int], ...]] = (
    (InvalidInput, 400),
    (Unauthenticated, 401),
    (Denied, 403),
    (NotFound, 404),
    (Conflict, 409),
    (LimitExceeded, 429),
    (UpstreamFailed, 502),
    (Unavailable, 503),
)


def status_of(error: HubError) -> int:
    """Return the HTTP status of an error of the hub."""
    return next((number for kind, number in _STATUS if isinstance(error, kind)), 500)


def error_reply(error: HubError) -> Response:
    """Return `{code, message, hint}` with the status of the table and the headers that belong to it."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, LimitExceeded | Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    return JSONResponse(body, status_of(error), headers)


def reply(body: object) -> Response:
    """Return JSON that no cache keeps: every answer belongs to one caller."""
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


def guarded(endpoint: Endpoint) -> Endpoint:
    """Wrap an endpoint so that errors of the hub become answers and surprises stay inside."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HubError as error:
            return error_reply(error)
        except Exception as error:  # noqa: BLE001  the last line: nothing else may reach the client
            # Neither the text nor local variables: both could hold what the request was about.
            where = traceback.format_tb(error.__traceback__)
            _log.error("api.failed", error=type(error).__name__, where="".join(where))
            failed = HubError("The hub failed at this request.", hint="See the hub's log.")
            return error_reply(failed)

    return answer


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        InvalidInput: It is larger than `limit` bytes, or does not arrive.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise InvalidInput(f"The body is larger than {limit} bytes.", code="too_large")
                parts.append(chunk)
    except TimeoutError:
        raise InvalidInput("The body did not arrive.", hint="Send it again.") from None
    return b"".join(parts)
