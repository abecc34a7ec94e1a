"""Command line of the demo; `make demo` runs it."""

import argparse
import signal
import sys
from pathlib import Path

import anyio
from anyio.abc import TaskStatus
from rich.console import Console
from rich.markup import escape

from mcphub.testing.demo.observation import CouldNotRun, problems, reason
from mcphub.testing.demo.report import connect, table, verdict, write_json
from mcphub.testing.demo.run import Options, Outcome, played
from mcphub.testing.demo.steps import Steps

_LOG_WIDTH = 120
INTERRUPTED = 130
"""Exit status when a signal came before the table was done."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 0 when every row stands."""
    parser = argparse.ArgumentParser(
        prog="python -m mcphub.testing.demo",
        description="Prove with two users and real servers what leaks without the hub and not with it.",
    )
    parser.add_argument("--check", action="store_true", help="exit when the table is done")
    parser.add_argument(
        "--databases", action="store_true", help="also PostgreSQL and MariaDB (must be installed)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(".demo"), help="kept between runs (default: .demo)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the hub (default: a free one)")
    given = parser.parse_args(arguments)
    options = Options(given.dir.absolute(), given.port, given.databases)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LOG_WIDTH)
    return anyio.run(_main, options, given.check, console)


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


if __name__ == "__main__":
    sys.exit(main())
