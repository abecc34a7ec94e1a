"""Legacy MCP sessions: found only by their owner, bounded, ended when idle (rule R3).

A session is memory of the hub about one legacy client: negotiated revision, log level, calls in
flight, its stream. It is no credential: every request brings its own key. Source: MCP 2025-11-25
transports §Session Management; SBP §Session Hijacking.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mcphub.audit.records import session_tag
from mcphub.errors import NotFound, Unavailable
from mcphub.gateway.listen import Outlet
from mcphub.gateway.unanswered import refuse
from mcphub.ids import session_id
from mcphub.policy.model import Principal
from mcphub.spawn.instance import Instance
from mcphub.upstream.exchange import Exchange
from mcphub.wire import envelope
from mcphub.wire.eras import questions_for


@dataclass(slots=True, eq=False)
class Session:
    """One legacy session.

    Attributes:
        id: 256 random bits; known to its owner only, never logged.
        digest: First 8 hex digits of its SHA-256, for records.
        user_id: Its owner.
        target: Endpoint that it was opened at.
        version: Negotiated protocol revision.
        client: `name/version` as the client says, for records.
        log_level: What the client asked for, or "".
        calls: Raw JSON-RPC id -> where the call is, for cancellation.
        ended: It counts no more, whoever still holds it.
        outlet: The open GET stream, or None.
        watched: (server, uri) pairs that the client subscribed to.
        capabilities: What the client can, raw, as a modern server reads it.
        asks: What the client can be asked, from its capabilities: keys of `wire.eras.NEEDS`.
        asked: Raw id of a question to the client -> who asked, and the server's own id.
    """

    id: str
    digest: str
    user_id: str
    target: str
    version: str
    client: str
    last_seen: float
    log_level: str = ""
    calls: dict[bytes, tuple[Instance, Exchange]] = field(default_factory=dict)
    ended: bool = False
    outlet: Outlet | None = None
    watched: set[tuple[str, str]] = field(default_factory=set)
    capabilities: bytes = b"{}"
    asks: frozenset[str] = frozenset()
    asked: dict[bytes, tuple[Instance, bytes]] = field(default_factory=dict)

    @property
    def in_use(self) -> bool:
        """Whether a client holds its stream open or waits for an answer."""
        return self.outlet is not None or bool(self.calls)

    def declare(self, capabilities: bytes) -> None:
        """Take what the client says it can, as a modern server reads it."""
        self.capabilities = capabilities
        self.asks = questions_for(envelope.object_of(capabilities))


class Sessions:
    """All legacy sessions of one hub process.

    Args:
        per_user: Sessions that one user may hold; the longest idle one is ended for a new one.
        total: Sessions of all users.
        idle_s: Seconds without a request or an open stream after which a session ends.
        on_end: Told of every session that ends.
    """

    def __init__(
        self,
        *,
        per_user: int,
        total: int,
        idle_s: float,
        on_end: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._per_user, self._total, self._idle_s = per_user, total, idle_s
        self._on_end = on_end
        self._by_id: dict[str, Session] = {}
        self._by_user: dict[str, list[Session]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, principal: Principal, target: str, version: str, client: str) -> Session:
        """Open a session.

        Raises:
            Unavailable: The hub holds as many as it may.
        """
        if len(self._by_id) >= self._total:
            raise Unavailable(
                "The hub holds as many sessions as it may.",
                hint="Try again soon, or ask an administrator to raise `limits.sessions`.",
                retry_after_s=10,
            )
        own = self._by_user.setdefault(principal.user_id, [])
        if len(own) >= self._per_user:
            self.end(min(own, key=lambda session: (session.in_use, session.last_seen)))
            own = self._by_user.setdefault(principal.user_id, [])
        new = session_id()
        session = Session(
            id=new,
            digest=session_tag(new),
            user_id=principal.user_id,
            target=target,
            version=version,
            client=client,
            last_seen=_now(),
        )
        self._by_id[new] = session
        own.append(session)
        return session

    def find(self, principal: Principal, target: str, given: str) -> Session:
        """Return the caller's session of this endpoint.

        Raises:
            NotFound: There is none, or it is somebody else's: the caller cannot tell which.
        """
        session = self._by_id.get(given)
        if session is None or session.user_id != principal.user_id or session.target != target:
            raise NotFound("There is no such session.", hint="Initialize a new one.")
        session.last_seen = _now()
        return session

    def end(self, session: Session) -> None:
        """End a session: its stream closes, its calls are cancelled."""
        session.ended = True
        if self._by_id.pop(session.id, None) is not None:
            self._on_end(session)
        own = self._by_user.get(session.user_id)
        if own is not None and session in own:
            own.remove(session)
            if not own:
                del self._by_user[session.user_id]
        if session.outlet is not None:
            session.outlet.close()
        for instance, question_id in session.asked.values():
            refuse(instance, [question_id])
        session.asked.clear()
        for instance, exchange in list(session.calls.values()):
            instance.upstream.cancel(exchange)
            exchange.fail(NotFound("The session ended."))

    def end_of_user(self, user_id: str) -> None:
        """End all sessions of a user."""
        for session in list(self._by_user.get(user_id, ())):
            self.end(session)

    def sweep(self) -> None:
        """End idle sessions."""
        limit = _now() - self._idle_s
        for session in list(self._by_id.values()):
            if session.last_seen < limit and not session.in_use:
                self.end(session)

    def users(self) -> list[str]:
        """Return the ids of users with sessions."""
        return list(self._by_user)


def _now() -> float:
    return time.monotonic()
