"""Which tools a server has, as far as the hub knows without asking the server. For `mcphub explain`."""

from dataclasses import dataclass

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState
from mcphub.catalog.versions import exact_version, kept_as
from mcphub.cli.running import NotRunning
from mcphub.cli.shell import Cli
from mcphub.errors import HubError, NotFound
from mcphub.ground import Ground
from mcphub.identity.model import did_you_mean
from mcphub.policy.model import Principal
from mcphub.spawn.launching import SHARED
from mcphub.wire import envelope

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools of a server for one user.

    Attributes:
        names: Their names; None when they are not known.
        why_unknown: Part of a sentence that says why; "" when they are known.
    """

    names: frozenset[str] | None
    why_unknown: str = ""


async def offered_tools(
    cli: Cli, ground: Ground, spec: ServerSpec, state: ServerState | None, principal: Principal
) -> Offered:
    """Return what nobody's instance of the version that would run listed, and what the user's own list."""
    own = await _own(cli, spec, principal)
    version = exact_version(spec, state.pin if state is not None else None)
    stored = await ground.states.catalog(spec.name, kept_as(spec, version)) if version else None
    if stored is not None and not stored.per_user:
        named = {
            envelope.text(envelope.object_of(raw).get("name"))
            for raw in envelope.array_of(stored.tools)
        }
        return Offered(frozenset(named | (own or set())))
    if own is not None:
        return Offered(frozenset(own))
    if stored is not None:
        return Offered(
            None,
            "it lists its tools only with the user's own credentials and has not been asked yet",
        )
    return Offered(None, "its tools are not known yet: a running hub learns them (mcphub serve)")


def check_offered(spec: ServerSpec, offered: Offered, tool: str) -> None:
    """Refuse the name of a tool that a server does not have.

    Raises:
        NotFound: It has no such tool, as far as its tools are known; the hint names the nearest.
    """
    if offered.names is None or tool in offered.names:
        return
    some = ", ".join(sorted(offered.names)[:_SHOWN])
    more = ", …" if len(offered.names) > _SHOWN else ""
    raise NotFound(
        f"The server '{spec.name}' has no tool '{tool[:64]}'.",
        hint=did_you_mean(tool, offered.names)
        or (f"It has: {some}{more}" if some else "It has no tools."),
    )


async def _own(cli: Cli, spec: ServerSpec, principal: Principal) -> set[str] | None:
    """Return what running instances of the user listed themselves; None when none was asked."""
    hub = cli.running()
    found: set[str] | None = None
    try:
        running = (await hub.get("/instances"))["instances"]
    except NotRunning:
        return None
    for entry in running:
        if entry["server"] != spec.name or entry["user"] not in {principal.user_id, SHARED}:
            continue
        try:
            names = (await hub.get(f"/instances/{entry['id']}/tools"))["tools"]
        except HubError:  # it stopped meanwhile
            continue
        if names is not None:
            found = (found or set()) | set(names)
    return found
