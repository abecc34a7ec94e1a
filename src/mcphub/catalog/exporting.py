"""What a user puts into a client's settings to use the hub. Never with a key inside.

Clients that speak HTTP get the hub's URL and take the key from the environment or ask for it;
Claude Desktop starts `mcphub connect`, which reads the key from its own file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcphub.catalog.names import NAME_HINT, is_server_name
from mcphub.errors import InvalidInput, NotFound

KEY_VARIABLE = "MCPHUB_KEY"
"""Environment variable with the user's API key, for clients and for `mcphub connect`."""

KEY_FILE = "~/.config/mcphub/key"
"""Where `mcphub connect` looks for the key when the variable is not set."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A piece of a client's settings.

    Attributes:
        client: Identifier, such as `vscode`.
        title: The client's own name.
        file: The file that it goes into.
        content: The JSON to put there.
        steps: What else the user does, in order.
    """

    client: str
    title: str
    file: str
    content: Mapping[str, Any]
    steps: tuple[str, ...]


def client_config(client: str, hub_url: str, *, name: str = "mcphub") -> ClientConfig:
    """Return what `client` needs to use the hub.

    Args:
        client: One of `clients()`.
        hub_url: URL of the endpoint, such as `http://127.0.0.1:8765/mcp`.
        name: What the hub is called in the client.

    Raises:
        NotFound: The client is unknown.
        InvalidInput: The name cannot be used.
    """
    make = _CLIENTS.get(client)
    if make is None:
        raise NotFound(
            f'There is no client "{client[:40]}".', hint=f"Known are: {', '.join(clients())}."
        )
    if not is_server_name(name):
        raise InvalidInput("It cannot be the hub's name in a client.", hint=NAME_HINT)
    return make(hub_url, name)


def clients() -> tuple[str, ...]:
    """Return the identifiers of all known clients."""
    return tuple(_CLIENTS)


def _claude_desktop(hub_url: str, name: str) -> ClientConfig:
    return ClientConfig(
        "claude-desktop",
        "Claude Desktop",
        "claude_desktop_config.json (Settings, Developer, Edit Config)",
        {"mcpServers": {name: {"command": "mcphub", "args": ["connect", "--url", hub_url]}}},
        (
            f"Put your API key into {KEY_FILE} and run: chmod 600 {KEY_FILE}",
            "Write the absolute path of mcphub as the command if Claude Desktop does not find it.",
            "Restart Claude Desktop.",
        ),
    )


def _claude_code(hub_url: str, name: str) -> ClientConfig:
    return ClientConfig(
        "claude-code",
        "Claude Code",
        ".mcp.json in the project",
        {"mcpServers": {name: _http(hub_url, f"${{{KEY_VARIABLE}}}")}},
        (f"Set {KEY_VARIABLE} to your API key in the environment of Claude Code.",),
    )


def _cursor(hub_url: str, name: str) -> ClientConfig:
    entry = {"url": hub_url, "headers": {"Authorization": f"Bearer ${{env:{KEY_VARIABLE}}}"}}
    return ClientConfig(
        "cursor",
        "Cursor",
        "~/.cursor/mcp.json",
        {"mcpServers": {name: entry}},
        (f"Set {KEY_VARIABLE} to your API key in the environment of Cursor.",),
    )


def _vscode(hub_url: str, name: str) -> ClientConfig:
    key = f"{name}-key"
    asked = {
        "type": "promptString",
        "id": key,
        "description": "Your API key of MCPHub",
        "password": True,
    }
    return ClientConfig(
        "vscode",
        "VS Code",
        ".vscode/mcp.json, or the user's mcp.json (MCP: Open User Configuration)",
        {"inputs": [asked], "servers": {name: _http(hub_url, f"${{input:{key}}}")}},
        ("VS Code asks for your API key at the first start and keeps it.",),
    )


def _http(hub_url: str, key: str) -> dict[str, Any]:
    return {"type": "http", "url": hub_url, "headers": {"Authorization": f"Bearer {key}"}}


_CLIENTS: Mapping[str, Callable[[str, str], ClientConfig]] = {
    "claude-desktop": _claude_desktop,
    "claude-code": _claude_code,
    "cursor": _cursor,
    "vscode": _vscode,
}
