"""`Instance`: one running server of one owner, and everything that hangs on it (rule R8).

Made and moved through its states by `spawn.pool` only; `gateway` reads it while it holds a lease.
"""

from asyncio import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mcphub.spawn.spawner import Process, Told
from mcphub.upstream.upstream import Upstream


class State(StrEnum):
    """Life of an instance."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Instance:
    """One running server of one owner.

    Attributes:
        id: Opaque id, for records and `mcphub instances`.
        owner: User id, `shared`, or `neutral`.
        server: Name of the spec.
        session: Digest of the legacy session for `isolation: session`, else "".
        revision: (settings revision, credential revision).
        idle_s: Seconds without a call after which it is culled or paused.
        pauses: It is paused when idle.
        groups: Groups of its owner, for their limits.
        home: Its home on the host, None for what has none here.
        home_bytes: Most that the home may hold.
        in_flight: Leases now.
        lists_changed: The server announced other tools, prompts or resources than the catalog has.
        told: What its requests tell about the user beside the request itself.
        files: Paths below the home at which it has files in memory.
        code: Directory of its package, which it cannot write to; None when it can, or it is not known.
    """

    id: str
    owner: str
    server: str
    session: str
    revision: tuple[str, int]
    idle_s: float
    started_at: float
    last_used: float
    state: State = State.STARTING
    in_flight: int = 0
    calls: int = 0
    lists_changed: bool = False
    pauses: bool = False
    groups: frozenset[str] = frozenset()
    home: Path | None = None
    home_bytes: int = 0
    files: tuple[str, ...] = ()
    told: Told = Told()
    code: Path | None = None
    _process: Process | None = None
    _upstream: Upstream | None = None

    @property
    def process(self) -> Process:
        """The process tree; only once started."""
        if self._process is None:
            raise RuntimeError("the instance has no process yet")
        return self._process

    @property
    def upstream(self) -> Upstream:
        """The connection; only once started."""
        if self._upstream is None:
            raise RuntimeError("the instance has no connection yet")
        return self._upstream

    @property
    def pid(self) -> int | None:
        """Pid of its outermost process, None before it has one."""
        return self._process.pid if self._process is not None else None

    @property
    def exited(self) -> "Future[int] | None":
        """Done when its process is gone; None before it has one."""
        return self._process.exited if self._process is not None else None

    def prove(self) -> None:
        """Tell its process, if it has one, that the server has answered its opening."""
        if self._process is not None:
            self._process.prove()

    def why(self) -> str:
        """Return which limit its process has reached, as a sentence; empty for none."""
        return self._process.why() if self._process is not None else ""

    def stderr(self) -> list[str]:
        """Return its last lines on stderr, redacted; for its owner and administrators."""
        return self._process.stderr.lines() if self._process is not None else []
