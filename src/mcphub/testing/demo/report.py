"""Shows the outcome: the table, what is wrong with it, and how to go on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mcphub.testing.demo.observation import Observation, Row, problems


def table(rows: Sequence[Row]) -> Table:
    """Return the before/after table, rendered from the observations."""
    found = Table(
        title="Two users, the same steps, the same published servers",
        show_lines=True,
        title_style="bold",
        expand=True,
    )
    found.add_column("scenario", ratio=3, overflow="fold")
    found.add_column("one shared server (before)", ratio=4)
    found.add_column("through MCPHub (after)", ratio=4)
    for row in rows:
        found.add_row(
            f"[bold]{escape(row.title)}[/]\n[dim]{escape(row.server)}[/]",
            _cell(row.before, leak_style="yellow"),
            _cell(row.after, leak_style="bold red"),
        )
    return found


def verdict(rows: list[Row]) -> str:
    """Return the last line: what the run showed."""
    wrong = problems(rows)
    if wrong:
        return "\n".join(f"[bold red]✗[/] {escape(problem)}" for problem in wrong)
    return (
        f"[bold green]✓[/] {len(rows)} scenarios: each leaks over one shared server,"
        " none through MCPHub."
    )


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the rows and problems for programs to read; holds no credential."""
    found = {"rows": [asdict(row) for row in rows], "problems": problems(list(rows))}
    path.write_text(json.dumps(found, indent=2) + "\n")


def connect(console: Console, url: str, keys: Sequence[tuple[str, str]], directory: Path) -> None:
    """Print how to connect a client as each user: the keys are of this demo only."""
    console.rule("The hub keeps serving: connect a client as either user")
    console.print(f"  URL    {url}/mcp   (one server: {url}/mcp/github)", highlight=False)
    for name, key in keys:
        console.print(f"  {name:<6} Authorization: Bearer {key}", highlight=False, soft_wrap=True)
    console.print("\n  A snippet for your client, for example:", highlight=False)
    for client in ("claude-code", "vscode"):
        console.print(
            f"  .venv/bin/mcphub client-config {client} --url {url}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"\n  Who called what:  .venv/bin/mcphub requests --dir {directory}\n"
        "  Ctrl-C ends everything.",
        highlight=False,
        soft_wrap=True,
    )


def _cell(outcome: Observation | str, *, leak_style: str) -> str:
    if isinstance(outcome, str):
        return f"[bold red]could not run[/]: {escape(_brief(outcome))}"
    word, style = ("LEAK", leak_style) if outcome.leaked else ("no leak", "green")
    return f"[{style}]{word}[/]: {escape(outcome.evidence)}"


def _brief(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason given"]
    line = lines[-1] if "Traceback" in lines[0] else lines[0]
    return line if len(line) <= 160 else line[:159] + "…"
