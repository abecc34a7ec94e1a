"""`mcphub check`: two synthetic users against a server, in the sandbox; what leaks, with evidence."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from mcphub.catalog.merging import entry_names
from mcphub.catalog.names import is_server_name
from mcphub.catalog.older_sdk import OLDER_SDK, needs_older_sdk
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.pins import Pin
from mcphub.catalog.settings_file import read_text
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.toolchain import find_toolchain
from mcphub.cli import check_evidence
from mcphub.cli.check_files import Files, files, files_of
from mcphub.cli.check_hub import copied_of
from mcphub.cli.check_manifest import Series, behind_hub, go_through, not_installed, pins
from mcphub.cli.check_told import told
from mcphub.cli.problems import explained
from mcphub.cli.shell import Cli, command, debug
from mcphub.cli.values import clean, json_text, pair
from mcphub.cli.verdicts import spec_of
from mcphub.errors import HubError, InvalidInput, Unavailable
from mcphub.isolation import acquire
from mcphub.isolation.budget import USUAL_S
from mcphub.isolation.check import Options, check
from mcphub.isolation.manifest import Entry, subject
from mcphub.isolation.model import Result, Verdict
from mcphub.isolation.page import page
from mcphub.isolation.remote import RemoteLab
from mcphub.isolation.report import as_json
from mcphub.isolation.sarif import sarif
from mcphub.isolation.subject import Subject
from mcphub.isolation.through import check_through
from mcphub.spawn.native import SandboxedBuilds
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings

if TYPE_CHECKING:
    from mcphub.ground import Ground

EXIT = {Verdict.NO_LEAK_SEEN: 0, Verdict.LEAK: 1, Verdict.INCONCLUSIVE: 2}
COULD_NOT_RUN = 3
_PATH = "/usr/local/bin:/usr/bin:/bin"
_NUMBER = 3  # of the check's processes, see `spawner.Launch.number`

Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="K=V", help="Environment of the server; secrets are replaced."),
]
UserHeader = Annotated[
    list[str] | None,
    typer.Option(
        metavar="K=V",
        help="What this user proves to a running server; env:NAME takes V from the environment.",
    ),
]
Egress = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-egress", metavar="HOST", help="Host it may really reach; stand-ins otherwise."
    ),
]


@dataclass(frozen=True, slots=True)
class _Then:
    """What is done with a result: apply it, compare it with the one before, without asking."""

    apply: bool
    compare: bool
    yes: bool


def register(app: typer.Typer) -> None:
    """Add `mcphub check`."""
    command(app, "check", example="mcphub check -- npx -y @modelcontextprotocol/server-memory")(
        check_servers
    )


async def check_servers(
    cli: Cli,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME] | [-- COMMAND ARGS…]", help="What to check."),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            metavar="URL",
            help="Where COMMAND listens: http://127.0.0.1:{port}/mcp; or a running server.",
        ),
    ] = "",
    env: Env = None,
    file: Files = None,
    allow_egress: Egress = None,
    header_a: UserHeader = None,
    header_b: UserHeader = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Check every server of a manifest."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Of the manifest; repeatable.")
    ] = None,
    results_file: Annotated[
        Path | None,
        typer.Option(
            "--results", metavar="FILE", help="Of a manifest: also write the lines there."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out servers that have a line in --results.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, max=4, help="Of a manifest: servers at the same time.")
    ] = 1,
    total: Annotated[
        float | None,
        typer.Option(
            "--total", metavar="SECONDS", min=1, help="Of a manifest: begin no server after that."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every server of the settings.")
    ] = False,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Write the recommendation into the settings, after asking."),
    ] = False,
    through_hub: Annotated[
        bool,
        typer.Option("--through-hub", help="Check a copy of the hub in front of the servers."),
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Say what changed since the last check.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            min=20,
            help="Time for one server; what was not done until then is told.",
        ),
    ] = USUAL_S,
) -> None:
    """Check whether users can share a server: two synthetic users, canaries, a credential witness.

    The server runs in the sandbox against stand-ins; no real service or credential is used.
    Exit status: 0 no leak seen, 1 leak, 2 inconclusive, 3 the check could not run.
    """
    _check_words(words or [], url)
    options = Options(tuple(allow_egress or ()), budget)
    given = dict(pair(text) for text in env or [])
    then = _Then(apply, compare, yes)
    with _failing_as(COULD_NOT_RUN, cli):
        _check_files(html, sarif_file)
        if manifest is not None:
            way = _of_manifest_behind_hub if through_hub else _of_manifest
            series = Series(manifest, tuple(only or ()), results_file, resume, jobs, total)
            results = await way(cli, series, options)
        elif through_hub:
            name = None if everything else (words or [""])[0]
            results = await _through_hub(cli, name, budget)
        elif everything or _names_a_server(cli, words or [], url):
            name = None if everything else (words or [""])[0]
            results = await _of_settings(cli, name, given, files(file), options, then)
        elif url and not words:
            headers = {"A": _headers(cli, header_a), "B": _headers(cli, header_b)}
            results = await _of_remote(cli, url, headers, budget, yes=yes)
        elif words:
            results = await _of_command(cli, words, url, given, files(file), options)
        else:
            raise InvalidInput(
                "Nothing to check is named.",
                hint="mcphub check NAME for a server of the settings, or mcphub check -- COMMAND ARGS…",
            )
        _write(results, html, sarif_file)
    raise typer.Exit(_status(results))


@contextlib.contextmanager
def _failing_as(status: int, cli: Cli) -> Iterator[None]:
    """Tell of any failure and end with `status`: that of other commands would say that there is a leak."""
    try:
        yield
    except (typer.TyperException, typer.Exit):
        raise
    except typer.Abort:
        cli.note("Nothing was checked.")
        raise typer.Exit(status) from None
    except Exception as error:  # noqa: BLE001  as `shell.execute`
        debug()
        problem = explained(error)
        cli.note(f"error: {problem.message}")
        if problem.hint:
            cli.note(f"hint: {problem.hint}")
        raise typer.Exit(status) from None


def _write(results: list[Result], html: Path | None, sarif_file: Path | None) -> None:
    if html is not None:
        html.write_text(clean(page(results)), encoding="utf-8")
    if sarif_file is not None:
        sarif_file.write_text(json.dumps(sarif(results), indent=1) + "\n", encoding="utf-8")


def _check_words(words: Sequence[str], url: str) -> None:
    """Refuse an address at which no command can listen.

    Raises:
        typer.BadParameter: It is none.
    """
    parts = urlsplit(url.replace("{port}", "1"))
    if words and url and (parts.scheme != "http" or not parts.hostname):
        raise typer.BadParameter(
            "with a command, --url is where it listens: http://127.0.0.1:{port}/mcp"
        )


def _check_files(*files: Path | None) -> None:
    """Refuse a file that cannot be written, before a check that takes minutes.

    Raises:
        InvalidInput: Its directory does not exist, or it is one itself.
    """
    for file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise InvalidInput(f"{file} cannot be written.", hint="Name a file in a directory.")


def _print(cli: Cli, result: Result) -> None:
    if cli.as_json:
        print(json_text(as_json(result)), flush=True)
    else:
        print(clean(told(result)), flush=True)


async def _of_manifest(cli: Cli, series: Series, options: Options) -> list[Result]:
    """Check the servers of a manifest; one line for each, always JSON."""
    store, path = await _store(cli)

    async def one(entry: Entry) -> Result:
        found = await subject(entry, store, search_path=path, memory=pins(cli), progress=cli.note)
        async with _sandbox(cli) as spawner:
            return await _one(cli, found, spawner, options)

    return await go_through(cli, series, one)


async def _of_manifest_behind_hub(cli: Cli, series: Series, options: Options) -> list[Result]:
    store, _ = await _store(cli)
    return await go_through(cli, series, behind_hub(cli, store, options.budget_s))


async def _of_command(
    cli: Cli,
    words: list[str],
    url: str,
    env: Mapping[str, str],
    files: Mapping[str, str],
    options: Options,
) -> list[Result]:
    store, path = await _store(cli)

    async def subject(constraints: tuple[str, ...] = ()) -> Subject:
        found = await acquire.from_words(
            words, store, env=env, url=url, constraints=constraints, search_path=path,
            progress=cli.note,
        )  # fmt: skip
        return replace(found, files=files)

    first = await subject()
    async with _sandbox(cli) as spawner:
        result = await _one(cli, first, spawner, options)
        if first.package and not first.older_sdk and needs_older_sdk(result.reason):
            cli.note(f"{first.id} was written for mcp 1: once more with `mcp<2` beside it.")
            with contextlib.suppress(HubError):  # then the first result is the one to show
                result = await _one(cli, await subject(OLDER_SDK), spawner, options)
    _print(cli, result)
    return [result]


async def _of_remote(
    cli: Cli, url: str, headers: Mapping[str, Mapping[str, str]], budget: float, *, yes: bool
) -> list[Result]:
    """Check a running server at its address, after asking: it is no throw-away copy."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "{" in url:
        raise InvalidInput(
            "This is no address of a running server.",
            hint="Give https://HOST/PATH, or the command that listens there: --url URL -- COMMAND",
        )
    cli.note(
        "This calls the tools of a running server as two users. Those that make or change something "
        "are called too; only those that look destructive are not."
    )
    cli.confirm(f"Call the tools of {parts.hostname}?", yes=yes)
    subject = Subject(parts.hostname, "", (url,), url=url)
    with tempfile.TemporaryDirectory(prefix="mcphub-check-", ignore_cleanup_errors=True) as place:
        lab = RemoteLab(subject, Path(place), headers)
        result = await check_through(
            lab, budget, lambda step: cli.note(f"{parts.hostname}: {step}")
        )
    _print(cli, result)
    return [result]


def _headers(cli: Cli, given: list[str] | None) -> dict[str, str]:
    """Return what a user proves; a value `env:NAME` stands for a variable, so that no secret is in argv."""
    found: dict[str, str] = {}
    for name, value in (pair(text) for text in given or []):
        variable = value.removeprefix("env:")
        if variable == value:
            found[name] = value
        elif variable in (environment := cli.settings().operator_env):
            found[name] = environment[variable]
        else:
            raise InvalidInput(f"There is no variable {variable} in the environment.")
    return found


def _names_a_server(cli: Cli, words: list[str], url: str) -> bool:
    """Tell whether one word is a server of the settings: before a program, `time` is the server."""
    settings = cli.settings()
    if len(words) != 1 or url or "/" in words[0] or not settings.config_file.exists():
        return False
    if words[0] in entry_names(read_text(settings.servers_file)):
        return True
    path = settings.operator_env.get("PATH", _PATH)
    return is_server_name(words[0]) and shutil.which(words[0], path=path) is None


async def _one(cli: Cli, subject: Subject, spawner: SandboxedSpawner, options: Options) -> Result:
    base = cli.settings().sandbox.uid_base
    uid = base + _NUMBER if os.geteuid() == 0 else os.geteuid()
    # what a server still writes while it ends is no reason to lose the result
    with tempfile.TemporaryDirectory(prefix="mcphub-check-", ignore_cleanup_errors=True) as place:
        return await check(
            subject,
            spawner,
            Path(place),
            uid=uid,
            options=options,
            progress=lambda step: cli.note(f"{subject.id}: {step}"),
        )


@asynccontextmanager
async def _sandbox(cli: Cli) -> AsyncIterator[SandboxedSpawner]:
    with tempfile.TemporaryDirectory(prefix="mcphub-check-") as place:
        settings = SandboxSettings(state=Path(place), uid_base=cli.settings().sandbox.uid_base)
        async with SandboxedSpawner(settings) as spawner:
            if not spawner.level:
                raise Unavailable(
                    "There is no sandbox on this machine, and nothing is checked without one.",
                    hint="Run `mcphub doctor` to see what is missing.",
                )
            yield spawner


async def _of_settings(
    cli: Cli,
    name: str | None,
    env: Mapping[str, str],
    laid: Mapping[str, str],
    options: Options,
    then: _Then,
) -> list[Result]:
    """Check one server of the settings, or all that the hub starts itself."""
    results: list[Result] = []
    async with cli.ground() as ground, _sandbox(cli) as spawner:
        specs = [spec_of(ground, name)] if name else list(ground.live.current.specs.values())
        for spec in specs:
            if not spec.command:
                cli.note(
                    f"{spec.name} is reached by a URL: it runs where the check cannot look. Check the "
                    "command that starts it: mcphub check --url http://127.0.0.1:{port}/mcp -- COMMAND"
                )
                continue
            state = (await ground.states.all()).get(spec.name)
            try:
                pin = state.pin if state is not None else None
                pin = pin or await _pinned(cli, ground, spec)
                subject = await _of_spec(cli, ground, spec, env, laid, pin)
            except HubError as error:
                results.append(not_installed(spec.name, error))
                _print(cli, results[-1])
                continue
            result = await _one(cli, subject, spawner, options)
            newer = subject.package and not subject.older_sdk
            if newer and needs_older_sdk(result.reason):
                cli.note(f"{spec.name} was written for mcp 1: once more with `mcp<2` beside it.")
                with contextlib.suppress(HubError):  # then the first result is the one to show
                    pin = await _pinned(cli, ground, spec, subject.version, OLDER_SDK)
                    subject = await _of_spec(cli, ground, spec, env, laid, pin)
                    result = await _one(cli, subject, spawner, options)
            _print(cli, result)
            results.append(result)
            await check_evidence.keep(cli, ground, spec, result, compare=then.compare)
            if then.apply:
                await check_evidence.apply(cli, ground, spec, result, yes=then.yes)
    if not results:
        raise InvalidInput("There is no server to check.", hint="Run: mcphub server list")
    return results


async def _of_spec(
    cli: Cli,
    ground: "Ground",
    spec: ServerSpec,
    env: Mapping[str, str],
    laid: Mapping[str, str],
    pin: Pin | None,
) -> Subject:
    """Install what a server of the settings runs; `env` and `laid` files go before its own."""
    subject = await acquire.from_words(
        [spec.command, *spec.args],
        ground.packages,
        env={**spec.env, **env},
        name=spec.name,
        pin=pin,
        search_path=cli.settings().operator_env.get("PATH", _PATH),
        progress=cli.note,
    )
    return replace(subject, files={**files_of(spec), **laid}, own_package=spec.sandbox.own_package)


async def _pinned(
    cli: Cli,
    ground: "Ground",
    spec: ServerSpec,
    version: str = "",
    constraints: tuple[str, ...] = (),
) -> Pin | None:
    """Pin what a server runs, as its first start would: evidence speaks of an exact version."""
    wanted = ground.packages.requirement(spec.command, spec.args)
    if wanted is None:
        return None
    cli.note(f"{spec.name}: looking up {wanted.name}")
    if version:
        wanted = replace(wanted, version=f"=={version}")
    pin = await ground.packages.resolve(wanted, constraints)
    await ground.states.set_pin(spec.name, pin)
    await cli.applied()
    return pin


async def _through_hub(cli: Cli, name: str | None, seconds: float) -> list[Result]:
    """Check one server, or all, behind a copy of the hub."""
    results: list[Result] = []
    async with cli.ground() as ground:
        specs = [spec_of(ground, name)] if name else list(ground.live.current.specs.values())
        names = [spec.name for spec in specs if spec.command]
        async with copied_of(ground, names) as copy:
            for server in names:
                result = await copy.check(
                    server, seconds, lambda step, s=server: cli.note(f"{s} behind the hub: {step}")
                )
                _print(cli, result)
                results.append(result)
    return results


async def _store(cli: Cli) -> tuple[PackageStore, str]:
    """Return the package store of the hub's directory, with or without a hub, and the search path."""
    settings = cli.settings()
    path = settings.operator_env.get("PATH", _PATH)
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    toolchain = await asyncio.to_thread(find_toolchain, path)
    runs = SandboxedBuilds(settings.sandbox.uid_base)
    return PackageStore(settings.packages, toolchain, settings.operator_env, runs=runs), path


def _status(results: list[Result]) -> int:
    """Return the worst of the results' exit statuses: a leak, then what is not known."""
    found = {EXIT[result.verdict] for result in results}
    return next((status for status in (1, 2) if status in found), 0)
