"""What the command line tells policy: facts of the host and of a server, as the hub would see them."""

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState
from mcphub.catalog.versions import exact_version
from mcphub.cli.running import NotRunning
from mcphub.cli.shell import Cli
from mcphub.policy.model import HostFacts, ServerFacts
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings


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
    return HostFacts(level, settings.sandbox.minimum_level, allow)


def facts_of(spec: ServerSpec, state: ServerState | None) -> ServerFacts:
    """Return what policy needs to know of a server."""
    if state is None:
        return spec.facts(version=exact_version(spec, None))
    return spec.facts(
        version=exact_version(spec, state.pin), enabled=state.enabled, evidence=state.evidence
    )
