"""What an isolation check talks about: calls, observations, findings, verdicts. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

_SLOW_S: Final = 2.0


class LeakClass(StrEnum):
    """What leaks; see docs/reference/isolation-check.md."""

    TOKEN = "token"
    """B's call acts with a credential that is not B's."""
    STATE = "state"
    """What A did changes what B sees."""
    FILESYSTEM = "filesystem"
    """B reaches A's files, or files outside of the declared directories."""
    HISTORY_CACHE = "history-cache"
    """B can tell what A did: recent calls, cache hits, rate limits."""
    SECRET = "secret"
    """The environment or a credential can be read through the server."""
    IDENTIFIER = "identifier"
    """A handle of A's, which B could not find, works for B."""
    NOTIFICATION = "notification"
    """An event of A's reaches B."""
    RACE = "race"
    """Answers are mixed up when both call at the same time."""


class Severity(StrEnum):
    """How much harm a finding does."""

    HIGH = "high"
    """Content, credentials or rights of another user."""
    MEDIUM = "medium"
    """Another user's actions interfere, without content."""
    LOW = "low"
    """Traces of what was done to public data."""


class Verdict(StrEnum):
    """What a check says in the end."""

    LEAK = "leak"
    NO_LEAK_SEEN = "no_leak_seen"
    INCONCLUSIVE = "inconclusive"


class Arrangement(StrEnum):
    """Who shares what while the probes run."""

    SHARED = "shared"
    """One process; two sessions where the transport has sessions, one connection otherwise."""
    ONE_SESSION = "one-session"
    """One session of an HTTP server for both users."""
    PER_USER = "per-user"
    """A process, home and network for each user, as the hub does it."""
    HUB = "hub"
    """Through a hub."""


USERS = ("A", "B")


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a user.

    Attributes:
        method: JSON-RPC method, such as `tools/call`.
        name: Tool, prompt or URI; empty for lists.
        arguments: Arguments of a tool or prompt.
        sent: Name of the tool on the wire, where `name` says more.
    """

    method: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sent: str = ""

    @property
    def wire_name(self) -> str:
        """What is sent as its name."""
        return self.sent or self.name

    def params(self) -> dict[str, Any]:
        """Return the JSON-RPC parameters."""
        if self.method in {"tools/call", "prompts/get"}:
            return {"name": self.wire_name, "arguments": dict(self.arguments)}
        if self.method in {"resources/read", "resources/subscribe"}:
            return {"uri": self.name}
        return {}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that reached a stand-in.

    Attributes:
        host: Name or address that the server dialled.
        method, path: Of the request; the path without its query.
        credentials: Labels of the planted credentials in it, such as `env:API_TOKEN` or `user:B`.
        hollow: It has the place of a credential and nothing in it: `Authorization: Bearer undefined`.
        said: Canaries of A's in it, or in what its session was opened with.
    """

    host: str
    method: str
    path: str
    credentials: frozenset[str] = frozenset()
    hollow: bool = False
    said: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a user saw of one call.

    Attributes:
        user: `A` or `B`.
        call: What was called.
        ok: It succeeded, by the protocol and by the tool's own word.
        text: Everything that came back, as text: content, structured content or the error.
        notifications: Notifications that came while it ran, as JSON texts.
        egress: What reached the stand-ins meanwhile.
        timed_out: No answer came in time.
        died: The server ended.
        seconds: How long it took.
    """

    user: str
    call: Call
    ok: bool
    text: str
    notifications: tuple[str, ...] = ()
    egress: tuple[Arrival, ...] = ()
    timed_out: bool = False
    died: bool = False
    seconds: float = 0.0

    @property
    def slow(self) -> bool:
        """Whether it took so long that few such calls fit into a check."""
        return self.seconds > _SLOW_S

    @property
    def all_text(self) -> str:
        """What came back, notifications included."""
        return "\n".join((self.text, *self.notifications))


@dataclass(frozen=True, slots=True)
class Finding:
    """One leak, with its evidence.

    Attributes:
        leak: Its class.
        severity: How bad.
        title: One sentence: what happened.
        trace: The shortest sequence of calls that shows it, A's first.
        seen: What B saw (shortened), the part that proves it included.
        control: What B saw without A, or why there is none.
        confidence: 0 to 1; 1 is proof (a canary or a planted credential was seen).
        arrangement: Where it was seen.
        reproduced: Times that the trace showed it again in a fresh process.
        remedy: What helps.
    """

    leak: LeakClass
    severity: Severity
    title: str
    trace: tuple[Observation, ...] = ()
    seen: str = ""
    control: str = ""
    confidence: float = 1.0
    arrangement: Arrangement = Arrangement.SHARED
    reproduced: int = 0
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a server was tried.

    Attributes:
        tools: Tools that it offers.
        tried: Of these, called at least once.
        succeeded: Of these, called with success at least once.
        skipped: Not called because they look destructive.
        resources, prompts: Read or got with success.
        calls: Calls in all runs.
        starts: Processes started.
        probes: Names of the probes that ran.
        undone: What could have shown a leak and was left undone, or not explained, in words.
    """

    tools: int = 0
    tried: tuple[str, ...] = ()
    succeeded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    resources: int = 0
    prompts: int = 0
    calls: int = 0
    starts: int = 0
    probes: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Part of the tools that were called with success, skipped ones not counted."""
        due = self.tools - len(self.skipped)
        return len(self.succeeded) / due if due > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check.

    Attributes:
        id: Name of the server in the settings or the manifest, or of what was run.
        version: Exact version of what was checked.
        verdict: What was found.
        safe_to_share: May two users share one process; None when it is not known.
        reason: One sentence for the verdict.
        findings: Worst first.
        coverage: How much was tried.
        seconds: How long it took.
        recommendation: Settings patch for `mcp_settings.json`.
        identity: How the server tells callers apart: `none`, `header`, …
        notes: What was assumed or left out.
    """

    id: str
    version: str
    verdict: Verdict
    safe_to_share: bool | None
    reason: str
    findings: tuple[Finding, ...] = ()
    coverage: Coverage = Coverage()
    seconds: float = 0.0
    recommendation: Mapping[str, Any] = field(default_factory=dict)
    identity: str = "none"
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Leak classes that were found, sorted."""
        return tuple(sorted({finding.leak.value for finding in self.findings}))
