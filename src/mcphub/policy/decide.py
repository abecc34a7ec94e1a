"""The decision: may this principal use this server, and who may share the running server.

Pure: values in, `Permit | Denial` out, with a trace of every rule that was looked at. Three stages,
each fail closed: *who may see it at all* (`_visibility`), *which row of the table* (`_ROWS`, read it
from top to bottom, the first match counts), *what this host can enforce* (`_sandbox`). The settings
may ask for a narrower isolation than the row's; asking for a wider one changes nothing but adds a
warning. No rule means no.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mcphub.policy.model import (
    _PERMIT_KEY,
    Denial,
    HostFacts,
    Isolation,
    Permit,
    Principal,
    RiskLevel,
    ServerFacts,
    Step,
    Transport,
)
from mcphub.policy.tools import tool_rule

_WIDTH: Final = {
    Isolation.SESSION: 1,
    Isolation.USER: 2,
    Isolation.SHARED: 3,
    Isolation.BUILTIN: 3,
}

# ------------------------------------------------------------------ what the rows of the table ask


def _always(server: ServerFacts) -> bool:  # noqa: ARG001  the last row of a transport
    return True


def _is_critical(server: ServerFacts) -> bool:
    """Whether the server counts as critical: it says so, or says nothing."""
    return server.risk in (None, RiskLevel.CRITICAL)


def _is_sensitive(server: ServerFacts) -> bool:
    return _is_critical(server) or server.risk is RiskLevel.HIGH


def _has_evidence(server: ServerFacts) -> bool:
    """Whether evidence speaks of exactly what would run; an unknown version has none."""
    evidence = server.evidence
    return evidence is not None and bool(server.version) and evidence.version == server.version


def _wants_own_process(server: ServerFacts) -> bool:
    return (
        _is_sensitive(server)
        or server.requires_user_isolation
        or server.per_user_credential
        or server.names_user
    )


# --------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: the first whose `transport` and `when` hold decides.

    Attributes:
        rule: Stable code of the row.
        finding: What is true when the row holds.
        isolation: The widest sharing that the row allows.
        administrators_only: Who may use it: administrators, otherwise the server's groups.
        hint: What would help a caller that the row refuses.
    """

    rule: str
    transport: Transport
    when: Callable[[ServerFacts], bool]
    finding: str
    isolation: Isolation
    administrators_only: bool = False
    hint: str = ""


_ROWS: Final = (
    _Row(
        "builtin",
        Transport.BUILTIN,
        _always,
        "code of the hub: credential per call, no state between calls",
        Isolation.BUILTIN,
    ),
    _Row(
        "stdio-own-process",
        Transport.STDIO,
        _wants_own_process,
        "critical, high or unclassified, or it requires user isolation, or it is started with the "
        "user's own values",
        Isolation.USER,
    ),
    _Row(
        "stdio-shared-with-evidence",
        Transport.STDIO,
        _has_evidence,
        "medium or low, with evidence for exactly this version",
        Isolation.SHARED,
    ),
    _Row(
        "stdio-without-evidence",
        Transport.STDIO,
        _always,
        "medium or low, but no evidence for exactly this version",
        Isolation.USER,
    ),
    _Row(
        "http-per-user",
        Transport.HTTP,
        lambda s: s.user_aware or s.per_user_credential,
        "user-aware, or each request carries the user's own credential",
        Isolation.USER,
    ),
    _Row(
        "http-cannot-isolate",
        Transport.HTTP,
        lambda s: _is_sensitive(s) or s.requires_user_isolation,
        "critical, high or unclassified (or it requires user isolation), and nothing in a request "
        "tells it who the user is",
        Isolation.USER,
        administrators_only=True,
        hint="The administrator can put a ${USER_...} credential into its headers, run it as a stdio "
        'server, or set "userAware": true if the server tells users apart by itself.',
    ),
    _Row(
        "http-shared-with-evidence",
        Transport.HTTP,
        _has_evidence,
        "medium or low, with evidence for exactly this version: one connection per user",
        Isolation.USER,
    ),
    _Row(
        "http-without-evidence",
        Transport.HTTP,
        _always,
        "medium or low, but no evidence for exactly this version",
        Isolation.USER,
        administrators_only=True,
        hint="An isolation check without a leak, or an administrator's recorded acknowledgement, "
        "opens it to its groups.",
    ),
)


# ------------------------------------------------------------------------------------ the decision


@dataclass(slots=True)
class _Course:
    """A decision under way: what was found so far."""

    principal: Principal
    server: ServerFacts
    host: HostFacts
    trace: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, rule: str, finding: str, outcome: str) -> None:
        self.trace.append(Step(rule, finding, outcome))

    def refuse(self, rule: str, reason: str, *, hint: str = "", visible: bool = True) -> Denial:
        self.trace.append(Step(rule, reason, "refused" if visible else "refused, as not found"))
        return Denial(rule, reason, hint, visible, tuple(self.trace))


def decide(principal: Principal, server: ServerFacts, host: HostFacts) -> Permit | Denial:
    """Return whether `principal` may use `server` on this host, how isolated, and why.

    Args:
        principal: The authenticated caller.
        server: Facts of one server spec, with the version that would run.
        host: What the machine can enforce.
    """
    course = _Course(principal, server, host)
    denial = _visibility(course)
    if denial is not None:
        return denial
    row = _row(server)
    if row is None:
        return course.refuse("no-rule", f'No rule speaks of the server "{server.name}".')
    isolation = _narrowed(course, row)
    denial = _row_admits(course, row)
    if denial is not None:
        return denial
    if server.transport is Transport.STDIO:
        answer = _sandbox(course, isolation)
        if isinstance(answer, Denial):
            return answer
        isolation = answer
    course.note("permit", f'isolation "{isolation}"', "allowed")
    return Permit(
        principal=principal,
        server=server.name,
        isolation=isolation,
        allows_tool=tool_rule(server.tools_allow, server.tools_deny),
        warnings=tuple(course.warnings),
        trace=tuple(course.trace),
        key=_PERMIT_KEY,
    )


def may_share(server: ServerFacts, host: HostFacts) -> bool:
    """Return whether one process of a server may serve several users, whoever they are."""
    row = _row(server)
    return (
        row is not None
        and row.isolation is Isolation.SHARED
        and server.isolation in {None, Isolation.SHARED, Isolation.BUILTIN}
        and server.enabled
        and host.sandbox_level >= host.needed(server.risk)
    )


def _row(server: ServerFacts) -> _Row | None:
    return next((r for r in _ROWS if r.transport is server.transport and r.when(server)), None)


def _visibility(course: _Course) -> Denial | None:
    """Who may know of the server at all: group, then enabled, then administrators only."""
    principal, server = course.principal, course.server
    common = sorted(principal.groups & server.groups)
    if principal.is_admin:
        course.note("groups", "the caller is an administrator", "may see every server")
    elif not server.groups:
        return course.refuse(
            "no-groups",
            f'The server "{server.name}" is for administrators only: it names no groups.',
            hint='Add "groups": ["everyone"] to the server to open it to every user.',
            visible=False,
        )
    elif not common:
        return course.refuse(
            "not-in-group",
            f'You are in none of the groups of the server "{server.name}".',
            hint="Ask an administrator for a membership.",
            visible=False,
        )
    else:
        course.note("groups", f"in {', '.join(common)}", "may see it")
    if server.admin_only and not principal.is_admin:
        return course.refuse(
            "admin-only",
            f'The server "{server.name}" is for administrators only.',
            hint='Remove "adminOnly" from the server to open it to its groups.',
            visible=False,
        )
    if not server.enabled:
        return course.refuse(
            "server-disabled",
            f'The server "{server.name}" is disabled.',
            hint=f"An administrator can run: mcphub server enable {server.name}",
        )
    course.note("enabled", "the server is enabled", "go on")
    return None


def _narrowed(course: _Course, row: _Row) -> Isolation:
    """The row's isolation, or the narrower one that the settings ask for; never a wider one."""
    course.note(row.rule, row.finding, f'isolation at most "{row.isolation}"')
    asked = course.server.isolation
    if asked is None or asked is row.isolation:
        return row.isolation
    if row.isolation is not Isolation.BUILTIN and _WIDTH[asked] < _WIDTH[row.isolation]:
        course.note("isolation", f'the settings ask for "{asked}"', f'narrowed to "{asked}"')
        return asked
    course.warnings.append(
        f'The settings ask for isolation "{asked}" for "{course.server.name}"; '
        f'policy allows "{row.isolation}" at most ({row.finding}).'
    )
    course.note("isolation", f'the settings ask for "{asked}"', f'stays "{row.isolation}"')
    return row.isolation


def _row_admits(course: _Course, row: _Row) -> Denial | None:
    server = course.server
    if not row.administrators_only:
        if row.rule == "http-per-user" and server.requires_user_isolation:
            course.warnings.append(
                f'"{server.name}" requires user isolation, but the hub cannot give each user an own '
                "process of an HTTP server: the server itself must keep users apart."
            )
        return None
    if not course.principal.is_admin:
        return course.refuse(
            row.rule,
            f'The server "{server.name}" cannot be isolated between users yet ({row.finding}).',
            hint=row.hint,
        )
    course.warnings.append(
        f'"{server.name}" is open to administrators only: {row.finding}. What one of them does '
        "there may be visible to the others."
    )
    course.note("administrators", "the caller is an administrator", "allowed, with a warning")
    return None


def _sandbox(course: _Course, isolation: Isolation) -> Isolation | Denial:
    """What the host's sandbox level means for a process on it."""
    server, host = course.server, course.host
    level, critical = host.sandbox_level, _is_critical(server)
    needed = host.needed(server.risk)
    if level >= needed:
        course.note("sandbox", f"level {level}, at least {needed} is needed", "go on")
        return isolation
    what = "no sandbox" if level <= 0 else f"sandbox level {level}, below the minimum {needed}"
    if not host.allow_unsandboxed:
        return course.refuse(
            "sandbox-unavailable",
            f'The server "{server.name}" is not started: this host has {what}.',
            hint="An administrator finds the cause with: mcphub doctor. Running without it needs "
            "--allow-unsandboxed.",
        )
    if critical and not course.principal.is_admin:
        return course.refuse(
            "sandbox-unavailable",
            f'The server "{server.name}" is for administrators only: this host has {what}.',
            hint="An administrator finds the cause with: mcphub doctor",
        )
    course.warnings.append(
        f'"{server.name}" runs with {what} (--allow-unsandboxed): it can read what the hub\'s '
        "account can read."
        if level <= 0
        else f'"{server.name}" runs with {what} (--allow-unsandboxed).'
    )
    course.note("sandbox", f"{what}, but --allow-unsandboxed was given", "allowed, with a warning")
    # Without a sandbox a shared process would reach every user's files: one process each.
    return isolation if _WIDTH[isolation] <= _WIDTH[Isolation.USER] else Isolation.USER


def mechanism(server: ServerFacts, isolation: Isolation) -> str:
    """Return what keeps the users of a server apart, in one sentence part."""
    if server.transport is Transport.BUILTIN:
        return "code of the hub: the caller's credential with each call, no state between calls"
    if server.transport is Transport.STDIO:
        own = {Isolation.USER: "user", Isolation.SESSION: "session"}.get(isolation)
        if own is not None:
            return f"an own process in an own sandbox for each {own}"
        if server.user_aware:
            return "the server itself, by the user that the hub tells it with each request"
        return "nothing: evidence says that this version keeps nothing of its users"
    if server.user_aware:
        return "the server itself, by the user that the hub tells it; own connection for each user"
    if server.per_user_credential:
        return "the service behind it, by the user's own credential; own connection for each user"
    if server.evidence is not None and _has_evidence(server) and not _is_sensitive(server):
        return "own connection for each user; evidence says that this version keeps nothing else"
    return "nothing but an own connection for each user: for administrators only"


def explain(
    principal: Principal, server: ServerFacts, host: HostFacts, tool: str | None = None
) -> list[Step]:
    """Return the whole way of a decision for `mcphub explain`, with warnings and the tool's rule."""
    decision = decide(principal, server, host)
    steps = list(decision.trace)
    if isinstance(decision, Denial):
        if decision.hint:
            steps.append(Step("hint", decision.hint, ""))
        return steps
    steps.append(Step("mechanism", mechanism(server, decision.isolation), "keeps users apart"))
    steps.extend(Step("warning", warning, "shown everywhere") for warning in decision.warnings)
    if tool is not None:
        steps.append(tool_rule(server.tools_allow, server.tools_deny).explain(tool))
    return steps
