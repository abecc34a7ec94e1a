"""`mcphub client-config`: what to paste into a client, and `mcphub connect` as the help shows it."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from mcphub.cli.connect import DEFAULT_KEY_FILE, DEFAULT_URL
from mcphub.cli.connect import run as run_bridge
from mcphub.cli.shell import Cli, command
from mcphub.errors import InvalidInput, Unavailable

_KEY = "YOUR_MCPHUB_KEY"


class Client(StrEnum):
    """Clients whose settings are known."""

    CLAUDE_DESKTOP = "claude-desktop"
    CLAUDE_CODE = "claude-code"
    CURSOR = "cursor"
    VSCODE = "vscode"


def register_config(app: typer.Typer) -> None:
    """Add `mcphub client-config`."""
    command(app, "client-config", example="mcphub client-config claude-code --server github")(
        client_config
    )


def register_connect(app: typer.Typer) -> None:
    """Add `mcphub connect`, for the help; the command itself takes a shorter way (`cli.main`)."""
    app.command("connect")(connect)


async def client_config(
    cli: Cli,
    which: Annotated[
        Client | None, typer.Argument(metavar="[CLIENT]", help=", ".join(Client))
    ] = None,
    client: Annotated[
        Client | None, typer.Option("--client", metavar="CLIENT", help="The same, as an option.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="Only this server, with its own tool names.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Only a group's servers.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The hub as clients reach it.")
    ] = None,
) -> None:
    """Print what to paste into a client's settings. It holds no key: put yours where it says.

    Without a client, all of them are printed.
    """
    if server and group:
        raise InvalidInput("--server and --group exclude each other.", hint="Give one of them.")
    settings = cli.settings()
    base = url or settings.listen.public_url or await _served(cli)
    if not base:
        host = settings.listen.host
        base = f"http://{f'[{host}]' if ':' in host else host}:{settings.listen.port}"
    base = base.rstrip("/").removesuffix("/mcp")
    endpoint = f"{base}/mcp" + (f"/{server}" if server else f"/@{group}" if group else "")
    name = server or (f"mcphub-{group}" if group else "mcphub")
    chosen = which or client
    found = [_snippet(one, name, endpoint) for one in ([chosen] if chosen else Client)]
    text = "\n\n".join(
        f"# {one['client']}: {one['where']}\n{json.dumps(one['config'], indent=2)}"
        + "".join(f"\n# {note}" for note in one["notes"])
        for one in found
    )
    cli.show(found[0] if chosen else found, text)


async def _served(cli: Cli) -> str:
    """Return where the hub of the directory serves, or "" when none runs that one may ask."""
    try:
        return str((await cli.running().get("/status")).get("url") or "")
    except Unavailable:
        return ""


def connect(
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="/mcp, /mcp/SERVER or /mcp/@GROUP.")
    ] = DEFAULT_URL,
    key_file: Annotated[
        str | None,
        typer.Option(
            "--key-file", metavar="FILE", help=f"Default: MCPHUB_KEY, else {DEFAULT_KEY_FILE}."
        ),
    ] = None,
) -> int:
    """Bridge a client that speaks only stdio to the hub.

    Example: mcphub connect --url http://127.0.0.1:8765/mcp/github
    """
    return run_bridge(url, key_file)


def _snippet(client: Client, name: str, endpoint: str) -> dict[str, Any]:
    if client is Client.CLAUDE_DESKTOP:
        bridge = {
            "command": "mcphub",
            "args": ["connect", "--url", endpoint],
            "env": {"MCPHUB_KEY": _KEY},
        }
        return _told(
            client,
            "claude_desktop_config.json",
            {"mcpServers": {name: bridge}},
            f"It speaks stdio only: mcphub must be in its PATH. Instead of MCPHUB_KEY the "
            f"key may stand in {DEFAULT_KEY_FILE} (mode 0600).",
            "On a machine without MCPHub: docs/how-to/connect-a-client.md.",
        )
    if client is Client.CLAUDE_CODE:
        return _told(
            client,
            ".mcp.json in the project, or ~/.claude.json",
            {"mcpServers": {name: _http(endpoint, "${MCPHUB_KEY}")}},
            "MCPHUB_KEY is taken from the environment of Claude Code.",
            f"Or: claude mcp add --transport http {name} {endpoint} "
            f'--header "Authorization: Bearer {_KEY}"',
        )
    if client is Client.CURSOR:
        entry = _http(endpoint, "${env:MCPHUB_KEY}")
        del entry["type"]
        return _told(
            client,
            ".cursor/mcp.json in the project, or ~/.cursor/mcp.json",
            {"mcpServers": {name: entry}},
            "MCPHUB_KEY is taken from the environment of Cursor.",
        )
    asked = {
        "type": "promptString",
        "id": "mcphub-key",
        "description": "API key of MCPHub",
        "password": True,
    }
    return _told(
        client,
        ".vscode/mcp.json",
        {"servers": {name: _http(endpoint, "${input:mcphub-key}")}, "inputs": [asked]},
        "VS Code asks for the key once and keeps it in its secret store.",
    )


def _http(endpoint: str, key: str) -> dict[str, Any]:
    return {"type": "http", "url": endpoint, "headers": {"Authorization": f"Bearer {key}"}}


def _told(client: Client, where: str, config: dict[str, Any], *notes: str) -> dict[str, Any]:
    return {"client": client.value, "where": where, "config": config, "notes": list(notes)}
