"""All commands but the quick path of `connect`, in one tree.

The modules behind them take a second to import (database, HTTP), so one command line loads only the
module of the command that it names; the others are there by name and one line of help.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

import typer

from mcphub import __version__
from mcphub.cli.entries import ENTRIES, Entry
from mcphub.cli.logs import log_to_stderr
from mcphub.cli.shell import execute, group

_EVERYTHING = "*"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status: 0 done, 1 failed, 2 wrong usage."""
    log_to_stderr("warning")
    return execute(_app(arguments[0] if arguments else ""), arguments)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mcphub {__version__}")
        raise typer.Exit


def _app(wanted: str = _EVERYTHING) -> typer.Typer:
    """Return the tree, with the commands below `wanted` (by default, below every name)."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """One MCP endpoint for a team: every call runs with its caller's credentials only.

        First: mcphub init, then mcphub serve. Every command has --help with an example and takes
        --dir DIR and --json.
        """
        del version

    for entry in ENTRIES:
        load = wanted in (_EVERYTHING, entry.name)
        place = group(app, entry.name, entry.about, bare=entry.bare) if entry.group else app
        if load:
            _register(entry)(place)
        elif not entry.group:
            app.command(entry.name, help=entry.about)(_nothing)
    return app


def _register(entry: Entry) -> Callable[[typer.Typer], None]:
    return getattr(import_module(f"mcphub.cli.{entry.module}"), entry.function)


def _nothing() -> None:
    """Stand for a command that this command line does not name."""
