"""The outermost ASGI application: Host and Origin first, then the MCP endpoints, then everything else."""

import structlog

from mcphub.errors import HubError
from mcphub.gateway.calls import target_of
from mcphub.gateway.door import Door
from mcphub.gateway.endpoint import McpEndpoint
from mcphub.gateway.http import Ambiguous, Receive, Reply, Scope, Send, read_headers
from mcphub.gateway.old_sse import SseEndpoint
from mcphub.gateway.plane import DataPlane
from mcphub.gateway.replies import error_reply
from mcphub.wire import codes, envelope

_log = structlog.get_logger()


class Front:
    """Checks what holds for every request, then hands it on.

    Args:
        plane: Services of the data plane.
        door: Allowed hosts and origins.
        rest: ASGI application for everything that is no MCP endpoint.
        old_sse: Serve the old HTTP+SSE transport at `/sse`.
    """

    def __init__(
        self, plane: DataPlane, door: Door, rest: object, *, old_sse: bool = False
    ) -> None:
        self._plane = plane
        self.door = door
        self._endpoints: dict[str, McpEndpoint | SseEndpoint] = {"/mcp": McpEndpoint(plane)}
        if old_sse:
            self._endpoints["/sse"] = SseEndpoint(plane)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        reply = Reply(send, receive, self._plane.tasks, [])
        try:
            headers = read_headers(scope["headers"])
        except Ambiguous as error:
            await _refuse(reply, 400, f"Header {error} is there more than once.")
            return
        refusal = self.door.refusal(headers)
        if refusal:
            await _refuse(reply, 403, refusal)
            return
        for root, endpoint in self._endpoints.items():
            target = target_of(scope["path"], root)
            if target is None:
                continue
            try:
                await endpoint(scope, receive, send, target, headers)
            except HubError as error:
                # nothing of the reply was sent: every later error is answered by the relay
                await reply.finish(error_reply(b"", error), 500)
            return
        await self._rest(scope, receive, send)  # pyright: ignore[reportCallIssue]


async def _refuse(reply: Reply, status: int, text: str) -> None:
    await reply.finish(envelope.error(b"", codes.INVALID_REQUEST, text), status)
