"""All commands but the quick path of `connect`, in one tree.

The modules behind them take a second to import (database, HTTP), so one command line loads only the
module of the command that it names; the others are there by name and one line of help.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import typer

from mcphub import __version__
from mcphub.cli.logs import log_to_stderr
from mcphub.cli.shell import execute, group

_EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One name of the first level.

    Attributes:
        name: The name.
        module: Module in `mcphub.cli` with the function that registers it.
        function: That function; takes the app, or the group when it is one.
        about: One line of help.
        group: Whether the name is a group of commands.
        bare: Whether the group's name alone is a command too.
    """

    name: str
    module: str
    function: str
    about: str
    group: bool = True
    bare: bool = False


_ENTRIES = (
    _Entry("init", "setup", "register_init", "Make a hub: settings, keys, administrator.", False),
    _Entry("serve", "setup", "register_serve", "Run the hub.", False),
    _Entry("doctor", "doctor", "register", "Try what works on this machine.", False),
    _Entry("user", "people", "register_users", "Users: who may call."),
    _Entry("group", "people", "register_groups", "Groups: who may call which servers."),
    _Entry("key", "people", "register_keys", "API keys: what proves who is calling."),
    _Entry("credential", "credentials", "register", "Credentials: each user's own values."),
    _Entry("server", "servers", "register", "Servers: what can be called, pinned."),
    _Entry("check", "check", "register", "Can users share a server? Tried, with evidence.", False),
    _Entry("vault", "evidence", "register_vault", "Keys that seal credentials."),
    _Entry("context", "context", "register", "What servers are told of users, and its keys."),
    _Entry("audit", "evidence", "register_audit", "Who did what to the hub."),
    _Entry("explain", "watch", "register_explain", "Why a user may use a server, or not.", False),
    _Entry("instances", "watch", "register_instances", "Running instances of servers.", bare=True),
    _Entry("requests", "watch", "register_requests", "What was called, by whom.", bare=True),
    _Entry("client-config", "clients", "register_config", "What to paste into a client.", False),
    _Entry("connect", "clients", "register_connect", "Bridge a stdio client to the hub.", False),
    _Entry("config", "setup", "register_config", "Settings of the hub."),
)


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

    for entry in _ENTRIES:
        load = wanted in (_EVERYTHING, entry.name)
        place = group(app, entry.name, entry.about, bare=entry.bare) if entry.group else app
        if load:
            _register(entry)(place)
        elif not entry.group:
            app.command(entry.name, help=entry.about)(_nothing)
    return app


def _register(entry: _Entry) -> Callable[[typer.Typer], None]:
    return getattr(import_module(f"mcphub.cli.{entry.module}"), entry.function)


def _nothing() -> None:
    """Stand for a command that this command line does not name."""
