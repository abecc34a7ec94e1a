"""`mcphub server`: servers are added, imported, switched, and acknowledged as safe to share.

What is shown of them is in `servers_shown`, what they run in `servers_packages`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcphub.audit import log
from mcphub.catalog.importing import import_client_file
from mcphub.catalog.merging import entry_names
from mcphub.catalog.settings_file import LoadedSettings, read_text
from mcphub.catalog.versions import exact_version
from mcphub.cli.servers_file import add_entries, unknown_groups
from mcphub.cli.servers_packages import install_servers, pin_server
from mcphub.cli.servers_shown import list_servers, show_server
from mcphub.cli.shell import CLI, Cli, Yes, command
from mcphub.cli.values import pair
from mcphub.cli.verdicts import ServerName, spec_of
from mcphub.errors import InvalidInput
from mcphub.policy.model import EVERYONE, RiskLevel, Role

if TYPE_CHECKING:
    from mcphub.ground import Ground

Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="G", help="Who may use it; repeatable.")
]


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


async def _warn(cli: Cli, ground: "Ground", loaded: LoadedSettings, names: set[str]) -> None:
    unknown = unknown_groups(loaded.specs.values(), await ground.directory.groups())
    for warning in [*loaded.warnings, *unknown]:
        if any(f'server "{name}"' in warning for name in names):
            cli.warn(warning)
