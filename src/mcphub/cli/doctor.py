"""`mcphub doctor`: what works here, found by trying it; exit status 1 when something that matters fails."""

import asyncio
import resource
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

import typer

from mcphub.audit.log import AuditLog
from mcphub.catalog.live import LiveSettings
from mcphub.catalog.toolchain import find_toolchain
from mcphub.cli.problems import explained
from mcphub.cli.running import NotRunning
from mcphub.cli.shell import Cli, Rows, command
from mcphub.ground import database, replaceable
from mcphub.ids import system_clock
from mcphub.listening import FILES_HINT, files_wanted
from mcphub.policy.model import RiskLevel
from mcphub.settings import HubSettings
from mcphub.spawn.selftest import Row, report

_LONG_AGO = 1_760_000_000.0  # October 2025: a clock before it is wrong


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be.
        matters: Whether the hub is unsafe or useless without it.
        detail: What was found.
        hint: What to do.
    """

    name: str
    ok: bool
    matters: bool
    detail: str
    hint: str = ""


def register(app: typer.Typer) -> None:
    """Add `mcphub doctor`."""
    command(app, "doctor", example="mcphub doctor")(doctor)


async def doctor(cli: Cli) -> None:
    """Try what the sandbox enforces on this machine, and check the hub's directory and settings."""
    settings = cli.settings()
    checks = await _sandbox(settings)
    if settings.config_file.exists():
        for name, look in _CHECKS:
            checks.append(await _checked(name, look, cli))
    else:
        checks.append(
            Check("hub", False, False, f"none in {settings.dir}", "Make one: mcphub init")
        )
    rows = [
        (
            "ok" if check.ok else "FAIL" if check.matters else "no",
            check.name,
            check.detail,
            "" if check.ok else check.hint,
        )
        for check in checks
    ]
    failed = [check.name for check in checks if check.matters and not check.ok]
    data = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    cli.show(data, Rows(("", "CHECK", "FOUND", "HINT"), rows))
    if failed:
        cli.note(f"Fails: {', '.join(failed)}.")
        raise typer.Exit(1)


async def _sandbox(settings: HubSettings) -> list[Check]:
    rows = await asyncio.to_thread(report, settings.sandbox.uid_base)
    checks = [
        Check(f"sandbox: {row.layer}", row.ok, False, row.error or row.tried, row.hint)
        for row in rows
        if row.layer != "level"
    ]
    level = _level_of(rows)
    host = settings.sandbox.host_facts(level)
    needed = host.minimum_level
    too_high = [risk.value for risk in RiskLevel if level < host.needed(risk)]
    unsandboxed = settings.sandbox.allow_unsandboxed
    checks.append(
        Check(
            "sandbox level",
            level >= needed,
            not unsandboxed,
            f"level {level} of 5; critical servers need {needed}"
            + (f"; refused here by risk: {', '.join(too_high)}" if too_high else ""),
            "The rows above say what is missing; a lower sandbox.minimum_level weakens isolation.",
        )
    )
    if unsandboxed:
        checks.append(
            Check(
                "allow_unsandboxed",
                False,
                False,
                "servers may run without a sandbox and read what the hub's account can read",
                "Remove sandbox.allow_unsandboxed.",
            )
        )
    return checks


def _level_of(rows: Sequence[Row]) -> int:
    for row in rows:
        if row.layer == "level":
            return int(row.tried.split()[1])
    return 0


async def _checked(name: str, look: Callable[[Cli], Awaitable[Check]], cli: Cli) -> Check:
    try:
        return await look(cli)
    except Exception as error:  # noqa: BLE001  the other rows are wanted all the same
        known = explained(error)
        return Check(name, False, True, known.message, known.hint)


async def _directory(cli: Cli) -> Check:
    directory = cli.settings().dir
    mode, above = stat.S_IMODE(directory.stat().st_mode), replaceable(directory)
    if above is not None and not mode & 0o077:
        told = f"mode {mode:04o}; other accounts may replace it in {above}"
        hint = "Move it to where only root and the hub's account may write, as /var/lib."
        return Check("directory", False, False, told, hint)
    return Check(
        "directory",
        not mode & 0o077,
        True,
        f"mode {mode:04o}",
        "Only the hub's account may read it: chmod 700.",
    )


async def _database(cli: Cli) -> Check:
    settings = cli.settings()
    kind = "SQLite" if settings.database_url.startswith("sqlite") else "PostgreSQL"
    async with database(settings, beside=True, make=False) as db:
        found = await AuditLog(db, system_clock).verify()
        await db.try_write()
    return Check(
        "database",
        found.intact,
        True,
        f"{kind}, {found.events} audit events, chain "
        + ("intact" if found.intact else f"broken: {found.problem}"),
        "Somebody changed the audit log: compare with a backup.",
    )


async def _key_file(cli: Cli) -> Check:
    settings = cli.settings()
    if settings.keys.source != "file":
        return Check("vault key", True, True, f"from {settings.keys.source}")
    if not settings.key_file.exists():
        return Check("vault key", False, True, "no key file", "Run: mcphub init")
    mode = stat.S_IMODE(settings.key_file.stat().st_mode)
    return Check("vault key", not mode & 0o077, True, f"mode {mode:04o}", "chmod 600 the key file.")


async def _clock(_: Cli) -> Check:
    now = system_clock()
    return Check(
        "clock",
        now > _LONG_AGO,
        True,
        "plausible" if now > _LONG_AGO else "far in the past",
        "Set the clock: expiry of keys and memberships depends on it.",
    )


async def _open_files(cli: Cli) -> Check:
    """Tell whether the hub could run all the instances that it may; it raises its own limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_wanted(cli.settings().limits.instances)
    return Check(
        "open files",
        hard == resource.RLIM_INFINITY or hard >= wanted,
        False,
        f"{hard} at most, {wanted} wanted for limits.instances",
        FILES_HINT,
    )


async def _servers(cli: Cli) -> Check:
    settings = cli.settings()
    live = LiveSettings(settings.servers_file, settings.operator_env)
    count, warnings = len(live.current.specs), len(live.current.warnings)
    told = f"; warnings, which `mcphub server list` shows: {warnings}" if warnings else ""
    return Check("mcp_settings.json", True, True, f"servers: {count}{told}")


async def _tools(cli: Cli) -> Check:
    path = cli.settings().operator_env.get("PATH", "")
    found = await asyncio.to_thread(find_toolchain, path)
    has = {"uv": found.uv is not None, "node": found.node is not None}
    missing = [name for name, there in has.items() if not there]
    return Check(
        "node and uv",
        not missing,
        False,
        "found" if not missing else f"missing: {', '.join(missing)}",
        f"Servers of npm need Node.js 20: apt install nodejs npm, or {sys.executable} -m pip install "
        "'mcphub-gateway[node]'",
    )


async def _control(cli: Cli) -> Check:
    socket = cli.settings().control_socket
    try:
        status = await cli.running().get("/status")
    except NotRunning:
        return Check("running hub", True, False, "not running")
    mode = stat.S_IMODE(socket.stat().st_mode)
    silent = int(status.get("databaseSilentS") or 0)
    problem = str(status.get("settingsError") or "")
    hint = "Correct mcp_settings.json; the hub works with the last valid state."
    if silent:
        problem = f"it has not heard of its database for {silent} s: no change counts meanwhile"
        hint = "Calls go on as far as the hub knows; to keep somebody out, stop it."
    return Check(
        "running hub",
        not mode & 0o077 and not problem,
        bool(mode & 0o077 or silent),
        f"{status.get('url')}, {status.get('instances')} instances"
        + (f"; {problem}" if problem else ""),
        hint,
    )


_CHECKS: tuple[tuple[str, Callable[[Cli], Awaitable[Check]]], ...] = (
    ("directory", _directory),
    ("database", _database),
    ("vault key", _key_file),
    ("clock", _clock),
    ("open files", _open_files),
    ("mcp_settings.json", _servers),
    ("node and uv", _tools),
    ("running hub", _control),
)
