"""Making a server user-aware: the official SDK's `MCPServer`, its low-level `Server`, and FastMCP 4.

All three run the same middleware of the official SDK, outermost: no handler sees a request before its
user is verified. FastMCP keeps that list in a private attribute; there is no public way to the raw
request that the digest covers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from mcphub_sdk.context import (
    EXTENSION,
    HEADER,
    USER_CONTEXT_MISSING,
    USER_CONTEXT_REFUSED,
    Refusal,
    UserContext,
    Without,
)
from mcphub_sdk.state import Store
from mcphub_sdk.user import acting

S = TypeVar("S")


def user_aware(
    server: S,
    *,
    without_user: Without | str,
    trust: Mapping[str, Any] | None = None,
    replay: bool = True,
    store: Store | None = None,
    decryption_key: Mapping[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
) -> S:
    """Let a server know the user of each request; returns the same server.

    Args:
        server: `mcp.server.mcpserver.MCPServer`, `mcp.server.lowlevel.Server` or `fastmcp.FastMCP`.
        without_user: What a request without a user context is: "refuse", "one-user" or "anonymous".
        trust: Whom to trust: `issuer`, `audience`, and `jwks` or `hub`. None: the hub's environment
            variable `MCPHUB_USER_CONTEXT`.
        replay: Whether an assertion counts once only.
        store: Where `user.state` is kept; in memory by default.
        decryption_key: Private JWK that opens encrypted credentials.
        clock: Epoch seconds; for tests.

    Raises:
        WrongSettings: The trust settings cannot be used.
        TypeError: The server is none of the three.
    """
    chain = _chain_of(server)
    context = UserContext(
        without_user,
        trust=trust,
        replay=replay,
        store=store,
        decryption_key=decryption_key,
        **({} if clock is None else {"clock": clock}),
    )
    chain.insert(0, _UserMiddleware(context))
    return server


def _chain_of(server: object) -> list[Any]:
    """Return the middleware list of the low-level server below."""
    inner = getattr(server, "_mcp_server", server)  # FastMCP
    chain = getattr(inner, "middleware", None)
    if not isinstance(chain, list) or not hasattr(server, "name"):
        raise TypeError("user_aware takes an MCPServer, a low-level Server or a FastMCP server")
    if any(isinstance(each, _UserMiddleware) for each in chain):
        raise TypeError("this server is user-aware already")
    return chain


class _UserMiddleware:
    """A `ServerMiddleware` of the official SDK."""

    def __init__(self, context: UserContext) -> None:
        self._context = context

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if ctx.request_id is None:
            with acting(None):
                return await call_next(ctx)
        try:
            user = await self._context.user_of(
                ctx.method, ctx.params, _header(ctx), over_http=ctx.request is not None
            )
        except Refusal as refusal:
            raise _error(refusal, ctx.protocol_version) from None
        with acting(user):
            result = await call_next(_without_assertion(ctx))
        if ctx.method in {"initialize", "server/discover"}:
            return _advertising(result, self._context.advertised)
        return result


def _header(ctx: ServerRequestContext[Any, Any]) -> str | None:
    headers = getattr(ctx.request, "headers", None)
    return headers.get(HEADER) if headers is not None else None


def _without_assertion(ctx: ServerRequestContext[Any, Any]) -> ServerRequestContext[Any, Any]:
    """Take the assertion off, so that no handler can log it or pass it on."""
    meta = ctx.params.get("_meta") if ctx.params else None
    if not isinstance(meta, Mapping) or EXTENSION not in meta:
        return ctx
    kept = {name: value for name, value in meta.items() if name != EXTENSION}
    lifted: Any = {name: value for name, value in (ctx.meta or {}).items() if name != EXTENSION}
    return replace(ctx, params={**(ctx.params or {}), "_meta": kept}, meta=lifted)


def _error(refusal: Refusal, version: str) -> MCPError:
    if not refusal.missing:
        return MCPError(USER_CONTEXT_REFUSED, refusal.message)
    if version in MODERN_PROTOCOL_VERSIONS:
        data = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, refusal.message, data)
    return MCPError(USER_CONTEXT_MISSING, refusal.message)


def _advertising(result: HandlerResult, settings: dict[str, Any]) -> HandlerResult:
    """Add the extension to the server's capabilities.

    Both in `extensions` and in `experimental`: sessions up to 2025-11-25 know only the latter.
    """
    if isinstance(result, BaseModel):
        result = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    if not isinstance(result, dict):
        return result
    capabilities = dict(result.get("capabilities") or {})
    for member in ("extensions", "experimental"):
        capabilities[member] = {**(capabilities.get(member) or {}), EXTENSION: settings}
    return {**result, "capabilities": capabilities}
