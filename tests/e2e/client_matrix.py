"""The matrix of real clients and real servers: who is in it, and what each pair does through the hub.

`test_client_matrix.py` runs every cell; docs/reference/clients.md shows the table, and a test keeps
the two together. Values only.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.servers_under_test import EVERYTHING, HOME, MODERN, npx, uvx

STEPS = ("list", "call", "progress", "cancel", "elicit")
ANSWER = {"name": "Ada", "check": True}
"""What every client answers when it is asked."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call and what must be in its text; `{user}` stands for the user."""

    tool: str
    arguments: dict = field(default_factory=dict)
    expect: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A server: how it is entered, and what it can do."""

    title: str
    entry: dict
    call: Step
    progress: Step | None = None
    cancel: Step | None = None
    elicit: Step | None = None
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A client: what is run (see `test_client_matrix`), and what it can do.

    Attributes:
        kind: Which driver runs it.
        era: `legacy` or the modern revision.
        steps: What this client can do at all.
    """

    title: str
    kind: str
    era: str
    steps: tuple[str, ...] = STEPS


MODERN_SERVER = Path(__file__).parents[1] / "servers" / "modern.py"
FORM = {"type": "object", "properties": {"name": {"type": "string"}, "check": {"type": "boolean"}}}
LONG = "trigger-long-running-operation"
COLUMNS = {
    "everything": Column(
        "everything",
        EVERYTHING,
        Step("get-env", expect='"API_TOKEN": "everything-token-of-{user}"'),
        progress=Step(LONG, {"duration": 0.4, "steps": 4}, "4"),
        cancel=Step(LONG, {"duration": 60, "steps": 300}),
        elicit=Step("trigger-elicitation-request", expect="Ada"),
        credential="API_TOKEN",
    ),
    "files": Column(
        "filesystem",
        npx("@modelcontextprotocol/server-filesystem@2026.8.31", HOME),
        Step("list_allowed_directories", expect="Allowed directories"),
    ),
    "time": Column(
        "time",
        uvx("mcp-server-time==2026.10.19", "--local-timezone", "UTC", riskLevel="medium"),
        Step("get_current_time", {"timezone": "UTC"}, "UTC"),
    ),
    "modern": Column(
        "2026-07-28 only",
        {
            "command": "/usr/bin/python3",
            "args": [str(MODERN_SERVER)],
            "riskLevel": "critical",
            "groups": ["everyone"],
            "sandbox": {"readable": [str(MODERN_SERVER.parent)]},
        },
        Step("echo", {"text": "grüß dich"}, "grüß dich"),
        progress=Step("progress", {"text": "on"}, "3"),
        cancel=Step("slow", {"seconds": 60}),
        elicit=Step("ask", {"text": "Who?", "schema": FORM}, "Ada"),
    ),
}

ONE_SHOT = ("list", "call")
ROWS = {
    "python-modern": Row("`mcp` 2.3 (Python), 2026-07-28", "python", MODERN),
    "python-legacy": Row("`mcp` 2.3 (Python), 2025-11-25", "python", "legacy"),
    "python-sse": Row("`mcp` 2.3 (Python), old HTTP+SSE", "python-sse", "legacy"),
    "fastmcp": Row("`fastmcp` 4.1 (Python), its own choice", "fastmcp", "auto"),
    "typescript-1": Row("`@modelcontextprotocol/sdk` 1.32 (TypeScript)", "typescript-1", "legacy"),
    "typescript-2-modern": Row(
        "`@modelcontextprotocol/client` 2.4 (TypeScript), 2026-07-28", "typescript-2", MODERN
    ),
    "typescript-2-legacy": Row(
        "`@modelcontextprotocol/client` 2.4 (TypeScript), 2025-11-25", "typescript-2", "legacy"
    ),
    "inspector-modern": Row(
        "MCP Inspector 2.12, command line, 2026-07-28", "inspector", MODERN, ONE_SHOT
    ),
    "inspector-legacy": Row(
        "MCP Inspector 2.12, command line, 2025-11-25", "inspector", "legacy", ONE_SHOT
    ),
    "mcp-remote": Row("`mcp-remote` 0.15, stdio to HTTP", "mcp-remote", "legacy"),
    "mcp-remote-sse": Row("`mcp-remote` 0.15, stdio to old HTTP+SSE", "mcp-remote-sse", "legacy"),
    "connect-modern": Row("`mcphub connect`, stdio, 2026-07-28", "connect", MODERN),
    "connect-legacy": Row("`mcphub connect`, stdio, 2025-11-25", "connect", "legacy"),
}


def steps_of(row: Row, column: Column) -> tuple[str, ...]:
    """Return what a client does with a server: what both can do."""
    able = {"list", "call"} | {name for name in STEPS if getattr(column, name, None)}
    return tuple(name for name in STEPS if name in able and name in row.steps)


def table() -> str:
    """Return the matrix as the documentation shows it."""
    head = "| client | " + " | ".join(column.title for column in COLUMNS.values()) + " |"
    lines = [head, "|---" * (len(COLUMNS) + 1) + "|"]
    for row in ROWS.values():
        cells = [", ".join(steps_of(row, column)) for column in COLUMNS.values()]
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
