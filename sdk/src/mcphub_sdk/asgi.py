"""An ASGI middleware for HTTP servers that are built without the official SDK's server classes.

Wraps the endpoint that takes JSON-RPC by POST. The verified user is `current_user()` and
`scope["state"]["mcphub_user"]`. Other requests (GET streams, DELETE) pass without a user.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mcp_types import INVALID_REQUEST

from mcphub_sdk.context import (
    HEADER,
    USER_CONTEXT_MISSING,
    USER_CONTEXT_REFUSED,
    Refusal,
    UserContext,
)
from mcphub_sdk.user import acting

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MAX_BODY: Final = 16 * 1024 * 1024


class UserContextMiddleware:
    """Verifies the user context of each JSON-RPC request before the application sees it.

    Args:
        app: The application.
        context: Whom to trust, and what a request without a context is.
        max_body: Largest body in bytes.
    """

    def __init__(self, app: App, context: UserContext, max_body: int = _MAX_BODY) -> None:
        self._app, self._context, self._max_body = app, context, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            with acting(None):
                await self._app(scope, receive, send)
            return
        body = await _body(receive, self._max_body)
        message = _message(body)
        if body is None or message is None:
            text = "The body is no single JSON-RPC message of this size."
            await _refuse(send, 400, None, text, INVALID_REQUEST)
            return
        user = None
        method, params = message.get("method"), message.get("params")
        if isinstance(method, str) and message.get("id") is not None:
            try:
                user = await self._context.user_of(
                    method,
                    params if isinstance(params, dict) else None,
                    _header(scope),
                    over_http=True,
                )
            except Refusal as refusal:
                code = USER_CONTEXT_MISSING if refusal.missing else USER_CONTEXT_REFUSED
                await _refuse(send, 401, message["id"], refusal.message, code)
                return
        scope.setdefault("state", {})["mcphub_user"] = user
        with acting(user):
            await self._app(scope, _again(body, receive), send)


def _header(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name.lower() == HEADER.encode()]
    return found[0].decode("latin-1") if found else None


async def _body(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if len(body) > limit:
            return None
        if not event.get("more_body", False):
            return bytes(body)


def _message(body: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, status: int, request_id: object, text: str, code: int) -> None:
    error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(error).encode()})
