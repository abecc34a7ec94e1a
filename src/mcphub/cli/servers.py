"""`mcphub server`: which servers there are, what exactly they run, and who may share them."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcphub.audit import log
from mcphub.catalog.importing import import_client_file
from mcphub.catalog.jsonc import parse
from mcphub.catalog.launchers import Requirement, satisfies
from mcphub.catalog.merging import entry_names
from mcphub.catalog.settings_file import LoadedSettings, read_text
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState
from mcphub.catalog.versions import exact_version
from mcphub.cli.check_evidence import told_of
from mcphub.cli.servers_file import add_entries, unknown_groups
from mcphub.cli.shell import CLI, Cli, Rows, command
from mcphub.cli.values import pair, when
from mcphub.cli.verdicts import facts_of, host_facts, noticed, somebody, start_of, verdict_of
from mcphub.errors import Conflict, HubError, InvalidInput, NotFound
from mcphub.identity.model import did_you_mean
from mcphub.policy.decide import decide
from mcphub.policy.model import EVERYONE, Denial, HostFacts, RiskLevel, Role, Transport

if TYPE_CHECKING:
    from mcphub.catalog.pins import Pin
    from mcphub.ground import Ground

_INSTALLS_AT_ONCE = 2

ServerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the server.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="G", help="Who may use it; repeatable.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the commands of `mcphub server`."""
    command(
        app,
        "add",
        example="mcphub server add time --group everyone --risk low -- uvx mcp-server-time",
    )(add_server)
    command(app, "import", example="mcphub server import claude_desktop_config.json --dry-run")(
        import_servers
    )
    command(app, "list", example="mcphub server list")(list_servers)
    command(app, "show", example="mcphub server show github")(show_server)
    command(app, "pin", example="mcphub server pin github 2025.4.8")(pin_server)
    command(app, "install", example="mcphub server install --all")(install_servers)
    command(app, "enable", example="mcphub server enable github")(enable_server)
    command(app, "disable", example="mcphub server disable github")(disable_server)
    command(
        app,
        "acknowledge",
        example='mcphub server acknowledge time --by admin --reason "no state, read its source"',
    )(acknowledge_server)


async def add_server(
    cli: Cli,
    name: ServerName,
    words: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND ARGS…", help="What to run, after `--`.")
    ],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V", help="Environment; ${USER_<SLOT>} asks each user."),
    ] = None,
    risk: Annotated[RiskLevel | None, typer.Option("--risk", help="How sensitive it is.")] = None,
    group: Groups = None,
    egress: Annotated[
        list[str] | None,
        typer.Option("--egress", metavar="HOST", help="Host it may reach; repeatable."),
    ] = None,
) -> None:
    """Add a server to mcp_settings.json. Nothing is executed or installed by this."""
    entry: dict[str, Any] = {"command": words[0], "args": words[1:]}
    if env:
        entry["env"] = dict(pair(text) for text in env)
    if risk is not None:
        entry["riskLevel"] = risk.value
    if group:
        entry["groups"] = group
    if egress is not None:
        entry["sandbox"] = {"egress": egress}
    async with cli.ground() as ground:
        settings = cli.settings()
        loaded = add_entries(settings.servers_file, {name: entry}, settings.operator_env)
        await ground.audit.write(CLI, log.SERVER_ADDED, name, {"command": words[0]})
        await cli.applied()
        await _warn(cli, ground, loaded, {name})
        cli.show({"name": name, "entry": entry}, f"Added the server {name}.")
        if not loaded.specs[name].sandbox.egress:
            cli.note("It gets no network. If it needs some, name the hosts: --egress HOST.")
        cli.note(f"Next: mcphub server install {name}")


async def import_servers(
    cli: Cli,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A client's settings file.")],
    group: Groups = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show.")] = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out servers whose name is there already."),
    ] = False,
) -> None:
    """Import the servers of a client's settings (Claude Desktop, Cursor, VS Code, …).

    Secrets that stand in the file become credential slots: each user sets an own value.
    """
    found = import_client_file(file, tuple(group or (EVERYONE,)))
    entries = dict(found.entries)
    for note in found.notes:
        cli.note(f"note: {note}")
    if skip_existing:
        known = entry_names(read_text(cli.settings().servers_file))
        for name in [name for name in entries if name in known]:
            del entries[name]
            cli.note(f'note: server "{name}": left out, there is one of this name already.')
    data = {"entries": entries, "notes": list(found.notes), "written": not dry_run}
    names = ", ".join(entries) or "none"
    if dry_run or not entries:
        cli.show(data, f"Servers found: {names}. Nothing was written.")
        return
    async with cli.ground() as ground:
        settings = cli.settings()
        loaded = add_entries(settings.servers_file, entries, settings.operator_env)
        for name in entries:
            await ground.audit.write(CLI, log.SERVER_ADDED, name, {"imported": "yes"})
        await cli.applied()
        await _warn(cli, ground, loaded, set(entries))
        cli.show(data, f"Imported: {names}.")
        cli.note("Next: mcphub server install --all")


async def list_servers(cli: Cli) -> None:
    """List all servers: risk, isolation, pinned version, groups, state."""
    async with cli.ground() as ground:
        states = await ground.states.all()
        host = await host_facts(cli)
        seen = await noticed(cli)
        data = [
            _summary(spec, states.get(spec.name), host)
            | {
                "unavailable": seen.problems.get(spec.name, []),
                "advice": seen.advice.get(spec.name, ""),
            }
            for spec in ground.live.current.specs.values()
        ]
        groups = await ground.directory.groups()
        warnings = [
            *ground.live.current.warnings,
            *unknown_groups(ground.live.current.specs.values(), groups),
        ]
    rows = [
        (
            entry["name"],
            entry["risk"] or "unclassified",
            entry["isolation"] or "refused",
            entry["version"] or "not pinned",
            ", ".join(entry["groups"]) or "administrators only",
            _state(entry),
        )
        for entry in data
    ]
    columns = ("NAME", "RISK", "ISOLATION", "VERSION", "GROUPS", "STATE")
    cli.show(
        data, Rows(columns, rows, "No servers yet. Add one: mcphub server add NAME -- COMMAND")
    )
    for warning in warnings:
        cli.warn(warning)
    for entry in data:
        for reason in entry["unavailable"]:
            cli.warn(f"{entry['name']} cannot be listed: {reason}")
        if entry["advice"]:
            cli.warn(f"{entry['name']}: {entry['advice']}")


def _state(entry: dict[str, Any]) -> str:
    if not entry["enabled"]:
        return "disabled"
    return "not listed" if entry["unavailable"] else "enabled"


async def show_server(cli: Cli, name: ServerName) -> None:
    """Show a server: what it runs, its slots, its pin and evidence, and policy for each role."""
    async with cli.ground() as ground:
        spec = spec_of(ground, name)
        state = (await ground.states.all()).get(name)
        host = await host_facts(cli)
        seen = await noticed(cli)
        data = _summary(spec, state, host)
        evidence = await ground.states.evidence_of(name)
        pin = state.pin if state is not None else None
        data |= {
            "title": spec.title,
            "transport": spec.transport.value,
            "written": _as_written(ground, name),
            "slots": list(spec.slot_names),
            "egress": list(spec.sandbox.egress),
            "redirect": dict(spec.sandbox.redirect),
            "tools": {"allow": list(spec.tools_allow), "deny": list(spec.tools_deny)},
            "pin": _pin(pin) if pin is not None else None,
            "start": start_of(ground, spec, pin),
            "unavailable": seen.problems.get(name, []),
            "advice": seen.advice.get(name, ""),
            "evidence": [
                {"kind": e.kind, "version": e.version, "by": e.by, "at": e.at, "note": e.note}
                for e in evidence
            ],
            "policy": {role.value: verdict_of(spec, state, host, role) for role in Role},
        }
    rows: list[tuple[str, object]] = [
        ("name", f"{spec.name} ({spec.title})" if spec.title != spec.name else spec.name),
        ("transport", spec.transport.value),
        ("runs", _runs(data["written"])),
        ("risk", data["risk"] or "unclassified: treated as critical"),
        ("groups", ", ".join(data["groups"]) or "administrators only"),
        ("state", "enabled" if data["enabled"] else "disabled"),
        ("version", pin.told if pin else data["version"] or "not pinned yet"),
        ("start", f"{data['start']['mode']}: {data['start']['reason']}"),
        *(("environment", key) for key in spec.env),
        *(("slot", f"{slot.name} in {', '.join(slot.places)}") for slot in spec.slots),
        ("egress", ", ".join(spec.sandbox.egress) or "no network"),
        *(("redirect", f"{key} -> {to}") for key, to in spec.sandbox.redirect.items()),
        *(("evidence", f"{e.kind} for {e.version} by {e.by}: {e.note}") for e in evidence),
        *(("check", line) for line in told_of(cli, spec, str(data["version"]))),
        *((f"policy: {role}", told) for role, told in data["policy"].items()),
        *(("not listed", reason) for reason in data["unavailable"]),
        *([("advice", data["advice"])] if data["advice"] else []),
    ]
    cli.show(data, Rows(("FACT", "VALUE"), rows))


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
        told = {"name": name, "old": old.version if old else None, "new": _pin(new)}
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


async def enable_server(cli: Cli, name: ServerName) -> None:
    """Switch a server on."""
    await _switch(cli, name, enabled=True)


async def disable_server(cli: Cli, name: ServerName) -> None:
    """Switch a server off for everybody; running instances are ended."""
    await _switch(cli, name, enabled=False)


async def acknowledge_server(
    cli: Cli,
    name: ServerName,
    by: Annotated[
        str, typer.Option("--by", metavar="ADMIN", help="The administrator who answers for it.")
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why users may share one process.")
    ],
    yes: Yes = False,
) -> None:
    """Record an administrator's word that this version of a server may serve all users from one process.

    It counts for servers of risk medium or low, and for the version that is pinned now.
    """
    async with cli.ground() as ground:
        spec = spec_of(ground, name)
        admin = await ground.directory.user(by)
        if admin.role is not Role.ADMIN or admin.disabled:
            raise InvalidInput(f"{admin.name} is no administrator.", hint="Run: mcphub user list")
        state = (await ground.states.all()).get(name)
        version = exact_version(spec, state.pin if state is not None else None)
        if not version:
            raise InvalidInput(
                f"It is not known which version of {name} would run.",
                hint=f"Run: mcphub server install {name}",
            )
        if not reason.strip():
            raise InvalidInput("The reason is empty.", hint="Say what was looked at.")
        cli.confirm(f"Let all users share one process of {name} {version}?", yes=yes)
        async with ground.db.together():
            proof = await ground.states.acknowledge(name, version, admin.name, reason.strip())
            await ground.audit.write(
                CLI, log.SERVER_ACKNOWLEDGED, name, {"version": version, "by": admin.id}
            )
        await cli.applied()
        told = {
            "name": name,
            "version": version,
            "by": proof.by,
            "at": proof.at,
            "note": proof.note,
        }
        cli.show(told, f"Recorded: {proof.by} answers for sharing {name} {version}.")


def spec_of(ground: "Ground", name: str) -> ServerSpec:
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


async def _switch(cli: Cli, name: str, *, enabled: bool) -> None:
    word = "enable" if enabled else "disable"
    async with cli.ground() as ground:
        spec = spec_of(ground, name)
        async with ground.db.together():
            await ground.states.set_enabled(name, enabled)
            await ground.audit.write(
                CLI, log.SERVER_ENABLED if enabled else log.SERVER_DISABLED, name, {}
            )
        await cli.applied()
        cli.show({"name": name, "enabled": enabled}, f"The server {name} is {word}d.")
        if enabled and not spec.enabled:
            cli.warn(f'mcp_settings.json says "enabled": false for {name}; that still counts.')


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


def _summary(spec: ServerSpec, state: ServerState | None, host: HostFacts) -> dict[str, Any]:
    facts = facts_of(spec, state)
    verdict = decide(somebody(spec, Role.ADMIN), facts, host)
    return {
        "name": spec.name,
        "risk": spec.risk.value if spec.risk else None,
        "isolation": None if isinstance(verdict, Denial) else verdict.isolation.value,
        "version": facts.version,
        "groups": sorted(spec.groups),
        "enabled": facts.enabled,
        "warnings": [] if isinstance(verdict, Denial) else list(verdict.warnings),
    }


def _as_written(ground: "Ground", name: str) -> dict[str, Any]:
    """Return the entry of the file with its templates: a spec may hold values of the operator's."""
    document = parse(read_text(ground.live.path))
    servers = document.get("mcpServers") or document.get("servers") or {}
    entry = dict(servers.get(name) or {})
    if isinstance(entry.get("env"), dict):
        entry["env"] = {key: _hidden(value) for key, value in entry["env"].items()}
    if isinstance(entry.get("headers"), dict):
        entry["headers"] = {key: _hidden(value) for key, value in entry["headers"].items()}
    return entry


def _hidden(value: object) -> str:
    """Return a template as it is and any other text as `…`: it may be a secret of the operator's."""
    return str(value) if "${" in str(value) else "…"


def _runs(entry: dict[str, Any]) -> str:
    words = [entry.get("command", ""), *entry.get("args", [])]
    return " ".join(str(word) for word in words).strip() or str(entry.get("url", ""))


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


def _pin(pin: "Pin") -> dict[str, Any]:
    return {
        "ecosystem": pin.ecosystem,
        "package": pin.name,
        "version": pin.version,
        "integrity": pin.integrity,
        "constraints": list(pin.constraints),
        "resolved_at": pin.resolved_at,
        "resolved": when(pin.resolved_at),
    }


async def _warn(cli: Cli, ground: "Ground", loaded: LoadedSettings, names: set[str]) -> None:
    unknown = unknown_groups(loaded.specs.values(), await ground.directory.groups())
    for warning in [*loaded.warnings, *unknown]:
        if any(f'server "{name}"' in warning for name in names):
            cli.warn(warning)
