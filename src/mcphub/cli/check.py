"""`mcphub check`: two synthetic users against a server, in the sandbox; what leaks, with evidence."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.toolchain import find_toolchain
from mcphub.cli.servers import spec_of
from mcphub.cli.shell import Cli, command
from mcphub.cli.values import clean
from mcphub.errors import HubError, InvalidInput, Unavailable
from mcphub.isolation import acquire
from mcphub.isolation.check import Options, check
from mcphub.isolation.manifest import read, subject
from mcphub.isolation.model import Finding, Result, Verdict
from mcphub.isolation.page import page
from mcphub.isolation.report import as_json
from mcphub.isolation.sarif import sarif
from mcphub.isolation.subject import Subject
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings

EXIT = {Verdict.NO_LEAK_SEEN: 0, Verdict.LEAK: 1, Verdict.INCONCLUSIVE: 2}
COULD_NOT_RUN = 3
_PATH = "/usr/local/bin:/usr/bin:/bin"
_NUMBER = 3  # of the check's processes, see `spawner.Launch.number`

Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="K=V", help="Environment of the server; secrets are replaced."),
]
Egress = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-egress", metavar="HOST", help="Host it may really reach; stand-ins otherwise."
    ),
]


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
            "--url", metavar="URL", help="Where COMMAND listens: http://127.0.0.1:{port}/mcp"
        ),
    ] = "",
    env: Env = None,
    allow_egress: Egress = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Check every server of a manifest."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Of the manifest; repeatable.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")
    ] = None,
    sarif_file: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=20, help="Time for one server.")] = 150,
) -> None:
    """Check whether users can share a server: two synthetic users, canaries, a credential witness.

    The server runs in the sandbox against stand-ins; no real service or credential is used.
    Exit status: 0 no leak seen, 1 leak, 2 inconclusive, 3 the check could not run.
    """
    try:
        results = await _results(
            cli, words or [], url, env, manifest, only, Options(tuple(allow_egress or ()), seconds)
        )
    except HubError as error:
        cli.note(f"error: {error.message}")
        if error.hint:
            cli.note(f"hint: {error.hint}")
        raise typer.Exit(COULD_NOT_RUN) from None
    if html is not None:
        html.write_text(page(results), encoding="utf-8")
    if sarif_file is not None:
        sarif_file.write_text(json.dumps(sarif(results), indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(_status(results))


def _print(cli: Cli, result: Result) -> None:
    if cli.as_json:
        print(json.dumps(as_json(result), ensure_ascii=False), flush=True)
    else:
        print(clean(told(result)), flush=True)


async def _of_manifest(
    cli: Cli, file: Path, only: list[str] | None, options: Options
) -> list[Result]:
    """Check the servers of a manifest one after the other; one line for each, always JSON."""
    entries = [entry for entry in read(file) if not only or entry.id in only]
    store, path = await _store(cli)
    results: list[Result] = []
    async with _sandbox(cli) as spawner:
        for number, entry in enumerate(entries, 1):
            cli.note(f"{number}/{len(entries)} {entry.id}")
            try:
                found = await subject(
                    entry,
                    store,
                    search_path=path,
                    memory=cli.settings().dir / "checks" / "pins",
                    progress=cli.note,
                )
                result = await _one(cli, found, spawner, options)
            except HubError as error:
                result = Result(
                    entry.id,
                    "",
                    Verdict.INCONCLUSIVE,
                    None,
                    f"It could not be installed: {error.message} {error.hint}".strip(),
                )
            print(json.dumps(as_json(result), ensure_ascii=False), flush=True)
            results.append(result)
    return results


async def _results(
    cli: Cli,
    words: list[str],
    url: str,
    env: list[str] | None,
    manifest: Path | None,
    only: list[str] | None,
    options: Options,
) -> list[Result]:
    if manifest is not None:
        return await _of_manifest(cli, manifest, only, options)
    if not words:
        raise InvalidInput(
            "Nothing to check is named.",
            hint="mcphub check NAME for a server of the settings, or mcphub check -- COMMAND ARGS…",
        )
    subjects = [await _subject(cli, words, url, env)]
    async with _sandbox(cli) as spawner:
        results = [await _one(cli, subject, spawner, options) for subject in subjects]
    for result in results:
        _print(cli, result)
    return results


async def _one(cli: Cli, subject: Subject, spawner: SandboxedSpawner, options: Options) -> Result:
    base = cli.settings().sandbox.uid_base
    uid = base + _NUMBER if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory(prefix="mcphub-check-") as place:
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


async def _subject(cli: Cli, words: list[str], url: str, env: list[str] | None) -> Subject:
    settings = cli.settings()
    path = settings.operator_env.get("PATH", _PATH)
    given = dict(_pair(text) for text in env or [])
    if len(words) == 1 and settings.config_file.exists():
        async with cli.ground() as ground:
            if words[0] in ground.live.current.specs or not url:
                spec = spec_of(ground, words[0])
                state = (await ground.states.all()).get(spec.name)
                if not spec.command:
                    raise InvalidInput(
                        f"{spec.name} is reached by a URL: it runs where the check cannot look.",
                        hint="Check the command that starts it: mcphub check --url "
                        "http://127.0.0.1:{port}/mcp -- COMMAND",
                    )
                return await acquire.from_words(
                    [spec.command, *spec.args],
                    ground.packages,
                    env={**spec.env, **given},
                    name=spec.name,
                    pin=state.pin if state is not None else None,
                    search_path=path,
                    progress=cli.note,
                )
    store, path = await _store(cli)
    return await acquire.from_words(
        words, store, env=given, url=url, search_path=path, progress=cli.note
    )


async def _store(cli: Cli) -> tuple[PackageStore, str]:
    """Return the package store of the hub's directory, with or without a hub, and the search path."""
    settings = cli.settings()
    path = settings.operator_env.get("PATH", _PATH)
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    toolchain = await asyncio.to_thread(find_toolchain, path)
    return PackageStore(settings.packages, toolchain, settings.operator_env), path


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"'{key}' must be KEY=VALUE.")
    return key, value


def _status(results: list[Result]) -> int:
    """Return the worst of the results' exit statuses: a leak, then what is not known."""
    found = {EXIT[result.verdict] for result in results}
    return next((status for status in (1, 2) if status in found), 0)


_WORDS = {
    Verdict.LEAK: "LEAK",
    Verdict.NO_LEAK_SEEN: "no leak seen",
    Verdict.INCONCLUSIVE: "inconclusive",
}
_SAFE = {True: "yes", False: "no", None: "not known"}


def told(result: Result) -> str:
    """Return a result for people."""
    coverage = result.coverage
    lines = [
        f"{result.id} {result.version}: {_WORDS[result.verdict]}",
        f"  {result.reason}",
        f"  safe to share: {_SAFE[result.safe_to_share]}",
        "",
    ]
    for number, finding in enumerate(result.findings, 1):
        lines += [*_finding(number, finding), ""]
    lines.append(
        f"  coverage: {len(coverage.succeeded)} of {coverage.tools} tools with success, "
        f"{coverage.calls} calls, {coverage.starts} starts, {result.seconds:.0f} s"
    )
    if coverage.skipped:
        lines.append(f"  not called (look destructive): {', '.join(coverage.skipped)}")
    lines += [f"  note: {note}" for note in result.notes]
    if result.recommendation:
        lines.append(f"  settings: {json.dumps(dict(result.recommendation))}")
    return "\n".join(lines) + "\n"


def _finding(number: int, finding: Finding) -> list[str]:
    lines = [f"  {number}. {finding.leak.value} ({finding.severity.value}): {finding.title}"]
    for seen in finding.trace:
        what = f"{seen.call.name or seen.call.method} {_short(dict(seen.call.arguments))}".strip()
        lines.append(f"       {seen.user}: {what}")
        lines.append(f"          -> {_short(seen.text)}")
    if finding.control:
        lines.append(f"       without A: {_short(finding.control)}")
    shown = f", shown again {finding.reproduced}x" if finding.reproduced else ""
    lines.append(f"       confidence {finding.confidence:.2f}{shown}. {finding.remedy}")
    return lines


def _short(value: Any, size: int = 160) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= size else f"{text[:size]}…"
