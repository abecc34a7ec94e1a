"""All commands but the quick path of `connect`, in one tree."""

from collections.abc import Sequence

import typer

from mcphub import __version__
from mcphub.cli import clients, credentials, doctor, people, servers, setup, watch
from mcphub.cli.shell import execute, group


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status: 0 done, 1 failed, 2 wrong usage."""
    setup.log_to_stderr("warning")
    return execute(_app(), arguments)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mcphub {__version__}")
        raise typer.Exit


def _app() -> typer.Typer:
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

    setup.register(app)
    people.register_users(group(app, "user", "Users: who may call."))
    people.register_groups(group(app, "group", "Groups: who may call which servers."))
    people.register_keys(group(app, "key", "API keys: what proves who is calling."))
    credentials.register(group(app, "credential", "Credentials: each user's own values."))
    servers.register(group(app, "server", "Servers: what can be called, pinned."))
    watch.register_explain(app)
    watch.register_instances(group(app, "instances", "Running instances of servers.", bare=True))
    watch.register_requests(group(app, "requests", "What was called, by whom.", bare=True))
    clients.register(app)
    doctor.register(app)
    setup.register_config(group(app, "config", "Settings of the hub."))
    return app
