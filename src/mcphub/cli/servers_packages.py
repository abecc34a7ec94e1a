"""`mcphub server pin` and `install`: the exact package that a server runs, and its place in the store."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcphub.audit import log
from mcphub.catalog.launchers import Requirement, satisfies
from mcphub.catalog.spec import ServerSpec
from mcphub.cli.shell import CLI, Cli, Rows, Yes
from mcphub.cli.values import when
from mcphub.cli.verdicts import ServerName, spec_of
from mcphub.errors import Conflict, HubError, InvalidInput
from mcphub.policy.model import Transport

if TYPE_CHECKING:
    from mcphub.catalog.pins import Pin
    from mcphub.ground import Ground

_INSTALLS_AT_ONCE = 2


async def pin_server(
    cli: Cli,
    name: ServerName,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    yes: Yes = False,
) -> None:
    """Pin the exact package version of a server (default: the newest that its settings allow).

    A change of version is an administrator's word: evidence for sharing speaks of one version only.
    """
    async with cli.ground() as ground:
        spec = spec_of(ground, name)
        wanted = _requirement(ground, spec)
        state = (await ground.states.all()).get(name)
        old = state.pin if state is not None else None
        if version is not None:
            wanted = _with_version(wanted, version)
        cli.note(f"Looking up {wanted.name} …")
        new = await ground.packages.resolve(wanted)
        before = old.version if old is not None else "not pinned"
        told = {"name": name, "old": old.version if old else None, "new": pin_facts(new)}
        if old is not None and (old.version, old.integrity) == (new.version, new.integrity):
            cli.show(told, f"{name} is pinned to {new.version} already.")
            return
        cli.note(f"{name}: {before} -> {new.version} ({new.name}, {new.integrity[:27]}…)")
        if old is not None:
            cli.confirm(f"Run {new.version} instead of {before} from now on?", yes=yes)
        async with ground.db.together():
            await ground.states.set_pin(name, new)
            await ground.audit.write(
                CLI,
                log.SERVER_PINNED,
                name,
                {"old": before, "new": new.version, "hash": new.integrity},
            )
        await cli.applied()
        cli.show(told, f"Pinned {name} to {new.version}.")
        cli.note(f"Next: mcphub server install {name}")


async def install_servers(
    cli: Cli,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every enabled server.")] = False,
) -> None:
    """Install a server's pinned package, or those of all servers; a first pin is made on the way."""
    if (name is None) == (not everything):
        raise typer.BadParameter("Name one server, or give --all.")
    async with cli.ground() as ground:
        specs = [spec_of(ground, name)] if name else list(ground.live.current.specs.values())
        gate = asyncio.Semaphore(_INSTALLS_AT_ONCE)

        async def one(spec: ServerSpec) -> dict[str, Any] | None:
            async with gate:
                return await _install(cli, ground, spec)

        found = await asyncio.gather(*(one(spec) for spec in specs))
        done = [installed for installed in found if installed is not None]
        await cli.applied()
    rows = [(entry["name"], entry["version"], entry["state"]) for entry in done]
    cli.show(done, Rows(("NAME", "VERSION", "STATE"), rows, "There is nothing to install."))
    failed = [entry["name"] for entry in done if entry["state"] == "failed"]
    if failed:
        raise Conflict(f"Not installed: {', '.join(failed)}.", hint="See the messages above.")


async def _install(cli: Cli, ground: "Ground", spec: ServerSpec) -> dict[str, Any] | None:
    """Install one server's package; None when there is none to install."""
    told = {"name": spec.name, "version": "", "state": "failed"}
    try:
        wanted = ground.packages.requirement(spec.command, spec.args)
        if spec.transport is not Transport.STDIO or wanted is None:
            return None
        state = (await ground.states.all()).get(spec.name)
        pin = state.pin if state is not None else None
        if pin is None or not satisfies(pin, wanted):
            if pin is not None:
                raise Conflict(
                    f"{spec.name}: the settings ask for another package than {pin.name} "
                    f"{pin.version}, which is pinned.",
                    hint=f"Run: mcphub server pin {spec.name}",
                )
            cli.note(f"{spec.name}: looking up {wanted.name}")
            pin = await ground.packages.resolve(wanted)
            detail = {"old": "not pinned", "new": pin.version, "hash": pin.integrity}
            async with ground.db.together():
                await ground.states.set_pin(spec.name, pin)
                await ground.audit.write(CLI, log.SERVER_PINNED, spec.name, detail)
        told["version"] = pin.version
        if ground.packages.installed(pin, wanted) is not None:
            return told | {"state": "was there"}
        await ground.packages.install(pin, wanted, lambda line: cli.note(f"{spec.name}: {line}"))
    except HubError as error:
        cli.note(f"error: {error.message}" + (f" {error.hint}" if error.hint else ""))
        return told
    return told | {"state": "installed"}


def _requirement(ground: "Ground", spec: ServerSpec) -> Requirement:
    wanted = ground.packages.requirement(spec.command, spec.args)
    if wanted is None:
        raise InvalidInput(
            f"{spec.name} runs a program of this machine, no package: there is nothing to pin.",
            hint="Packages are pinned for npx, uvx and their like.",
        )
    return wanted


def _with_version(wanted: Requirement, version: str) -> Requirement:
    exact = f"=={version}" if wanted.ecosystem == "pypi" else version
    asked = wanted.version
    if asked and asked.lstrip("=v") != version:
        raise Conflict(
            f"The settings ask for version {asked} of {wanted.name}.",
            hint="Change it in mcp_settings.json first.",
        )
    return replace(wanted, version=exact)


def pin_facts(pin: "Pin") -> dict[str, Any]:
    """Return what is told of a pin."""
    return {
        "ecosystem": pin.ecosystem,
        "package": pin.name,
        "version": pin.version,
        "integrity": pin.integrity,
        "constraints": list(pin.constraints),
        "resolved_at": pin.resolved_at,
        "resolved": when(pin.resolved_at),
    }
