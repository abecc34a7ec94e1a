"""Runs the demo under one task group that a signal cancels, and shows what came out."""

import signal
from pathlib import Path

import anyio
from anyio.abc import TaskStatus
from rich.console import Console
from rich.markup import escape

from mcphub.testing.demo.observation import CouldNotRun, problems, reason
from mcphub.testing.demo.report import connect, table, verdict, write_json
from mcphub.testing.demo.run import Options, Outcome, played
from mcphub.testing.demo.steps import Steps

INTERRUPTED = 130
"""Exit status when a signal came before the table was done."""

_LOG_WIDTH = 120


def start(directory: Path, port: int, *, databases: bool, check: bool) -> int:
    """Run the demo and return its exit status: 0 when every row stands.

    Args:
        directory: Kept between runs.
        port: Port of the hub; 0 takes a free one.
        databases: Also the rows with PostgreSQL and MariaDB.
        check: Exit when the table is done instead of serving on.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LOG_WIDTH)
    return anyio.run(_main, Options(directory, port, databases), check, console)


async def _main(options: Options, check: bool, console: Console) -> int:
    status = INTERRUPTED
    async with anyio.create_task_group() as tasks:
        await tasks.start(_cancel_on_signal, tasks.cancel_scope)
        try:
            async with played(options, Steps(console)) as outcome:
                status = 1 if problems(outcome.rows) else 0
                _show(outcome, options, console)
                if outcome.url and not check:
                    connect(console, outcome.url, outcome.keys, outcome.hub)
                    await anyio.sleep_forever()
        except CouldNotRun as error:
            console.print(f"[bold red]✗[/] {escape(reason(error))}")
            status = 1
        tasks.cancel_scope.cancel()
    return status


def _show(outcome: Outcome, options: Options, console: Console) -> None:
    console.print()
    console.print(table(outcome.rows))
    console.print(verdict(outcome.rows))
    write_json(outcome.rows, options.directory / "report.json")


async def _cancel_on_signal(
    scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Turn SIGINT and SIGTERM into cancellation: every part cleans up after itself, bounded in time."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
