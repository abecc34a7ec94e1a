"""`mcphub init`, `serve`, `config show`: from an empty directory to a hub that serves."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from mcphub.audit import log
from mcphub.cli.logs import log_to_stderr
from mcphub.cli.shell import CLI, Cli, Rows, command, opened
from mcphub.cli.starter import SERVERS, toml, toml_text
from mcphub.errors import InvalidInput, NotFound
from mcphub.policy.model import Role
from mcphub.settings import HubSettings, names, variable_of

_SECRET = "…"  # noqa: S105  what is shown instead


def register_init(app: typer.Typer) -> None:
    """Add `mcphub init`."""
    command(app, "init", example="mcphub init")(init)


def register_serve(app: typer.Typer) -> None:
    """Add `mcphub serve`."""
    command(app, "serve", example="mcphub serve --port 8765")(serve)


def register_config(app: typer.Typer) -> None:
    """Add the commands of `mcphub config`."""
    command(app, "show", example="mcphub config show")(show_config)


async def init(
    cli: Cli,
    admin: Annotated[
        str, typer.Option("--admin", metavar="NAME", help="Name of the first administrator.")
    ] = "admin",
) -> None:
    """Make a hub: directory, settings, database, vault key and the first administrator's API key.

    Nothing has a default secret: everything is generated now, and the API key is shown once. A
    second run changes nothing and says what is there.
    """
    settings = cli.settings()
    made = _files(settings)
    existed = settings.key_file.exists()
    async with opened(settings, make=True) as ground:
        if settings.keys.source == "file" and not existed:
            made.append("vault key")
        admins = [user for user in await ground.directory.users() if user.role is Role.ADMIN]
        key = ""
        if not admins:
            async with ground.db.together():
                user = await ground.directory.add_user(admin, Role.ADMIN)
                new = await ground.directory.create_key(user.id, "first key, made by init")
                await ground.audit.write(CLI, log.USER_CREATED, user.id, {"role": "admin"})
                await ground.audit.write(CLI, log.KEY_CREATED, user.id, {"key": new.info.id})
            key, name = new.key.reveal(), user.name
            made.append(f"administrator {user.name}")
        else:
            name = admins[0].name
    data = {"dir": str(settings.dir), "made": made, "admin": name, "key": key or None}
    if not made:
        cli.show(data, f"There is a hub in {settings.dir} already (administrator: {name}).")
        cli.note("Nothing was changed. Next: mcphub serve")
        return
    lines = [f"Hub in {settings.dir}. Made: {', '.join(made)}."]
    if key:
        lines += ["", f"API key of {name}, shown only now:", "", f"  {key}", ""]
    cli.show(data, "\n".join(lines))
    cli.note(
        "Next:\n"
        "  mcphub doctor            what this machine's sandbox really enforces\n"
        "  mcphub server list       the servers in mcp_settings.json, which is yours to edit\n"
        "  mcphub user add NAME     your team\n"
        "  mcphub serve"
    )


async def serve(
    cli: Cli,
    host: Annotated[str | None, typer.Option("--host", help="Address to bind.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="TCP port; 0 takes a free one.")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="FILE", help='Gets {"url", "pid"} once it serves.'),
    ] = None,
    allow_unsandboxed: Annotated[
        bool,
        typer.Option("--allow-unsandboxed", help="Run without a sandbox: administrators only."),
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level")
    ] = "info",
) -> None:
    """Run the hub until Ctrl-C or SIGTERM."""
    from mcphub.app import serve as run_hub  # noqa: PLC0415  a second of imports

    overrides: dict[str, Any] = {}
    if host is not None:
        overrides.setdefault("listen", {})["host"] = host
    if port is not None:
        overrides.setdefault("listen", {})["port"] = port
    if allow_unsandboxed:
        overrides["sandbox"] = {"allow_unsandboxed": True}
    settings = cli.settings(overrides)
    if not settings.config_file.exists():
        raise NotFound(f"There is no hub in {settings.dir}.", hint="Make one with `mcphub init`.")
    for told in _misspelled(settings):
        cli.warn(told)
    log_to_stderr(log_level, serving=True)
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise InvalidInput(
            f"The directory of --ready-file {ready_file} does not exist.", hint="Make it first."
        )
    _remove(ready_file)

    def ready(url: str) -> None:
        if ready_file is not None:
            _write_at_once(ready_file, json.dumps({"url": url, "pid": os.getpid()}) + "\n")
        if cli.as_json:
            print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)
        else:
            print(cli.here(_welcome(url, settings)), flush=True)

    unready = partial(_remove, ready_file)
    try:
        await run_hub(settings, on_ready=ready, on_stop=unready)
    finally:
        unready()


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


async def show_config(cli: Cli) -> None:
    """Show every setting: value, where it came from, what it means."""
    settings = cli.settings()
    found = list(_walk(settings, settings.origins))
    for told in _misspelled(settings):
        cli.warn(told)
    data = {entry["name"]: {"value": entry["value"], "origin": entry["origin"]} for entry in found}
    rows = [
        (entry["name"], _shown(entry["value"]), entry["origin"], entry["about"]) for entry in found
    ]
    cli.show(data, Rows(("SETTING", "VALUE", "ORIGIN", "MEANING"), rows))


def _files(settings: HubSettings) -> list[str]:
    """Make directory and files that are missing; return what was made."""
    made: list[str] = []
    if not settings.dir.exists():
        settings.dir.mkdir(mode=0o700, parents=True)
        made.append("directory")
    if not settings.dir.is_dir():
        raise InvalidInput(f"{settings.dir} is no directory.", hint="Name another with --dir.")
    if settings.dir.stat().st_mode & 0o077:
        settings.dir.chmod(0o700)
    for path, text in ((settings.config_file, toml()), (settings.servers_file, SERVERS)):
        if not path.exists():
            _write_at_once(path, text)
            made.append(path.name)
    if not (settings.dir / "hub.db").exists() and not settings.database:
        made.append("database")
    return made


def _write_at_once(path: Path, text: str) -> None:
    """Write a file of mode 0600 that readers see whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _welcome(url: str, settings: HubSettings) -> str:
    lines = [
        f"MCPHub serves {url}/mcp",
        f"  one server: {url}/mcp/SERVER   a group: {url}/mcp/@GROUP",
    ]
    if settings.sandbox.allow_unsandboxed:
        lines += [
            "",
            "  WARNING: --allow-unsandboxed. Servers may read what the hub's account can read.",
        ]
    if settings.listen.host not in {"127.0.0.1", "::1", "localhost"} and not (
        settings.listen.public_url.startswith("https://")
    ):
        lines += [
            "",
            "  WARNING: API keys travel unencrypted. Put a TLS proxy in front (docs/how-to).",
        ]
    lines += [
        "",
        "  mcphub client-config         how a client connects",
        "  mcphub requests --follow     who calls what",
        "  Ctrl-C stops the hub.",
    ]
    return "\n".join(lines)


def _walk(model: BaseModel, origins: Any, prefix: str = "") -> "list[dict[str, Any]]":
    found: list[dict[str, Any]] = []
    for name, field in type(model).model_fields.items():
        if field.exclude:
            continue
        value = getattr(model, name)
        where = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            found += _walk(value, origins, f"{where}.")
            continue
        value = list(value) if isinstance(value, tuple) else value
        if name == "database" and "@" in str(value):
            value = "postgresql://" + _SECRET + str(value)[str(value).rindex("@") :]
        if where == "tracing.headers":
            value = dict.fromkeys(value, _SECRET)
        found.append(
            {
                "name": where,
                "value": str(value) if isinstance(value, Path) else value,
                "origin": _origin(where, origins),
                "about": field.description or "",
            }
        )
    return found


def _origin(where: str, origins: Mapping[str, str]) -> str:
    """Return where a value came from; a table's is that of what is in it."""
    inside = (origin for name, origin in origins.items() if name.startswith(f"{where}."))
    return origins.get(where) or next(inside, "default")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or "none"
    return (value if isinstance(value, str) else toml_text(value)) or "none"


def _misspelled(settings: HubSettings) -> list[str]:
    """Return what to say of variables that lack the second underscore of a setting."""
    right = {variable_of(name) for name in names()}
    wrong = {name.replace("__", "_"): name for name in right}
    return [
        f"{name} in the environment is no setting and changes nothing: write {wrong[name]}."
        for name in sorted(settings.operator_env.keys() & (wrong.keys() - right))
    ]
