"""What policy decides about and what it answers: values only.

Not here: how facts are gathered (`catalog`, `identity`, `spawn`) or how denials become HTTP or
JSON-RPC (`gateway`). Who calls: `policy.decide` produces `Permit` and `Denial`; `spawn`, `vault`
and `upstream` demand a `Permit`, so that forgetting the check is a type error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

EVERYONE: Final = "everyone"
"""The built-in group that every user is a member of."""


class Role(StrEnum):
    """What a user may do to the hub itself."""

    ADMIN = "admin"
    USER = "user"


class RiskLevel(StrEnum):
    """How much harm one user's use of a server can do to another (`riskLevel`)."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Isolation(StrEnum):
    """Who shares a running server (`isolation`)."""

    BUILTIN = "builtin"
    USER = "user"
    SESSION = "session"
    SHARED = "shared"


class Transport(StrEnum):
    """How the hub reaches a server."""

    STDIO = "stdio"
    HTTP = "http"
    BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of one request; made only from a verified credential (rules R4, R6).

    Attributes:
        user_id: Opaque id, `u_…`; the only name of a user in paths, logs and keys.
        user_name: Display name, unique; never used to look anything up on the data path.
        number: Small positive integer, unique per user; gives the user's kernel uid.
        role: What the user may do to the hub.
        groups: Names of the groups the user is in now, with `everyone`.
        key_id: Id of the API key that proved the identity.
        valid_until: Epoch seconds after which this value must be built anew (key or membership
            expiry), or None.
    """

    user_id: str
    user_name: str
    number: int
    role: Role
    groups: frozenset[str]
    key_id: str
    valid_until: float | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller administers the hub."""
        return self.role is Role.ADMIN


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a server may be shared: an isolation check or a named administrator's word.

    Attributes:
        kind: `check` (no leak seen) or `acknowledgement`.
        version: The exact package version or command digest that it speaks of.
        by: Name of the administrator, or the check's id.
        at: Epoch seconds, UTC.
        note: The administrator's reason.
    """

    kind: str
    version: str
    by: str
    at: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What policy needs to know of a server spec.

    Attributes:
        per_user_credential: A credential slot of the user goes into what is sent or started.
        names_user: Other templates tell the server who the user is (`${USER_ID}`, `${USER_HOME}`, …).
        version: The exact package version or command digest that would run.
        evidence: What is known about sharing it, for whichever version.
    """

    name: str
    transport: Transport
    risk: RiskLevel | None = None
    requires_user_isolation: bool = False
    user_aware: bool = False
    isolation: Isolation | None = None
    admin_only: bool = False
    enabled: bool = True
    groups: frozenset[str] = frozenset()
    tools_allow: tuple[str, ...] = ()
    tools_deny: tuple[str, ...] = ()
    per_user_credential: bool = False
    names_user: bool = False
    version: str = ""
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this machine can enforce.

    Attributes:
        sandbox_level: 0 (nothing) to 5 (uid per user, all namespaces, cgroups), found by trying.
        minimum_level: What the administrator demands for critical and unclassified servers.
        minimum_high, minimum_medium, minimum_low: Likewise for the other classes of risk.
        allow_unsandboxed: `--allow-unsandboxed` was given.
    """

    sandbox_level: int
    minimum_level: int = 1
    allow_unsandboxed: bool = False
    minimum_high: int = 1
    minimum_medium: int = 1
    minimum_low: int = 1

    def needed(self, risk: RiskLevel | None) -> int:
        """Return the lowest level at which a server of this risk runs; never 0."""
        minimum = {
            RiskLevel.HIGH: self.minimum_high,
            RiskLevel.MEDIUM: self.minimum_medium,
            RiskLevel.LOW: self.minimum_low,
        }.get(risk or RiskLevel.CRITICAL, self.minimum_level)
        return max(1, minimum)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a decision's trace: the rule that was looked at, what it found, what followed."""

    rule: str
    finding: str
    outcome: str


_PERMIT_KEY = object()


@dataclass(frozen=True, slots=True)
class Permit:
    """Proof that `policy.decide` allowed this principal this server. Only `decide` can make one.

    Attributes:
        principal: The caller.
        server: Name of the server spec.
        isolation: Who may share the running server.
        allows_tool: Whether a tool of the server, by its own name, may be seen and called.
        warnings: Sentences that every page and `explain` must show.
        trace: How the decision came about.
    """

    principal: Principal
    server: str
    isolation: Isolation
    allows_tool: Callable[[str], bool]
    warnings: tuple[str, ...] = ()
    trace: tuple[Step, ...] = ()
    key: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.key is not _PERMIT_KEY:
            raise TypeError("a Permit comes from policy.decide only")


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal with its reason.

    Attributes:
        rule: Which row or rule refused, a stable code such as `not-in-group`.
        reason: One sentence for the user; names no other user and no path.
        hint: The next step.
        visible: Whether the caller may know that the server exists; if not, say "not found".
        trace: How the decision came about.
    """

    rule: str
    reason: str
    hint: str = ""
    visible: bool = False
    trace: tuple[Step, ...] = ()
