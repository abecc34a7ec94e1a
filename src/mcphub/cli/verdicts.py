"""What the command line knows of host and servers: facts for policy as the hub would see them, and what fails."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from mcphub.catalog.pins import Pin
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState
from mcphub.catalog.versions import exact_version
from mcphub.cli.running import NotRunning
from mcphub.cli.shell import Cli
from mcphub.errors import InvalidInput, NotFound
from mcphub.ground import Ground
from mcphub.identity.model import did_you_mean
from mcphub.policy.decide import decide
from mcphub.policy.model import Denial, HostFacts, Principal, Role, ServerFacts
from mcphub.spawn.findings import Findings
from mcphub.spawn.modes import mode_of
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings

ServerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the server.")]


def spec_of(ground: Ground, name: str) -> ServerSpec:
    """Return a server's spec.

    Raises:
        NotFound: There is none; the hint names the nearest.
    """
    specs = ground.live.current.specs
    if name in specs:
        return specs[name]
    raise NotFound(
        f"There is no server '{name[:64]}'.",
        hint=did_you_mean(name, specs) or "Run: mcphub server list",
    )


async def host_facts(cli: Cli) -> HostFacts:
    """Return what this machine enforces: what the running hub found, else found by trying now."""
    settings = cli.settings()
    allow = settings.sandbox.allow_unsandboxed
    level: object = None
    try:
        status = await cli.running().get("/status")
        level = status.get("sandboxLevel")
        allow = bool(status.get("allowUnsandboxed", allow))
    except NotRunning:
        pass
    if not isinstance(level, int):
        sandbox = SandboxSettings(state=settings.run, uid_base=settings.sandbox.uid_base)
        async with SandboxedSpawner(sandbox) as spawner:
            level = spawner.level
    return settings.sandbox.host_facts(level, allow_unsandboxed=allow)


def facts_of(spec: ServerSpec, state: ServerState | None) -> ServerFacts:
    """Return what policy needs to know of a server."""
    if state is None:
        return spec.facts(version=exact_version(spec, None))
    return spec.facts(
        version=exact_version(spec, state.pin), enabled=state.enabled, evidence=state.evidence
    )


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the running hub noticed of servers.

    Attributes:
        problems: Why servers could not be listed last, by server.
        advice: What an administrator should change, by server.
    """

    problems: Mapping[str, list[str]]
    advice: Mapping[str, str]


async def noticed(cli: Cli) -> Noticed:
    """Return what the running hub noticed of servers; nothing where none runs."""
    try:
        status = await cli.running().get("/status")
    except NotRunning:
        return Noticed({}, {})
    found: dict[str, list[str]] = {}
    for entry in status.get("unavailable", []):
        reasons = found.setdefault(entry["server"], [])
        if entry["reason"] not in reasons:
            reasons.append(entry["reason"])
    return Noticed(found, status.get("advice", {}))


def verdict_of(spec: ServerSpec, state: ServerState | None, host: HostFacts, role: Role) -> str:
    """Return in a sentence what policy says of a server for a role."""
    verdict = decide(somebody(spec, role), facts_of(spec, state), host)
    if isinstance(verdict, Denial):
        return f"refused ({verdict.rule}): {verdict.reason}"
    return f"allowed, isolation {verdict.isolation.value}"


def somebody(spec: ServerSpec, role: Role) -> Principal:
    """Return a member of the server's groups, to ask policy about nobody in particular."""
    return Principal("u_example", "example", 16, role, spec.groups, "local")


def start_of(ground: Ground, spec: ServerSpec, pin: Pin | None) -> dict[str, str]:
    """Return how instances of a server are started, and why, as far as it is known."""
    argv: tuple[str, ...] = (spec.command,)
    with contextlib.suppress(InvalidInput):
        wanted = ground.packages.requirement(spec.command, spec.args)
        if wanted is not None:
            found = None if pin is None else ground.packages.installed(pin, wanted)
            if found is None:
                return {"mode": "plain", "reason": "It is not installed yet."}
            argv = found.argv
    mode = mode_of(spec, argv, Findings(ground.settings.starts))
    if mode is None:
        return {"mode": "plain", "reason": "A running hub finds out after the first start."}
    return {"mode": mode.kind, "reason": mode.reason}
