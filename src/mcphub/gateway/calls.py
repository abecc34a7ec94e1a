"""One request as the data plane sees it: who, where, what, and the way back.

Values and small behaviour only; made by the endpoint, read by `relay` and `answers`.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from mcphub.audit.tracing import Trace
from mcphub.errors import HubError
from mcphub.gateway.listen import severe_enough
from mcphub.gateway.sessions import Session
from mcphub.policy.model import Principal
from mcphub.wire import envelope
from mcphub.wire.codes import Era
from mcphub.wire.envelope import Members, Message
from mcphub.wire.eras import ModernMeta
from mcphub.wire.pieces import Text

SEPARATOR: Final = "__"
"""Between server and tool in the names of an aggregated endpoint; server names have no underscore."""


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint that was asked: all servers of the user, one, or those of a group.

    Attributes:
        server: Name of the one server, or "".
        group: Name of the group, or "".
    """

    server: str = ""
    group: str = ""

    @property
    def path(self) -> str:
        """The path below the hub's URL."""
        if self.server:
            return f"/mcp/{self.server}"
        return f"/mcp/@{self.group}" if self.group else "/mcp"


def target_of(path: str, root: str = "/mcp") -> Target | None:
    """Return the target of a request path, or None when the path is no endpoint below `root`."""
    if path in {root, f"{root}/"}:
        return Target()
    if not path.startswith(f"{root}/"):
        return None
    rest = path.removeprefix(f"{root}/").rstrip("/")
    if not rest or "/" in rest or len(rest) > 64:
        return None
    return Target(group=rest[1:]) if rest.startswith("@") else Target(server=rest)


Emit = Callable[[Text], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """One JSON-RPC request of an authenticated caller.

    Attributes:
        request_id: The hub's id of the request, on every record, log line and error.
        params: Raw members of `params`.
        assertions: User contexts that were made for it so far.
        refused: Why the hub itself did not do it, once it is known that it will not.
        digest: Of its parameters, once it was needed (`states.digest_of`); a copy has none.
        failed_with: Code of the JSON-RPC error that it is answered with; None for a result.
        progress_token: Raw token that the caller wants progress with, or b"".
        modern: What a modern request declares; None in the legacy era.
        session: The legacy session; None in the modern era and for `initialize`.
        trace: Where its span stands; None when it gets none.
        emit: Sends one message ahead of the answer (turns the reply into a stream).
        watch: Starts watching for the client's disconnect; calls its argument once when it happens.
    """

    request_id: str
    principal: Principal
    target: Target
    message: Message
    params: Members
    progress_token: bytes
    modern: ModernMeta | None
    session: Session | None
    emit: Emit
    watch: Callable[[Callable[[], None]], None]
    bytes_in: int = 0
    trace_id: str = ""
    trace: Trace | None = None
    started: float = field(default_factory=time.monotonic)
    server: str = ""
    name: str = ""
    instance_id: str = ""
    decision: str = "permit"
    assertions: int = 0
    refused: HubError | None = None
    failed_with: int | None = None
    digest: str = field(default="", init=False)

    @property
    def method(self) -> str:
        """JSON-RPC method."""
        return self.message.method

    @property
    def era(self) -> Era:
        """Era that the caller speaks."""
        return Era.MODERN if self.modern is not None else Era.LEGACY

    @property
    def version(self) -> str:
        """Revision of the protocol that the caller speaks; "" for `initialize`."""
        if self.modern is not None:
            return self.modern.version
        return self.session.version if self.session is not None else ""

    @property
    def client(self) -> str:
        """`name/version` as the client says; for records only."""
        if self.modern is not None:
            return self.modern.client
        return self.session.client if self.session is not None else ""

    @property
    def log_level(self) -> str:
        """Least severity of log messages that this call's stream takes, "" for the default."""
        if self.modern is not None:
            return self.modern.log_level
        return self.session.log_level if self.session is not None else ""

    @property
    def wants_log(self) -> bool:
        """Modern callers ask per request; legacy ones get what the server sends."""
        return self.modern is None or bool(self.modern.log_level)

    @property
    def asks(self) -> frozenset[str]:
        """Methods that the calling client can be asked, by the capabilities that it declared."""
        if self.modern is not None:
            return self.modern.declared.asks
        return self.session.asks if self.session is not None else frozenset()

    async def event(self, message: Message) -> None:
        """Send a server's notification on this call's own stream."""
        if message.method == "notifications/message" and self.log_level:
            level = envelope.text(message.inner("params").get("level"))
            if not severe_enough(level, self.log_level):
                return
        await self.emit(envelope.written(message.members))
