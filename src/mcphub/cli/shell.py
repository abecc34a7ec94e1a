"""The frame around every command: the hub's directory, `--json`, errors and exit statuses.

A command is an async function whose first parameter is a `Cli`; `command` gives it `--dir`, `--json`
and an example in its help. Exit statuses: 0 done, 1 failed, 2 wrong usage.
"""

import asyncio
import inspect
import os
import re
import shutil
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop

from mcphub.cli.entries import command_of, for_hub
from mcphub.cli.problems import explained
from mcphub.cli.running import RunningHub
from mcphub.cli.tables import table
from mcphub.cli.values import clean, json_text
from mcphub.errors import Conflict, HubError, InvalidInput, NotFound, Unavailable
from mcphub.settings import HubSettings, environment, load

if TYPE_CHECKING:
    from mcphub.ground import Ground

CLI = "cli"
"""Who acts on the command line, for the audit log."""

_PARSER = re.compile(r"Value error, |, unable to [a-z ]+")
"""What pydantic says of itself in a message."""
_PIPE_WIDTH = 240  # of tables that no terminal shows: wide enough not to fold ids


@dataclass(frozen=True, slots=True)
class Rows:
    """A table for people: what `Cli.show` prints when `--json` is not given.

    Attributes:
        columns: Headings.
        rows: Cells, as text.
        empty: What to say when there are no rows: the next action.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = "Nothing to show."


class Cli:
    """One run of one command.

    Attributes:
        as_json: `--json` was given.
    """

    def __init__(self, directory: Path | None, as_json: bool) -> None:
        self._directory = directory
        self.as_json = as_json

    def settings(self, overrides: Mapping[str, Any] | None = None) -> HubSettings:
        """Return the hub's settings.

        Raises:
            InvalidInput: A setting is wrong.
        """
        return load(self._directory, overrides=overrides)

    def there(self, or_else: str = "") -> HubSettings:
        """Return the settings of a hub that has been made.

        Args:
            or_else: What to do where it is somebody else's, for commands that users have too.

        Raises:
            NotFound: There is no hub in the directory.
            InvalidInput: A setting is wrong.
        """
        settings = self.settings()
        if not settings.config_file.exists():
            hint = "Make one with `mcphub init`, or name its directory with --dir."
            raise NotFound(f"There is no hub in {settings.dir}.", hint=f"{hint} {or_else}".strip())
        return settings

    @asynccontextmanager
    async def ground(self, or_else: str = "") -> "AsyncIterator[Ground]":
        """Open the hub's services on its database, whether or not the hub runs. Args, raises as `there`."""
        async with opened(self.there(or_else)) as ground:
            yield ground

    def running(self) -> RunningHub:
        """Return the running hub of the directory; nothing is contacted yet."""
        return RunningHub(self.settings().control_socket)

    async def applied(self) -> None:
        """Have the running hub, if there is one, act on the change before the command ends."""
        try:
            await self.running().refresh()
        except Unavailable as error:
            self.warn(f"{error.message} The change counts there once it has read its database.")

    def show(self, data: object, human: "Rows | str") -> None:
        """Print a result: `data` as JSON with `--json`, else `human`."""
        if self.as_json:
            print(json_text(data, indent=2))
        elif isinstance(human, str):
            print(clean(self.here(human)))
        elif not human.rows:
            print(self.here(human.empty))
        else:
            self._print(human)

    def _print(self, shown: "Rows") -> None:
        terminal = sys.stdout.isatty()
        cells = [
            ["" if cell is None else clean(self.here(str(cell))) for cell in row]
            for row in shown.rows
        ]
        width = shutil.get_terminal_size().columns if terminal else _PIPE_WIDTH
        bold = terminal and environment().get("TERM") != "dumb"
        print("\n".join(table(shown.columns, cells, width, bold=bold)))

    def here(self, text: str) -> str:
        """Return a text for people whose commands are for the hub that `--dir` named."""
        return for_hub(text, self._directory)

    def note(self, text: str) -> None:
        """Say something that is no result (progress, next steps): on stderr."""
        print(clean(self.here(text)), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Say something that must not be missed, on stderr."""
        self.note(f"warning: {text}")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that cannot be undone.

        Raises:
            Conflict: Nobody can be asked and `--yes` is missing.
            typer.Abort: The answer is no.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise Conflict(clean(question), hint="Give --yes to do it without being asked.")
        typer.confirm(clean(question), abort=True, err=True)


@asynccontextmanager
async def opened(settings: HubSettings, *, make: bool = False) -> "AsyncIterator[Ground]":
    """Open the services of a hub, with a new database when it is missing and `make`."""
    from mcphub.ground import ground  # noqa: PLC0415  a second of imports that --help can do without

    async with ground(settings, beside=True, make=make) as services:
        yield services


DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="The hub's directory (default: MCPHUB_DIR, else ~/.mcphub)."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def command(
    app: typer.Typer, name: str, *, example: str
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Register an async function as a command.

    Args:
        app: Where to.
        name: Name of the command.
        example: Command line that the help ends with.
    """

    def register(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            _run(function, given)

        _dress(run, function, example)
        return app.command(name, short_help=_first_sentence(function))(run)

    return register


def default(
    app: typer.Typer, *, example: str
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Register an async function as what a group does when no command of it is named."""

    def register(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            context: typer.Context = given.pop("context")
            if context.invoked_subcommand is None:
                _run(function, given)

        _dress(run, function, example, context=True)
        return app.callback(invoke_without_command=True)(run)

    return register


def _run(function: Callable[..., Awaitable[None]], given: dict[str, Any]) -> None:
    cli = Cli(given.pop("directory"), given.pop("as_json"))

    async def whole() -> None:
        await function(cli, **given)

    # the loop of the hub is the loop of every command: one behaviour, one set of tests
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(whole())
        except HubError as error:
            error.message, error.hint = cli.here(error.message), cli.here(error.hint)
            raise


def _dress(
    run: Callable[..., None],
    function: Callable[..., Awaitable[None]],
    example: str,
    *,
    context: bool = False,
) -> None:
    """Give `run` the parameters and the help that typer reads."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(function).parameters.values())[1:]
    added = [
        inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("directory", keyword, default=None, annotation=DirOption),
    ]
    if context:
        added.append(inspect.Parameter("context", keyword, annotation=typer.Context))
    run.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [parameter.replace(kind=keyword) for parameter in own] + added
    )
    what = inspect.getdoc(function) or ""
    run.__doc__ = f"{what}\n\nExample: {example}"


def _first_sentence(function: Callable[..., object]) -> str:
    """Return what a list of commands says of one; cut by nothing."""
    first = (inspect.getdoc(function) or "").split("\n\n", 1)[0].replace("\n", " ")
    return first.partition(". ")[0].rstrip(".") + "."


def group(app: typer.Typer, name: str, about: str, *, bare: bool = False) -> typer.Typer:
    """Return a new group of commands; `bare` when its name alone is a command too."""
    made = typer.Typer(no_args_is_help=not bare, rich_markup_mode=None)
    app.add_typer(made, name=name, help=about)
    return made


def execute(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the command line and turn whatever happens into one line on stderr and an exit status."""
    as_json = "--json" in arguments
    try:
        done = app(list(arguments), standalone_mode=False, prog_name="mcphub")
    except typer.Abort:
        print("Nothing was changed.", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        return _usage(error, arguments, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads: nothing more to say at exit
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  a traceback helps no user
        debug()
        return _failed(explained(error), as_json=as_json)
    return done if isinstance(done, int) else 0


def _usage(error: typer.TyperException, arguments: Sequence[str], *, as_json: bool) -> int:
    message = _PARSER.sub("", error.format_message()).replace("Input should be", "it should be")
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return 2
    context = getattr(error, "ctx", None)
    path = (
        context.command_path if context is not None else f"mcphub {command_of(arguments)}".strip()
    )
    if as_json:
        _failed(InvalidInput(message, hint=f"Run: {path} --help"), as_json=True)
    else:
        print(f"error: {clean(message)}", file=sys.stderr)
        print(f"Try: {path} --help", file=sys.stderr)
    return 2


def _failed(error: HubError, *, as_json: bool) -> int:
    if as_json:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        print(json_text(told), file=sys.stderr)
        return 1
    print(f"error: {clean(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {clean(error.hint)}", file=sys.stderr)
    return 1


def debug() -> None:
    """Print the traceback of what is being handled, where MCPHUB_DEBUG is 1."""
    if environment().get("MCPHUB_DEBUG") == "1":
        traceback.print_exc()
